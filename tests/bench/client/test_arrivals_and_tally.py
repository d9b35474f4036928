"""When requests are due, and which of them belong to the measured window."""

import numpy as np
import pytest

from bench.client.arrivals import NONE_DUE, Closed, Open, poisson
from bench.client.tally import Tally, Window


def test_a_seed_gives_the_same_moments_again():
    """Another process of the same load, or another round, has others."""
    first, again, other = (poisson(1000, 2.0, seed) for seed in ((1, 0), (1, 0), (1, 1)))
    assert np.array_equal(first, again)
    assert len(first) != len(other) or not np.array_equal(first, other)


def test_the_moments_are_those_of_a_poisson_process():
    """In order, within the time, at the rate, and with gaps that are spread as much as they are long."""
    moments_s = poisson(10_000, 10.0, (0, 0))
    gaps_s = np.diff(moments_s)
    assert gaps_s.min() >= 0
    assert 0 <= moments_s[0] < moments_s[-1] < 10
    assert len(moments_s) == pytest.approx(100_000, rel=0.02)
    assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.02)


def test_an_open_loop_gives_the_longest_waiting_first():
    """Whatever is late keeps the moment at which it was due."""
    load = Open(np.array([1.0, 2.0, 3.0]), 10.0)
    assert [load.take(0.5), load.take(2.5), load.take(2.5), load.take(2.5)] == [NONE_DUE, 1.0, 2.0, NONE_DUE]
    assert (load.next_s(), load.over(9.0)) == (3.0, False)
    assert (load.take(9.0), load.over(9.0), load.over(10.0), load.take(10.0)) == (3.0, False, True, NONE_DUE)


def test_a_closed_loop_is_always_due():
    """From its beginning to its end."""
    load = Closed(1.0, 2.0)
    assert [load.take(0.9), load.take(1.5), load.take(2.0)] == [NONE_DUE, 1.5, NONE_DUE]
    assert (load.over(1.9), load.over(2.0)) == (False, True)


@pytest.fixture
def tally():
    """Requests that were due, and ended, at these moments; the window will be from 10 to 20."""
    made = Tally()
    for due_s, ended_s, status in ((8.0, 9.0, 200), (9.0, 11.0, 200), (12.0, 13.0, 201), (14.0, 15.0, 503), (19.0, 21.0, 200)):
        made.answered(due_s, ended_s, status, 4, 100, 30)
    made.failed(19.0, 24.0, "timeout", 60)
    made.failed(20.0, 25.0, "timeout", 60)
    for due_s in (9.0, 12.0, 19.0):
        made.waited(due_s)
    return made


def test_a_closed_loop_counts_what_ended_in_the_window(tally):
    """And what failed after it, so that a server that hangs is seen."""
    found = tally.measured(Window(10.0, 20.0, by_due=False))
    assert found.told == {
        "offered": 5,
        "rows": 8,
        "errors": {"timeout": 2, "status 503": 1},
        "sent_bytes": 420,
        "received_bytes": 90,
        "in_time": 2,
        "waited": 2,
    }
    assert found.latencies_s.tolist() == [2.0, 1.0]
    assert found.answered_s.tolist() == [1.0, 3.0]


def test_an_open_loop_counts_what_was_due_in_the_window(tally):
    """Whenever it was answered; every one is either answered or has failed."""
    found = tally.measured(Window(10.0, 20.0, by_due=True))
    assert found.told["offered"] == 4 == len(found.latencies_s) + sum(found.told["errors"].values())
    assert found.latencies_s.tolist() == [1.0, 2.0]
    assert found.answered_s.tolist() == [3.0, 11.0]
    assert (found.told["in_time"], found.told["waited"]) == (2, 2)  # ended at 11 and at 13; due at 12 and at 19
