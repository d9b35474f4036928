"""The highest rate that holds an objective: a bisection over open loops, whose answer is tried once more at the end."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from bench.client.load import Outcome
from bench.options import Objective
from bench.report.findings import KEPT_UP
from bench.report.units import milliseconds
from bench.results import Probe, Slo

CLOSE_ENOUGH = 1.05
"""The search ends when the lowest rate that failed is so many times the highest that held."""
MOST_PROBES = 16
_LEFT_TO_CONFIRM = 4
_FIRST_SHARE = 0.7
"""Of the closed loop's best: where most servers' latencies begin to grow."""
_BACK = 0.95
"""Of a rate that held once and not the second time: the next to be tried."""


def judge(objective: Objective, rate_per_s: float, outcome: Outcome) -> Probe:
    """Whether one load held the objective. A request that failed counts as slower than any other."""
    failed = outcome.offered - len(outcome.latencies_s)
    place = math.ceil(objective.share * outcome.offered) - 1
    ordered_s = np.sort(outcome.latencies_s)
    latency_ms = float(ordered_s[place]) * 1e3 if 0 <= place < len(ordered_s) else None
    achieved = outcome.in_time / outcome.seconds
    why_not = ""
    if latency_ms is None:
        why_not = f"{failed} of {outcome.offered} requests failed"
    elif latency_ms > objective.limit_ms:
        why_not = f"{objective.quantile} is {milliseconds(latency_ms)}"
    elif achieved < KEPT_UP * (outcome.offered - _refused(outcome)) / outcome.seconds:
        why_not = f"only {achieved:,.0f} in a second were answered"
    return Probe(rate_per_s=rate_per_s, achieved_per_s=achieved, latency_ms=latency_ms, held=not why_not, why_not=why_not)


def _refused(outcome: Outcome) -> int:
    """Requests that failed at once, which leaves no backlog; one that timed out does."""
    return sum(count for kind, count in outcome.errors.items() if kind != "timeout")


def search(objective: Objective, best_per_s: float, least_per_s: float, probe: Callable[[float], Probe]) -> Slo:
    """The highest rate that holds the objective, within 5 %; `best_per_s` is what closed loops reached, where the search begins.

    Below `least_per_s` nothing is tried: see `least_rate_per_s`.
    """
    probes: list[Probe] = []

    def holds(rate_per_s: float) -> bool:
        probes.append(probe(rate_per_s))
        return probes[-1].held

    held, failed, rate_per_s = 0.0, math.inf, best_per_s * _FIRST_SHARE
    while len(probes) < MOST_PROBES - _LEFT_TO_CONFIRM and failed > held * CLOSE_ENOUGH and rate_per_s >= least_per_s:
        if holds(rate_per_s):
            held = rate_per_s
        else:
            failed = rate_per_s
        rate_per_s = _next(held, failed, least_per_s)
    while held >= least_per_s and len(probes) < MOST_PROBES and not holds(held):
        held *= _BACK
    confirmed = held if probes and probes[-1].held and probes[-1].rate_per_s == held else None
    return told(objective, probes, confirmed)


def told(objective: Objective, probes: Sequence[Probe], highest_per_s: float | None) -> Slo:
    """The search as it stands in the results: everything that was tried, and what was found, None while it goes on."""
    return Slo(
        target=objective.text,
        quantile=objective.quantile,
        limit_ms=objective.limit_ms,
        highest_per_s=highest_per_s,
        probes=list(probes),
    )


def least_rate_per_s(objective: Objective, duration_s: float) -> float:
    """Below it, one load has too few requests for the quantile: the 99th of a hundred is the second slowest of them."""
    return 1 / (1 - objective.share) / duration_s


def _next(held: float, failed: float, least: float) -> float:
    """Doubled until a rate fails, halved until one holds, and then the middle of both; below `least` there is none left."""
    if failed == math.inf:
        return held * 2
    if held:
        return (held + failed) / 2
    return max(failed / 2, least) if failed > least * CLOSE_ENOUGH else 0.0
