"""The packaged .mar on the device, without Java: its handler called as TorchServe's Python worker calls it."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import artifact
from artifact import scaled_error
from bench.errors import ProcessFailed
from bench.gpu.models import GpuModel
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.gpu.stages.bound import served_engine
from bench.gpu.stages.export import budgets, require
from bench.inputs import made_up
from bench.page import Section
from bench.processes import run_module
from foundation.errors import StateserveError

_CALLER = Path(__file__).parents[1] / "handler_caller.py"
_TIMEOUT_S = 120.0
_REQUESTS = 8
_ROUNDING = 1e-3


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


def _handled(work: Work, model: GpuModel, engine: str) -> Finding:
    made, name = require(work.folder, model, model.served), model.at(model.served).name
    archive = work.folder / f"{name}.mar"
    run_module(
        "stateserve", "package", "mar", str(made), "--to", str(archive), "--format", engine, "--force", timeout_s=_TIMEOUT_S
    )
    unpacked = work.folder / f"{name}-mar"
    with zipfile.ZipFile(archive) as file:
        file.extractall(unpacked)
    signature = artifact.read_manifest(made).signature
    asked = made_up(signature, rows=1, different=_REQUESTS)
    told = _call(work, unpacked, name, asked)
    expected, allowed = artifact.load(made, engine="onnx"), budgets(made, model.served)
    errors = [
        (scaled_error(np.asarray(answer[output], np.float32).ravel(), right.ravel()), output)
        for answer, inputs in zip(told["answers"], asked, strict=True)
        for output, right in expected.run(inputs).items()
    ]
    error, output = max(errors)
    found = {"error": error, "budget": allowed[output], "seconds": told["seconds"], "start_s": told["start_s"]}
    found |= {
        "device": told["device"],
        "device_bytes": told["device_bytes"],
        "requests": _REQUESTS,
        "mar_bytes": archive.stat().st_size,
    }
    if error > allowed[output] + _ROUNDING:
        return found | {"failed": f"the error of {output} is beyond its budget"}
    return found


def _call(work: Work, unpacked: Path, name: str, asked: Sequence[Mapping[str, np.ndarray]]) -> Mapping[str, Any]:
    """What the handler answers, in a process of its own that finds nothing but the archive."""
    bodies = [json.dumps({"inputs": {key: array.tolist() for key, array in inputs.items()}}) for inputs in asked]
    gpu = None if work.is_rehearsal else int(work.device.rpartition(":")[2] or 0)
    told = json.dumps({"directory": str(unpacked), "name": name, "gpu": gpu, "bodies": bodies})
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, str(_CALLER)],
            cwd=unpacked,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            input=told,
            capture_output=True,
            text=True,
            timeout=min(_TIMEOUT_S, max(1.0, work.left_s)),
            check=False,
        )
    except subprocess.TimeoutExpired as cause:
        raise ProcessFailed(f"the handler of {name} did not end in time") from cause
    if done.returncode != 0:
        raise ProcessFailed(f"the handler of {name} ended with code {done.returncode}: {done.stderr.strip()[-1000:]}")
    return json.loads(done.stdout.splitlines()[-1])


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
            f"{one['seconds'] * 1e3:.1f}" if "seconds" in one else "-",
            f"**{one['failed']}**" if "failed" in one else "held",
        )
        for one in findings
    ]
    text = (
        f"`stateserve package mar`, unpacked. Its handler is called as TorchServe's Python worker calls it, with {_REQUESTS} "
        "requests of one row each in one batch, in a process that finds nothing but the archive. The error is against float32 on "
        "the CPU."
    )
    columns = ("model", "precision", "engine", "device", "MB of it by torch", "error", "budget", "s to load", "ms of a batch", "")
    return [Section("The packaged .mar, without Java", text, columns, rows)] if rows else []


STAGE = Stage(
    "packed",
    "The handler of the packaged .mar on the device, without the Java server.",
    measure,
    tell,
)
