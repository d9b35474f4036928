"""Tensors that are not plain values on the CPU are refused by name; tied ones are noted."""

import warnings

import pytest
import safetensors.torch
import torch

from checkpoints import UnreadableCheckpoint, read


@pytest.fixture
def saved(tmp_path):
    def save(value):
        with warnings.catch_warnings(action="ignore"):
            torch.save(value, tmp_path / "best.pth")
        return tmp_path / "best.pth"

    return save


class Tagged(torch.Tensor):
    """A tensor class of its own."""


def quantised():
    return torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)


LATER = "Give the checkpoint from before quantisation; the exported model is what gets quantised."
REFUSED = {
    "sparse": (lambda: torch.zeros(2, 2).to_sparse(), "best.pth: w is sparse (sparse_coo). Save it dense: tensor.to_dense()."),
    "sparse rows": (
        lambda: torch.eye(2).to_sparse_csr(),
        "best.pth: w is sparse (sparse_csr). Save it dense: tensor.to_dense().",
    ),
    "quantised": (quantised, f"best.pth holds quantised weights (w). {LATER}"),
    "meta": (lambda: torch.zeros(2, device="meta"), "best.pth: w has no values: it was saved on the meta device."),
    "expanded": (
        lambda: torch.zeros(1).expand(4),
        "best.pth: w is an expanded view, one value shown many times. Save tensor.contiguous().",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tensors_without_plain_values(saved, kind):
    """A tensor that is sparse, quantised, without values or expanded is refused with its name and what to do."""
    make, message = REFUSED[kind]
    with warnings.catch_warnings(action="ignore"):
        path = saved({"w": make()})
        with pytest.raises(UnreadableCheckpoint) as caught:
            read(path)

    assert str(caught.value) == message


def test_packed_quantised_weights(saved):
    """A quantised module's packed parameters are told by their key."""
    with pytest.raises(UnreadableCheckpoint) as caught:
        read(saved({"fc.scale": torch.tensor(1.0), "fc._packed_params._packed_params": (quantised(), None)}))

    assert str(caught.value) == f"best.pth holds quantised weights (fc._packed_params._packed_params). {LATER}"


def test_tied_weights_are_noted(saved):
    """Keys that are the very same tensor are aliases of the first; a view of another shape is not."""
    shared = torch.arange(6.0).reshape(2, 3)
    path = saved({"embed.weight": shared, "head.weight": shared, "half": shared[:1], "turned": shared.T, "none": torch.zeros(0)})

    weights = read(path).select(None)

    assert weights.aliases == {"head.weight": "embed.weight"}
    assert torch.equal(weights.tensors["turned"], shared.T)


def test_aliases_of_safetensors(tmp_path):
    """safetensors keeps one of tied tensors and names the other in its metadata; both are there after reading."""
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(4, 3), "head": torch.nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))

    weights = read(tmp_path / "model.safetensors").select(None)

    assert weights.tensors.keys() == {"embed.weight", "head.weight"}
    assert len(weights.aliases) == 1
    assert set(weights.aliases) | set(weights.aliases.values()) == {"embed.weight", "head.weight"}
    assert torch.equal(weights.tensors["embed.weight"], weights.tensors["head.weight"])


def test_parameters_become_plain_tensors(saved):
    """Parameters are given as tensors without a gradient."""
    tensor = read(saved({"w": torch.nn.Parameter(torch.ones(2))})).select(None).tensors["w"]

    assert type(tensor) is torch.Tensor
    assert not tensor.requires_grad


def test_every_dtype_has_a_digest():
    """The digest takes tensors of every type and shape, and tells types and shapes apart."""
    from checkpoints import weights_digest

    values = [torch.zeros(2, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.bool, torch.complex64, torch.int64)]
    values += [torch.zeros(()), torch.zeros(1), torch.zeros(0), torch.zeros(2, 2).T, torch.zeros(2, dtype=torch.float8_e4m3fn)]

    assert len({weights_digest({"w": value}) for value in values}) == len(values)
    assert weights_digest({"w": torch.arange(4.0).reshape(2, 2).T}) == weights_digest(
        {"w": torch.tensor([[0.0, 2.0], [1.0, 3.0]])}
    )


def test_a_tensor_class_of_its_own_is_refused(tmp_path):
    """A tensor of a class of its own needs that class's code."""
    from checkpoints import UnsafeCheckpoint

    torch.save({"w": torch.zeros(2).as_subclass(Tagged)}, tmp_path / "best.pth")

    with pytest.raises(UnsafeCheckpoint, match="Tagged"):
        read(tmp_path / "best.pth")
