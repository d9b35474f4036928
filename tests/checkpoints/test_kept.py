"""A Keeper's checkpoints as a reader meets them: through links and pointers, with what their sidecars say, or refused."""

import json
import shutil

import pytest
import torch
from torch import nn

from checkpoints import Kind, Last, UnreadableCheckpoint, read, recognise
from checkpoints.keeping.keeper import Keeper
from checkpoints.pointers import pointer_text

FORMATS = ["safetensors", "pth"]
WEIGHTS = {"safetensors": "step-00000007.safetensors", "pth": "step-00000007.pth"}


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@pytest.fixture(params=FORMATS)
def kept(request, tmp_path):
    """The format, the directory of a Keeper with one checkpoint, and the model that it saved."""
    model = _net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    extra = {"ema": {key: value + 1 for key, value in model.state_dict().items()}, "mean": torch.ones(3)}
    with Keeper(tmp_path / "run", Last(1), format=request.param, config={"lr": 0.5}) as keeper:
        keeper.save(7, model, optimizer, epoch=2, metrics={"acc": 0.5, "loss": float("nan")}, extra=extra)
    return request.param, tmp_path / "run", model


def _replace_link_by_text(directory, name="latest.pth", target=None):
    link = directory / name
    target = target or link.readlink().name
    link.unlink()
    link.write_bytes(pointer_text(target))


@pytest.mark.parametrize("as_text", [False, True])
def test_a_link_or_pointer_is_read_as_what_it_leads_to(kept, as_text):
    """latest.pth gives the weights that were saved, and what the sidecar says of the training."""
    _, directory, model = kept
    if as_text:
        _replace_link_by_text(directory)

    found = read(directory / "latest.pth")

    tensors = found.select(None).tensors
    assert tensors.keys() == model.state_dict().keys()
    assert all(torch.equal(tensors[key], value) for key, value in model.state_dict().items())
    assert found.path == directory / "latest.pth"
    assert found.layout == "keeper"
    assert found.config == {"lr": 0.5}
    facts = found.provenance
    assert (facts["step"], facts["epoch"], facts["metrics"]) == (7, 2, {"acc": 0.5, "loss": "nan"})
    assert json.dumps(dict(facts))


def test_the_models_weights_are_the_only_weight_set(kept):
    """Whatever tensors a training keeps beside them; and they have the same name in both formats."""
    _, directory, _ = kept

    assert list(read(directory / "latest.pth").weight_sets) == ["model_state_dict"]


def test_a_pointer_is_recognised_as_what_it_leads_to(kept):
    """Recognition follows links and pointers."""
    format_, directory, _ = kept
    _replace_link_by_text(directory)

    found = recognise(directory / "latest.pth")

    assert found.kind is (Kind.SAFETENSORS if format_ == "safetensors" else Kind.TORCH_ZIP)


def test_a_link_to_a_pointer_is_followed(kept, tmp_path):
    """A link that a person made to a Keeper's text pointer leads to the checkpoint."""
    _, directory, _ = kept
    _replace_link_by_text(directory)
    (tmp_path / "mine.pth").symlink_to(directory / "latest.pth")

    assert read(tmp_path / "mine.pth").provenance["step"] == 7


@pytest.mark.parametrize(
    "text", [b"../step-00000007.pth\n", b"latest.pth\n", b"/etc/passwd\n", b"", b"\xff\n", b"step-00000007.pth"]
)
def test_a_pointer_that_leads_elsewhere_is_refused(kept, text):
    """A pointer names a checkpoint's file beside it, or is refused."""
    _, directory, _ = kept
    (directory / "latest.pth").unlink()
    (directory / "latest.pth").write_bytes(b"stateserve-pointer 1\n" + text)

    with pytest.raises(UnreadableCheckpoint, match=r"^latest.pth is a Keeper's pointer, but names no checkpoint beside it: "):
        read(directory / "latest.pth")


def test_a_pointer_does_not_lead_along_a_link(kept, tmp_path):
    """A file that a pointer names is no link: it could lead anywhere."""
    _, directory, _ = kept
    (tmp_path / "secret").write_bytes(b"{}")
    (directory / "step-00000009.pth").symlink_to(tmp_path / "secret")
    _replace_link_by_text(directory, target="step-00000009.pth")

    with pytest.raises(UnreadableCheckpoint, match="names no checkpoint beside it"):
        read(directory / "latest.pth")


def test_a_pointer_to_nothing_names_what_is_there(kept):
    """Where the checkpoint is gone that a pointer names, the newest whole one beside it is named."""
    format_, directory, _ = kept
    _replace_link_by_text(directory, target="step-00000008.pth")

    with pytest.raises(UnreadableCheckpoint) as caught:
        read(directory / "latest.pth")

    assert f"step-00000008.pth does not exist. The newest whole checkpoint in that folder is {WEIGHTS[format_]}." in str(
        caught.value
    )


def test_bytes_that_the_sidecar_does_not_list_are_refused(kept):
    """One changed bit of a weight is seen: the sidecar has the file's sha256."""
    format_, directory, model = kept
    file = directory / WEIGHTS[format_]
    data = bytearray(file.read_bytes())
    data[data.index(model.state_dict()["0.weight"].numpy().tobytes())] ^= 1
    file.write_bytes(data)

    with pytest.raises(UnreadableCheckpoint, match=r"^step-00000007.+ is damaged"):
        read(directory / "latest.pth")


def test_another_size_than_the_sidecar_lists_is_said(kept):
    """A whole file that is not the one that was saved under this name is refused, with both sizes."""
    format_, directory, _ = kept
    if format_ == "pth":
        torch.save({"model_state_dict": _net().state_dict()}, directory / WEIGHTS[format_])
    else:
        from safetensors.torch import save_file

        save_file({"a": torch.ones(3)}, directory / WEIGHTS[format_])

    with pytest.raises(UnreadableCheckpoint, match=r"was changed: it has \d+ bytes, step-00000007.json says \d+ bytes"):
        read(directory / "latest.pth")


def test_weights_without_their_sidecar_are_read_as_they_are(kept, tmp_path):
    """A checkpoint's file that was copied alone is a checkpoint still."""
    format_, directory, model = kept
    shutil.copy(directory / WEIGHTS[format_], tmp_path)

    found = read(tmp_path / WEIGHTS[format_])

    assert torch.equal(found.select(None).tensors["0.weight"], model.state_dict()["0.weight"])


def test_a_sidecar_that_is_damaged_is_said(kept):
    """Weights with a sidecar that cannot be understood are not read as if there was none."""
    format_, directory, _ = kept
    (directory / "step-00000007.json").write_bytes(b"{")

    with pytest.raises(UnreadableCheckpoint, match=r"^step-00000007.json is not JSON"):
        read(directory / WEIGHTS[format_])


def test_the_state_file_is_no_model(kept):
    """Who gives the file with the optimizer's state is told which one has the weights."""
    format_, directory, _ = kept
    if format_ == "pth":
        pytest.skip("the one file has both")

    with pytest.raises(UnreadableCheckpoint) as caught:
        read(directory / "step-00000007.state.pth")

    assert str(caught.value) == (
        "step-00000007.state.pth holds the state of a training, not a model's weights. Give step-00000007.safetensors beside it."
    )


def test_a_keepers_directory_names_its_pointers(kept):
    """Who gives the directory is told which files in it to give."""
    _, directory, _ = kept

    assert recognise(directory).kind is Kind.KEEPER_FOLDER
    with pytest.raises(UnreadableCheckpoint, match=rf"Give one of the checkpoints in it: {directory}/latest.pth\.$"):
        read(directory)
