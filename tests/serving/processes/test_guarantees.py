"""A server of two front ends and two engine processes holds what one process does. `make soak` shows it at length."""

import pytest

ROWS = {"inputs": {"x": [[1, 0, 3, 4]]}}


def test_every_answer_is_that_to_its_own_question(found):
    """4,000 requests of random rows in four kinds of body, to a model in front ends and one apart: none gets another's answer."""
    assert found("mix-up").faults == []


def test_front_ends_count_as_one(several):
    """What requests on many connections, and so of both front ends, came to, stands on one page of metrics."""
    for name in ("near", "apart"):
        for number in range(20):
            answer = several.predict(name, ROWS if number % 4 else {"inputs": {"x": "nothing"}})
            assert answer.status_code == (200 if number % 4 else 400)
    for _ in range(4):
        for name in ("near", "apart"):
            assert several.metric("stateserve_requests_answered_total", model=name) == 15
            assert several.metric("stateserve_requests_failed_total", model=name, reason="bad_request") == 5
            assert several.metric("stateserve_rows_total", model=name) == 15
            assert several.metric("stateserve_batch_rows_sum", model=name) == 15
    assert several.metric("stateserve_processes", kind="front end") == 2
    assert several.metric("stateserve_processes", kind="engine") == 2


def test_management_is_the_same_everywhere(several):
    """What is no prediction has one answer, on every connection."""
    answers = [several.get("/v2/models/apart/config") for _ in range(8)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.processes
@pytest.mark.parametrize("name", ["leaving", "overload", "ending", "memory"])
def test_nothing_is_lost_under_load(found, name):
    """Rows of clients that left never run, overload is answered or refused, SIGTERM cuts nothing off, a long life is right."""
    assert found(name).faults == []
