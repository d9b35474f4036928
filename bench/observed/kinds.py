"""What the processes of a server of ours are for, as their command lines tell it."""

import contextlib
from pathlib import Path

FRONT_END, ENGINE, CONTROL = "front end", "engine process", "control"

_PROC = Path("/proc")
_MODULES = {b"serving.processes.frontend": FRONT_END, b"serving.processes.engine": ENGINE}


def kind(pid: int) -> str | None:
    """`FRONT_END` or `ENGINE`; None for every other process, for one that has ended, and where the system does not tell.

    A process that has just been started is another one's copy for a moment, and says so.
    """
    with contextlib.suppress(OSError):
        for word in (_PROC / f"{pid}/cmdline").read_bytes().split(b"\0"):
            if word in _MODULES:
                return _MODULES[word]
    return None
