"""Nothing is lost under load: the quick forms of the scenarios of `bench.soak`. `make soak` alone judges bounds of time."""

import asyncio
from pathlib import Path

import pytest
import uvloop

import artifact
from artifact import golden
from artifact.errors import ArtifactError
from bench.soak.finding import Faults, Soak, percentile
from bench.soak.scenarios import run
from bench.soak.server import write_files
from bench.soak.swaps import SPOILED


def faults_of(name: str, folder: Path) -> list[str]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(name, Soak(folder, quick=True, say=lambda _: None))).faults


def test_every_answer_is_that_to_its_own_question(tmp_path):
    """4,000 requests of random rows in four kinds of body, on 64 connections, over two models: none gets another's answer."""
    assert faults_of("mix-up", tmp_path) == []


def test_versions_that_come_under_load(tmp_path):
    """Versions take over, and bad ones never do, without one failed, wrong or outdated answer."""
    assert faults_of("swaps", tmp_path) == []


def test_overload(tmp_path):
    """Of ten times as many requests as can be answered, each is answered right or refused with 503 and Retry-After."""
    assert faults_of("overload", tmp_path) == []


def test_clients_that_leave(tmp_path):
    """The rows of clients that leave while the engine is busy are never given to it."""
    assert faults_of("leaving", tmp_path) == []


def test_sigterm_under_load(tmp_path):
    """After SIGTERM every request that was accepted is answered, and the exit code is 0."""
    assert faults_of("ending", tmp_path) == []


def test_a_long_life(tmp_path):
    """20,000 requests are answered right while versions follow each other."""
    assert faults_of("memory", tmp_path) == []


@pytest.mark.torchserve
def test_workers_that_are_killed(tmp_path):
    """Requests that a killed worker had get `Worker died.`, all others their own answer, and another worker takes over."""
    assert faults_of("workers-killed", tmp_path) == []


@pytest.mark.torchserve
def test_only_worker_is_killed(tmp_path):
    """What waits until the next worker is there is answered by it; no worker outlives a server that is killed."""
    assert faults_of("worker-alone", tmp_path) == []


@pytest.mark.torchserve
def test_sigterm_while_workers_are_at_work(tmp_path):
    """After SIGTERM every request that was accepted is answered by its worker, and no worker is left."""
    assert faults_of("workers-ending", tmp_path) == []


@pytest.mark.torchserve
def test_server_with_workers_answers_a_thousand_times(tmp_path):
    """A thousand requests over two workers are answered right, and leave no file open."""
    assert faults_of("workers-memory", tmp_path) == []


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("truncated model", "model.onnx was changed"),
        ("flipped bit", "model.onnx was changed"),
        ("golden mismatch", "golden case 00-made disagrees"),
        ("missing file", "lacks golden.safetensors"),
    ],
)
def test_bad_versions_are_bad_as_they_say(tmp_path, kind, told):
    """Each bad version of the scenario is refused for the reason that it is named by."""
    directory = tmp_path / "model" / "2"
    write_files(directory, SPOILED[kind](2))

    with pytest.raises(ArtifactError, match=told):
        golden.require(artifact.load(directory, engine="onnx", threads=1).replay())


def test_percentile():
    """A percentile is the smallest value that so many percent do not exceed."""
    assert [percentile([4.0, 1.0, 3.0, 2.0], share) for share in (50, 75, 99, 100)] == [2, 3, 4, 4]
    assert percentile([float(value) for value in range(1, 101)], 99) == 99


def test_faults_are_all_counted():
    """The first ten faults are told, and how many there are beside them."""
    faults = Faults()
    for number in range(12):
        faults.require(number < 0, f"fault {number}")

    assert faults.lines() == [*(f"fault {number}" for number in range(10)), "… and 2 more"]
