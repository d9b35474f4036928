"""Measures what a request pays for its metrics: `python docs/benchmarks/measure_metrics.py`. One thread, no server, no engine.

Every number is the least of `ROUNDS` rounds, since whatever else the machine does can only add to it.
"""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram

sys.path.insert(0, str(Path(__file__).parents[2]))

from serving.metrics import FOLD_AT, SECONDS, Metrics, VersionMetrics

ROUNDS = 20
REQUESTS = 20 * FOLD_AT
REQUEST_S = 40e-6  # one request of a server that answers 25 000 a second

Stamps = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Served:
    """A served version at rest."""

    name: str
    version: int
    metrics: VersionMetrics
    in_flight: int = 0
    queued_rows: int = 0


def main() -> None:
    """Measures, and prints what docs/metrics.md shows."""
    requests = make_requests()
    empty_s = least(lambda: empty(requests))
    append_s = least(lambda: answered(requests[: FOLD_AT - 1])) / (FOLD_AT - 1) * REQUESTS - empty_s
    answered_s = least(lambda: answered(requests)) - empty_s
    executed_s = least(lambda: executed(requests)) - empty_s
    clock_s = least(lambda: read_clock(requests)) - empty_s
    observe_s = least(lambda: observed(requests)) - empty_s
    print(f"{'per request':50} {'ns':>6} {f'of {REQUEST_S * 1e6:.0f} µs':>9}")
    for what, total_s in (
        ("answered, without folding", append_s),
        ("answered, with its share of folding", answered_s),
        ("executed", executed_s),
        ("both, where each request is a call of its own", answered_s + executed_s),
        ("both, where 8 requests are joined in a call", answered_s + executed_s / 8),
        ("one reading of the clock", clock_s),
        ("five observes of prometheus_client's Histogram", 5 * observe_s),
    ):
        one_s = total_s / REQUESTS
        print(f"{what:50} {one_s * 1e9:6.0f} {one_s / REQUEST_S:9.2%}")
    print(f"folding {FOLD_AT} requests at a time: {(answered_s - append_s) / REQUESTS * FOLD_AT * 1e6:.0f} µs")
    for count in (1, 10):
        models = [Served(f"model-{number}", 1, answered(requests)) for number in range(count)]
        metrics = Metrics(lambda models=models: models)
        page_s = least(lambda metrics=metrics: metrics.text(None))
        print(f"the page for {count} model(s): {page_s * 1e3:.1f} ms, {len(metrics.text(None)[0]) / 1e3:.0f} kB")


def make_requests() -> list[Stamps]:
    """Stamps of requests whose stages take from some microseconds to some milliseconds."""
    chance = random.Random(0)  # noqa: S311 (nothing is secret)
    requests = []
    for number in range(REQUESTS):
        stamps = [1000.0 + number * REQUEST_S]
        for _ in range(4):
            stamps.append(stamps[-1] + chance.lognormvariate(-10, 2))  # e^-10 s is 45 µs
        requests.append(tuple(stamps))
    return requests


def least(work: Callable[[], object]) -> float:
    """The least seconds that the work takes."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def empty(requests: list[Stamps]) -> None:
    """The loop alone."""
    for arrived, decoded, begun, ended, encoded in requests:  # noqa: B007 (taken apart, as below)
        pass


def answered(requests: list[Stamps]) -> VersionMetrics:
    """As the server tells of an answer."""
    metrics = VersionMetrics("model", 1)
    for arrived, decoded, begun, ended, encoded in requests:
        metrics.answered("oip", 1, arrived, decoded, begun, ended, encoded)
    return metrics


def executed(requests: list[Stamps]) -> None:
    """As the batcher tells of a call."""
    metrics = VersionMetrics("model", 1)
    for arrived, decoded, begun, ended, encoded in requests:  # noqa: B007 (taken apart, as above)
        metrics.executed(1, ended)


def read_clock(requests: list[Stamps]) -> None:
    """As the server makes a stamp."""
    clock = time.perf_counter
    for arrived, decoded, begun, ended, encoded in requests:  # noqa: B007 (taken apart, as above)
        clock()


def observed(requests: list[Stamps]) -> None:
    """One histogram of the library's own, whose labels are looked up beforehand."""
    histogram = Histogram("seconds", "-", ["model", "version"], buckets=SECONDS, registry=CollectorRegistry()).labels(
        "model", "1"
    )
    for arrived, decoded, begun, ended, encoded in requests:  # noqa: B007 (taken apart, as above)
        histogram.observe(decoded - arrived)


if __name__ == "__main__":
    main()
