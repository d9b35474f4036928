"""A child ends with the process that started it, whatever either of them does at that moment."""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Lets the system kill this process (Linux) when the one that started it has ended.

    A child that waits notices the end of its link; one that computes does not, and nothing but the system can end it then.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
