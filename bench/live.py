"""What a person sees while a load test runs: what is measured now, what was measured, and how long it will take."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bench import generator
from bench.report.findings import load_name
from bench.report.units import exact
from bench.results import Case, Round

_MOST_ROWS = 18
"""Cases that are shown while it runs, the latest ones: a terminal has about 24 lines."""


class LiveTest:
    """The display of one load test, on stderr; where that is no terminal, a line for every load."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
        self._progress = Progress(*columns, console=self._console)
        self._task = self._progress.add_task("loads", total=None)
        self._cases: list[Case] = []
        self._now: Text = Text("")
        self._title = ""
        self._live = Live(get_renderable=self._shown, console=self._console, refresh_per_second=4, transient=True)

    @contextmanager
    def running(self) -> Iterator["LiveTest"]:
        """Shows it until the block ends."""
        if not self._console.is_terminal:
            yield self
            return
        with self._live:
            yield self

    def expect(self, loads: int) -> None:
        """So many loads more are to come."""
        self._progress.update(self._task, total=(self._progress.tasks[0].total or 0) + loads)

    def step(self, title: str) -> None:
        """Something that is no load begins, such as the start of a server."""
        self._title, self._now = title, Text(title, style="bold")
        self._line(title)

    def begins(self, title: str) -> None:
        """A load begins."""
        self._title, self._now = title, Text(title, style="bold")

    def window_began(self) -> None:
        """The warm-up is over: see `generator.Watcher`."""

    def window_ended(self) -> None:
        """The load's time is over: see `generator.Watcher`."""

    def progressed(self, progress: generator.Progress) -> None:
        """How the load is doing: see `generator.Watcher`."""
        parts = [f"{progress.phase} {progress.elapsed_s:.0f} s", f"{progress.requests:,} answered"]
        if progress.requests_per_s is not None:
            parts.append(f"{progress.requests_per_s:,.0f}/s")
        latencies = {"p50": progress.p50_ms, "p99": progress.p99_ms}
        parts += [f"{name} {value:.3g} ms" for name, value in latencies.items() if value is not None]
        if progress.errors:
            parts.append(f"[{progress.errors:,} failed]")
        self._now = Text.assemble((self._title, "bold"), "  ", ", ".join(parts))

    def ended(self, title: str, last: Round, case: Case | None) -> None:
        """A load was measured; `case`, where it is one of the results, has all its rounds up to now."""
        self._progress.advance(self._task)
        if case is not None:
            self._cases = [one for one in self._cases if one.load != case.load] + [case]
        latency = "" if last.latency_ms is None else f", p50 {last.latency_ms.p50:.3g} ms, p99 {last.latency_ms.p99:.3g} ms"
        failed = f", failed: {_errors_text(last.errors)}" if last.errors else ""
        self._line(f"{title}: {last.requests_per_s:,.0f} requests/s{latency}{failed}")

    def kept(self, folder: Path) -> None:
        """The test was stopped; what was measured is in this folder."""
        self._console.print(f"stopped; what was measured is in {folder / 'report.html'}", markup=False, soft_wrap=True)

    def _line(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, soft_wrap=True)

    def _shown(self) -> RenderableType:
        shown = table(self._cases[-_MOST_ROWS:]) if self._cases else Text("")
        return Group(shown, self._now, self._progress)


def table(cases: Sequence[Case]) -> Table:
    """Every case in a line: medians over its rounds."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("server", no_wrap=True)
    made.add_column("load", no_wrap=True)
    for title in ("requests/s", "rows/s", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "failed"):
        made.add_column(title, justify="right", no_wrap=True)
    for case in cases:
        latencies = [exact(case.latency_ms(name), 3) for name in ("p50", "p90", "p99", "p999", "max")]
        failed = sum(sum(one.errors.values()) for one in case.rounds)
        rates = [f"{case.requests_per_s:,.0f}", f"{case.rows_per_s:,.0f}"]
        made.add_row(case.contender, load_name(case), *rates, *latencies, f"{failed:,}" if failed else "-")
    return made


def _errors_text(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in errors.items())
