"""Operations on inputs alone, without engine and server: `python -m bench.decoding ARTIFACT PICTURE…`, in a process of its own.

Threads take the files in turn and make the model's tensors of them, as the server's pool does; nothing else runs.
"""

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from artifact.artifact import read_operations, verified_files
from artifact.manifest import read_manifest
from artifact.operations import Operations, RawLimits
from bench.errors import NotAsked
from bench.processes import run_module
from foundation.command import exit_codes

_SPARE_S = 60


def measure(directory: Path, pictures: Sequence[Path], threads: int, duration_s: float) -> float:
    """Pictures in a second that so many threads decode and prepare, for so long, in a process of its own.

    Raises:
        ProcessFailed: with its own words.
    """
    flags = ["--threads", str(threads), "--duration-s", str(duration_s)]
    said = run_module("bench.decoding", str(directory.absolute()), *map(str, pictures), *flags, timeout_s=duration_s + _SPARE_S)
    return float(json.loads(said)["per_s"])


def per_s(operations: Operations, values: Sequence[bytes], threads: int, duration_s: float) -> float:
    """How many values a second become tensors, by so many threads; each says how many it made, and in what time."""
    (spec,) = operations.raw_inputs
    limits = RawLimits()
    operations.prepare({spec.name: values[0]}, limits)  # the first call imports and allocates
    ready, rates = threading.Barrier(threads), [0.0] * threads

    def work(number: int) -> None:
        ready.wait()
        began = now = time.perf_counter()
        done = 0
        while now < began + duration_s:
            operations.prepare({spec.name: values[(number + done) % len(values)]}, limits)
            done += 1
            now = time.perf_counter()
        rates[number] = done / (now - began)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)


def main(
    directory: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The artifact: <repository>/<name>/<version>.")],
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE…", help="Files that are sent in turn.")],
    threads: Annotated[int, typer.Option(min=1, help="Decoded at a time.")] = 1,
    duration_s: Annotated[float, typer.Option(min=0, help="How long to measure.")] = 3.0,
) -> None:
    """Print how many pictures a second the artifact's operations prepare, as a line of JSON."""
    with exit_codes(as_json=True):
        stated = read_manifest(directory)
        operations = read_operations(stated, verified_files(directory, stated), directory)
        if operations is None or len(operations.raw_inputs) != 1:
            raise NotAsked(f"{directory} declares no operations on one raw input: nothing is decoded there")
        rate = per_s(operations, [picture.read_bytes() for picture in pictures], threads, duration_s)
        typer.echo(json.dumps({"threads": threads, "per_s": rate}))


if __name__ == "__main__":
    typer.run(main)
