"""Pins: every package with the hash that a real pip finds, or the reason why there is none."""

import hashlib
import importlib.metadata
import json
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode

import pytest

from foundation import pins as pinning
from foundation.requirements import environment_yml, requirements_txt

TAG = "py3-none-any"


def make_wheel(folder, name, version, tag=TAG):
    """A wheel that pip installs, and its sha256."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    lines = [
        f"{inner},sha256={urlsafe_b64encode(hashlib.sha256(data.encode()).digest()).decode().rstrip('=')},{len(data)}\n"
        for inner, data in files.items()
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for inner, data in {**files, f"{info}/RECORD": "".join(lines) + f"{info}/RECORD,,\n"}.items():
            archive.writestr(inner, data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def site(monkeypatch, tmp_path):
    """Installs what `add` is told into a directory that is all that this Python has; pip knows the folder `index` alone."""
    place = tmp_path / "site"
    place.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(pinning, "_distributions", lambda: list(importlib.metadata.distributions(path=[str(place)])))

    def add(name, version="1.0", tag=TAG, installer="pip", origin=None):
        info = place / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n")
        (info / "INSTALLER").write_text(f"{installer}\n")
        if origin is not None:
            (info / "direct_url.json").write_text(json.dumps(origin))

    return add


def test_hashes_as_pip_finds_them(site, tmp_path):
    """What the index has has the hash of its file there; what it lacks has the reason, and does not hinder the others."""
    sha256 = {name: make_wheel(tmp_path / "index", name, "1.0") for name in ("alpha", "gamma_net")}
    for name in ("alpha", "beta", "gamma_net"):
        site(name)
    found = {pin.name: (pin.sha256, pin.why) for pin in pinning.pins()}

    assert found == {
        "alpha": (sha256["alpha"], None),
        "beta": (None, "the index has no wheel of it for this kind of machine"),
        "gamma-net": (sha256["gamma_net"], None),
    }


def test_where_a_package_came_from(site):
    """A directory, a version control system, a file, conda: as the package's own records say; no index is asked for them."""
    site("from_conda", installer="conda")
    site("from_directory", origin={"url": "file:///home/somebody/net", "dir_info": {"editable": True}})
    site("from_git", origin={"url": "https://u@host/net.git", "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}})
    site("from_wheel", origin={"url": "file:///home/somebody/net.whl", "archive_info": {"hashes": {"sha256": "ab" * 32}}})
    site("from_unknown_wheel", origin={"url": "file:///home/somebody/net.whl", "archive_info": {}})
    found = {pin.name: (pin.sha256, pin.why) for pin in pinning.pins()}

    assert found == {
        "from-conda": (None, "conda installed it: environment.yml has its build"),
        "from-directory": (None, "installed from a directory: pip install --no-deps DIRECTORY"),
        "from-git": (None, "installed from git, commit c0ffee"),
        "from-unknown-wheel": (None, "installed from a file whose hash pip did not record"),
        "from-wheel": ("ab" * 32, None),
    }
    assert "somebody" not in str(pinning.pins())


def test_a_build_of_this_machine(site, tmp_path):
    """What was compiled here is not the index's file, though name and version are the same: its hash would promise too much."""
    make_wheel(tmp_path / "index", "alpha", "1.0")
    site("alpha", tag="cp311-cp311-linux_x86_64")
    (found,) = pinning.pins()

    assert (found.sha256, found.why) == (None, "built here (cp311-cp311-linux_x86_64): the index has py3-none-any")


def test_tags_of_several_pythons():
    """A wheel for two Pythons is the one that is installed, however its tags are written."""
    assert pinning._tags("six-1.17.0-py2.py3-none-any.whl") == pinning._expanded("py2-none-any") | {"py3-none-any"}
    assert pinning._tags("six-1.17.0.tar.gz") == frozenset()


def test_without_a_network(site, monkeypatch):
    """An index that cannot be reached: every package without a hash, and the reason; soon, and without an error."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    site("alpha")
    site("beta")

    assert {pin.why for pin in pinning.pins()} == {"the package index could not be reached"}


def test_without_asking(site):
    """pip is not started."""
    site("alpha")

    assert [pin.why for pin in pinning.pins(ask=False)] == ["no index was asked"]


def test_the_time_is_up(site):
    """A pip that takes longer is stopped; what it would have told is not known."""
    site("alpha")

    assert [pin.why for pin in pinning.pins(0.01)] == ["no answer of pip: the time was up"]


def test_pip_takes_the_file(site, tmp_path):
    """The real pip installs from it in its strictest mode, and refuses a wheel that was exchanged."""
    for name in ("alpha", "beta"):
        make_wheel(tmp_path / "index", name, "1.0")
        site(name)
    site("lost")
    site("mine", origin={"url": "file:///home/somebody/net", "dir_info": {}})
    page = requirements_txt(pinning.pins(), "3.11.7", "Linux x86_64")
    (tmp_path / "requirements.txt").write_text(page)

    def install(target):
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--require-hashes", "--disable-pip-version-check"]
        words = ["-r", str(tmp_path / "requirements.txt"), "--target", str(tmp_path / target)]
        return subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=False)

    assert install("new").returncode == 0
    assert {path.name for path in (tmp_path / "new").glob("*.py")} == {"alpha.py", "beta.py"}
    assert page.splitlines()[:3] == [
        "# Made by `stateserve environment`: Python 3.11.7 on Linux x86_64.",
        "# pip install --no-deps --require-hashes -r requirements.txt",
        "# Not here, for want of a hash: lost==1.0, mine==1.0.",
    ]
    assert "# lost==1.0  # the index has no wheel of it for this kind of machine" in page.splitlines()
    with zipfile.ZipFile(tmp_path / "index" / f"alpha-1.0-{TAG}.whl", "a") as archive:
        archive.writestr("more.py", "")
    exchanged = install("exchanged")
    assert exchanged.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in exchanged.stderr


def test_a_file_without_hashes(site):
    """Where none has a hash, all lines are there, each with the reason; a directory's package is a comment still."""
    site("alpha")
    site("mine", origin={"url": "file:///home/somebody/net", "dir_info": {}})

    assert requirements_txt(pinning.pins(ask=False), "3.11.7", "Linux x86_64").splitlines()[1:] == [
        "# pip install --no-deps -r requirements.txt",
        "# Not here, for want of a hash: mine==1.0.",
        "alpha==1.0  # no index was asked",
        "# mine==1.0  # installed from a directory: pip install --no-deps DIRECTORY",
    ]


def test_conda_without_conda(tmp_path):
    """This Python, pip, and requirements.txt beside it."""
    yaml = pytest.importorskip("yaml")

    assert yaml.safe_load(environment_yml("3.11.7", tmp_path / "conda-meta")) == {
        "name": "stateserve",
        "channels": ["conda-forge", "nodefaults"],
        "dependencies": ["python=3.11.7", "pip", {"pip": ["-r requirements.txt"]}],
    }


def test_an_environment_of_conda(tmp_path):
    """Its packages with their builds, from their channels; no token, no host, no directory of this machine."""
    yaml = pytest.importorskip("yaml")
    channels = {
        "python": "https://conda.anaconda.org/conda-forge/linux-64",
        "mkl": "https://repo.anaconda.com/pkgs/main/linux-64",
        "own": "https://conda.example.org/t/tk-s3cr3t/lab/noarch",
        "local": "file:///home/somebody/channel/linux-64",
    }
    for name, channel in channels.items():
        record = {"name": name, "version": "1.2", "build": "h0_1", "channel": channel}
        (tmp_path / f"{name}-1.2-h0_1.json").write_text(json.dumps(record))
    (tmp_path / "broken.json").write_text("{")
    page = environment_yml("3.11.7", tmp_path)
    told = yaml.safe_load(page)

    assert told["channels"] == ["conda-forge", "lab", "pkgs/main", "nodefaults"]
    assert told["dependencies"][:-1] == ["local=1.2=h0_1", "mkl=1.2=h0_1", "own=1.2=h0_1", "python=1.2=h0_1"]
    assert "s3cr3t" not in page
    assert "somebody" not in page
