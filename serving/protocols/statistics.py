"""The Open Inference Protocol's `statistics` extension: counts and nanoseconds since each version was loaded.

Times are told per request and per stage: `compute_input` is decoding, `compute_infer` the engine, `compute_output` encoding, and
`success` the whole. `batch_stats` are told per engine call; as requests are decoded before they are joined and encoded after they
are split, their `compute_input` and `compute_output` have the calls' count and no time. There is no response cache.
"""

from collections.abc import Iterable
from typing import Any

from serving.metrics import Calls, Measured, Times


def statistics(models: Iterable[Measured]) -> dict[str, Any]:
    """`{"model_stats": [...]}`, one entry for each version, in the order given; all numbers are integers, none negative."""
    return {"model_stats": [_model(model) for model in models]}


def _model(model: Measured) -> dict[str, Any]:
    totals = model.metrics.totals()
    return {
        "name": model.name,
        "version": str(model.version),
        "last_inference": 0 if totals.last_s is None else int(totals.last_s * 1e3),
        "inference_count": totals.rows,
        "execution_count": sum(calls.count for calls in totals.calls.values()),
        "inference_stats": {
            "success": _times(totals.whole),
            "fail": _duration(sum(totals.failed.values()), totals.failed_s),
            "queue": _times(totals.stages["queue"]),
            "compute_input": _times(totals.stages["decode"]),
            "compute_infer": _times(totals.stages["infer"]),
            "compute_output": _times(totals.stages["encode"]),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [_batch(rows, calls) for rows, calls in totals.calls.items()],
        "memory_usage": [],
    }


def _batch(rows: int, calls: Calls) -> dict[str, Any]:
    return {
        "batch_size": rows,
        "compute_input": _duration(calls.count, 0.0),
        "compute_infer": _duration(calls.count, calls.seconds),
        "compute_output": _duration(calls.count, 0.0),
    }


def _times(times: Times) -> dict[str, int]:
    return _duration(times.count, times.sum_s)


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
