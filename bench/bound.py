"""The engine alone, without a server: how far a server is from the limit. `python -m bench.bound ARTIFACT --threads 2`.

Every batch size is measured by `bench.alone` in a process of its own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import artifact
from artifact import Signature
from artifact.artifact import computed_precision, first_format
from bench import alone
from bench.results import Bound, BoundPoint
from foundation.command import exit_codes
from foundation.environment import cores

MOST_SIZES = 16
"""Up to so many rows, every batch size is measured; above, powers of two and the middle between two of them."""


@dataclass(frozen=True, slots=True)
class Run:
    """How the engine runs: `threads` of one call, `instances` calls at a time, on `cpu` or `cuda:NUMBER` in a precision.

    `engine` is a format of the artifact, or `auto`: the first that it holds, on a CUDA device the first that runs there.
    `precision` is `auto` or one of `artifact.manifest.PRECISIONS`; `cuda_graphs`: whether PyTorch's formats use them.
    """

    engine: str = "auto"
    threads: int = 1
    instances: int = 1
    device: str = "cpu"
    precision: str = "auto"
    cuda_graphs: bool = True

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> "Run":
        """As a server says that it runs the model; with all cores for one call where it does not say."""
        return cls(
            engine=facts.get("engine", "auto"),
            threads=int(facts.get("threads", cores())),
            instances=int(facts.get("instances", 1)),
            device=facts.get("device", "cpu"),
            precision=facts.get("precision", "auto"),
        )


OnPoint = Callable[[BoundPoint], None]


def measure(directory: Path, run: Run, duration_s: float, on_point: OnPoint | None = None, rows: Sequence[int] = ()) -> Bound:
    """Runs the engine alone for about `duration_s`, all batch sizes together (or `rows`), in a process of its own.

    `on_point` is told each size as soon as it is measured.

    Raises:
        NotAnArtifact, DamagedArtifact: the artifact is none.
        EngineUnavailable: there is no such precision.
        ProcessFailed: the engine could not be made, or failed: with its own words.
    """
    manifest = artifact.read_manifest(directory)
    sizes = rows or batch_sizes(manifest.signature)
    precision = computed_precision(run.precision, manifest, run.device)
    engine = first_format(manifest, precision, run.device) if run.engine == "auto" else run.engine
    asked = alone.Asked(
        str(directory.absolute()),
        engine,
        run.instances,
        run.threads,
        seconds=dict.fromkeys(sizes, duration_s / len(sizes)),
        device=run.device,
        every_size=True,
        precision=precision,
        cuda_graphs=run.cuda_graphs,
    )
    points = []
    for point in alone.points(asked):
        points.append(BoundPoint(rows=point.rows, call_s=point.p50_s, rows_per_s=point.rows_per_s))
        if on_point is not None:
            on_point(points[-1])
    per_row_s, per_call_s = fit(points)
    return Bound(
        engine=engine,
        threads=run.threads,
        instances=run.instances,
        device=run.device,
        points=points,
        per_row_s=per_row_s,
        per_call_s=per_call_s,
    )


def batch_sizes(signature: Signature) -> list[int]:
    """The sizes to be measured, among them the smallest and the largest that are declared; 1 for a model without a batch."""
    if signature.batch_dim is None:
        return [1]
    dim = signature.dims[signature.batch_dim]
    powers = [2**exponent for exponent in range(dim.max.bit_length())]
    wanted = range(1, dim.max + 1) if dim.max <= MOST_SIZES else [*powers, *(power * 3 // 2 for power in powers), dim.max]
    largest = dim.max // dim.multiple * dim.multiple
    return sorted({min(largest, -(-max(size, dim.min) // dim.multiple) * dim.multiple) for size in wanted})


def fit(points: Sequence[BoundPoint]) -> tuple[float, float]:
    """Seconds per row and per call: the line t(n) = a · n + b that is nearest to the calls' times by relative error.

    Least squares of (a · n + b) / t - 1, so that a call of one row counts as much as one of many; where that makes one of the two
    negative, it is 0. That a batch's time is such a line: Crankshaw and others, Clipper, NSDI 2017, on batching.
    """
    rows = np.array([point.rows for point in points], float)
    calls_s = np.array([point.call_s for point in points], float)
    by_row, by_call = rows / calls_s, 1 / calls_s
    slope_alone, constant_alone = by_row.sum() / (by_row @ by_row), by_call.sum() / (by_call @ by_call)
    if len(points) == 1:
        return float(slope_alone), 0.0
    (slope, constant), *_ = np.linalg.lstsq(np.stack([by_row, by_call], axis=1), np.ones(len(points)), rcond=None)
    if constant < 0:
        return float(slope_alone), 0.0
    return (0.0, float(constant_alone)) if slope < 0 else (float(slope), float(constant))


def main(  # noqa: PLR0913 - a command has one parameter per option
    directory: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The artifact: <repository>/<name>/<version>.")],
    *,
    engine: Annotated[str, typer.Option(help="onnx, torchscript, pt2, or auto: the first that the artifact holds.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one call. Default: all cores.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Calls at a time.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, or cuda:NUMBER.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="float32, tf32, float16, bfloat16, or auto: what the artifact declares for a GPU.")
    ] = "auto",
    cuda_graphs: Annotated[bool, typer.Option(help="Whether PyTorch's formats run by CUDA graphs on a GPU.")] = True,
    duration_s: Annotated[float, typer.Option(min=0, help="How long to measure, all sizes together.")] = 10.0,
    rows: Annotated[list[int] | None, typer.Option(min=1, help="Only so many rows in a call; repeatable.")] = None,
) -> None:
    """Print what the engine can do without a server, as lines of JSON; the last one says with which batch it is fastest."""
    with exit_codes(as_json=True):
        run = Run(engine, threads or cores(), instances, device, precision, cuda_graphs)
        found = measure(directory, run, duration_s, lambda point: typer.echo(point.model_dump_json()), rows or ())
        typer.echo(json.dumps(found.model_dump() | {"best": found.best.model_dump()}))


if __name__ == "__main__":
    typer.run(main)
