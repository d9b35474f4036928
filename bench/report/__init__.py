"""What a load test leaves beside results.json: report.html to look at, results.csv to work with.

`write` is all that others use. A file of `sections/` makes one part of the page, `canvas.py` the pictures, `verdict.py` the first
words. matplotlib is imported when a report is written, not before.
"""

import importlib.util
from pathlib import Path

from bench.results import Results

TOLERANCE = 0.1
"""What a comparison on the page calls a change, where nothing else is asked for: 10 %."""


_NEEDED = "matplotlib"


def require_installed() -> None:
    """For the start of a test: whether its report can be written at its end, without importing anything.

    Raises:
        ModuleNotFoundError: the package that draws is not installed; `foundation.command.exit_codes` names the install line.
    """
    if importlib.util.find_spec(_NEEDED) is None:
        raise ModuleNotFoundError(f"No module named {_NEEDED!r}", name=_NEEDED)


def write(results: Results, out: Path, previous: Results | None = None, tolerance: float = TOLERANCE) -> None:
    """Writes report.html and results.csv into a folder that is there; with `previous`, the page begins with what changed.

    The same results give the same bytes. Works with results of a test that was stopped, and with none measured.
    """
    from bench import compare
    from bench.report.page import page
    from bench.report.rows import to_csv

    comparison = None if previous is None else compare.compare(previous, results, tolerance)
    (out / "report.html").write_text(page(results, comparison), encoding="utf-8")
    (out / "results.csv").write_text(to_csv(results), encoding="utf-8")
