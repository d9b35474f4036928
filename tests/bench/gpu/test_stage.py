"""How a stage runs: in a process of its own, whose findings are kept however it ends, and of which nothing is left."""

import time
from pathlib import Path

import psutil
import pytest

from bench.gpu import stage
from bench.gpu.stage import Asked

STAGES = Path(__file__).with_name("stages_for_tests.py")


@pytest.fixture
def run(tmp_path):
    """A function that runs a stage: how it ended, its findings, and what it said."""

    def run(name, seconds=60.0):
        found, said = [], []
        asked = Asked(name, "smallest", "cpu", str(tmp_path), seconds, {"facts": [{"gpu": "none"}]})
        return stage.run(asked, tmp_path / "log", found.append, said.append, child=[str(STAGES)]), found, said

    return run


def gone(pid):
    """Whether a process ends within a moment."""
    ends_s = time.monotonic() + 10
    while time.monotonic() < ends_s:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
    return False


def test_a_stage_tells_what_it_finds_and_what_it_does(run, tmp_path):
    """Findings, words on the way and what was found before reach the other side; what libraries print is in the log."""
    ended, found, said = run("good")

    assert (ended.status, ended.error) == ("done", None)
    assert found == [{"one": 1, "device": "cpu", "earlier": {"facts": [{"gpu": "none"}]}}, {"two": 2}]
    assert said == ["half of it"]
    assert "a library says something" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("fails", "the server did not start"),
        ("breaks", "ZeroDivisionError: by nothing"),
        ("crashes", "its process ended with signal 9; its last words: last words"),
        ("ends", "its process ended with code 7; its last words: none"),
    ],
)
def test_what_a_failing_stage_had_found_is_kept(run, name, error):
    """The error is written down, whatever ended the stage, and the finding before it is there."""
    ended, found, _ = run(name)

    assert (ended.status, ended.error, found) == ("failed", error, [{"one": 1}])


@pytest.mark.processes
def test_a_stage_that_is_out_of_time_is_told_to_end(run):
    """It may clean up; what it had found is kept, and the processes that it started are gone."""
    ended, found, _ = run("slow", seconds=4.0)

    assert (ended.status, ended.error) == ("out of time", "it had 4 s, and was ended: what it had found is kept")
    assert gone(found[0]["pid"])


@pytest.mark.processes
def test_a_stage_that_will_not_end_is_killed(run, monkeypatch):
    """With all that it started."""
    monkeypatch.setattr(stage, "_GRACE_S", 0.2)

    ended, found, _ = run("stubborn", seconds=4.0)

    assert ended.status == "out of time"
    assert gone(found[0]["pid"])
