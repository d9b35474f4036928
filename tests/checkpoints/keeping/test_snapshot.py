"""Snapshots: a training's state at one moment, in memory that is used again."""

import argparse
import datetime as dt
import enum
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from checkpoints.errors import KeeperError
from checkpoints.keeping.snapshot import MODEL, Snapshotter


def small():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


class Tied(nn.Module):
    """A language model's usual tie: the head's weight is the embedding's."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_a_snapshot_does_not_follow_the_training():
    """It holds the values of the moment when it was taken."""
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    snapshot = Snapshotter().gather(model).copy()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert snapshot.tensors.keys() == before.keys()
    assert all(torch.equal(snapshot.tensors[key], before[key]) for key in before)
    assert not any(tensor.requires_grad for tensor in snapshot.tensors.values())


def test_the_values_are_those_of_copying_not_of_gathering():
    """Gathering finds and measures; only copy() takes the values."""
    model = nn.Linear(2, 2)
    gathered = Snapshotter().gather(model)
    with torch.no_grad():
        model.weight.fill_(7)
    assert gathered.copy().tensors["weight"].eq(7).all()


def test_memory_is_used_again():
    """The next snapshot of the same training lies where the last one lay, optimizer included."""
    model = small()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    snapshotter = Snapshotter()

    def places():
        snapshot = snapshotter.gather(model, optimizer).copy()
        moments = [value for entry in snapshot.state["optimizer_state_dict"]["state"].values() for value in entry.values()]
        return [tensor.data_ptr() for tensor in (*snapshot.tensors.values(), *moments)]

    assert places() == places()
    assert len(set(places())) == len(places())


def test_memory_that_is_not_needed_any_more_is_let_go():
    """After a smaller snapshot only its own memory is kept."""
    snapshotter = Snapshotter()
    snapshotter.gather(nn.Linear(100, 100)).copy()
    snapshotter.gather(small()).copy()
    kept = [buffer for buffers in snapshotter._buffers._buffers.values() for buffer in buffers]
    assert sum(buffer.numel() for buffer in kept) < 30


def test_shared_tensors_are_copied_and_counted_once():
    """Tied weights are an alias; the measure is that of one."""
    model = Tied()
    snapshot = Snapshotter().gather(model).copy()
    assert list(snapshot.tensors) == ["embedding.weight"]
    assert snapshot.aliases == {"head.weight": "embedding.weight"}
    assert snapshot.size_bytes == 5 * 3 * 4


def test_what_is_measured_is_what_is_copied():
    """Weights, buffers, the optimizer's moments and steps, tensors and arrays in extra."""
    model = small()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    weights = sum(value.nbytes for value in model.state_dict().values())
    moments = sum(value.nbytes for entry in optimizer.state.values() for value in entry.values())
    extra = {"seen": torch.zeros(10, dtype=torch.int64), "array": np.zeros(4, dtype=np.int16)}
    gathered = Snapshotter().gather(model, optimizer, extra=extra)
    assert gathered.size_bytes == gathered.copy().size_bytes == weights + moments + 80 + 8


def test_strides_are_kept_and_gaps_left_out():
    """A model in channels_last is copied as it lies in memory; of a part of a larger tensor only the part is."""
    model = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    snapshot = Snapshotter().gather(model, extra={"part": torch.arange(100.0)[::10], "shown": torch.ones(1).expand(5)}).copy()
    assert snapshot.tensors["weight"].is_contiguous(memory_format=torch.channels_last)
    assert snapshot.state["extra"]["part"].tolist() == list(range(0, 100, 10))
    assert snapshot.state["extra"]["part"].untyped_storage().nbytes() == 40
    assert snapshot.state["extra"]["shown"].tolist() == [1] * 5


def test_every_type_of_number_is_taken():
    """Also half precision, eight bits, complex and its lazy conjugate."""
    model = nn.Module()
    values = {
        "half_": torch.ones(3, dtype=torch.bfloat16),
        "eight_": torch.ones(3).to(torch.float8_e4m3fn),
        "truth_": torch.tensor([True]),
        "complex_": torch.tensor([1 + 2j], dtype=torch.complex64),
        "lazy_": torch.tensor([1 + 2j], dtype=torch.complex64).conj(),
        "nothing_": torch.empty(0, 3),
        "scalar_": torch.tensor(5),
    }
    for name, value in values.items():
        model.register_buffer(name, value)
    taken = Snapshotter("safetensors").gather(model).copy().tensors
    assert taken["lazy_"].resolve_conj().tolist() == [1 - 2j]
    assert not taken["lazy_"].is_conj()
    assert {name: (one.dtype, one.shape) for name, one in taken.items()} == {
        name: (one.dtype, one.shape) for name, one in values.items()
    }


def test_plain_values_come_through_as_they_are():
    """All that a file gives back with the same type."""
    plain = {
        "numbers": [1, 2.5, 1j, True, None, float("inf"), 1 << 100],
        "texts": ("a", "ä", b"\xff", bytearray(b"x")),
        "sets": [{1, 2}, frozenset({3})],
        "ordered": OrderedDict(b=1, a=2),
        "counted": Counter("aab"),
        ("a", 1): np.float32(1.5),
        7: np.arange(3),
        "torch": (torch.float16, torch.Size([1, 2]), torch.device("cpu")),
    }
    taken = Snapshotter().gather(small(), extra={"plain": plain, "default": defaultdict(list, a=[1])}).copy().state["extra"]
    assert repr(taken["plain"]) == repr(plain)
    assert [type(one) for one in taken["plain"].values()] == [type(one) for one in plain.values()]
    assert taken["default"] == {"a": [1]}
    assert taken["plain"]["numbers"] is not plain["numbers"]


