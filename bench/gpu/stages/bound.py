"""The engine alone on the device: every batch size, engine and precision, with and without CUDA graphs."""

import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import artifact
from artifact import Artifact
from artifact.engines import EngineOptions, load_engine, model_file
from artifact.errors import EngineUnavailable
from bench import alone
from bench.errors import NotAsked
from bench.gpu.plan import Plan
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.gpu.stages.export import require
from bench.gpu.stages.parity import lacking
from bench.page import Section
from foundation.errors import StateserveError

SERVED = ("torchscript", "onnx")
"""Engines that the server runs, the one that is taken without a measurement first."""
_LEAST_S = 6.0


@dataclass(frozen=True, slots=True)
class Combination:
    """One way to run a model; `instances` calls at a time share the engine."""

    model: str
    engine: str
    precision: str
    graphs: bool = True
    instances: int = 1


def combinations(plan: Plan) -> list[Combination]:
    """What matters most first: where time runs out, the rest is left out."""
    found: dict[Combination, None] = {}
    for model in plan.models:  # what is served, and what it is compared with
        for engine in ("torchscript", "onnx", "pt2"):
            found[Combination(model.key, engine, model.served)] = None
        for engine in SERVED:
            found[Combination(model.key, engine, model.served, instances=2)] = None
    for precision in plan.precisions:  # TF32 on and off among them
        found |= dict.fromkeys(Combination(model.key, "torchscript", precision) for model in plan.models)
    for engine in ("torchscript", "pt2"):
        found |= dict.fromkeys(Combination(model.key, engine, model.served, graphs=False) for model in plan.models)
    for precision in plan.precisions:
        for engine in ("onnx", "pt2"):
            found |= dict.fromkeys(Combination(model.key, engine, precision) for model in plan.models)
    return list(found)


def best_rows_per_s(
    findings: Sequence[Finding], model: str, precision: str, engine: str | None = None
) -> Mapping[str, Any] | None:
    """The point with the most rows in a second of a model and precision, by any way or one engine's; None where there is none.

    It has `engine`, `instances` and `graphs` beside what `bench.alone.Point` has.
    """
    ways = [
        {**{name: one[name] for name in ("engine", "instances", "graphs")}, **point}
        for one in findings
        if one["model"] == model and one["precision"] == precision and engine in {None, one["engine"]}
        for point in one.get("points", ())
    ]
    return max(ways, key=lambda point: point["rows_per_s"], default=None)


def served_engine(findings: Sequence[Finding], model: str, precision: str) -> str:
    """The engine of those that the server runs which is the fastest alone; the first of them where nothing was measured."""
    found = {engine: best_rows_per_s(findings, model, precision, engine) for engine in SERVED}
    return max(SERVED, key=lambda engine: 0.0 if found[engine] is None else found[engine]["rows_per_s"])  # type: ignore[index]


def measure(work: Work) -> Iterator[Finding]:
    """One finding for each combination."""
    for one in combinations(work.plan):
        stated = asdict(one)
        if work.left_s < _LEAST_S:
            yield {**stated, "left_out": "no time was left"}
            continue
        work.say(f"{one.model} {one.precision} {one.engine}, {one.instances} at a time{'' if one.graphs else ', no graphs'}")
        found = _points(work, one)
        _let_go(work)
        yield {**stated, **found}


def _points(work: Work, one: Combination) -> Finding:
    points = []
    try:
        loaded = _loaded(work, one)
        for rows in alone.sizes(loaded.signature):
            if work.left_s < _LEAST_S / 2:
                break
            points.append(asdict(alone.measured(loaded, rows, one.instances, work.plan.call_s)))
    except NotAsked as why:
        return {"left_out": str(why)}
    except EngineUnavailable as why:
        return lacking(one.engine, why)
    except StateserveError as failure:
        return {"failed": str(failure), "points": points}
    return {"points": points}


