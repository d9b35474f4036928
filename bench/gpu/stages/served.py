"""The real server under load: uint8 rows as binary over HTTP, against the engine's bound, and where the time goes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.gpu.bottleneck import GOAL, TARGET_MS, Best, bottleneck
from bench.gpu.models import GpuModel
from bench.gpu.plan import frontend_count
from bench.gpu.server import serving
from bench.gpu.stage import Finding, Findings, Stage, Work
from bench.gpu.stages.bound import best_rows_per_s
from bench.page import Section
from bench.results import Round
from foundation.environment import cores
from foundation.errors import StateserveError

_SPARE_S = 12.0
"""A server is not started where less is left for it, its loads aside."""
_AGAIN = 2
_STAGES = ("decode", "queue", "infer", "encode", "client")


def measure(work: Work) -> Iterator[Finding]:
    """One finding for each load. A server with another number of front ends is asked what the first one of its model did best."""
    best: dict[str, Sequence[tuple[int, int]]] = {}
    for share in work.plan.frontends:
        for model in work.plan.models:
            frontends = frontend_count(share, cores())
            stated = {"model": model.key, "precision": model.served, "frontends": frontends}
            if work.left_s < _SPARE_S:
                yield {**stated, "left_out": "no time was left"}
                continue
            try:
                found = []
                for one in _server(work, model, frontends, best.get(model.key, model.loads)):
                    found.append(one)
                    yield {**stated, **one}
                best.setdefault(model.key, _best(found))
            except StateserveError as failure:
                yield {**stated, "failed": str(failure)}


def _best(findings: Sequence[Finding]) -> list[tuple[int, int]]:
    """The loads that served the most rows in a second, the best first."""
    rounds = [(Round.model_validate(one["round"]).rows_per_s, one["rows"], one["connections"]) for one in findings]
    return [(rows, connections) for _, rows, connections in sorted(rounds, reverse=True)[:_AGAIN]]


def _server(work: Work, model: GpuModel, frontends: int, loads: Sequence[tuple[int, int]]) -> Iterator[Finding]:
    work.say(f"{model.key} {model.served}, {frontends} front ends")
    with serving(work, model, model.served, frontends) as served:
        told = {"engine": served.target.facts.get("engine"), "facts": dict(served.target.facts)}
        told |= {"start_s": served.running.start_s, "error": served.require_answers(model.served)}
        told["facts"].pop("signature", None)
        for rows, connections in loads:
            if work.left_s < _SPARE_S / 2:
                return
            outcome, measured = served.fire(served.load(rows, connections, work.plan.load_s, work.plan.warmup_s))
            found = {**told, "rows": rows, "connections": connections, "round": _plain(measured)}
            work.say(f"{model.key}: {rows} rows x {connections} connections: {measured.rows_per_s:,.0f} rows/s")
            if outcome.errors:
                found["failed"] = ", ".join(f"{count} {kind}" for kind, count in outcome.errors.items())
            yield found


def _plain(measured: Round) -> Mapping[str, Any]:
    """As JSON, without the points of the latencies' curve."""
    found = measured.model_dump(mode="json")
    if found["latency_ms"] is not None:
        found["latency_ms"]["curve"] = []
    return found


def tell(findings: Sequence[Finding], everything: Findings) -> Sequence[Section]:
    """A table for each model, and under its title the best of them against the bound, with what held it back."""
    models = dict.fromkeys(one["model"] for one in findings)
    return [_section(model, [one for one in findings if one["model"] == model], everything.get("bound", ())) for model in models]


def _section(model: str, findings: Sequence[Finding], bounds: Sequence[Finding]) -> Section:
    columns = ("front ends", "rows of a request", "connections", "rows/s", "of the bound", "p50 ms", "p99 ms", *_MORE)
    point = best_rows_per_s(bounds, model, findings[0]["precision"])
    best = None if point is None else Best(point["rows_per_s"], point["rows"], point["p50_s"])
    verdict = _verdict(findings, best)
    return Section(f"Served: {model}", verdict, columns, [_row(one, best) for one in findings])


_MORE = (
    *(f"{name} ms" for name in _STAGES),
    "rows of a call",
    "generator, cores",
    "all cores busy",
    "GPU busy",
    "GPU W",
    "GPU MB",
    "",
)


def _row(one: Finding, best: Best | None) -> tuple[str, ...]:
    if "round" not in one:
        return (str(one["frontends"]), *[""] * (5 + len(_MORE)), one.get("failed") or one.get("left_out") or "")
    load = Round.model_validate(one["round"])
    latency, stages = load.latency_ms, load.stages_ms
    return (
        str(one["frontends"]),
        str(one["rows"]),
        str(one["connections"]),
        f"{load.rows_per_s:,.0f}",
        "-" if best is None else f"{load.rows_per_s / best.rows_per_s:.2f}",
        *(("-", "-") if latency is None else (f"{latency.p50:.2f}", f"{latency.p99:.2f}")),
        *("-" if stages is None else f"{getattr(stages, name):.2f}" for name in _STAGES),
        "-" if stages is None else f"{stages.rows_per_call:.1f}",
        f"{load.client_busy:.2f}",
        "-" if load.machine_busy is None else f"{load.machine_busy:.2f}",
        *_gpu(load),
        one.get("failed", ""),
    )


def _gpu(load: Round) -> tuple[str, str, str]:
    if not load.gpus:
        return "-", "-", "-"
    one = max(load.gpus, key=lambda gpu: gpu.utilisation)
    return f"{one.utilisation:.2f}", f"{one.power_w:.0f}", f"{one.memory_bytes / 1e6:,.0f}"


def _verdict(findings: Sequence[Finding], best: Best | None) -> str:
    """What the goal asks for, said of the load with the most rows in a second that keeps the latency."""
    rounds = [(one, Round.model_validate(one["round"])) for one in findings if "round" in one]
    kept = [(one, load) for one, load in rounds if load.latency_ms is not None and load.latency_ms.p99 <= TARGET_MS]
    if not rounds:
        return "Nothing was measured."
    first, load = max(kept or rounds, key=lambda pair: pair[1].rows_per_s)
    latency = "no answer" if load.latency_ms is None else f"p99 {load.latency_ms.p99:.1f} ms"
    asked = f"{first['rows']} rows x {first['connections']} connections"
    most = f"with p99 under {TARGET_MS:g} ms" if kept else f"(no load kept p99 under {TARGET_MS:g} ms)"
    text = [
        f"Open Inference Protocol, binary, at {first['precision']} with engine {first['engine']}.",
        f"The server was ready after {first['start_s']:.1f} s.",
        f"Its answers' scaled error against float32 on the CPU was {first['error']:.1e}.",
        f"The most rows in a second {most}: {load.rows_per_s:,.0f} ({asked}, {latency}).",
    ]
    if best is None:
        return " ".join([*text, "The bound was not measured."])
    share = load.rows_per_s / best.rows_per_s
    held = "held" if share >= GOAL and kept else "**missed**"
    text.append(
        f"The engine alone does {best.rows_per_s:,.0f} at its best ({best.rows} rows in a call): served is {share:.2f} of it "
        f"(≥ {GOAL:g}: {held})."
    )
    return " ".join([*text, f"What holds it back: {bottleneck(load, best)}"])


STAGE = Stage(
    "served",
    "The real server on the device, several front ends, under load over HTTP with uint8 rows (Open Inference Protocol, binary): "
    "rows in a second against the engine's bound at its best batch, p99 under 15 ms, GPU load, and where the time goes (decode, "
    "queue, infer, encode, client), so that the bottleneck is named with numbers.",
    measure,
    tell,
)
