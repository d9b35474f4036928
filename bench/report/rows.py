"""results.csv: one line per load and round, flat columns with their units in their names, for a spreadsheet or pandas."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from bench.results import Case, GpuUse, Latency, Results, Round, ServerUse, Stages

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def to_csv(results: Results) -> str:
    """The whole file. A cell is empty where something could not be known."""
    file = io.StringIO()
    lines = list(_lines(results))
    columns = list(_line(results, None, 0, None))
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _lines(results: Results) -> Iterator[Mapping[str, Any]]:
    for case in results.cases:
        for number, one in enumerate(case.rounds, 1):
            yield {name: _harmless(value) for name, value in _line(results, case, number, one).items()}


def _line(results: Results, case: Case | None, number: int, one: Round | None) -> dict[str, Any]:
    """One line; without a case its columns only."""
    return {
        "made_at": results.made_at,
        "model": results.model.name,
        "version": results.model.version,
        "protocol": results.payload.protocol,
        "contender": case and case.contender,
        "loop": case and case.loop,
        "connections": case and case.connections,
        "rate_per_s": case and case.rate_per_s,
        "round": number,
        **{
            name: one and getattr(one, name)
            for name in ("seconds", "offered", "requests", "in_time", "rows", "requests_per_s", "rows_per_s")
        },
        "errors": one and sum(one.errors.values()),
        "errors_by_kind": one and "; ".join(f"{kind}: {count}" for kind, count in one.errors.items()),
        **_parts(one and one.latency_ms, Latency, "", "_ms", leave_out=("curve",)),
        "sent_bytes": one and one.sent_bytes,
        "received_bytes": one and one.received_bytes,
        "client_busy": one and one.client_busy,
        "machine_busy": one and one.machine_busy,
        **_parts(one and one.server, ServerUse, "server_", "", leave_out=("kinds",)),
        **_gpus(one.gpus if one else ()),
        **_parts(one and one.stages_ms, Stages, "", "_ms", leave_out=("rows_per_call",)),
        "rows_per_call": one and one.stages_ms and one.stages_ms.rows_per_call,
    }


def _parts(part: Any, kind: type, before: str, after: str, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    names = [name for name in kind.model_fields if name not in leave_out]  # type: ignore[attr-defined]
    return {f"{before}{name}{after}": part and getattr(part, name) for name in names}


def _gpus(gpus: Any) -> dict[str, Any]:
    """All GPUs together: the mean of their utilisation, the sum of power and memory."""
    used: list[GpuUse] = list(gpus)
    return {
        "gpus": len(used),
        "gpu_utilisation": sum(one.utilisation for one in used) / len(used) if used else None,
        "gpu_power_w": sum(one.power_w for one in used) if used else None,
        "gpu_memory_bytes": sum(one.memory_bytes for one in used) if used else None,
    }


def _harmless(value: Any) -> Any:
    """Text from a server that a spreadsheet would compute gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
