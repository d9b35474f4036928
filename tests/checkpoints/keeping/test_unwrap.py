"""Wrappers: what training puts around a model, or around a part of it, leaves no trace in the keys."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from checkpoints.errors import KeeperError
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.snapshot import Snapshotter
from checkpoints.keeping.unwrap import wrappers_of
from checkpoints.read import read

KEYS = ["encoder.0.weight", "encoder.0.bias", "module.weight", "module.bias"]


class Net(nn.Module):
    """One of its own parts is called `module`."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.module = nn.Linear(2, 2)

    def forward(self, x):
        return self.module(self.encoder(x))


def resumed_notes(keeper, model):
    resumed = keeper.resume(model)
    assert resumed is not None
    return resumed.notes


@pytest.fixture
def one_process(tmp_path):
    """A process group of one, as DistributedDataParallel needs it."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(model):
    return torch.compile(model, backend="eager")


def with_compiled_part(model):
    model.encoder = compiled(nn.DataParallel(model.encoder))
    return model


WRAPS = {
    "none": lambda model: model,
    "DataParallel": nn.DataParallel,
    "DDP": DistributedDataParallel,
    "compile": compiled,
    "DDP of compile": lambda model: DistributedDataParallel(compiled(model)),
    "compile of DDP": lambda model: compiled(DistributedDataParallel(model)),
    "a part": with_compiled_part,
    "average": AveragedModel,
    "average of DDP of compile": lambda model: AveragedModel(DistributedDataParallel(compiled(model))),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.usefixtures("one_process")
def test_keys_are_the_models_own(wrap):
    """Whatever is around it; a part of the model that is called as a wrapper's attribute keeps its name."""
    snapshot = Snapshotter().gather(wrap(Net())).copy()
    assert list(snapshot.tensors) == KEYS
    assert set(snapshot.versions) == {"", "encoder", "encoder.0", "encoder.1", "module"}


@pytest.mark.usefixtures("one_process")
def test_any_wrapping_resumes_into_any_other(tmp_path):
    """What is saved in each is resumed in the next; the file is read without a rewrite."""
    ring = [*WRAPS.values(), WRAPS["none"]]
    with Keeper(tmp_path / "run") as keeper:
        for step, (wrap, other) in enumerate(itertools.pairwise(ring)):
            keeper.save(step, wrap(Net()))
            resumed = other(Net())
            keeper.resume(resumed)
            written = read(tmp_path / "run" / "latest.pth").select(None).tensors
            taken = Snapshotter().gather(resumed).copy().tensors
            assert sorted(written) == sorted(KEYS)
            assert all(torch.equal(taken[key], written[key]) for key in KEYS)


def test_an_average_goes_on_with_its_count(tmp_path):
    """n_averaged is saved beside the keys and restored; without it the average begins anew, which is said."""
    model, average = Net(), None
    average = AveragedModel(model)
    for _ in range(3):
        average.update_parameters(model)
    with Keeper(tmp_path) as keeper:
        keeper.save(1, average)
        again = AveragedModel(Net())
        assert resumed_notes(keeper, again) == ()
        assert again.n_averaged == 3
        (note,) = resumed_notes(keeper, Net())
        assert note == (
            "step-00000001.safetensors: the model was averaged (n_averaged) when it was saved, and is not now: "
            "how often is left out."
        )
        keeper.save(2, model)
        (note,) = resumed_notes(keeper, AveragedModel(Net()))
        assert note == (
            "step-00000002.safetensors: the model is averaged (n_averaged), and was not when it was saved: "
            "its average begins anew."
        )


def test_two_tensors_of_one_name_are_refused():
    """A counter of a wrapper cannot hide a tensor of the model; two tensors cannot share a key."""

    class Twice(nn.DataParallel):
        def __init__(self, module):
            super().__init__(module)
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(KeeperError, match="two tensors are called weight once the wrappers are left out"):
        Snapshotter().gather(Twice(nn.Linear(2, 2))).copy()


def test_an_average_of_an_average_is_refused():
    """Their counters would be one."""
    with pytest.raises(KeeperError, match="two tensors are called n_averaged once the wrappers are left out"):
        Snapshotter().gather(AveragedModel(AveragedModel(Net()))).copy()


def test_a_module_in_two_places_is_found_in_both():
    """As in a state_dict."""
    shared = nn.DataParallel(nn.Linear(2, 2))
    model = nn.ModuleDict({"a": shared, "b": shared})
    assert wrappers_of(model).dropped == {"a.module", "b.module"}
    snapshot = Snapshotter().gather(model).copy()
    assert list(snapshot.tensors) == ["a.weight", "a.bias"]
    assert snapshot.aliases == {"b.weight": "a.weight", "b.bias": "a.bias"}


@pytest.mark.usefixtures("one_process")
def test_a_sharded_model_is_refused():
    """No process has all of an FSDP model's weights."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    sharded = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # wrapping needs an accelerator
    nn.Module.__init__(sharded)
    with pytest.raises(KeeperError, match="The model is sharded by FSDP at 0: no process has all of its weights"):
        wrappers_of(nn.Sequential(sharded))
