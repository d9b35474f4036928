"""The engine alone, without a server, in a process of its own: how long calls of so many rows take, several of them at a time.

PyTorch's thread count holds for a whole process, and nothing else should share the interpreter: so each combination of engine,
threads and calls at a time is measured by `python -m bench.alone`, which reads what is asked from its stdin (a line of JSON) and
writes a line for each batch size as soon as it is measured. It ends when its stdin is closed: no orphan goes on measuring.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

import numpy as np

import artifact
from artifact import Artifact, Signature, golden
from bench.errors import ProcessFailed
from bench.inputs import made_up
from bench.processes import server_environment
from foundation.errors import StateserveError

_PARTS = 5
"""Parts of a measurement whose speeds are compared: their spread is the noise."""
_UNKNOWN = 1.0
"""The spread of a single call: as large as its speed."""
_FELL_TWICE = 2
LEAST_CALLS = 3
"""So many calls of every batch size, however short the measurement is."""
_SILENT_S = 120.0
"""A process that says nothing for so long, beside what was asked of it, hangs: a start, golden replay, a long call take less."""
_PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured: `instances` calls at a time, of each number of rows in `seconds`, for so long at least, smallest first.

    Larger sizes are left out once two in a row gave fewer rows a second than a smaller one (not with `every_size`), once a call
    took longer than `max_call_s`, or once `limit_s` have passed. `prove` replays the golden cases first. `device`, `precision`,
    `memory_bytes` and `cuda_graphs` are those of `artifact.load`.
    """

    directory: str
    engine: str
    instances: int
    threads: int
    seconds: Mapping[int, float]
    device: str = "cpu"
    max_call_s: float = float("inf")
    limit_s: float = float("inf")
    prove: bool = False
    every_size: bool = False
    precision: str = "auto"
    cuda_graphs: bool = True
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """Calls of so many rows: how many there were, rows in a second by all instances together, and seconds of one call.

    `spread` is the difference between the fastest and the slowest fifth of the measurement, as a share of its median.
    """

    rows: int
    calls: int
    rows_per_s: float
    p50_s: float
    p99_s: float
    spread: float


def points(asked: Asked) -> Iterator[Point]:
    """Measures in a process of its own; each point comes as soon as it is there. Leaving early ends the process.

    Raises:
        ProcessFailed: the engine could not be made, did not prove itself, or failed: with its own words; or it hangs.
    """
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.alone"],
            cwd=_PROJECT,
            env=server_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,  # Ctrl-C is for who asked, who ends this process
        )
        try:
            yield from _read(process, asked, complaints)
        finally:
            process.kill()
            process.communicate()


def _read(process: "subprocess.Popen[str]", asked: Asked, complaints: IO[str]) -> Iterator[Point]:
    if process.stdin is None or process.stdout is None:
        raise ProcessFailed("the measuring process has no pipes")
    with contextlib.suppress(BrokenPipeError):  # it has ended already: its last words say why
        process.stdin.write(json.dumps(asdict(asked)) + "\n")
        process.stdin.flush()
    for line in _lines(process, process.stdout, _SILENT_S + max(asked.seconds.values(), default=0.0)):
        if not line.startswith("{"):  # a library may print there, too
            continue
        said: dict[str, Any] = json.loads(line)
        if "done" in said:
            return
        if "failed" in said:
            raise ProcessFailed(said["failed"])
        yield Point(**said)
    complaints.seek(0)
    last = (complaints.read().strip().splitlines() or ["without a word"])[-1]
    raise ProcessFailed(f"the measuring process ended with code {process.wait()}: {last}")


def _lines(process: "subprocess.Popen[str]", said: IO[str], silent_s: float) -> Iterator[str]:
    """What a process says, line by line, until its end; one that says nothing for so long is ended.

    Raises:
        ProcessFailed: it had to be ended.
    """
    hangs = threading.Event()

    def end() -> None:
        hangs.set()
        process.kill()

    while True:
        patience = threading.Timer(silent_s, end)
        patience.daemon = True
        patience.start()
        try:
            line = said.readline()
        finally:
            patience.cancel()
        if hangs.is_set():
            raise ProcessFailed(f"the measuring process said nothing for {silent_s:g} s and was ended: its engine hangs")
        if not line:
            return
        yield line


