"""What `stateserve tune` does with its words."""

import re
import signal
import sys

import typer
from rich.console import Console

from bench.errors import NotTuned
from bench.tune import report
from bench.tune.progress import Shown
from bench.tune.run import Request, tune

_DEVICE = re.compile(r"cpu|cuda:[0-9]{1,3}")
_INTERRUPTED = 130


def run(request: Request, *, as_json: bool) -> dict[str, object] | None:
    """Tunes, and prints what was found; with `as_json` gives it back instead.

    Ctrl-C and SIGTERM end it with code 130 or 143; what was measured is kept, and the same command goes on with it.

    Raises:
        StateserveError: see `bench.tune.run.tune`; or there is no such device.
    """
    if not _DEVICE.fullmatch(request.device):
        raise NotTuned(f"--device {request.device!r} is no device: write cpu, or cuda:0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    shown = Shown(request.budget_s)
    try:
        with shown.running():
            tuning = tune(request, shown)
    except KeyboardInterrupt:
        shown.tell("stopped; what was measured is kept, and the same command goes on with it")
        raise typer.Exit(_INTERRUPTED) from None
    if as_json:
        return report.to_json(tuning, request.directory)
    report.show(tuning, request.directory, Console(highlight=False))
    return None
