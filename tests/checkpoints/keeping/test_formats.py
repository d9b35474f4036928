"""The formats: files that others read as well, and that are the same for the same training."""

import io
import json
import warnings
from collections import Counter, OrderedDict
from typing import BinaryIO, cast

import pytest
import safetensors.torch
import torch
from torch import nn

from checkpoints.errors import KeeperError
from checkpoints.keeping.formats import files_of
from checkpoints.keeping.safetensors_bytes import PIECE_BYTES, write_safetensors
from checkpoints.keeping.snapshot import Snapshotter
from checkpoints.keys import match_keys
from checkpoints.kinds import Kind
from checkpoints.read import read
from checkpoints.safetensors_header import read_header
from checkpoints.torch_file import scan_torch_file

FACTS = {"step": 3, "epoch": 1, "metrics": {"acc": float("nan")}, "config": {"lr": 0.1}, "run": "r", "sequence": 1}


class Stream:
    """What a store gives: it is written from front to back, nothing else."""

    def __init__(self):
        self.pieces = []

    def write(self, data):
        self.pieces.append(bytes(data))
        return len(data)

    def flush(self):
        pass

    @property
    def data(self):
        return b"".join(self.pieces)


class Model(nn.Module):
    """Tied weights, several types, a convolution in channels_last, an empty tensor, extra state."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.convolution = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.register_buffer("small", torch.tensor([1, 2], dtype=torch.uint8))
        self.register_buffer("wide", torch.tensor(2.5, dtype=torch.float64))
        self.register_buffer("brain", torch.ones(3, dtype=torch.bfloat16))
        self.register_buffer("nothing", torch.empty(0, 2))

    def get_extra_state(self):
        return {"calls": 3}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def produced(model, form, folder, **given):
    """The files' paths, and the pieces in which each was written."""
    paths, pieces = {}, {}
    for file in files_of(Snapshotter(form).gather(model, **given).copy(), "step-00000003", form, FACTS):
        stream = Stream()
        file.produce(cast("BinaryIO", stream))
        paths[file.role] = folder / file.name
        paths[file.role].write_bytes(stream.data)
        pieces[file.role] = stream.pieces
    return paths, pieces


def test_safetensors_own_library_reads_the_weights(tmp_path):
    """Every tensor but the tied one, whose name is in the metadata; values as in the model."""
    model = Model()
    paths, _ = produced(model, "safetensors", tmp_path)
    assert {role: path.name for role, path in paths.items()} == {
        "weights": "step-00000003.safetensors",
        "state": "step-00000003.state.pth",
    }
    loaded = safetensors.torch.load_file(paths["weights"])
    expected = {key: value for key, value in model.state_dict().items() if key not in ("head.weight", "_extra_state")}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) and loaded[key].dtype == value.dtype for key, value in expected.items())
    assert read_header(paths["weights"]).metadata == {"format": "pt", "head.weight": "embedding.weight"}


def test_safetensors_are_read_as_the_model_has_them(tmp_path):
    """Tied weights under both names."""
    model = Model()
    paths, _ = produced(model, "safetensors", tmp_path)
    weights = read(paths["weights"]).select(None)
    expected = {key: value for key, value in model.state_dict().items() if key != "_extra_state"}
    assert weights.tensors.keys() == expected.keys()
    assert dict(weights.aliases) == {"head.weight": "embedding.weight"}


def test_tensors_begin_at_multiples_of_their_elements(tmp_path):
    """The widest first, and the header filled up to eight bytes: a reader can map them."""
    paths, _ = produced(Model(), "safetensors", tmp_path)
    header = read_header(paths["weights"])
    data = paths["weights"].read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0
    sizes = {"F64": 8, "F32": 4, "BF16": 2, "U8": 1}
    assert all(entry.begin % sizes[entry.dtype] == 0 for entry in header.tensors.values())
    assert json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["format"] == "pt"


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_the_same_training_gives_the_same_bytes(tmp_path, form):
    """Whatever the order of its keys and the layout in memory of its weights."""
    files = []
    for name in ("a", "b"):
        torch.manual_seed(0)
        (tmp_path / name).mkdir()
        paths, _ = produced(Model(), form, tmp_path / name)
        files.append([path.read_bytes() for path in paths.values()])
    assert files[0] == files[1]


