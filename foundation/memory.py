"""Memory that was freed, given back to the system."""

import ctypes
import sys


def give_back_freed_memory() -> None:
    """Asks the C library to return what it holds but does not use (glibc's `malloc_trim`); elsewhere it does nothing.

    An engine that left would otherwise stay in the process' size: its memory is free, but kept for what may come.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
