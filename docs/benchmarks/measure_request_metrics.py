"""What counting costs a request: the whole handler with and without the metrics, alternating, in one process, without a network.

`python docs/benchmarks/measure_request_metrics.py ARTIFACT` for a model with one float32 input [batch, n]. It prints the median
of the rounds' times of one request, as 32 at once and binary, with and without, and their difference.
"""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from artifact import manifest
from serving.app import Running, create_app
from serving.inference import Inference, Route
from serving.messages import Request
from serving.metrics import FOLD_AT, VersionMetrics
from serving.settings import Settings

AT_ONCE, EACH, ROUNDS = 32, 200, 41


async def round_s(inference: Inference, route: Route, body: bytes, headers: dict[str, str]) -> float:
    """Seconds of one request."""

    async def leaving() -> None:
        await asyncio.Event().wait()

    async def client() -> None:
        for _ in range(EACH):
            inference.active += 1
            await asyncio.sleep(0)
            answer = await inference.answer(route, Request("POST", "/", "", headers, body), "id", leaving)
            inference.active -= 1
            if answer.status != 200:
                sys.exit(answer.body.decode())

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return (time.perf_counter() - began) / (AT_ONCE * EACH)


def folded(counts: VersionMetrics) -> float:
    """Seconds that the folding of as many requests takes as are folded at a time."""
    for _ in range(FOLD_AT):
        counts.answered((0, 1, 1.0, 2.0, 3.0, 4.0, 5.0))
    began = time.perf_counter()
    counts.totals()
    return time.perf_counter() - began


def median_s(work: Callable[[], object]) -> float:
    """The median of the seconds that the work takes, or that it says itself."""
    taken = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        said = work()
        taken.append(said if isinstance(said, float) else time.perf_counter() - began)
    return statistics.median(taken)


async def main(artifact: Path) -> None:
    """Measures and prints."""
    (spec,) = manifest.read_manifest(artifact).signature.inputs
    sizes = [1, *(size for size in spec.shape[1:] if isinstance(size, int))]
    low, high = spec.range or (0.0, 1.0)
    data = np.random.default_rng(0).uniform(low, high, sizes).astype(spec.dtype).tobytes()
    tensor = {"name": spec.name, "shape": sizes, "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    with tempfile.TemporaryDirectory() as root:
        shutil.copytree(artifact, Path(root) / "model" / "1")
        running: Running = create_app(Settings(repository=Path(root))).state.running
        async with running.repository:
            counts: Any = running.repository.find("model").metrics
            counting = {"with": (counts.answered, counts.executed), "without": (lambda *_: None, lambda *_: None)}
            taken: dict[str, list[float]] = {"with": [], "without": []}
            for number in range(2 * ROUNDS):
                name = ("with", "without")[number % 2]
                counts.answered, counts.executed = counting[name]
                taken[name].append(await round_s(running.inference, Route("oip", "model", None), head + data, headers))
            counts.answered, counts.executed = counting["with"]
            print(f"folding {FOLD_AT} requests: {median_s(lambda: folded(counts)) * 1e6:.0f} µs")
            print(f"the page: {median_s(lambda: running.metrics.text(None)) * 1e3:.1f} ms")
    with_s, without_s = (statistics.median(taken[name]) * 1e6 for name in ("with", "without"))
    print(f"one request: {with_s:.2f} µs with metrics, {without_s:.2f} µs without: {with_s - without_s:.2f} µs")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1])))
