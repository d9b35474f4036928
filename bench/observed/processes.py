"""CPU time and memory of a server's processes: those that are named, and all that they started."""

from collections.abc import Sequence

import psutil

from bench.results import ServerUse


class ServerProcesses:
    """Watches some processes and all their descendants from now on; every `sample` looks once.

    CPU time is counted in two ways: what each process that was ever seen had used when it was last seen, and what the living ones
    have used together with the children that they waited for. The first misses what was too short to be seen, the second those
    that nobody waited for; neither counts too much, so the greater holds, and it never goes backwards.

    Memory is the sum of what the processes hold (RSS) at the moment when that was most. Pages that several share, such as the
    code of a library, are in it once for each. To count them once (PSS) the kernel walks through every page, a stall of
    milliseconds for a server with gigabytes: too much, five times a second, for what is being timed.
    """

    def __init__(self, roots: Sequence[psutil.Process]) -> None:
        self._roots = roots
        self._alive: set[psutil.Process] = set()
        self._used_s: dict[psutil.Process, float] = {}
        self._cpu_s, self._rss_bytes, self._most = 0.0, 0, 0
        self._waited_before_s = self._look()
        self._before_s = sum(self._used_s.values())

    @property
    def pids(self) -> set[int]:
        """Every process that was seen."""
        return {process.pid for process in self._used_s}

    @property
    def use(self) -> ServerUse:
        """What was used from the beginning to the latest sample; the most processes and memory seen at once."""
        return ServerUse(cpu_s=self._cpu_s, rss_bytes=self._rss_bytes, processes=self._most)

    def sample(self) -> None:
        """Looks at all of them now. Those that have ended are no error."""
        waited_s = self._look() - self._waited_before_s
        self._cpu_s = max(self._cpu_s, sum(self._used_s.values()) - self._before_s, waited_s)

    def _look(self) -> float:
        """Takes CPU times and memory down; the CPU seconds of the living, with those of the children they waited for."""
        for root in self._roots:
            self._alive |= _with_descendants(root)
        rss_bytes, waited_s = 0, 0.0
        for process in tuple(self._alive):
            try:
                times = process.cpu_times()
                rss_bytes += process.memory_info().rss
            except psutil.Error:
                self._alive.discard(process)
                continue
            self._used_s[process] = times.user + times.system
            waited_s += times.user + times.system + times.children_user + times.children_system
        self._rss_bytes = max(self._rss_bytes, rss_bytes)
        self._most = max(self._most, len(self._alive))
        return waited_s


def _with_descendants(root: psutil.Process) -> set[psutil.Process]:
    try:
        return {root, *root.children(recursive=True)}
    except psutil.Error:  # it has ended, or is another user's
        return set()
