"""What processes tell each other of a version, as JSON: how its calls run, and what it counted."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from serving.execution import Execution
from serving.metrics import Calls, Times, Totals
from serving.plan import Plan
from serving.warm_up import WarmUp

Json = dict[str, Any]


def execution_json(execution: Execution) -> Json:
    """An execution with its plan and its warm-up, as `orjson` writes it; rows are texts, since JSON's keys are."""
    entry = {name: getattr(execution, name) for name in Execution.__dataclass_fields__}
    seconds = {str(rows): seconds for rows, seconds in execution.warm_up.seconds.items()}
    return entry | {"plan": asdict(execution.plan), "warm_up": {"seconds": seconds}}


def execution_of(entry: Mapping[str, Any]) -> Execution:
    """The inverse of `execution_json`."""
    seconds = {int(rows): float(seconds) for rows, seconds in entry["warm_up"]["seconds"].items()}
    return Execution(**{**entry, "plan": Plan(**entry["plan"]), "warm_up": WarmUp(seconds)})


def totals_json(totals: Totals) -> Json:
    """Totals as `orjson` writes them."""
    return {
        "answered": dict(totals.answered),
        "failed": dict(totals.failed),
        "failed_s": totals.failed_s,
        "rows": totals.rows,
        "stages": {name: asdict(times) for name, times in totals.stages.items()},
        "whole": asdict(totals.whole),
        "calls": calls_json(totals.calls),
        "last_s": totals.last_s,
    }


def totals_of(entry: Mapping[str, Any]) -> Totals:
    """The inverse of `totals_json`; what else stands in the entry (`in_flight`, `queued_rows`) is left alone."""
    return Totals(
        answered=dict(entry["answered"]),
        failed=dict(entry["failed"]),
        failed_s=entry["failed_s"],
        rows=entry["rows"],
        stages={name: Times(**times) for name, times in entry["stages"].items()},
        whole=Times(**entry["whole"]),
        calls=calls_of(entry["calls"]),
        last_s=entry["last_s"],
    )


def calls_json(calls: Mapping[int, Calls]) -> Json:
    """The engine's calls by rows: `{"8": [count, seconds]}`."""
    return {str(rows): [one.count, one.seconds] for rows, one in calls.items()}


def calls_of(entry: Mapping[str, Any]) -> dict[int, Calls]:
    """The inverse of `calls_json`."""
    return {int(rows): Calls(count, seconds) for rows, (count, seconds) in entry.items()}