def test_large_tensors_are_written_in_pieces_small_ones_together(tmp_path):
    """Few writes, of some megabytes each: a store may wait for each of them."""
    layers = [nn.Linear(2048, 2048), *(nn.Linear(8, 8) for _ in range(500))]
    model = nn.ModuleList(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.stack([layer.weight.sum() for layer in layers]).sum().backward()
    optimizer.step()
    _, pieces = produced(model, "safetensors", tmp_path, optimizer=optimizer)
    assert len(pieces["weights"]) <= 1 + 2048 * 2048 * 4 // PIECE_BYTES + 2
    assert len(pieces["state"]) <= 12
    assert max(map(len, pieces["weights"])) <= PIECE_BYTES


def test_the_one_file_holds_what_scripts_look_for(tmp_path):
    """torch.load(weights_only=True) gives the usual names; the model loads it strictly, extra state and versions included."""
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    paths, _ = produced(model, "pth", tmp_path, optimizer=optimizer, scheduler=scheduler, extra={"note": 1})
    assert paths["checkpoint"].name == "step-00000003.pth"
    held = torch.load(paths["checkpoint"], weights_only=True)
    assert (held["step"], held["epoch"]) == (3, 1)
    assert held["config"] == {"lr": 0.1}
    assert held["extra"] == {"note": 1}
    assert held.keys() >= {"metrics", "optimizer_state_dict", "scheduler_state_dict", "rng_state"}
    assert isinstance(held["model_state_dict"], OrderedDict)
    assert held["model_state_dict"]._metadata["convolution"] == {"version": 1}
    other = Model()
    other.load_state_dict(held["model_state_dict"])
    assert other.calls == 3
    assert held["model_state_dict"]["head.weight"].data_ptr() == held["model_state_dict"]["embedding.weight"].data_ptr()
    optimizer.load_state_dict(held["optimizer_state_dict"])


def test_the_exporter_sees_one_weight_set_in_the_one_file(tmp_path):
    """Whatever state stands beside it, a second model's included."""
    paths, _ = produced(Model(), "pth", tmp_path, extra={"average": nn.Linear(2, 2), "tensors": {"a": torch.ones(2)}})
    found = read(paths["checkpoint"])
    assert list(found.weight_sets) == ["model_state_dict"]
    assert (found.layout, found.config) == ("keeper", {"lr": 0.1})
    shapes = {key: tuple(value.shape) for key, value in found.select(None).tensors.items()}
    own = {key: tuple(value.shape) for key, value in Model().state_dict().items() if key != "_extra_state"}
    assert match_keys(shapes, own).rewrite == "identity"


@pytest.mark.parametrize("form", ["safetensors", "pth"])
def test_our_scan_lets_every_file_through(tmp_path, form):
    """Nothing but what the allow-list has, for every kind of value that a snapshot takes."""
    import numpy as np

    extra = {
        "numbers": [1 << 100, 1j, b"\xff", bytearray(b"x"), {1}, frozenset({2}), np.float64(2), np.arange(3, dtype=np.uint32)],
        "torch": [torch.float8_e4m3fn, torch.Size([1]), torch.device("cuda", 1), torch.ones(2, dtype=torch.uint16)],
        "eight": torch.ones(3).to(torch.float8_e5m2),
        "counted": Counter("ab"),
    }
    paths, _ = produced(Model(), form, tmp_path, extra=extra)
    for role, path in paths.items():
        if role != "weights":
            (scan,) = scan_torch_file(path, Kind.TORCH_ZIP)
            assert scan.is_safe


def test_names_that_the_metadata_needs_itself():
    """An alias called `format` becomes a tensor of its own; beside a tensor called `pt` the mark is left out."""
    written = io.BytesIO()
    write_safetensors(written.write, {"a": torch.ones(2)}, {"format": "a"})
    assert safetensors.torch.load(written.getvalue()).keys() == {"a", "format"}
    written = io.BytesIO()
    write_safetensors(written.write, {"pt": torch.ones(2)}, {})
    assert b"__metadata__" not in written.getvalue()
    assert safetensors.torch.load(written.getvalue()).keys() == {"pt"}


def test_another_format_is_refused():
    """With those that there are."""
    with pytest.raises(KeeperError, match='format is \'onnx\', expected "safetensors" or "pth"'):
        files_of(Snapshotter().gather(nn.Linear(1, 1)).copy(), "step-00000001", "onnx", {})


def test_writing_warns_of_nothing(tmp_path):
    """Also where types are rare."""
    with warnings.catch_warnings(action="error"):
        produced(Model(), "pth", tmp_path)
