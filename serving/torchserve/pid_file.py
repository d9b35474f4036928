"""Which process serves: its number and when it began, so that another process of that number is not taken for it."""

import os
import sys
import tempfile
from pathlib import Path

_START_TIME = 19
"""Where /proc/PID/stat has it, counted from what follows the command's name (proc(5): field 22)."""


def default_path() -> Path:
    """In the folder for temporary files, where TorchServe's own is, but under another name: one for each user."""
    return Path(tempfile.gettempdir()) / f".stateserve_ts.{os.getuid()}.pid"


def write(path: Path, pid: int) -> None:
    """Says that this process serves.

    Raises:
        FileExistsError: another was faster.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{pid}\n{_began(pid)}\n")


def read(path: Path) -> tuple[int, str] | None:
    """The process that the file names, and when it began; None where there is no such file of ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor) as file:
            if os.fstat(descriptor).st_uid != os.getuid():
                return None
            pid, began = file.read().splitlines()
        return int(pid), began
    except (OSError, ValueError):
        return None


def is_alive(pid: int, began: str) -> bool:
    """Whether that very process still runs."""
    return _began(pid) == began != ""


def _began(pid: int) -> str:
    """When a process began, in a form that only serves to be compared; "" where there is none, or it has ended."""
    if sys.platform != "linux":
        return _began_by_psutil(pid)
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
    except OSError:
        return ""
    fields = rest.split()
    return "" if fields[0] in {"Z", "X"} else fields[_START_TIME]


def _began_by_psutil(pid: int) -> str:
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""
