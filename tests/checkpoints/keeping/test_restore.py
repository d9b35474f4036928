"""Restoring: every object gets the state that was saved of it, or nothing is changed in any."""

import copy
import dataclasses
import hashlib
import random

import numpy as np
import pytest
import torch
from torch import nn

from checkpoints.batches import Batches
from checkpoints.errors import KeysDoNotMatch, UnreadableCheckpoint
from checkpoints.keeping.keeper import Keeper
from checkpoints.keeping.restore import restore
from checkpoints.keeping.scan import scan
from checkpoints.keeping.store import open_store

NAME = {"safetensors": "step-00000005.safetensors", "pth": "step-00000005.pth"}


class Net(nn.Module):
    """With extra state, a tied weight, and two types of numbers."""

    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, width, bias=False)
        self.last.weight = self.first.weight
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.last(self.norm(self.first(x)))

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def trained(net=Net, steps=3, seed=0, **options):
    torch.manual_seed(seed)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    return model, optimizer, scheduler


@pytest.fixture(params=["safetensors", "pth"])
def kept(request, tmp_path):
    """(store, sidecar, what was saved) of one checkpoint."""
    objects = trained()
    batches = Batches(10, 3)
    next(iter(batches))
    extra = {"batches": batches, "note": {"text": "x", "tensor": torch.arange(3)}, "critic": nn.Linear(2, 2)}
    with Keeper(tmp_path, format=request.param) as keeper:
        keeper.save(5, *objects, extra=extra)
    store = open_store(tmp_path)
    (sidecar,) = scan(store).complete
    return store, sidecar, (*objects, extra)


def states(*objects):
    return copy.deepcopy([one.state_dict() for one in objects])


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_every_object_gets_its_state(kept):
    """Model with its extra state, optimizer, scheduler, module and object in extra; plain values are given back."""
    store, sidecar, (*saved, extra) = kept
    objects = trained(steps=1, seed=9)
    batches, critic = Batches(10, 3), nn.Linear(2, 2)
    restored = restore(store, sidecar, *objects, extra={"batches": batches, "critic": critic})
    assert restored.notes == ()
    assert same(states(*objects), states(*saved))
    assert (objects[0].calls, batches.done) == (3, 1)
    assert same(states(critic), states(extra["critic"]))
    assert restored.extra["note"]["text"] == "x"
    assert restored.extra["note"]["tensor"].tolist() == [0, 1, 2]


def test_nothing_that_was_restored_depends_on_the_file(kept, tmp_path):
    """Objects and plain values have memory of their own: the file may be overwritten or cut off afterwards."""
    store, sidecar, (*saved, _) = kept
    objects = trained(steps=1, seed=9)
    restored = restore(store, sidecar, *objects)
    for name in sidecar.files:
        (tmp_path / name).write_bytes(b"")
    assert same(states(*objects), states(*saved))
    objects[0](torch.randn(8, 4)).sum().backward()
    objects[1].step()
    restored.extra["note"]["tensor"].add_(1)


def test_the_random_numbers_go_on(kept):
    """Of all generators."""
    store, sidecar, _ = kept
    restore(store, sidecar, Net())
    first = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    restore(store, sidecar, Net())
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first  # noqa: NPY002


def test_other_ranks_keep_their_random_numbers(kept):
    """Else every process of a training would draw the same dropout masks."""
    store, sidecar, _ = kept
    model = Net()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    notes = restore(store, sidecar, model, rank=2).notes
    assert notes[-1] == "The random numbers were saved by the process of rank 0; this one, of rank 2, goes on with its own."
    assert torch.equal(torch.rand(1), expected)


def test_what_was_not_asked_for_is_said(kept):
    """A resume may take less than there is."""
    store, sidecar, _ = kept
    name = NAME[sidecar.format]
    assert restore(store, sidecar, Net()).notes == (
        f"{name} holds the state of extra 'batches', which was not asked for.",
        f"{name} holds the state of extra 'critic', which was not asked for.",
        f"{name} holds the state of the optimizer (AdamW), which was not asked for.",
        f"{name} holds the state of the scheduler (ExponentialLR), which was not asked for.",
    )


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)


