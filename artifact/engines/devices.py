"""The CUDA devices that a format's library can run on here. Nothing is imported for an answer that the driver gives alone."""

import ctypes
from collections.abc import Callable, Mapping
from functools import cache

_DRIVER = "libcuda.so.1"


def cuda_devices(format_name: str) -> list[str]:
    """`cuda:0`, `cuda:1`, … as a format's library can run on them here; none where it is not installed, or knows no CUDA.

    It never raises, and imports a format's library only on a machine that has a device. A process asks once: its answer is
    remembered.
    """
    return [f"cuda:{number}" for number in range(_count(format_name))]


def device_index(device: str) -> int:
    """The number of `cuda:NUMBER`."""
    return int(device.partition(":")[2] or 0)


@cache
def _count(format_name: str) -> int:
    seen = _driver_devices()
    return min(seen, _LIBRARY_DEVICES.get(format_name, _no_devices)()) if seen else 0


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


def _onnxruntime_devices() -> int:
    try:
        import onnxruntime
    except ImportError:
        return 0
    return _driver_devices() if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else 0


def _torch_devices() -> int:
    try:
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    except (ImportError, OSError, RuntimeError):  # it is not whole, or its CUDA libraries are not
        return 0


def _no_devices() -> int:
    return 0


_LIBRARY_DEVICES: Mapping[str, Callable[[], int]] = {
    "onnx": _onnxruntime_devices,
    "torchscript": _torch_devices,
    "pt2": _torch_devices,
}
