"""Servers of several processes: two front ends and, for a model that is to run apart from them, two engine processes."""

import asyncio
import json

import pytest
import uvloop

from bench.observed.kinds import kind
from bench.observed.processes import tree
from bench.soak.finding import Soak
from bench.soak.models import shifted
from bench.soak.processes import Processes
from bench.soak.scenarios import run
from bench.soak.server import write_model

SEVERAL = Processes(2, 2)
APART = ("--frontends", "2", "--model-settings", json.dumps({"apart": {"execution": "process", "instances": 2}}))


@pytest.fixture
def found(tmp_path):
    """A function that runs the quick form of a scenario of `bench.soak` on servers of several processes: what it found."""

    def find(name):
        soak = Soak(tmp_path, quick=True, say=lambda _: None, processes=SEVERAL)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(run(name, soak))

    return find


@pytest.fixture(scope="module")
def shifted_repository(tmp_path_factory):
    """Two models that add their version's number: `near` is short enough for every front end, `apart` has its own processes."""
    repository = tmp_path_factory.mktemp("shifted")
    for name in ("near", "apart"):
        write_model(repository, name, 1, shifted(1))
    return repository


@pytest.fixture(scope="module")
def several(start_server, shifted_repository):
    """A server on that repository, of two front ends and two engine processes."""
    with start_server(shifted_repository, *APART) as running:
        yield running


@pytest.fixture
def mortal(start_server, shifted_repository):
    """Another such server, for one test."""
    with start_server(shifted_repository, *APART) as running:
        yield running


@pytest.fixture(scope="session")
def pids_of():
    """A function that gives the processes of a server that are of a kind, or all of its processes."""

    def find(running, its_kind=None):
        found = tree(running.process.pid)
        return found if its_kind is None else [pid for pid in found if kind(pid) == its_kind]

    return find
