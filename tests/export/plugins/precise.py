"""Models that float16, bfloat16 or TF32 do not suit, each for one reason, and one with a branch."""

# ruff: noqa: ARG002 (a constructor takes its params, used or not)

import pydantic
import torch
from torch import Tensor, nn

from model_defs import register_model


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    pass


class Linear(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)


@register_model("steep", params=Params)
class Steep(Linear):
    """Values between the layers that float32 holds and float16 does not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * 1e6 / 1e6


@register_model("shifted", params=Params)
class Shifted(Linear):
    """A large number that is added and taken away again takes the small one's digits with it."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + 1000) - 1000


@register_model("filled", params=Params)
class Filled(Linear):
    """A fill value that float16 does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).masked_fill(x[:, :1] > 2, -1e9)


@register_model("scored", params=Params)
class Scored(Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.a(x)
        return y, y.argmax(-1)


@register_model("branching", params=Params)
class Branching(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.b = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return torch.cond(y.numel() > 6, self.b, lambda y: self.b(y) + 0, (y,))


@register_model("encoder", params=Params)
class Encoder(nn.Module):
    """PyTorch's own encoder layer: transposed batches, attention, and its fast path."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))
