"""How busy the machine's cores are: the kernel's own count of their time."""

import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_COUNTED = 8
"""user, nice, system, idle, iowait, irq, softirq, steal; the two after them are parts of the first two (proc_stat(5))."""
_IDLE = slice(3, 5)


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Time of all cores since the machine was started, in the kernel's ticks."""

    total: int
    idle: int


def core_times() -> CoreTimes | None:
    """The count now; None where the system does not tell (it is not Linux)."""
    try:
        with _STAT.open() as file:
            ticks = [int(word) for word in file.readline().split()[1 : _COUNTED + 1]]
    except OSError:
        return None
    return CoreTimes(sum(ticks), sum(ticks[_IDLE]))


def busy_share(before: CoreTimes | None, after: CoreTimes | None) -> float | None:
    """The share of all cores' time that was not idle, 0 to 1; None where it is not told, or not a tick has passed."""
    if before is None or after is None or after.total <= before.total:
        return None
    # The kernel's idle counters may step back a little: proc_stat(5).
    return min(1.0, max(0.0, 1 - (after.idle - before.idle) / (after.total - before.total)))


def load_before(seconds: float = 1.0) -> float:
    """How busy the machine is now, 0 to 1, watched for so long; 0 where the system does not tell.

    To be asked before any server is started: above 0.1, other work takes part in what is measured.
    """
    before = core_times()
    time.sleep(seconds)
    return busy_share(before, core_times()) or 0.0