class Colour(enum.IntEnum):
    RED = 1


class Pair(NamedTuple):
    a: int
    b: int


@pytest.mark.parametrize(
    ("value", "kind", "remedy"),
    [
        (lambda: 1, "builtins.function", "Give plain values (texts, numbers, lists, dictionaries, tensors), or an object with"),
        (Path("runs"), "pathlib.PosixPath", "Give str(path)."),
        (torch.Generator(), "torch._C.Generator", "Give generator.get_state()."),
        (Colour.RED, f"{__name__}.Colour", "Give the plain value in it: an instance of a class of its own"),
        (Pair(1, 2), f"{__name__}.Pair", "Give the plain value in it: an instance of a class of its own"),
        (argparse.Namespace(lr=1), "argparse.Namespace", "Give plain values"),
        (dt.datetime(2000, 1, 1, tzinfo=dt.UTC), "datetime.datetime", "Give plain values"),
        (np.array(["a"]), "numpy.ndarray", "Give plain values"),
        (np.array([object()]), "numpy.ndarray", "Give plain values"),
        (range(3), "builtins.range", "Give plain values"),
    ],
)
def test_what_could_not_be_read_back_is_refused_by_place_and_type(value, kind, remedy):
    """When it is saved, and not when somebody needs it."""
    with pytest.raises(KeeperError) as error:
        Snapshotter().gather(small(), extra={"run": {"options": [0, value]}}).copy()
    assert str(error.value).startswith(
        f"extra['run']['options'][1] is a {kind}, which a checkpoint that runs no code when it is read cannot give back. {remedy}"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.ones(2).to_sparse(), "extra['x'] is sparse (sparse_coo). Give it dense: tensor.to_dense()."),
        (lambda: torch.ones(2, device="meta"), "extra['x'] is on the meta device: it has no values to save."),
        (
            lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8),
            "extra['x'] is quantised. Train and save the model from before quantisation",
        ),
        (nn.UninitializedParameter, "extra['x'] has no shape yet. Run one batch through the model first."),
        (
            lambda: {frozenset({1}): 1},
            "extra['x'] has the key frozenset({1}), a frozenset; keys are texts, numbers and tuples of them.",
        ),
        (lambda: 1 << 3000, "extra['x'] is an integer of 3001 bits; 2000 can be saved. Save it as a text."),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values_are_refused(make, message):
    """Each with what to do."""
    with pytest.raises(KeeperError) as error:
        Snapshotter().gather(small(), extra={"x": make()}).copy()
    assert str(error.value).startswith(message)


def test_a_structure_that_holds_itself_is_refused():
    """After 64 levels."""
    loop = []
    loop.append(loop)
    with pytest.raises(KeeperError, match="is more than 64 levels deep, or holds itself"):
        Snapshotter().gather(small(), extra={"loop": loop}).copy()


def test_what_safetensors_does_not_hold_is_refused_at_once():
    """With the format that holds it."""
    model = nn.Module()
    model.register_buffer("wide", torch.ones(1, dtype=torch.complex128))
    with pytest.raises(
        KeeperError, match=r'model: wide is complex128, which safetensors does not hold. Use Keeper\(…, format="pth"\)'
    ):
        Snapshotter("safetensors").gather(model).copy()
    assert Snapshotter("pth").gather(model).copy().tensors["wide"].dtype == torch.complex128


def test_objects_in_extra_give_their_state():
    """Modules by their own keys, others by their state_dict, plain values as they are."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.5)
    state = Snapshotter().gather(small(), extra={"gan": optimizer, "critic": Tied(), "note": "x"}).copy().state
    assert state["extra"] == {"note": "x"}
    assert state["extra_state_dicts"]["gan"]["param_groups"][0]["lr"] == 0.5
    critic = state["extra_state_dicts"]["critic"][MODEL]
    assert critic["head.weight"] is critic["embedding.weight"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": {"a": 1}}, "model is a dict, expected a torch.nn.Module."),
        ({"optimizer": "adam"}, "optimizer is a str, which has no state_dict and load_state_dict."),
        ({"extra": {1: 2}}, "extra[1]: its name is a int, expected a text."),
    ],
)
def test_objects_of_the_wrong_kind_are_refused(given, message):
    """By their place in the call."""
    with pytest.raises(KeeperError) as error:
        Snapshotter().gather(**{"model": small(), **given}).copy()
    assert str(error.value) == message


def test_after_a_refusal_the_next_snapshot_is_whole():
    """Memory that was handed out for the refused one is used again."""
    snapshotter, model = Snapshotter(), small()
    with pytest.raises(KeeperError):
        snapshotter.gather(model, extra={"x": object()}).copy()
    snapshot = snapshotter.gather(model).copy()
    assert all(torch.equal(snapshot.tensors[key], value) for key, value in model.state_dict().items())
