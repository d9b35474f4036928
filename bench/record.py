"""The results of one test as they grow: written after every change, so that whatever stops a test, what was measured is kept."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import report, results
from bench.client.load import Load
from bench.errors import NotWritten
from bench.results import Case, Results, Round


class Record:
    """`results.json` in a folder after every change; the report when it is asked for. `results` are those up to now."""

    def __init__(self, out: Path, begun: Results, previous: Results | None, tolerance: float) -> None:
        """`previous` is what the report compares the new results with; `tolerance` is a share, for it."""
        self.results = begun
        self._out, self._previous, self._tolerance = out, previous, tolerance
        with _told(out):
            out.mkdir(parents=True, exist_ok=True)

    def change(self, **changed: Any) -> None:
        """Takes parts of the results over."""
        self.results = self.results.model_copy(update=changed)
        with _told(self._out):
            results.write(self.results, self._out / "results.json")

    def add(self, contender: str, load: Load, measured: Round) -> Case:
        """Takes one more round of a case over, which is new or known; gives the case as it is now."""
        one = Case(
            contender=contender,
            loop="closed" if load.rate_per_s is None else "open",
            connections=load.connections,
            rate_per_s=load.rate_per_s,
            rounds=[measured],
        )
        cases = list(self.results.cases)
        known = next((number for number, case in enumerate(cases) if case.load == one.load), None)
        if known is None:
            cases.append(one)
        else:
            one = cases[known] = one.model_copy(update={"rounds": [*cases[known].rounds, measured]})
        self.change(cases=cases)
        return one

    def note(self, text: str) -> None:
        """Takes over what a reader must know; the same is said once."""
        if text not in self.results.notes:
            self.change(notes=[*self.results.notes, text])

    def report(self) -> None:
        """Writes the report and the CSV."""
        with _told(self._out):
            report.write(self.results, self._out, self._previous, self._tolerance)


@contextlib.contextmanager
def _told(out: Path) -> Iterator[None]:
    """Raises NotWritten where a file cannot be."""
    try:
        yield
    except OSError as cause:
        raise NotWritten(
            f"the results cannot be written to {out}: {cause.strerror}; make room there, or give another --out"
        ) from cause
