"""Every model exported at every precision, by the real export: checkpoint -> proven artifact."""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import artifact
from artifact import manifest
from bench.errors import NotAsked
from bench.gpu.models import GpuModel
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.models import export_model
from bench.page import Section
from foundation.environment import cores
from foundation.errors import StateserveError

_CORES_EACH = 4
"""One export at a time for so many: much of it is one thread's work. What is not, the proof of large batches, has half of all."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def directory(folder: Path, model: GpuModel, precision: str) -> Path:
    """Where the artifact lies; its grandparent is a repository that holds nothing else."""
    name = model.at(precision).name
    return folder / name / name / "1"


def require(folder: Path, model: GpuModel, precision: str) -> Path:
    """The artifact's directory. Raises NotAsked: it was not exported."""
    made = directory(folder, model, precision)
    if not made.is_dir():
        raise NotAsked(f"{model.at(precision).name} was not exported")
    return made


def budgets(made: Path, precision: str) -> Mapping[str, float]:
    """The error that each output may have in this precision against float64, by the artifact's own evidence.

    For float32 it is the largest of its engines' budgets.
    """
    stated: Mapping[str, Any] = json.loads((made / manifest.PARITY).read_bytes())
    if precision == "float32":
        engines = [one["outputs"] for one in stated["engines"].values()]
        return {name: max(outputs[name]["budget"] for outputs in engines) for name in engines[0]}
    return {name: one["budget"] for name, one in stated["precisions"][precision]["outputs"].items()}


def measure(work: Work) -> Iterator[Finding]:
    """One finding for each model and precision, as soon as it is exported; several at a time."""
    at_once = max(1, cores() // _CORES_EACH)
    os.environ.update(dict.fromkeys(_THREADS, str(max(1, cores() // 2))))
    with ThreadPoolExecutor(at_once) as pool:
        asked = {
            pool.submit(_export, work, model, precision): (model, precision)
            for precision in work.plan.precisions
            for model in work.plan.models
        }
        try:
            for done in as_completed(asked):
                model, precision = asked[done]
                work.say(f"exported {model.at(precision).name}")
                yield {"model": model.key, "precision": precision, **done.result()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _export(work: Work, model: GpuModel, precision: str) -> Finding:
    there, began_s = directory(work.folder, model, precision), time.perf_counter()
    try:
        made = there if there.is_dir() else export_model(model.at(precision), work.folder)
        return {
            "seconds": time.perf_counter() - began_s,
            "content_id": artifact.read_manifest(made).content_id,
            "bytes": sum(file.stat().st_size for file in made.iterdir()),
            "files": sorted(file.name for file in made.iterdir() if file.name.startswith("model")),
            "budgets": dict(budgets(made, precision)),
        }
    except (StateserveError, OSError, KeyError) as failure:
        return {"failed": f"{type(failure).__name__}: {failure}"}


def tell(findings: Sequence[Finding], _all: Findings) -> Sequence[Section]:
    """One table."""
    rows = [
        (
            one["model"],
            one["precision"],
            one.get("failed") or f"{one['seconds']:.1f}",
            f"{one['bytes'] / 1e6:.0f}" if "bytes" in one else "",
            ", ".join(f"{name} {budget:.1e}" for name, budget in one.get("budgets", {}).items()),
            ", ".join(one.get("files", ())),
        )
        for one in sorted(findings, key=lambda one: (one["model"], one["precision"]))
    ]
    text = (
        "Made-up weights under the keys of public checkpoints, exported on this machine, several at a time. The budget is what "
        "an output may differ from the float64 reference (scaled error) in that precision, as it was found at export on the CPU. "
        "Only the precision that is served takes large batches: most of an export is their proof."
    )
    return [Section("Exports", text, ("model", "precision", "seconds", "MB", "budget", "model files"), rows)] if rows else []


STAGE = Stage(
    "export",
    "ResNet-50 (uint8 images, normalised in the graph) and the BERT encoder, exported at float32, tf32, float16 and bfloat16.",
    measure,
    tell,
)
