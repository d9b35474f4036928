"""What a load test prints at its end: a table of all cases, what follows from them, and where the report lies."""

import html
import re
from pathlib import Path

from rich.console import Console

from bench.live import table
from bench.report.verdict import sentences
from bench.results import Results

_TAG = re.compile(r"<[^>]*>")


def print_summary(results: Results, out: Path, console: Console) -> None:
    """Prints the results to a terminal or a pipe."""
    if results.cases:
        console.print(table(results.cases))
        console.print()
    for sentence in sentences(results):
        console.print(html.unescape(_TAG.sub("", str(sentence))), markup=False, soft_wrap=True)
    for note in results.notes:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    console.print(f"{out / 'report.html'}", markup=False, soft_wrap=True)
