"""Models that cannot be captured as they are declared (exit 7)."""

# ruff: noqa: ARG002 (a constructor takes its params, used or not)

import pydantic
import torch
from torch import Tensor, nn

from model_defs import register_model


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    pass


@register_model("branches_on_batch", params=Params)
class BranchesOnBatch(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.shape[0] < 5 else 2 * self.a(x)


@register_model("loops_over_length", params=Params)
class LoopsOverLength(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x[:, 0]
        for step in range(x.shape[1]):
            state = torch.tanh(state + x[:, step])
        return self.a(state)


class Stuck(nn.Dropout):
    def train(self, mode: bool = True) -> "Stuck":  # noqa: FBT001, FBT002 (nn.Module's own)
        return super().train(mode=True)


@register_model("stays_in_train", params=Params)
class StaysInTrain(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.drop = Stuck()

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.a(x))


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@register_model("branches_on_values", params=Params)
class BranchesOnValues(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.a(x))


@register_model("sliced_positions", params=Params)
class SlicedPositions(nn.Module):
    """Positions as a parameter of 8 rows, of which the first ones are taken."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(8, 4))
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a((x + self.positions[: x.shape[1]]).mean(1))


@register_model("looked_up_positions", params=Params)
class LookedUpPositions(nn.Module):
    """Positions as an embedding of 8 rows, which are looked up."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.positions = nn.Embedding(8, 4)
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a((x + self.positions(torch.arange(x.shape[1]))).mean(1))


@register_model("keyword_only", params=Params)
class KeywordOnly(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, *, x: Tensor) -> Tensor:
        return self.a(x)


@register_model("gives_a_dict", params=Params)
class GivesADict(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.a(x)}
