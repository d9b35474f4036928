"""What the processes of a server take: families for the page of metrics, read when somebody asks."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving.metrics import counter, gauge

CONTROL, FRONT_END, ENGINE = KINDS = ("control", "front end", "engine")
"""Kinds of processes, as the log and the metrics name them; control is the one that the user started, also where it is alone."""
_LABELS = ("kind", "process")


@dataclass(frozen=True, slots=True)
class Started:
    """A process that this one has started."""

    kind: str
    name: str
    pid: int


class ProcessFigures(Collector):
    """Number, restarts, memory and processor time of the processes. Any thread may ask.

    `others` gives those beside this one, and `restarts` how many took the place of one that ended, by kind.
    """

    def __init__(self, others: Callable[[], Sequence[Started]] = tuple, restarts: Callable[[], Mapping[str, int]] = dict) -> None:
        self._others = others
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        """Every family, for the registry."""
        running = [Started(CONTROL, CONTROL, os.getpid()), *self._others()]
        counts = Counter(process.kind for process in running)
        numbers = (((kind,), counts[kind]) for kind in KINDS)
        yield gauge("stateserve_processes", "Processes of the server.", ("kind",), numbers)
        restarts = self._restarts()
        text = "Processes that were started in the place of one that ended."
        numbers = (((kind,), restarts.get(kind, 0)) for kind in KINDS)
        yield counter("stateserve_process_restarts", text, ("kind",), numbers)
        taken = {(one.kind, one.name): found for one in running if (found := usage(one.pid)) is not None}
        resident = ((labels, resident_bytes) for labels, (resident_bytes, _) in taken.items())
        yield gauge("stateserve_process_resident_bytes", "Memory that the process holds.", _LABELS, resident)
        seconds = ((labels, cpu_s) for labels, (_, cpu_s) in taken.items())
        yield counter("stateserve_process_cpu_seconds", "Processor time of the process.", _LABELS, seconds, "seconds")


def usage(pid: int) -> tuple[int, float] | None:
    """Resident bytes, and seconds of processor time; None where the process has gone (or the system has no /proc)."""
    with contextlib.suppress(OSError):
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(after_name[11]) + int(after_name[12])  # utime and stime, the fields 14 and 15
        return resident_pages * os.sysconf("SC_PAGE_SIZE"), ticks / os.sysconf("SC_CLK_TCK")
    return None
