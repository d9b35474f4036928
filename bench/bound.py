"""The engine alone, without a server: `python -m bench.bound ARTIFACT --rows 8 --threads 2 --duration-s 3`.

Prints how many rows a second it runs. A process of its own, so that nothing else shares its interpreter.
"""

import time
from pathlib import Path
from typing import Annotated

import typer

import artifact
from artifact import Artifact
from bench.models import made_up_inputs


def rows_per_s(loaded: Artifact, rows: int, duration_s: float) -> float:
    """Rows that the engine runs in a second, `rows` in a call: whole calls, `duration_s` at least; the first is not counted."""
    inputs, calls = made_up_inputs(loaded.signature, rows), 0
    loaded.engine.run(inputs)
    started = now = time.perf_counter()
    while now - started < duration_s:
        loaded.engine.run(inputs)
        calls, now = calls + 1, time.perf_counter()
    return calls * rows / (now - started)


def main(
    directory: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The artifact: <repository>/<name>/<version>.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows in one call.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of one call.")],
    duration_s: Annotated[float, typer.Option(help="How long to measure.")] = 3,
) -> None:
    """Print how many rows a second the engine runs."""
    typer.echo(rows_per_s(artifact.load(directory, engine="onnx", threads=threads), rows, duration_s))


if __name__ == "__main__":
    typer.run(main)
