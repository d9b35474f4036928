"""The numbers on the device: every engine and precision, golden cases replayed, against their budgets."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import artifact
from artifact import Artifact, scaled_error
from artifact.errors import EngineUnavailable
from bench.errors import NotAsked
from bench.gpu.models import GpuModel
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.gpu.stages.export import require
from bench.page import Section
from foundation.errors import StateserveError

ENGINES = ("torchscript", "pt2", "onnx")
_LEAST_S = 6.0
"""Where less is left, no other engine is begun."""


def measure(work: Work) -> Iterator[Finding]:
    """One finding for each model, precision and engine."""
    for precision in work.plan.precisions:
        for model in work.plan.models:
            for engine in ENGINES:
                one = {"model": model.key, "precision": precision, "engine": engine}
                if work.left_s < _LEAST_S:
                    yield {**one, "left_out": "no time was left"}
                    continue
                yield {**one, **_replay(work, model, precision, engine)}


def _replay(work: Work, model: GpuModel, precision: str, engine: str) -> Finding:
    work.say(f"{model.key} {precision} {engine}")
    began_s = time.perf_counter()
    try:
        made = require(work.folder, model, precision)
        return {**_errors(made, engine, work.device, precision), "seconds": time.perf_counter() - began_s}
    except NotAsked as why:
        return {"left_out": str(why)}
    except EngineUnavailable as why:
        return lacking(engine, why)
    except StateserveError as failure:
        return {"failed": str(failure)}


def lacking(engine: str, why: EngineUnavailable) -> Finding:
    """ONNX Runtime may have no CUDA here, and has no bfloat16; PyTorch's engines run wherever this script does."""
    return {"left_out" if engine == "onnx" else "failed": str(why)}


def _errors(made: Path, engine: str, device: str, precision: str) -> Finding:
    """The largest share that an error has of its bound, over all cases and outputs; above 1 the engine is not proven here."""
    loaded = artifact.load(made, engine=engine, device=device, precision=precision)
    replays = loaded.replay()
    worst = max(replays, key=lambda one: one.error / one.tolerance if one.tolerance else one.error)
    found = {
        "reference_error": _reference_error(loaded),
        "error": worst.error,
        "budget": worst.tolerance,
        "output": worst.output,
        "cases": len({one.case for one in replays}),
        "most_rows": max(one.rows for one in replays),
        "bit_equal": sum(one.bit_equal for one in replays),
    }
    beyond = [one for one in replays if not one.passed]
    return found | ({"failed": f"{len(beyond)} of {len(replays)} outputs are beyond their budgets"} if beyond else {})


def _reference_error(loaded: Artifact) -> float:
    """The largest scaled error against float64, whatever the replay compares with: at float32 that is what was recorded."""
    return max(
        scaled_error(found, case.reference[name]) for case in loaded.cases for name, found in loaded.run(case.inputs).items()
    )


def tell(findings: Sequence[Finding], _all: Findings) -> Sequence[Section]:
    """One table."""
    rows = [
        (
            *(one[name] for name in ("model", "precision", "engine")),
            f"{one['reference_error']:.1e}" if "error" in one else one.get("left_out", ""),
            f"{one['error']:.1e}" if "error" in one else "",
            f"{one['budget']:.1e}" if "budget" in one else "",
            f"**{one['failed']}**" if "failed" in one else "held" if "error" in one else "-",
            f"{one['cases']} at 1 to {one['most_rows']} rows" if "cases" in one else "",
        )
        for one in findings
    ]
    text = (
        "Every golden case of the artifact, alone and repeated to the largest batch, replayed on the device with that engine. "
        "Against float64: the largest scaled error of a case alone against the PyTorch model in float64. Error and budget: those "
        "of the replay that comes nearest to its budget, which the server requires at every start; at float32 it compares with "
        "what that engine answered at export, and with float64 in every other precision."
    )
    columns = ("model", "precision", "engine", "against float64", "error", "budget", "", "golden cases")
    return [Section("CUDA against the reference", text, columns, rows)] if rows else []


STAGE = Stage(
    "parity",
    "CUDA against the float64 reference: the golden cases of each artifact on each engine that is there, within their budgets; "
    "TF32 on and off.",
    measure,
    tell,
)
