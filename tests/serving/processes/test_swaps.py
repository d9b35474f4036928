"""Versions come and go in all processes at once."""

import pytest

from bench.soak.models import shifted
from bench.soak.server import write_model

ROWS = {"inputs": {"x": [[1, 0, 3, 4]]}}


@pytest.mark.parametrize("name", ["near", "apart"])
def test_all_front_ends_answer_by_the_version_that_was_loaded(several, shifted_repository, name):
    """When a load is answered, every connection gets the new version's answer, and none the old one's any more."""
    write_model(shifted_repository, name, 2, shifted(2))
    assert several.request("POST", f"/v2/repository/models/{name}/load").status_code == 200
    for _ in range(20):
        answer = several.predict(name, ROWS)
        assert (answer.status_code, answer.json()["model_version"]) == (200, "2")
        assert answer.json()["outputs"]["y"] == [[3, 2, 5, 6]]


def test_version_that_is_unloaded_is_gone_everywhere(several):
    """When an unload is answered, every connection gets 404 or 503, and the other model is answered as before."""
    assert several.request("POST", "/v2/repository/models/apart/unload").status_code == 200
    for _ in range(10):
        assert several.predict("apart", ROWS).status_code in {404, 503}
        assert several.predict("near", ROWS).status_code == 200


@pytest.mark.processes
def test_versions_that_come_under_load(found):
    """Versions take over, and bad ones never do, without one failed, wrong or outdated answer."""
    assert found("swaps").faults == []
