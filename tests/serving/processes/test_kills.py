"""Processes of the server that are killed."""

import os
import signal
import socket

import pytest

from bench.observed.kinds import ENGINE, FRONT_END
from bench.soak.workers.served import is_running

ROWS = {"inputs": {"x": [[1, 0, 3, 4]]}}
ANSWER = [[2, 1, 4, 5]]


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def told(running, end):
    return [line for line in running.log_lines() if line["message"].endswith(end)]


def test_engine_processes_that_are_killed_come_back(several, pids_of, wait_for):
    """With all engine processes of a model killed, its requests get 503 with the reason, until others are there."""
    for pid in pids_of(several, ENGINE):
        os.kill(pid, signal.SIGKILL)
    while True:
        answer = several.predict("apart", ROWS)
        assert several.predict("near", ROWS).json()["outputs"]["y"] == ANSWER
        if answer.status_code == 200:
            break
        assert (answer.status_code, answer.headers["retry-after"].isdecimal()) == (503, True)
        assert "ask again" in answer.json()["message"]
    assert answer.json()["outputs"]["y"] == ANSWER
    wait_for(lambda: len(told(several, "took its place")) == 2 and several.get("/ready").status_code == 200)
    assert several.metric("stateserve_process_restarts_total", kind="engine") == 2
    assert several.metric("stateserve_processes", kind="engine") == 2


def test_front_end_that_is_killed_comes_back(several, pids_of, wait_for):
    """The connections of a front end that is killed end; others are answered on, and another front end takes its place."""
    first, second = pids_of(several, FRONT_END)
    before = several.metric("stateserve_requests_answered_total", model="near")
    assert several.predict("near", ROWS).status_code == 200
    wait_for(lambda: several.metric("stateserve_requests_answered_total", model="near") == before + 1)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: len(told(several, "listens again")) == 1)
    assert second in pids_of(several, FRONT_END)
    assert len(pids_of(several, FRONT_END)) == 2
    for _ in range(10):
        assert several.predict("apart", ROWS).json()["outputs"]["y"] == ANSWER
    assert several.metric("stateserve_requests_answered_total", model="near") == before + 1


def test_nothing_outlives_control(mortal, pids_of, wait_for):
    """When control is killed, every other process ends by itself, and the port is free."""
    processes = pids_of(mortal)
    assert len(processes) == 5
    mortal.process.kill()
    mortal.process.wait()
    wait_for(lambda: not any(map(is_running, processes)))
    wait_for(lambda: is_free(mortal.port))


@pytest.mark.processes
def test_kills_under_load(found):
    """Under load, a killed process costs what it had begun and nothing else: no wrong answer, no hanging one, no counter."""
    assert found("kills").faults == []