def _loaded(work: Work, one: Combination) -> Artifact:
    """The artifact that is served, in whichever precision: how fast it is does not depend on what was proven of it.

    Raises:
        NotAsked: it was not exported.
        EngineUnavailable: it has no such format or precision, or the engine's library has no CUDA.
    """
    model = work.plan.model(one.model)
    made = require(work.folder, model, model.served)
    stated = artifact.read_manifest(made)
    content = (made / model_file(one.engine, one.precision, work.device)).read_bytes()
    options = EngineOptions(calls=one.instances, device=work.device, precision=one.precision, cuda_graphs=one.graphs)
    engine = load_engine(one.engine, content, stated.signature, options)
    return Artifact(made, stated, engine, (), {}, work.device, one.precision)


def _let_go(work: Work) -> None:
    """Memory that the engine had, for the next one."""
    gc.collect()
    if not work.is_rehearsal:
        import torch

        torch.cuda.empty_cache()


def tell(findings: Sequence[Finding], _all: Findings) -> Sequence[Section]:
    """A table for each model: a line for each way to run it, a column for each batch size; and what graphs and TF32 change."""
    sections = [_table(model, [one for one in findings if one["model"] == model]) for model in _models(findings)]
    return [*sections, *_ratios(findings)]


def _models(findings: Sequence[Finding]) -> list[str]:
    return list(dict.fromkeys(one["model"] for one in findings))


def _table(model: str, findings: Sequence[Finding]) -> Section:
    sizes = sorted({point["rows"] for one in findings for point in one.get("points", ())})
    rows = []
    for one in findings:
        by_size = {point["rows"]: point for point in one.get("points", ())}
        most = max(by_size.values(), key=lambda point: point["rows_per_s"], default=None)
        cells = [_cell(by_size.get(size), most) for size in sizes]
        why = one.get("failed") or one.get("left_out") or ""
        graphs = "-" if one["engine"] == "onnx" else "yes" if one["graphs"] else "no"
        rows.append((one["precision"], one["engine"], graphs, str(one["instances"]), *cells, why))
    text = (
        "The engine alone, without a server: rows in a second, and in brackets the milliseconds of a call (p50), by the rows of "
        "a call, from memory of the host to memory of the host. The most of a line is bold."
    )
    columns = ("precision", "engine", "graphs", "calls at a time", *(f"{size} rows" for size in sizes), "")
    return Section(f"The engine alone: {model}", text, columns, rows)


def _cell(point: Mapping[str, Any] | None, most: Mapping[str, Any] | None) -> str:
    if point is None:
        return "-"
    text = f"{point['rows_per_s']:,.0f}"
    return f"{f'**{text}**' if point is most else text} ({point['p50_s'] * 1e3:.2f})"


def _ratios(findings: Sequence[Finding]) -> list[Section]:
    """Ways that differ in one thing alone: the median over the batch sizes, and the extremes."""
    rows = []
    for one in findings:
        if not one["graphs"]:
            rows += _ratio("CUDA graphs on / off", {**one, "graphs": True}, one, findings)
        if one["precision"] == "tf32":
            rows += _ratio("TF32 on / off", one, {**one, "precision": "float32"}, findings)
        if one["precision"] == "float16":
            rows += _ratio("float16 / float32", one, {**one, "precision": "float32"}, findings)
    text = "How many times the rows in a second, over all batch sizes: the median, with the least and the most in brackets."
    return [Section("What graphs and precisions make of it", text, ("model", "engine", "", "times"), rows)] if rows else []


def _ratio(title: str, ours: Finding, theirs: Finding, findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    first, second = (_speeds(one, findings) for one in (ours, theirs))
    ratios = [first[rows] / second[rows] for rows in first.keys() & second.keys()]
    if not ratios:
        return []
    return [(ours["model"], ours["engine"], title, f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")]


def _speeds(way: Finding, findings: Sequence[Finding]) -> dict[int, float]:
    names = ("model", "engine", "precision", "graphs", "instances")
    found = next((one for one in findings if all(one[name] == way[name] for name in names)), {})
    return {point["rows"]: point["rows_per_s"] for point in found.get("points", ())}


STAGE = Stage(
    "bound",
    "The engine alone: rows in a second at every batch size for torchscript, pt2 and onnx (where onnxruntime has CUDA) at each "
    "precision, with and without CUDA graphs, one and two calls at a time.",
    measure,
    tell,
)
