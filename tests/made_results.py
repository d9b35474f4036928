"""Results as a load test writes them, computed from a queue's formula: nothing here was ever measured."""

import math

import numpy as np

from bench.results import (
    OURS,
    Bound,
    BoundPoint,
    Case,
    Contender,
    GpuUse,
    Latency,
    ModelAsked,
    PayloadSent,
    Probe,
    Results,
    Round,
    ServerUse,
    Slo,
    Stages,
)

CAPACITY = {OURS: 11_400.0, "fastapi": 1_460.0, "fastapi-batching": 3_150.0, "torchserve": 910.0, "torchserve-batching": 2_380.0}
LEAST_MS = {OURS: 0.24, "fastapi": 0.92, "fastapi-batching": 1.6, "torchserve": 4.9, "torchserve-batching": 6.1}
_SHARES = [*np.linspace(0, 0.98, 50), 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999]

CONTENDERS = {
    OURS: Contender(title="Stateserve", about="onnx, on the event loop, up to 64 rows a call", settings={"threads": "1"}),
    "fastapi": Contender(title="FastAPI, plain", about="One ONNX Runtime call for each request, under uvicorn."),
    "fastapi-batching": Contender(title="FastAPI, batching", about="A queue, up to 64 rows or 5 ms, under uvicorn."),
    "torchserve": Contender(title="TorchServe, defaults", about="The real one, one worker, default settings."),
    "torchserve-batching": Contender(title="TorchServe, batching", about="batchSize 64, maxBatchDelay 5 ms."),
}
MACHINE = {
    "python": "3.11.7",
    "system": "Linux x86_64",
    "cpu": "Intel(R) Xeon(R) Processor",
    "isa": ["amx_tile", "avx2", "avx512f", "fma"],
    "cores": 2,
    "packages": {"numpy": "2.4.6", "onnxruntime": "1.24.1", "stateserve": "0.1.0"},
    "variables": {},
}


def latency(mean_ms, least_ms, tail=1.0):
    """A shifted log-normal distribution with this mean."""
    sigma, over = 0.55 * tail, max(mean_ms - least_ms, 0.05 * least_ms)
    scale = over / math.exp(sigma**2 / 2)

    def at(share):
        return float(least_ms + scale * math.exp(sigma * _normal_quantile(share)))

    curve = [(float(share), at(share)) for share in _SHARES]
    return Latency(mean=mean_ms, p50=at(0.5), p90=at(0.9), p99=at(0.99), p999=at(0.999), max=at(0.99999), curve=curve)


def _normal_quantile(share):
    """By bisection: no table, no SciPy."""
    low, high = -6.0, 6.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < share else (low, middle)
    return low


def a_round(contender, per_s, mean_ms, *, offered_per_s=None, seconds=10.0, errors=None, rows=1, speed=1.0, gpus=()):
    """One round: `speed` makes it a little better or worse than it should be."""
    requests = round(per_s * seconds * speed)
    offered = round((offered_per_s or per_s * speed) * seconds) + sum((errors or {}).values())
    known = contender == OURS
    infer = min(0.4 * mean_ms, 0.09 + mean_ms * 0.12)
    return Round(
        seconds=seconds,
        offered=max(offered, requests),
        requests=requests,
        in_time=requests,
        rows=requests * rows,
        errors=errors or {},
        latency_ms=latency(mean_ms / speed, min(LEAST_MS.get(contender, 1.0), mean_ms), 1.4 if contender == OURS else 1.0),
        sent_bytes=requests * 3288,
        received_bytes=requests * 412,
        client_busy=min(0.93, 0.05 + per_s / 14_000),
        machine_busy=min(0.99, 0.3 + per_s / 16_000),
        server=ServerUse(
            cpu_s=seconds * min(1.0, 0.1 + per_s / 12_000), rss_bytes=96_000_000 if known else 210_000_000, processes=1
        ),
        gpus=list(gpus),
        stages_ms=Stages(
            decode=0.021,
            queue=mean_ms * 0.35,
            infer=infer,
            encode=0.014,
            client=mean_ms * 0.65 - infer - 0.035,
            rows_per_call=max(1.0, per_s / 700),
        )
        if known
        else None,
    )


def closed(contender, connections, *, rounds=3, slower=1.0, errors=None, gpus=()):
    """A closed loop: throughput grows with the connections until the server is full."""
    capacity, least = CAPACITY[contender] / slower, LEAST_MS[contender] * slower
    per_s = min(capacity, connections / least * 1e3 * 0.8) * (1 - 0.5 / (connections + 1))
    speeds = [1 + 0.018 * math.sin(7 * number + 3 * len(contender) + connections) for number in range(rounds)]
    made = [a_round(contender, per_s, connections / per_s * 1e3, speed=speed, errors=errors, gpus=gpus) for speed in speeds]
    return Case(contender=contender, loop="closed", connections=connections, rate_per_s=None, rounds=made)


