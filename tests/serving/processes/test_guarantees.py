"""A server of two front ends and two engine processes holds what one process does. `make soak` shows it at length."""

import pytest

from bench.observed import listening, page
from bench.observed.kinds import CONTROL, ENGINE, FRONT_END
from bench.observed.processes import ServerProcesses

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


def test_load_test_sees_all_processes(several):
    """By its port, a server is control with all that it started; each kind's time is told, as it is on the page of metrics."""
    roots = listening.serving("127.0.0.1", several.port)
    assert [root.pid for root in roots] == [several.process.pid]
    seen, before = ServerProcesses(roots), page.read_page("127.0.0.1", several.port) or {}
    for _ in range(200):
        several.predict("apart", ROWS)
    seen.ended()
    kinds, told = seen.use.kinds, page.process_use(before, page.read_page("127.0.0.1", several.port) or {})
    assert {name: one.processes for name, one in kinds.items()} == {CONTROL: 1, FRONT_END: 2, ENGINE: 2}
    assert kinds[FRONT_END].cpu_s > 0
    assert sum(one.cpu_s for one in kinds.values()) == pytest.approx(seen.use.cpu_s)
    assert (told.processes, seen.use.processes) == (5, 5)
    assert told.cpu_s > 0


@pytest.mark.processes
@pytest.mark.parametrize("name", ["leaving", "overload", "ending", "memory"])
def test_nothing_is_lost_under_load(found, name):
    """Rows of clients that left never run, overload is answered or refused, SIGTERM cuts nothing off, a long life is right."""
    assert found(name).faults == []
