"""This server against the kept answers of TorchServe 0.12.0, request by request; `make torchserve` asks the real one again."""

import pytest

from tests.torchserve import transcript
from tests.torchserve.compare import expected, mismatches
from tests.torchserve.differences import DIFFERENCES
from tests.torchserve.scenarios import SCENARIOS
from tests.torchserve.servers import running, stateserve

pytestmark = pytest.mark.torchserve


@pytest.mark.parametrize("name", SCENARIOS)
def test_answers(name, store):
    """Status, headers and body of every answer are TorchServe's, or a difference that has a reason."""
    scenario = SCENARIOS[name]
    with running(stateserve(), scenario, store) as server:
        ours = transcript.take(scenario, server)
        log = server.log()
    found = list(mismatches(name, transcript.read(name), ours))
    assert not found, f"{len(found)} of {len(ours)} answers:\n" + "\n".join(found) + f"\n{log}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_transcripts_are_of_these_requests(name):
    """A request that is added or changed is recorded again; none stands twice."""
    asked = [ask.name for ask in SCENARIOS[name].asks()]
    assert [answer["request"] for answer in transcript.read(name)] == asked
    assert len(set(asked)) == len(asked)


def test_every_transcript_has_its_scenario():
    """None is left over, and together they stay small."""
    files = list(transcript.FOLDER.iterdir())
    assert {file.stem for file in files} == set(SCENARIOS)
    assert sum(file.stat().st_size for file in files) < 1_000_000
    assert sum(len(scenario.asks()) for scenario in SCENARIOS.values()) > 900


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.where[:60])
def test_every_difference_shows(difference):
    """A difference that changes no kept answer is none."""
    kept = [(name, answer) for name in SCENARIOS for answer in transcript.read(name)]
    shown = [answer for name, answer in kept if difference in expected(name, answer)[1]]
    assert shown
    assert difference.reason
