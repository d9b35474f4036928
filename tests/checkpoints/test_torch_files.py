"""torch.save files of every format are read safely, with the values and the metadata that were saved."""

import os
import sys
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from checkpoints import Kind, UnreadableCheckpoint, UnsafeCheckpoint, read, weights_digest

HOSTILE = Path(__file__).parents[1] / "hostile" / "checkpoints"


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3])
def test_values_and_versions(tmp_path, net, zipped, protocol):
    """A bare state_dict comes back whole from both formats, with the versions in its _metadata."""
    path = tmp_path / "best.pth"
    torch.save(net.state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)

    checkpoint = read(path)
    weights = checkpoint.select(None)

    assert_same(weights.tensors, net.state_dict())
    assert (checkpoint.kind, checkpoint.layout) == (Kind.TORCH_ZIP if zipped else Kind.TORCH_LEGACY, "bare")
    assert weights.versions == {"": 1, "fc": 1, "norm": 2}
    assert all(not tensor.requires_grad and type(tensor) is torch.Tensor for tensor in weights.tensors.values())
    assert (checkpoint.size_bytes, checkpoint.config, checkpoint.notices) == (path.stat().st_size, None, ())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [4, 5])
def test_newer_protocols_are_refused_in_words(tmp_path, net, zipped, protocol):
    """torch's safe reader has no opcodes of protocols 4 and 5; the refusal says how to save again."""
    path = tmp_path / "best.pth"
    torch.save(net.state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)

    with pytest.raises(UnreadableCheckpoint) as caught:
        read(path)

    assert str(caught.value) == (
        f"best.pth was saved with pickle protocol {protocol}, which torch's safe reader does not read "
        "(FRAME, MEMOIZE, SHORT_BINUNICODE). Where it was made, save it again without pickle_protocol: "
        'torch.save(model.state_dict(), "weights.pth")'
    )


def test_the_suffix_decides_nothing(tmp_path, net):
    """A torch file named .safetensors is read as what it is, although torch.load would go by the name."""
    path = tmp_path / "best.safetensors"
    torch.save(net.state_dict(), path)

    assert_same(read(path).select(None).tensors, net.state_dict())


def test_a_file_without_check_sums_is_read(tmp_path, net):
    """torch can leave the check sums out of its archives; such a file is whole."""
    path = tmp_path / "best.pth"
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save(net.state_dict(), path)
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)

    assert_same(read(path).select(None).tensors, net.state_dict())


def test_tensors_of_a_zip_are_mapped(tmp_path):
    """Reading maps the file's tensors, so an optimizer's share of the file takes no memory."""
    path = tmp_path / "best.pth"
    torch.save({"state_dict": {"w": torch.zeros(4)}, "optimizer": {"state": {0: torch.zeros(1 << 20)}}}, path)

    tensor = read(path).select(None).tensors["w"]

    assert not tensor.untyped_storage().resizable()


def test_no_trust_is_left_behind(tmp_path):
    """The plain types that a file needs are trusted while it is read, and not after."""
    path = tmp_path / "best.pth"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "lr": torch.tensor(0.1).numpy()}, path)
    before = set(torch.serialization.get_safe_globals())

    read(path)

    assert set(torch.serialization.get_safe_globals()) == before


def test_the_environment_cannot_turn_safety_off(tmp_path, net, monkeypatch):
    """TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD has no effect, since weights_only is always passed."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = tmp_path / "best.pth"
    torch.save(net.state_dict(), path)

    assert_same(read(path).select(None).tensors, net.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_unsafe(tmp_path, net, zipped):
    """A whole pickled module is refused with its class and the line that saves its weights."""
    path = tmp_path / "best.pth"
    with warnings.catch_warnings(action="ignore"):
        torch.save(net, path, _use_new_zipfile_serialization=zipped)

    with pytest.raises(UnsafeCheckpoint) as caught:
        read(path)

    assert str(caught.value) == (
        f"best.pth needs Python class {Net.__module__}.Net and {2 if zipped else 3} more (a whole model was pickled). "
        'Loading it runs code. Re-save in the training repo: torch.save(model.state_dict(), "weights.pth")'
    )


def test_a_legacy_file_cut_off_is_unreadable(tmp_path, net):
    """A file of the old format that lost its end is told by the bytes that its storages need."""
    path = tmp_path / "best.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    size_bytes = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(UnreadableCheckpoint) as caught:
        read(path)

    assert str(caught.value) == (
        f"best.pth is damaged: its 7 storages need {size_bytes} bytes in all, the file has {size_bytes - 3}. "
        "Copy or save it again."
    )


def test_torch_errors_keep_their_cause():
    """What torch itself refuses is mapped at one place, with torch's error as the cause."""
    with pytest.raises(UnreadableCheckpoint) as caught:
        read(HOSTILE / "tensor-past-its-storage.pth")

    assert isinstance(caught.value.__cause__, RuntimeError)


def test_torchscript_is_no_checkpoint(tmp_path, net):
    """A TorchScript program is refused with the line that saves the weights."""
    path = tmp_path / "best.pth"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(net.fc), path)

    with pytest.raises(UnreadableCheckpoint) as caught:
        read(path)

    assert str(caught.value) == (
        "best.pth is a TorchScript program, not a checkpoint. "
        'Save the weights where the model is defined: torch.save(model.state_dict(), "weights.pth").'
    )


def test_an_honest_exported_program_is_unreadable_not_unsafe(tmp_path, net):
    """A .pt2 as torch writes it holds only tensors' pickles: it is no checkpoint, but nothing worse."""
    path = tmp_path / "best.pt2"
    torch.export.save(torch.export.export(net.fc, (torch.zeros(2, 3),)), path)

    with pytest.raises(UnreadableCheckpoint, match="is an exported program"):
        read(path)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, net, monkeypatch):
    """A checkpoint that its trainer writes again while it is read is refused: its values would be of two files."""
    reading = sys.modules["checkpoints.checkpoint_files"]
    path = tmp_path / "best.pth"
    torch.save(net.state_dict(), path)
    real = reading.load_torch_file

    def load_then_touch(*args):
        held = real(*args)
        os.utime(path, ns=(1, 1))
        return held

    monkeypatch.setattr(reading, "load_torch_file", load_then_touch)

    with pytest.raises(UnreadableCheckpoint, match="changed while it was read"):
        read(path)


def test_digest_is_of_the_weights_not_the_file(tmp_path, net):
    """The same weights have one digest under any file name, format and order, and another after any change."""
    state = net.state_dict()
    for name, value, zipped in (
        ("a.pth", state, True),
        ("b.pth", OrderedDict(reversed(state.items())), True),
        ("c.pth", state, False),
    ):
        torch.save(value, tmp_path / name, _use_new_zipfile_serialization=zipped)
    checkpoints = [read(tmp_path / name) for name in ("a.pth", "b.pth", "c.pth")]
    digests = {weights_digest(checkpoint.select(None).tensors) for checkpoint in checkpoints}
    changed = {**state, "fc.bias": state["fc.bias"] + 1e-7}

    assert len({checkpoint.sha256 for checkpoint in checkpoints}) == 3
    assert digests == {weights_digest(state)}
    assert weights_digest(changed) not in digests
