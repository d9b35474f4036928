"""What `make gpu` needs, downloaded for a machine without a network: `python -m bench.gpu.wheels --to build/wheels`.

The wheels are those of `bench.gpu.needs`, for Linux on x86-64 and the Python of that machine: 20 MB. Only the standard library
is used. ONNX Runtime's CUDA build is one more, of 256 MB, and not needed: `--onnxruntime-gpu`; `--parts-mb` cuts it where it has
to be carried in parts.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.gpu import needs

_MANYLINUX = (*(f"manylinux_2_{minor}" for minor in range(35, 4, -1)), "manylinux2014", "manylinux2010", "manylinux1")


def download(to: Path, python: str, names: Sequence[str]) -> list[Path]:
    """Downloads these, and nothing that they need beside them, in the place of all wheels that are in the folder.

    Raises:
        subprocess.CalledProcessError: pip found one of them not, or not for that Python.
    """
    to.mkdir(parents=True, exist_ok=True)
    for old in to.glob("*.whl"):
        old.unlink()
    platforms = [flag for name in _MANYLINUX for flag in ("--platform", f"{name}_x86_64")]
    flags = ["--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *flags, "--dest", str(to)]
    subprocess.run([*command, *names], check=True)  # noqa: S603
    return sorted(to.glob("*.whl"))


def cut(wheel: Path, part_bytes: int) -> list[Path]:
    """The parts of a wheel, beside it, of so many bytes each; `cat WHEEL.part-* > WHEEL` makes it whole again. The wheel goes."""
    data = wheel.read_bytes()
    parts = []
    for number, at in enumerate(range(0, len(data), part_bytes)):
        parts.append(wheel.with_name(f"{wheel.name}.part-{number:02}"))
        parts[-1].write_bytes(data[at : at + part_bytes])
    wheel.unlink()
    return parts


def main() -> None:
    """Downloads, and says what was downloaded and how large it is."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.wheels", description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("build/wheels"), help="the folder for the wheels")
    parser.add_argument("--python", default="3.12", help="the Python of the machine with the GPU (default: 3.12)")
    parser.add_argument("--onnxruntime-gpu", metavar="FOLDER", type=Path, help="ONNX Runtime's CUDA build, too, into this folder")
    parser.add_argument("--parts-mb", type=int, default=0, help="cut that one into parts of so many 10^6 bytes")
    asked = parser.parse_args()
    found = download(asked.to, asked.python, list(needs.pinned().values()))
    if asked.onnxruntime_gpu is not None:
        (wheel,) = download(asked.onnxruntime_gpu, asked.python, [needs.onnxruntime_gpu()])
        found += cut(wheel, asked.parts_mb * 1_000_000) if asked.parts_mb else [wheel]
    for file in found:
        sys.stdout.write(f"{file.stat().st_size / 1e6:8.2f} MB  {file}\n")
    sys.stdout.write(f"{sum(file.stat().st_size for file in found) / 1e6:8.2f} MB together\n")


if __name__ == "__main__":
    main()
