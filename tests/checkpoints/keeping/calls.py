"""The calls of a process that change or flush a directory, seen just before they are made (audit events, and `os.fsync`)."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CHANGES = {"os.rename", "os.remove", "os.symlink", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def watch(directory: Path, seen: Callable[[list[str]], None]) -> None:
    """From now on every such call is told, in whatever thread: [call, file name, …]. It can't be undone: for a child's use."""
    flush = os.fsync

    def recorded(descriptor: int) -> None:
        seen(["fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name])
        flush(descriptor)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and _writes(arguments)):
            paths = [Path(os.fsdecode(one)) for one in arguments[:2] if isinstance(one, str | bytes | os.PathLike)]
            if any(directory in (path, *path.parents) for path in paths):
                seen([event, *(path.name for path in paths[: 1 if event == "open" else 2])])

    os.fsync = recorded
    sys.addaudithook(hook)


def kill_before(directory: Path, number: int) -> None:
    """This process is killed just before its call of this number (1 is the first)."""
    left = [number]

    def count(_: list[str]) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    watch(directory, count)


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & _WRITING)
