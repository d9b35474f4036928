"""Models whose numbers disagree, or fail, somewhere in their declared range (exit 8)."""

# ruff: noqa: ARG002 (a constructor takes its params, used or not)

import pydantic
import torch
from torch import Tensor, nn

from model_defs import register_model


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    tokens: int = 10


class Linear(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)


@register_model("one_row_apart", params=Params)
class OneRowApart(Linear):
    """A lone row is answered otherwise than a row among others."""

    def forward(self, x: Tensor) -> Tensor:
        return -self.a(x) if x.shape[0] == 1 else self.a(x)


@register_model("batch_mean", params=Params)
class BatchMean(Linear):
    """Every row depends on the others."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return y - y.mean(0)


@register_model("logarithm", params=Params)
class Logarithm(Linear):
    """NaN below zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(self.a(x))


@register_model("random", params=Params)
class Random(Linear):
    """Dropout that never knows of eval()."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.a(x))


@register_model("remembers", params=Params)
class Remembers(nn.Module):
    """Counts its calls, and answers by the count."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return self.a(x) + self.get_buffer("calls")


@register_model("few_tokens", params=Params)
class FewTokens(nn.Module):
    """An embedding of few tokens, or of many."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.emb = nn.Embedding(params.tokens, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.emb(ids).mean(1)