def sizes(signature: Signature) -> list[int]:
    """Batch sizes to measure: the fewest rows that the model takes, doubled repeatedly and the most; [1] without batches."""
    if signature.batch_dim is None:
        return [1]
    dim = signature.dims[signature.batch_dim]
    least, most = -(-dim.min // dim.multiple) * dim.multiple, dim.max // dim.multiple * dim.multiple
    found = [least]
    while found[-1] * 2 < most:
        found.append(found[-1] * 2)
    return [*found, most] if most > found[-1] else found


def _measure(loaded: Artifact, asked: Asked) -> Iterator[Point]:
    ends_s = time.perf_counter() + asked.limit_s
    best, fell = 0.0, 0
    for rows, seconds in sorted(asked.seconds.items()):
        if best and time.perf_counter() > ends_s:
            return
        point = measured(loaded, rows, asked.instances, seconds)
        yield point
        fell = 0 if point.rows_per_s > best else fell + 1
        best = max(best, point.rows_per_s)
        if (fell == _FELL_TWICE and not asked.every_size) or point.p50_s > asked.max_call_s:
            return


def measured(loaded: Artifact, rows: int, instances: int, seconds: float) -> Point:
    """Calls of so many rows from `instances` threads at once, for so long; three of each at least, or one that takes longer.

    Raises:
        EngineFailed: the engine failed.
    """
    (inputs,) = made_up(loaded.signature, rows, different=1)
    taken: list[list[float]] = [[] for _ in range(instances)]
    ready = threading.Barrier(instances)
    failures: list[Exception] = []

    def calls(mine: list[float]) -> None:
        run, clock = loaded.engine.run, time.perf_counter
        try:
            began = clock()
            run(inputs)  # the first of a shape allocates
            least = LEAST_CALLS if clock() - began <= seconds else 1
            ready.wait()
            before = clock()
            ends = before + seconds
            while before < ends or len(mine) < least:
                run(inputs)
                now = clock()
                mine.append(now - before)
                before = now
        except Exception as error:  # noqa: BLE001 - told by the thread that waits for this one
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=calls, args=(mine,)) for mine in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0])
    return _summary(rows, taken)


def _summary(rows: int, taken: Sequence[Sequence[float]]) -> Point:
    """The point of what every instance's calls took; its speed is the sum of theirs."""
    all_calls = np.sort(np.concatenate([np.asarray(mine) for mine in taken]))
    return Point(
        rows=rows,
        calls=len(all_calls),
        rows_per_s=float(sum(rows * len(mine) / sum(mine) for mine in taken)),
        p50_s=float(np.quantile(all_calls, 0.5)),
        p99_s=float(np.quantile(all_calls, 0.99)),
        spread=_spread(taken),
    )


def _spread(taken: Sequence[Sequence[float]]) -> float:
    parts = min(_PARTS, *(len(mine) for mine in taken))
    if parts == 1:
        return _UNKNOWN
    speeds = [
        sum(1 / float(np.mean(part)) for part in together)
        for together in zip(*(np.array_split(np.asarray(mine), parts) for mine in taken), strict=True)
    ]
    return (max(speeds) - min(speeds)) / median(speeds)


def _end_with_stdin() -> None:
    """Whoever asked is gone, or wants no more."""
    sys.stdin.read()
    os._exit(0)


def _say(value: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measures what one line of stdin asks for."""
    said = json.loads(sys.stdin.readline())
    asked = Asked(**{**said, "seconds": {int(rows): seconds for rows, seconds in said["seconds"].items()}})
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        loaded = artifact.load(
            asked.directory,
            engine=asked.engine,
            threads=asked.threads,
            calls=asked.instances,
            device=asked.device,
            precision=asked.precision,
            memory_bytes=asked.memory_bytes,
            cuda_graphs=asked.cuda_graphs,
        )
        if asked.prove:
            golden.require(loaded.replay())
        for point in _measure(loaded, asked):
            _say(asdict(point))
    except StateserveError as error:
        _say({"failed": str(error)})
    _say({"done": True})


if __name__ == "__main__":
    main()
