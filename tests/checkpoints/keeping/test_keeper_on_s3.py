"""A training that keeps its checkpoints on S3: what it writes there, how it goes on, and who else may."""

import copy
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from checkpoints.errors import DirectoryTaken, KeeperError
from checkpoints.keeping import remote_store
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.policies import Best, Last
from foundation import remote
from foundation.errors import StateserveError

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60


@pytest.fixture
def place(s3_bucket):
    return f"s3://{s3_bucket}/runs/one"


def trained(seed):
    """A model and its optimizer after one step."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("format_", ["safetensors", "pth"])
def test_kept_and_resumed(place, s3, s3_bucket, format_):
    """What is kept is what the policies say, under the names that a local directory has; another training goes on from it."""
    model, optimizer = trained(1)
    with Keeper(place, Best("accuracy", mode="max"), Last(1), format=format_) as keeper:
        for step, accuracy in enumerate((0.5, 0.9, 0.7, 0.6)):
            keeper.save(step, model, optimizer, metrics={"accuracy": accuracy})
    stems = {key.removeprefix("runs/one/").partition(".")[0] for key in s3.keys(s3_bucket) if "/step-" in key}
    assert stems == {"step-00000001", "step-00000003"}
    other, others = trained(2)
    with Keeper(place, Last(1), format=format_) as keeper:
        resumed = keeper.resume(other, others)
    assert resumed is not None
    assert (resumed.step, resumed.metrics, resumed.skipped) == (3, {"accuracy": 0.6}, ())
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    for key, state in optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, others.state_dict()["state"][key][name]) for name, value in state.items())


def test_an_empty_prefix(place):
    """Where nothing was saved there is nothing to resume."""
    model, optimizer = trained(1)
    with Keeper(place) as keeper:
        assert keeper.resume(model, optimizer) is None


def test_the_newer_training_takes_over(place):
    """There are no locks: a second Keeper takes over, the first ends at its next write, and nothing of either is torn."""
    model, optimizer = trained(1)
    first = Keeper(place)
    first.save(1, model, optimizer)
    first.flush()
    with Keeper(place) as second:
        second.save(2, model, optimizer)
        first.save(3, model, optimizer)
        with pytest.raises(DirectoryTaken):
            first.close()
    with Keeper(place) as third:
        resumed = third.resume(*trained(2))
    assert resumed is not None
    assert (resumed.step, resumed.skipped) == (2, ())


def test_a_killed_upload_is_ended(place, s3, s3_bucket):
    """A training killed while its weights go up leaves the checkpoint before as the newest; the next Keeper cleans up."""
    training = subprocess.Popen([sys.executable, "-c", _TRAINING, place], cwd=ROOT, env={**os.environ, **s3.variables})
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not any("step-00000002" in key for key in s3.unfinished(s3_bucket)):
            assert training.poll() is None
            assert time.monotonic() < deadline
    finally:
        training.kill()
        training.wait(DEADLINE_S)
    with Keeper(place) as keeper:
        model = torch.nn.Linear(1500, 2000)
        resumed = keeper.resume(model)
    assert resumed is not None
    assert (resumed.step, resumed.skipped, s3.unfinished(s3_bucket)) == (1, (), [])
    assert not any("step-00000002" in key for key in s3.keys(s3_bucket))


_TRAINING = """
import sys, time, torch
from checkpoints.keeping import remote_store
from checkpoints.keeping.keeper import Keeper
remote_store.PART_BYTES = 5 << 20
model = torch.nn.Linear(1500, 2000)
with Keeper(sys.argv[1]) as keeper:
    keeper.save(1, model)
    keeper.flush()
    remote_store._Upload.finish = lambda self: time.sleep(600)
    keeper.save(2, model)
    keeper.flush()
"""


def test_the_storage_goes_away(place, s3, monkeypatch):
    """Where the storage cannot be reached any more, a save says so, and training may go on: what was kept is as it was."""
    from lossy import lossy

    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    model, optimizer = trained(1)
    gone = []
    with lossy(int(s3.endpoint_url.rpartition(":")[2]), lambda _: bool(gone)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        with Keeper(place) as keeper:
            keeper.save(1, model, optimizer)
            keeper.flush()
            gone.append(True)
            keeper.save(2, model, optimizer)
            with pytest.raises(StateserveError, match="the storage cannot be reached"):
                keeper.flush()
            gone.clear()
            keeper.save(3, model, optimizer)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    with Keeper(place) as keeper:
        resumed = keeper.resume(copy.deepcopy(model), optimizer)
    assert resumed is not None
    assert resumed.step == 3


def test_a_url_as_a_path(s3_bucket, tmp_path, monkeypatch):
    """A URL that was made a Path is refused: it would be a local directory called s3:."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeeperError, match=f"s3://{s3_bucket}/runs"):
        Keeper(Path(f"s3://{s3_bucket}/runs"))
    assert list(tmp_path.iterdir()) == []


def test_parts():
    """A part is larger than S3's smallest, and no larger than what a training can spare."""
    assert 8 * 2**20 <= remote_store.PART_BYTES <= 64 * 2**20
