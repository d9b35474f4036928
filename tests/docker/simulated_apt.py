"""What apt-get would install on a machine that has nothing: asked of the real package lists, changing nothing here."""

import shutil
import subprocess
from pathlib import Path

DEBIAN = "bookworm"
STEP_S = 120


def apt_get(folder, *words):
    """Runs apt-get with lists, cache and installed packages of its own in `folder`; what it prints."""
    state = folder / "state"
    if not state.exists():
        (state / "lists" / "partial").mkdir(parents=True)
        (folder / "cache" / "archives" / "partial").mkdir(parents=True)
        (state / "status").touch()
    options = [
        f"Dir::State={state}",
        f"Dir::State::status={state}/status",
        f"Dir::Cache={folder}/cache",
        "APT::Sandbox::User=root",
    ]
    flags = [word for option in options for word in ("-o", option)]
    ended = subprocess.run(["apt-get", *flags, *words], capture_output=True, text=True, timeout=STEP_S, check=False, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def is_debian():
    """Whether this machine's packages are those of the images' base."""
    if shutil.which("apt-get") is None:
        return False
    return f"VERSION_CODENAME={DEBIAN}\n" in Path("/etc/os-release").read_text()


def require_installable(packages, folder):
    """Asks for packages as a Dockerfile does: all that they need is there, and fits together. Without Debian: nothing."""
    assert packages
    if not is_debian():
        return
    apt_get(folder, "update")
    said = apt_get(folder, "install", "--simulate", "--yes", "--no-install-recommends", *packages)
    assert all(f"\nInst {package} " in said for package in packages)
