"""A Keeper's own folder: listed, pruned, resumed from, and warm started from."""

import json

import pytest
import torch
from torch import nn

from checkpoints import Best, DirectoryTaken, EverySteps, Keeper, Last, warm_start
from checkpoints.listing.keep import parse_keep
from checkpoints.listing.look import look
from checkpoints.listing.plan import Choice, make_plan
from checkpoints.listing.remove import carry_out


def plan(folder, *keep, milestones=False):
    return make_plan(look(folder), Choice(keep=parse_keep(keep), milestones=milestones))


@pytest.fixture(params=["safetensors", "pth"])
def trained(tmp_path, request):
    """Six steps, of which the third is the best and every other a milestone."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    folder = tmp_path / "run"
    with Keeper(folder, Last(6), Best("loss"), EverySteps(2), format=request.param) as keeper:
        for step in range(1, 7):
            keeper.save(step, model, optimizer, metrics={"loss": abs(step - 3.0)})
    return folder


def test_everything_of_a_keeper_is_listed(trained):
    """In the order of saving, with metrics, policies and what points to it; its own files are no strangers."""
    found = look(trained)

    assert [(entry.step, entry.metrics["loss"]) for entry in found.entries] == [(step, abs(step - 3.0)) for step in range(1, 7)]
    assert found.entries[2].protected == ("best.pth points to it",)
    assert found.entries[5].protected == ("latest.pth points to it",)
    assert "every-2-steps" in found.entries[3].kept_by
    assert found.others == ()


def test_a_pruned_folder_is_whole(trained):
    """After pruning best, latest and milestones are there, a Keeper goes on from the newest, and nothing is left over."""
    carry_out(plan(trained, "last:1"))

    assert [entry.step for entry in look(trained).entries] == [2, 3, 4, 6]
    model = nn.Linear(2, 2)
    with Keeper(trained, Last(6)) as keeper:
        resumed = keeper.resume(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert resumed is not None
        assert (resumed.step, resumed.skipped) == (6, ())
    carry_out(plan(trained, "last:1", milestones=True))
    assert [entry.step for entry in look(trained).entries] == [3, 6]


def test_a_training_at_work_is_not_pruned(trained):
    """While a Keeper is open, prune ends with who it is, and everything is as it was."""
    found = plan(trained, "last:1")

    with Keeper(trained, Last(6)), pytest.raises(DirectoryTaken, match="process "):
        carry_out(found)

    assert len(look(trained).entries) == 6


def test_a_warm_start_from_a_keepers_best_is_in_every_checkpoint_after_it(trained, tmp_path):
    """The link is read as the file that it names; each sidecar of the next training carries the report, after a resume too."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    report = warm_start(model, trained / "best.pth", take=["*"], rename={"": "0."})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for steps in ((1, 2), (3,)):
        with Keeper(tmp_path / "next", Last(9), warm_start=report if steps[0] == 1 else ()) as keeper:
            keeper.resume(model, optimizer)
            for step in steps:
                keeper.save(step, model, optimizer)

    sidecars = [json.loads(path.read_bytes()) for path in sorted((tmp_path / "next").glob("step-*.json"))]
    assert [sidecar["warm_start"] for sidecar in sidecars] == [[report.facts()]] * 3
    assert report.taken == ("0.bias", "0.weight")
    assert report.renamed == {"0.bias": "bias", "0.weight": "weight"}