def opened(contender, rate_per_s, *, rounds=3, slower=1.0, seconds=10.0):
    """An open loop: latency grows as a queue's does; beyond the capacity with time, and whatever was due is answered later."""
    capacity, least = CAPACITY[contender] / slower, LEAST_MS[contender] * slower
    load = rate_per_s / capacity
    mean_ms = least * (1 + 0.35 * load / (1 - load)) if load < 0.98 else least * 20
    speeds = [1.0, 0.997, 1.002, 0.999, 1.001][:rounds]
    made = [a_round(contender, rate_per_s, mean_ms, offered_per_s=rate_per_s * speed, speed=speed) for speed in speeds]
    if load > 1:
        growth_ms = (load - 1) * seconds * 1e3
        behind = [{"latency_ms": _growing(least, growth_ms), "in_time": round(one.requests / load)} for one in made]
        made = [one.model_copy(update=changes) for one, changes in zip(made, behind, strict=True)]
    return Case(contender=contender, loop="open", connections=256, rate_per_s=rate_per_s, rounds=made)


def _growing(least_ms, growth_ms):
    """Latencies of a queue that grew evenly while the load lasted."""
    names = {"mean": 0.5, "p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    curve = [(float(share), least_ms + growth_ms * float(share)) for share in _SHARES]
    return Latency(**{name: least_ms + growth_ms * share for name, share in names.items()}, curve=curve)


def made_bound(slower=1.0):
    """t(n) = 0.062 ms · n + 0.021 ms, as measured with a little noise."""
    per_row_s, per_call_s = 62e-6 * slower, 21e-6 * slower
    points = []
    for number, rows in enumerate((1, 2, 4, 8, 16, 32, 64)):
        call_s = (per_row_s * rows + per_call_s) * (1 + (-1) ** number * 0.012)
        points.append(BoundPoint(rows=rows, call_s=call_s, rows_per_s=rows / call_s))
    return Bound(engine="onnx", threads=1, instances=1, device="cpu", points=points, per_row_s=per_row_s, per_call_s=per_call_s)


def made_slo(highest: float | None = 8_410.0):
    """A search that ended; `highest=None`: nothing held."""
    if highest is None:
        tried = [(7200.0, 61.0), (1800.0, 44.0), (450.0, 37.5), (112.0, 31.2), (28.0, 30.9)]
    else:
        tried = [
            (7200.0, 6.1),
            (14400.0, None),
            (10800.0, 2210.0),
            (9000.0, 48.0),
            (8100.0, 12.2),
            (8550.0, 22.4),
            (8325.0, 14.9),
            (highest, 17.7),
        ]
    probes = [
        Probe(
            rate_per_s=rate,
            achieved_per_s=min(rate, 11_200),
            latency_ms=ms,
            held=ms is not None and ms <= 20,
            why_not="" if ms and ms <= 20 else f"p99 is {ms:.3g} ms" if ms else "31,250 of 144,000 requests failed",
        )
        for rate, ms in tried
    ]
    return Slo(target="p99=20ms", quantile="p99", limit_ms=20.0, highest_per_s=highest, probes=probes)


def made(*, peers=tuple(CAPACITY)[1:], concurrency=(1, 8, 32), rates=True, slower=1.0, gpu=False, **changes):
    """A whole load test."""
    gpus = [GpuUse(name="NVIDIA H200", utilisation=0.61, power_w=342.5, memory_bytes=3_100_000_000)] if gpu else []
    names = [OURS, *peers]
    cases = [closed(name, count, slower=slower if name == OURS else 1.0, gpus=gpus) for count in concurrency for name in names]
    if rates:
        shares = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1)
        cases += [opened(OURS, round(11_230 * share, 1), slower=slower) for share in shares]
    values = {
        "made_at": "2026-11-22T14:20:00+00:00",
        "command": "python -m bench --bound model_repository/mlp/1 --rate sweep --slo p99=20ms --against fastapi,torchserve",
        "url": "http://127.0.0.1:8080",
        "complete": True,
        "stopped_by": None,
        "machine": MACHINE,
        "model": ModelAsked(
            name="mlp",
            version="1",
            signature={"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 784]}]},
            facts={"content_id": "5c1f" * 16, "engine": "onnx", "execution": "on the event loop, up to 64 rows", "threads": "1"},
        ),
        "payload": PayloadSent(protocol="oip-binary", different=8, rows=1.0, body_bytes=3288.0),
        "contenders": {name: CONTENDERS[name] for name in names},
        "cases": cases,
        "bound": made_bound(slower),
        "slo": made_slo(),
        "notes": [],
    }
    return Results(**(values | changes))