REFUSED = {
    "another width": (lambda: {"model": Net(5)}, "first.weight is (4, 4) in the file, (5, 5) in the model"),
    "a missing key": (lambda: {"model": nn.Sequential(Net())}, "missing in the file: 0._extra_state"),
    "another type": (
        lambda: {"model": Net().double()},
        "first.weight is float32 in the file, float64 in the model. A training goes on in the type that it was saved in",
    ),
    "no memory": (lambda: {"model": Net().to("meta")}, "first.weight of the model has no memory (the meta device)"),
    "another optimizer": (
        lambda: {"optimizer": sgd(Net())},
        "holds the state of AdamW, the optimizer is SGD now. Resume with the same, or without it.",
    ),
    "other groups": (
        lambda: {"optimizer": torch.optim.AdamW([{"params": [one]} for one in Net().parameters()])},
        "the optimizer has 4 groups of 1, 1, 1, 1 parameters, the one that was saved had 1 group of 4 parameters.",
    ),
    "another order": (
        lambda: {"optimizer": torch.optim.AdamW(list(Net().parameters())[::-1])},
        "the optimizer's exp_avg of parameter 0 is (4, 4), the parameter is (4,). Give the optimizer its parameters in the",
    ),
    "another scheduler": (
        lambda: {"scheduler": cosine(sgd(Net()))},
        "holds the state of ExponentialLR, the scheduler is CosineAnnealingLR now.",
    ),
    "a scaler": (
        lambda: {"scaler": torch.amp.GradScaler("cpu")},
        "holds no state of the scaler. To go on with a new one, resume without it.",
    ),
    "more in extra": (
        lambda: {"extra": {"new": Batches(3, 1)}},
        "holds no state of extra 'new'; it has 'batches', 'critic'. To go on with a new one, resume without it.",
    ),
    "another in extra": (
        lambda: {"extra": {"critic": nn.Linear(3, 2)}},
        "extra 'critic' is not the one that was saved. The file's keys are not the model's: 1 match, 1 have another shape",
    ),
    "no module in extra": (
        lambda: {"extra": {"batches": nn.Linear(3, 2)}},
        "extra 'batches' is a torch.nn.Module, and was none when it was saved.",
    ),
    "other batches": (
        lambda: {"extra": {"batches": Batches(11, 3)}},
        "extra 'batches' does not take the state that was saved of it: KeysDoNotMatch: The batches were saved with other",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(kept, case):
    """Every other object, and the random numbers, are as they were."""
    store, sidecar, _ = kept
    given, message = REFUSED[case][0](), REFUSED[case][1]
    model, optimizer, scheduler = trained(steps=1, seed=9)
    objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **given}
    plain = [one for one in (objects["model"], objects["optimizer"], objects["scheduler"]) if not _is_meta(one)]
    before, drawn = states(*plain), torch.get_rng_state()
    with pytest.raises(KeysDoNotMatch) as error:
        restore(store, sidecar, **objects)
    assert message in str(error.value)
    assert NAME[sidecar.format] in str(error.value)
    assert same(states(*plain), before)
    assert torch.equal(torch.get_rng_state(), drawn)


def _is_meta(one):
    return isinstance(one, nn.Module) and any(value.is_meta for value in one.parameters())


def test_a_mismatch_names_the_keys(kept):
    """For programs too."""
    store, sidecar, _ = kept
    with pytest.raises(KeysDoNotMatch) as error:
        restore(store, sidecar, nn.ModuleDict({"first": nn.Linear(4, 3), "new": nn.Linear(1, 1)}))
    assert error.value.missing == ("new.bias", "new.weight")
    assert error.value.mismatched == (("first.bias", (4,), (3,)), ("first.weight", (4, 4), (3, 4)))
    assert "last.weight" in error.value.unexpected


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_found_before_anything_is_changed(kept, tmp_path, damage):
    """Each of the files, by its sha256; so the Keeper goes on to the next older checkpoint."""
    store, sidecar, _ = kept
    for name in sidecar.files:
        path = tmp_path / name
        whole = path.read_bytes()
        if damage == "remove":
            path.unlink()
        else:
            path.write_bytes(whole[:-1] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
        objects = trained(steps=1, seed=9)
        before = states(*objects)
        with pytest.raises(UnreadableCheckpoint, match=name):
            restore(store, sidecar, *objects)
        assert same(states(*objects), before)
        path.write_bytes(whole)


def test_a_file_that_no_keeper_wrote_is_refused(kept, tmp_path):
    """Though its sha256 is the sidecar's."""
    store, sidecar, _ = kept
    forged = _forged(tmp_path, sidecar, {"a": 1})
    with pytest.raises(UnreadableCheckpoint, match="was not written by a Keeper: it has no entry stateserve_checkpoint"):
        restore(store, forged, Net())


def test_tied_weights_that_were_not_tied_must_be_equal(tmp_path):
    """Where the model ties them now; the other way round it is a note."""
    apart = Net()
    apart.last.weight = nn.Parameter(apart.first.weight.detach() + 1)
    with Keeper(tmp_path) as keeper:
        keeper.save(1, apart)
        with pytest.raises(
            KeysDoNotMatch, match=r"first\.weight and last\.weight are one tensor in the model, and differ in the file"
        ):
            keeper.resume(Net())
        keeper.save(2, Net())
        resumed = keeper.resume(apart)
    assert resumed is not None
    (note,) = resumed.notes
    assert note == (
        "step-00000002.safetensors: first.weight and last.weight were one tensor when they were saved, and are two in the model: "
        "they will differ from now on."
    )


def test_a_scaler_goes_on(tmp_path):
    """Its scale, and the steps since it grew."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = sgd(net := nn.Linear(2, 2))
    scaler.scale(net(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    scaler.update(4.0)
    with Keeper(tmp_path) as keeper:
        keeper.save(1, net, optimizer, scaler=scaler)
        other = torch.amp.GradScaler("cpu")
        keeper.resume(net, optimizer, scaler=other)
    assert other.state_dict() == scaler.state_dict()
    assert other.get_scale() == 4.0


def test_a_scaler_that_was_off_begins_anew(tmp_path):
    """As where a training goes on with a device that needs one; the other way round nothing is needed."""
    off, on = torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu", init_scale=4.0)
    net = nn.Linear(1, 1)
    with Keeper(tmp_path) as keeper:
        keeper.save(1, net, scaler=off)
        resumed = keeper.resume(net, scaler=on)
        assert resumed is not None
        assert resumed.notes == (
            "step-00000001.safetensors: the scaler was off when it was saved, and is on now: its scale begins anew.",
        )
        keeper.save(2, net, scaler=on)
        resumed = keeper.resume(net, scaler=off)
    assert resumed is not None
    assert resumed.notes == ()
    assert on.get_scale() == 4.0


def test_how_an_optimizer_computes_stays_as_it_is(tmp_path):
    """fused and capturable go with the device; what it computes (its lr) is restored."""
    model, optimizer, _ = trained(fused=True)
    optimizer.param_groups[0]["lr"] = 0.5
    other, plain, _ = trained(steps=1, seed=4, fused=False)
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model, optimizer)
        resumed = keeper.resume(other, plain)
    assert resumed is not None
    assert (
        "step-00000001.safetensors: the optimizer's fused was True when it was saved, and stays False as it is now."
        in resumed.notes
    )
    assert (plain.param_groups[0]["fused"], plain.param_groups[0]["lr"]) == (False, 0.5)
    other(torch.randn(8, 4)).sum().backward()
    plain.step()


def test_another_librarys_optimizer_may_keep_other_shapes(tmp_path):
    """An average of a projected gradient has not its parameter's shape: only torch's own optimizers are judged by it."""

    class Projected(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {"lr": 0.1})
            for one in self.param_groups[0]["params"]:
                self.state[one] = {"exp_avg": torch.zeros(1)}

    model = nn.Linear(2, 2)
    optimizer, other = Projected(model.parameters()), Projected(model.parameters())
    optimizer.state[model.weight]["exp_avg"] += 1
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model, optimizer)
        keeper.resume(model, other)
    assert other.state[model.weight]["exp_avg"].tolist() == [1]


def test_a_lazy_model_needs_a_batch_first(tmp_path):
    """It has no shapes to compare."""
    with Keeper(tmp_path) as keeper:
        keeper.save(1, nn.Linear(2, 3))
        with pytest.raises(KeysDoNotMatch, match=r"weight of the model has no shape yet\. Run one batch through it first\."):
            keeper.resume(nn.LazyLinear(3))


HOSTILE = {
    "groups": {"optimizer_state_dict": {"param_groups": [{"params": 3}], "state": {}}},
    "optimizer": {"optimizer_state_dict": [1]},
    "classes": {"classes": None},
    "counters": {"model_averaged": [1]},
    "versions": {"model_versions": {"": "1"}},
    "versions by number": {"model_versions": {1: 1}},
    "random numbers": {"rng_state": {"torch": 1, "python": 2}},
    "no random numbers": {"rng_state": None},
    "extra": {"extra": 5},
    "objects": {"extra_state_dicts": 5},
    "mark": {"stateserve_checkpoint": True},
    "later": {"stateserve_checkpoint": 2},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_forged_state_is_refused_and_nothing_is_changed(kept, tmp_path, case):
    """Files that are safe to read and hold something else than a Keeper writes, with a sidecar that was made to fit."""
    store, sidecar, _ = kept
    held = torch.load(tmp_path / sidecar.state, weights_only=True)
    forged = _forged(tmp_path, sidecar, {**held, **HOSTILE[case]})
    objects = trained(steps=1, seed=9)
    before = states(*objects)
    with pytest.raises(UnreadableCheckpoint):
        restore(store, forged, *objects)
    assert same(states(*objects), before)


def _forged(folder, sidecar, held):
    torch.save(held, folder / sidecar.state)
    raw = (folder / sidecar.state).read_bytes()
    entry = dataclasses.replace(sidecar.files[sidecar.state], size=len(raw), sha256=hashlib.sha256(raw).hexdigest())
    return dataclasses.replace(sidecar, files={**sidecar.files, sidecar.state: entry})


def test_an_optimizer_in_another_librarys_object_is_known_by_its_own_class(tmp_path):
    """As accelerate and Lightning put one of theirs around it."""

    class Around:
        def __init__(self, optimizer):
            self.optimizer, self.param_groups = optimizer, optimizer.param_groups
            self.state_dict, self.load_state_dict = optimizer.state_dict, optimizer.load_state_dict

    model, optimizer, _ = trained()
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model, Around(optimizer))
        other, plain, _ = trained(steps=0, seed=4)
        keeper.resume(other, plain)
    assert same(states(plain), states(optimizer))


def test_an_object_that_fails_says_that_others_may_be_changed(tmp_path):
    """Its own error is the cause."""

    class Broken:
        def state_dict(self):
            return {}

        def load_state_dict(self, _):
            raise RuntimeError("no")

    with Keeper(tmp_path) as keeper:
        keeper.save(1, net := nn.Linear(1, 1), extra={"loops": Broken()})
        with pytest.raises(KeysDoNotMatch) as error:
            keeper.resume(net, extra={"loops": Broken()})
    assert str(error.value) == (
        "step-00000001.safetensors: extra 'loops' does not take the state that was saved of it: RuntimeError: no. "
        "Some objects may have theirs already: make them anew before you go on."
    )
    assert isinstance(error.value.__cause__, RuntimeError)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize(("saved_on", "resumed_on"), [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_saved_on_one_device_resumed_on_another(tmp_path, saved_on, resumed_on):
    """Every value is the same, and lies where the resumed objects are."""

    def made(device):
        model = nn.Linear(3, 3).to(device)
        return model, torch.optim.AdamW(model.parameters())

    model, optimizer = made(saved_on)
    model(torch.ones(1, 3, device=saved_on)).sum().backward()
    optimizer.step()
    other, plain = made(resumed_on)
    with Keeper(tmp_path) as keeper:
        keeper.save(1, model, optimizer)
        keeper.resume(other, plain)
    assert same(states(other.cpu()), states(model.cpu()))
    assert plain.state[other.weight]["exp_avg"].device.type == resumed_on
    other.to(resumed_on)(torch.ones(1, 3, device=resumed_on)).sum().backward()
    plain.step()
