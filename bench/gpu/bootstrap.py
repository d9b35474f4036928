"""What `make gpu` starts with: looks for a GPU, and for the packages that are needed; installs what is missing, without an index.

`python -m bench.gpu.bootstrap --wheels build/wheels -- FLAGS OF bench.gpu`. Only the standard library is used. What is missing is
installed from that folder into build/gpu-venv, which finds all other packages, PyTorch among them, where this Python finds them.
"""

import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path

from bench.gpu import cuda, needs

VENV = Path("build/gpu-venv")
_STAMP = "installed.txt"


def environment(wheels: Sequence[Path], to: Path = VENV) -> Path:
    """The Python of an environment with these wheels; made anew, unless it is there with the very same.

    A plain `--system-site-packages` would not do where this Python is one of an environment itself: that finds the packages of
    the Python behind both. ONNX Runtime looks for CUDA's libraries beside itself only (`onnxruntime.preload_dlls`), in `nvidia`.

    Raises:
        subprocess.CalledProcessError: pip cannot install them.
    """
    python, stamp = to.absolute() / "bin" / "python", to / _STAMP
    wanted = "\n".join(sorted(f"{wheel.name} {wheel.stat().st_size}" for wheel in wheels))
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    shutil.rmtree(to, ignore_errors=True)
    venv.EnvBuilder(symlinks=True, with_pip=False).create(to)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(to.absolute())}))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    flags = ["--no-compile", "--no-cache-dir", "--target", str(site)]
    subprocess.run([*pip, *flags, *map(str, wheels)], check=True)  # noqa: S603
    for libraries in (Path(path) / "nvidia" for path in _parents()):
        if libraries.is_dir() and not (site / "nvidia").exists():
            (site / "nvidia").symlink_to(libraries)
    (site / "zz_parent.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in _parents()))
    stamp.write_text(wanted)
    return python


def _parents() -> list[str]:
    """Where this Python finds packages."""
    return [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]


def _stop(words: str, code: int) -> int:
    sys.stdout.write(f"make gpu: {words}\n")
    return code


def main(arguments: Sequence[str]) -> int:
    """Runs `python -m bench.gpu`, or says why not: 0 without a GPU (1 with --require), 2 where a package is not to be had."""
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    own, flags = arguments[:place], list(arguments[place + 1 :])
    wheels = Path(own[1]) if len(own) == 2 and own[0] == "--wheels" else Path("build/wheels")
    is_rehearsal = ("--device", "cpu") in itertools.pairwise(flags)
    if not is_rehearsal and (why := cuda.why_none()) is not None:
        return _stop(f"skipped, nothing was measured: {why}", 1 if "--require" in flags else 0)
    if lacks := needs.missing(needs.HEAVY):
        return _stop(f"{sys.executable} lacks {', '.join(lacks)}: say which Python has them, make PYTHON=… gpu", 2)
    python, found = Path(sys.executable), sorted(wheels.glob("*.whl"))
    if found:
        python = environment(found)
    elif lacks := needs.missing(needs.PACKAGES):
        why = f"{sys.executable} lacks {', '.join(lacks)}, and {wheels} holds no wheels"
        return _stop(f"{why}: fill it with `make gpu-wheels` where there is a network, and carry it here", 2)
    sys.stdout.flush()
    return os.execv(python, [str(python), "-m", "bench.gpu", *flags])  # noqa: S606 - our own command, without a shell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
