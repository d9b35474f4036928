"""The packaged .mar on the device, without Java: its handler called as TorchServe's Python worker calls it."""

import multiprocessing
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import artifact
from artifact import scaled_error
from bench.gpu.models import GpuModel
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.gpu.stages.bound import served_engine
from bench.gpu.stages.export import budgets, require
from bench.inputs import made_up
from bench.packed import Packed, measured, unpacked
from bench.page import Section
from bench.processes import run_module
from foundation.errors import StateserveError

_PACKAGE_TIMEOUT_S = 120.0
_REQUESTS = 8
_ROUNDING = 1e-3


@dataclass(frozen=True, slots=True)
class Handled:
    """What a handler did: its answers, seconds to load, what was measured, and what PyTorch took of the device's memory."""

    answers: Sequence[Mapping[str, np.ndarray]]
    start_s: float
    measured: Mapping[str, float]
    device_bytes: int


def measure(work: Work) -> Iterator[Finding]:
    """One finding for each model, at the precision that is served."""
    for model in work.plan.models:
        work.say(f"{model.key} {model.served}")
        engine = served_engine(work.earlier.get("bound", ()), model.key, model.served)
        stated = {"model": model.key, "precision": model.served, "engine": engine}
        try:
            yield {**stated, **_handled(work, model, engine)}
        except StateserveError as failure:
            yield {**stated, "failed": str(failure)}


def handled(folder: Path, gpu: int | None, asked: Sequence[Mapping[str, np.ndarray]], duration_s: float) -> Handled:
    """Loads the handler of an unpacked archive, asks it, and measures batches of requests. One archive in a process.

    Raises:
        ProcessFailed: it does not load its model, or refuses a request.
    """
    began_s = time.perf_counter()
    handler = Packed(folder, gpu)
    start_s = time.perf_counter() - began_s
    answers = [handler.run(inputs) for inputs in asked]
    found = measured(handler, 1, _REQUESTS, duration_s)
    torch = sys.modules.get("torch")
    taken = 0 if gpu is None or torch is None else torch.cuda.max_memory_allocated(gpu)
    return Handled(answers, start_s, found, taken)


def _handled(work: Work, model: GpuModel, engine: str) -> Finding:
    made, name = require(work.folder, model, model.served), model.at(model.served).name
    archive = work.folder / f"{name}.mar"
    flags = ("--to", str(archive), "--format", engine, "--force")
    run_module("stateserve", "package", "mar", str(made), *flags, timeout_s=_PACKAGE_TIMEOUT_S)
    asked = made_up(artifact.read_manifest(made).signature, rows=1, different=_REQUESTS)
    gpu = None if work.is_rehearsal else int(work.device.rpartition(":")[2])
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(handled, unpacked(archive, work.folder / f"{name}-mar"), gpu, asked, work.plan.load_s).result()
    expected, allowed = artifact.load(made), budgets(made, model.served)
    errors = [
        (scaled_error(answer[output], right), output)
        for answer, inputs in zip(found.answers, asked, strict=True)
        for output, right in expected.run(inputs).items()
    ]
    error, output = max(errors)
    told = {"error": error, "budget": allowed[output], "start_s": found.start_s, "measured": dict(found.measured)}
    told |= {"device": work.device, "device_bytes": found.device_bytes, "mar_bytes": archive.stat().st_size}
    beyond = f"the error of {output} is beyond its budget"
    return told if error <= allowed[output] + _ROUNDING else told | {"failed": beyond}


def tell(findings: Sequence[Finding], _all: Findings) -> Sequence[Section]:
    """One table."""
    rows = [
        (
            one["model"],
            one["precision"],
            one["engine"],
            one.get("device", "-"),
            f"{one['device_bytes'] / 1e6:,.0f}" if one.get("device_bytes") else "-",
            f"{one['error']:.1e}" if "error" in one else "-",
            f"{one['budget']:.1e}" if "budget" in one else "-",
            f"{one['start_s']:.1f}" if "start_s" in one else "-",
            f"{one['measured']['rows_per_s']:,.0f}" if "measured" in one else "-",
            f"{one['measured']['p50_s'] * 1e3:.1f}" if "measured" in one else "-",
            f"**{one['failed']}**" if "failed" in one else "held",
        )
        for one in findings
    ]
    text = (
        f"`stateserve package mar`, unpacked. Its handler is called as TorchServe's Python worker calls it, with {_REQUESTS} "
        "requests of one row each in a batch: images as .npy, several inputs as JSON. The error is against float32 on the CPU."
    )
    measures = ("s to load", "rows/s", "ms of a batch, p50", "")
    columns = ("model", "precision", "engine", "device", "MB of it by torch", "error", "budget", *measures)
    return [Section("The packaged .mar, without Java", text, columns, rows)] if rows else []


STAGE = Stage(
    "packed",
    "The handler of the packaged .mar on the device, without the Java server.",
    measure,
    tell,
)
