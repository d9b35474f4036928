"""How far a tuning is, on stderr."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from bench.tune.run import Step


class _TimeLeft(ProgressColumn):
    """What is left of the budget; it is over earlier when one arm leads clearly, and a little later where a start takes long."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left_s = max(0.0, (task.total or 0.0) - task.completed)
        return Text(f"about {left_s // 60:.0f}:{left_s % 60:02.0f} left")


class Shown:
    """A bar that fills as the budget is spent, and what is being measured."""

    def __init__(self, budget_s: float) -> None:
        described = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True))
        columns = (described, BarColumn(bar_width=16), _TimeLeft(table_column=Column(no_wrap=True)))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True, expand=True)
        self._task = self._progress.add_task("reading the artifact", total=budget_s)

    @contextlib.contextmanager
    def running(self) -> Iterator["Shown"]:
        """Shows it until the block ends."""
        with self._progress:
            yield self

    def measuring(self, step: Step) -> None:
        """See `bench.tune.run.Watcher`."""
        text = f"round {step.round + 1} of {step.rounds}: {step.arm}"
        if step.point is not None:
            text += f": {step.point.rows_per_s:,.0f} rows/s"
        self._progress.update(self._task, description=text, completed=step.spent_s)

    def tell(self, sentence: str) -> None:
        """See `bench.tune.run.Watcher`."""
        self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
