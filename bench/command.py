"""What every benchmark's command does around its measurements."""

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.rounds import Bench
from bench.wrk import find_wrk


@contextlib.contextmanager
def measured(rounds: int, duration_s: int) -> Iterator[Bench]:
    """A bench with a folder of its own and progress on stderr; its servers are ended after SIGTERM as after Ctrl-C.

    Raises:
        LoadToolMissing: wrk is not installed.
    """
    find_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=Console(stderr=True)) as progress:
        yield Bench(rounds, duration_s, Path(folder), progress)
