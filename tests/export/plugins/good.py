"""Models that export: small ones, of every kind of signature."""

from typing import NamedTuple

import pydantic
import torch
from torch import Tensor, nn

from model_defs import register_model


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    width: int = 5
    classes: int = 3


@register_model("small", params=Params)
class Small(nn.Module):
    """Two layers that can be swapped, a normalisation between them, and biases."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, params.width)
        self.b = nn.Linear(params.width, params.width)
        self.c = nn.Linear(params.width, params.width)
        self.norm = nn.LayerNorm(params.width)
        self.head = nn.Linear(params.width, params.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.c(torch.relu(self.b(self.a(x))))))


@register_model("batch_normed", params=Params)
class BatchNormed(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, params.classes)
        self.norm = nn.BatchNorm1d(params.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x))


@register_model("two_outputs", params=Params)
class TwoOutputs(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, params.classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        return y, y.argmax(-1)


class Named(NamedTuple):
    score: Tensor
    other: Tensor


@register_model("named_outputs", params=Params)
class NamedOutputs(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, params.classes)

    def forward(self, x: Tensor) -> Named:
        return Named(self.a(x), -x[:, :3])


@register_model("masked_mean", params=Params)
class MaskedMean(nn.Module):
    """Token ids and a mask, both [batch, length]."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.emb = nn.Embedding(10, params.classes)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask.to(self.emb.weight.dtype).unsqueeze(-1)
        return (self.emb(ids) * weights).sum(1) / weights.sum(1).clamp(min=1)


@register_model("pool", params=Params)
class Pool(nn.Module):
    """An image of any size in multiples of 4."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, params.classes, 4, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image).mean((2, 3))


@register_model("float32_only", params=Params)
class Float32Only(nn.Module):
    """Its forward asks for float32 by name, so that it cannot run in float64."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, params.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x.to(torch.float32))


@register_model("unsaved_buffer", params=Params)
class UnsavedBuffer(nn.Module):
    """A buffer that is not in the state_dict, as rotary embeddings keep theirs."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, params.classes)
        self.register_buffer("offset", torch.randn(params.classes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.get_buffer("offset")


@register_model("brain_float", params=Params)
class BrainFloat(nn.Module):
    """bfloat16 within, float32 at both ends."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.emb = nn.Embedding(10, params.classes, dtype=torch.bfloat16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.emb(ids).float()


@register_model("half", params=Params)
class Half(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, params.classes, dtype=torch.float16)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


@register_model("vector", params=Params)
class Vector(nn.Module):
    """One vector in, one number per class out: no batch."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, params.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x.mean(0))


@register_model("wide", params=Params)
class Wide(nn.Module):
    """Many values in each row."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(params.width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


@register_model("stepped_rows", params=Params)
class SteppedRows(nn.Module):
    """A one-layer model with hidden sizes that are counted by hand."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 16)
        self.b = nn.Linear(16, params.classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))
