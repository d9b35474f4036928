"""The CUDA devices that a format's library can run on here: as many as NVIDIA's driver shows, where the library is for CUDA.

No library is imported: the process that only decides where a model runs would have all of PyTorch in its memory.
"""

import ctypes
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_DRIVER = "libcuda.so.1"
_CUDA_PARTS: Mapping[str, tuple[str, str]] = {
    "onnx": ("onnxruntime", "capi/libonnxruntime_providers_cuda.so"),
    "torchscript": ("torch", "lib/libtorch_cuda.so"),
    "pt2": ("torch", "lib/libtorch_cuda.so"),
}
"""Format -> its library's package, and the file in it that only its build for CUDA has."""


def cuda_devices(format_name: str) -> list[str]:
    """`cuda:0`, `cuda:1`, … where a format's library is installed for CUDA; none where it is not.

    It never raises. Whether the library runs with the driver that is there, its engine tells when it is made.
    """
    return [f"cuda:{number}" for number in range(_driver_devices() if _is_for_cuda(format_name) else 0)]


def device_index(device: str) -> int:
    """The number of `cuda:NUMBER`."""
    return int(device.partition(":")[2] or 0)


@cache
def _is_for_cuda(format_name: str) -> bool:
    package, file = _CUDA_PARTS.get(format_name, ("", ""))
    found = find_spec(package) if package else None
    return found is not None and found.origin is not None and (Path(found.origin).parent / file).is_file()


@cache
def _driver_devices() -> int:
    """How many devices NVIDIA's driver shows to this process: CUDA_VISIBLE_DEVICES holds, and no context is made."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
