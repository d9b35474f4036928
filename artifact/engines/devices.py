"""The CUDA devices that a format's library can run on here: those that NVIDIA's driver shows, where it is new enough for it.

No library is imported for that: the process that only decides where a model runs would have all of PyTorch in its memory.
"""

import ctypes
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_DRIVER = "libcuda.so.1"
_BUILDS: Mapping[str, tuple[str, str, str]] = {
    "onnx": ("onnxruntime", "capi/build_and_package_info.py", "cuda_version"),
    "torchscript": ("torch", "version.py", "cuda"),
    "pt2": ("torch", "version.py", "cuda"),
}
"""Format -> its library's package, the file in it that says how it was built, and the name there of CUDA's version."""


@dataclass(frozen=True, slots=True)
class _Driver:
    """`cuda` is the newest major version of CUDA that it runs; `devices` is how many it shows to this process."""

    cuda: int
    devices: int


def cuda_devices(format_name: str) -> list[str]:
    """`cuda:0`, `cuda:1`, … where a format's library is installed for a CUDA that the driver runs; none where it is not.

    It never raises, and makes no context on a device; CUDA_VISIBLE_DEVICES holds. A process asks once: the answer is remembered.
    """
    driver = _driver()
    needed = None if driver is None else _cuda_of(format_name)
    if driver is None or needed is None or needed > driver.cuda:
        return []
    return [f"cuda:{number}" for number in range(driver.devices)]


def device_index(device: str) -> int:
    """The number of `cuda:NUMBER`."""
    return int(device.partition(":")[2] or 0)


@cache
def _driver() -> _Driver | None:
    """None where there is no driver, or it does not start."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(version)) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return None
    return _Driver(version.value // 1000, count.value)


@cache
def _cuda_of(format_name: str) -> int | None:
    """The major version of CUDA that a format's library is built for; None where it is not installed, or for the CPU."""
    if format_name not in _BUILDS:
        return None
    package, file, name = _BUILDS[format_name]
    try:
        found = find_spec(package)
        if found is None or found.origin is None:
            return None
        text = (Path(found.origin).parent / file).read_text()
    except (ImportError, ValueError, OSError):  # whatever stands in the package's place is none
        return None
    stated = re.search(rf"^{name}\b[^=\n]*=\s*['\"](\d+)", text, re.MULTILINE)
    return None if stated is None else int(stated[1])
