import numpy as np
import pytest

from bench.client.load import Outcome
from bench.options import parse_objective
from bench.results import Probe
from bench.search import CLOSE_ENOUGH, MOST_PROBES, judge, least_rate_per_s, search

TARGET = parse_objective("p99=20ms")


def _outcome(latencies_ms, *, failed=0, seconds=1.0):
    latencies_s = np.array(latencies_ms, float) / 1e3
    offered = len(latencies_s) + failed
    due_s = np.linspace(0, seconds, len(latencies_s), endpoint=False)
    errors = {"status 503": failed} if failed else {}
    answered_s = due_s + latencies_s
    in_time = int(np.count_nonzero(answered_s <= seconds))
    return Outcome(seconds, offered, latencies_s, answered_s, offered, errors, 0, 0, 0.1, in_time)


def _queue(capacity_per_s):
    """A server whose latency grows as a queue's does: 2 ms alone, without end at its capacity."""

    def probe(rate_per_s):
        load = rate_per_s / capacity_per_s
        latency_ms = 2 / (1 - load) if load < 1 else 1e9
        return Probe(rate_per_s=rate_per_s, achieved_per_s=rate_per_s, latency_ms=latency_ms, held=latency_ms <= 20)

    return probe


@pytest.mark.parametrize("guess", [900, 9000, 200, 20])
def test_the_search_ends_close_below_the_true_limit(guess):
    """20 ms are reached at 0.9 of a capacity of 1,000 in a second, wherever the search began."""
    found = search(TARGET, guess, 1, _queue(1000))
    assert 900 / CLOSE_ENOUGH <= (found.highest_per_s or 0) <= 900
    assert len(found.probes) <= MOST_PROBES


def test_the_rate_that_was_found_is_tried_once_more():
    """One lucky second is no answer: what held once and not again is left for 5 % less."""
    asked = []

    def probe(rate_per_s):
        held = rate_per_s <= 500 or (rate_per_s < 530 and rate_per_s not in asked)
        asked.append(rate_per_s)
        return Probe(rate_per_s=rate_per_s, achieved_per_s=rate_per_s, latency_ms=1.0, held=held)

    found = search(TARGET, 740, 1, probe)
    assert 500 < max(one.rate_per_s for one in found.probes if one.held) < 530
    assert 475 <= (found.highest_per_s or 0) <= 500


def test_a_rate_with_too_few_requests_for_its_quantile_is_not_tried():
    """A load of 4 s at 25 in a second has 100 requests: with fewer, the 99th percentile would be the slowest of all."""
    least = least_rate_per_s(TARGET, 4)
    assert least == pytest.approx(25)
    found = search(TARGET, 100, least, lambda rate: Probe(rate_per_s=rate, achieved_per_s=rate, latency_ms=99.0, held=False))
    assert min(one.rate_per_s for one in found.probes) == least


def test_nothing_is_told_where_not_even_one_request_in_a_second_holds():
    """The search ends by itself, and every probe is kept."""
    found = search(TARGET, 1000, 1, lambda rate: Probe(rate_per_s=rate, achieved_per_s=rate, latency_ms=99.0, held=False))
    assert found.highest_per_s is None
    assert 0 < len(found.probes) <= MOST_PROBES


def test_a_failed_request_counts_as_slower_than_any_other():
    """With 2 % refused, the 99th percentile of the requests due is not there, however fast the others were."""
    probe = judge(TARGET, 100, _outcome([1.0] * 98, failed=2))
    assert (probe.held, probe.latency_ms, probe.why_not) == (False, None, "2 of 100 requests failed")


def test_a_failure_beyond_the_share_is_allowed():
    """One in a thousand is not what p99 speaks of."""
    assert judge(TARGET, 1000, _outcome([1.0] * 999, failed=1)).held


def test_the_quantile_is_that_of_the_requests_due():
    """Of 100 requests the 99th smallest latency counts."""
    probe = judge(TARGET, 100, _outcome([1.0] * 98 + [21.0, 500.0]))
    assert (probe.held, probe.why_not) == (False, "p99 is 21 ms")


def test_answers_that_come_too_late_pile_up():
    """A server that answers 80 in a second of 100 that are due has not held the rate, whatever its latencies are so far."""
    probe = judge(parse_objective("p99=10s"), 100, _outcome([1.0] * 80 + [1500.0] * 20))
    assert not probe.held
    assert probe.why_not == "only 80 in a second were answered"
