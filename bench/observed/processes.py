"""CPU time and memory of a server's processes: those that are named, and all that they started."""

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

from bench.observed.kinds import CONTROL, kind
from bench.results import KindUse, ServerUse

_PROC = Path("/proc")
_TELLS_CHILDREN = (_PROC / f"self/task/{os.getpid()}/children").exists()
"""The kernel lists each thread's children; elsewhere psutil goes through all processes of the machine to find them."""


class ServerProcesses:
    """Watches some processes and all their descendants, from `began` to `ended`; every `sample` in between looks once.

    A look takes well under a millisecond, as it falls into the time that is measured; `sample` may be called from another thread.

    CPU time is counted in two ways: what each process that was ever seen had used when it was last seen, and what the living ones
    have used together with the children that they waited for. The first misses what was too short to be seen, the second those
    that nobody waited for; neither counts too much, so the greater holds, and it never goes backwards.

    Memory is the sum of what the processes hold (RSS) at the moment when that was most. Pages that several share, such as the
    code of a library, are in it once for each. To count them once (PSS) the kernel walks through every page, a stall of
    milliseconds for a server with gigabytes: too much, five times a second, for what is being timed.

    A server of ours may be several processes of different kinds (docs/processes.md): each kind's use is told, too.
    """

    def __init__(self, roots: Sequence[psutil.Process]) -> None:
        self._lock = threading.Lock()
        self._alive = {root.pid: root for root in roots}
        self._used_s: dict[psutil.Process, float] = {}
        self._kinds: dict[psutil.Process, str] = {}
        self.began()

    def began(self) -> None:
        """Counts from now on."""
        with self._lock:
            self._cpu_s, self._rss_bytes, self._most = 0.0, 0, 0
            self._over = False
            self._waited_before_s = self._look()
            self._used_before_s = dict(self._used_s)
            self._before_s = sum(self._used_s.values())

    def sample(self) -> None:
        """Looks at all of them now. Those that have ended are no error. After `ended`, nothing is looked at."""
        with self._lock:
            if not self._over:
                self._count()

    def ended(self) -> None:
        """Looks once more, and counts no further."""
        with self._lock:
            self._count()
            self._over = True

    @property
    def pids(self) -> set[int]:
        """Every process that was seen."""
        return {process.pid for process in self._used_s}

    @property
    def use(self) -> ServerUse:
        """What was used from the beginning to the latest look; the most processes and memory seen at once."""
        return ServerUse(cpu_s=self._cpu_s, rss_bytes=self._rss_bytes, processes=self._most, kinds=self._by_kind())

    def _by_kind(self) -> dict[str, KindUse]:
        """What each kind of process used; nothing where all are of one kind, or of none that we know."""
        if not self._kinds:
            return {}
        found: dict[str, KindUse] = {}
        for process, used_s in self._used_s.items():
            name = self._kinds.get(process, CONTROL)
            before = found.get(name, KindUse(cpu_s=0.0, processes=0))
            cpu_s = before.cpu_s + used_s - self._used_before_s.get(process, 0.0)
            found[name] = KindUse(cpu_s=cpu_s, processes=before.processes + 1)
        return found

    def _count(self) -> None:
        waited_s = self._look() - self._waited_before_s
        self._cpu_s = max(self._cpu_s, sum(self._used_s.values()) - self._before_s, waited_s)

    def _look(self) -> float:
        """Takes CPU times and memory down; the CPU seconds of the living, with those of the children they waited for."""
        self._find_new()
        rss_bytes, waited_s = 0, 0.0
        for process in tuple(self._alive.values()):
            try:
                times = process.cpu_times()
                rss_bytes += process.memory_info().rss
            except psutil.Error:
                del self._alive[process.pid]
                continue
            self._used_s[process] = times.user + times.system
            if process not in self._kinds and (name := kind(process.pid)) is not None:
                self._kinds[process] = name
            waited_s += times.user + times.system + times.children_user + times.children_system
        self._rss_bytes = max(self._rss_bytes, rss_bytes)
        self._most = max(self._most, len(self._alive))
        return waited_s

    def _find_new(self) -> None:
        """What the known processes have started, and what that has started."""
        left = list(self._alive)
        while left:
            for pid in children(left.pop()):
                if pid not in self._alive:
                    left.append(pid)
                    with contextlib.suppress(psutil.Error):  # it has ended already
                        self._alive[pid] = psutil.Process(pid)


def tree(pid: int) -> list[int]:
    """A process and all that it started, and what that has started; those that have ended meanwhile are left out."""
    found = [pid]
    for one in found:
        found += children(one)
    return found


def children(pid: int) -> list[int]:
    """The process ids of a process's children; none where it has ended, or is another user's."""
    if not _TELLS_CHILDREN:
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children()]
        return []
    found = []
    with contextlib.suppress(OSError):
        for thread in (_PROC / f"{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended
                found += map(int, (thread / "children").read_bytes().split())
    return found
