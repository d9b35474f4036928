"""One process of the load generator: `python -m bench.client PLAN`, which `bench.generator` starts and talks with in JSON lines.

It says `{"ready": true}` once its connections are open, hears `{"begin_s": …}` (a moment of CLOCK_MONOTONIC), tells how it is
doing four times a second, and says `{"done": …}` at the end, or `{"failed": …}` where this machine is at its limits. `stop` ends
the load early. At the end of its standard input it ends at once, so that nothing of it outlives its parent.
"""

import ctypes
import gc
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.client import firing, plan
from bench.client.arrivals import Arrivals, Closed, Open, poisson
from bench.client.firing import Firing
from bench.client.plan import Plan
from bench.client.tally import Busy, Tally, Window
from bench.errors import ProcessFailed

TELL_S = 0.25

_PR_SET_TIMERSLACK = 29


class Teller:
    """Tells how a load is doing, at its ticks."""

    def __init__(self, load: Firing, tally: Tally, busy: Busy, begin_s: float) -> None:
        self._load, self._tally, self._busy = load, tally, busy
        self._begin_s, self._next_s, self._told = begin_s, begin_s + TELL_S, 0

    def at_tick(self, now_s: float) -> None:
        """Tells if it is time for it."""
        self._busy.sample(now_s)
        if now_s < self._next_s:
            return
        latencies_s = self._tally.latencies_s(self._told)
        p50_s, p99_s = np.quantile(latencies_s, (0.5, 0.99)).tolist() if len(latencies_s) else (None, None)
        say(
            requests=len(self._tally) - self._tally.errors,
            errors=self._tally.errors,
            latest={"s": now_s - self._next_s + TELL_S, "requests": len(latencies_s), "p50_s": p50_s, "p99_s": p99_s},
            failing_s=self._load.failing_s(now_s),
            last_failure=self._load.last_failure,
        )
        self._told, self._next_s = len(self._tally), now_s + TELL_S


def main() -> None:
    """Does what the plan says."""
    own = plan.read(Path(sys.argv[1]))
    prepare()
    requests = own.read_requests()
    opened = firing.opened(own.address, own.connections)
    say(ready=True)
    begin_s = json.loads(hear())["begin_s"]
    window = Window(begin_s + own.warmup_s, begin_s + own.warmup_s + own.duration_s, by_due=own.rate_per_s is not None)
    tally, busy = Tally(), Busy(window.begin_s, window.end_s)
    load = Firing(own, requests, opened, arrivals(own, begin_s), tally)

    def heard() -> None:
        hear()
        load.stopped = True

    load.listen(sys.stdin.fileno(), heard)
    load.run(Teller(load, tally, busy, begin_s).at_tick)
    end_s = min(window.end_s, time.monotonic()) if load.stopped else window.end_s
    measured = tally.measured(Window(window.begin_s, end_s, window.by_due))
    np.savez(own.arrays, latencies_s=measured.latencies_s, answered_s=measured.answered_s)
    say(done={**measured.told, "seconds": max(0.0, end_s - window.begin_s), "client_busy": busy.share})


def arrivals(own: Plan, begin_s: float) -> Arrivals:
    """When this process's requests are due."""
    lasts_s = own.warmup_s + own.duration_s
    if own.rate_per_s is None:
        return Closed(begin_s, begin_s + lasts_s)
    return Open(begin_s + poisson(own.rate_per_s, lasts_s, own.seed), begin_s + lasts_s)


def prepare() -> None:
    """Ctrl-C is the parent's to answer; as many files as allowed, timers to the microsecond, no garbage collection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)  # nanoseconds; the default is 50 microseconds
    gc.disable()


def say(**said: Any) -> None:
    """One line to the parent."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def hear() -> str:
    """A line from the parent; ends the process where the parent has."""
    said = sys.stdin.readline()
    if not said:
        os._exit(1)
    return said


if __name__ == "__main__":
    try:
        main()
    except ProcessFailed as error:
        say(failed=str(error))
