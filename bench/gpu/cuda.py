"""Whether this machine has a GPU that CUDA can use: asked of the driver itself, so that nothing needs to be installed."""

import ctypes

_LIBRARY = "libcuda.so.1"


def why_none() -> str | None:
    """Why there is no GPU for CUDA here, in a few words; None where there is one."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return f"there is no NVIDIA driver ({_LIBRARY} is not found)"
    count = ctypes.c_int()
    if error := driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"NVIDIA's driver finds no GPU (error {error} of the CUDA driver)"
    return None if count.value else "NVIDIA's driver finds no GPU"
