"""Models that make loading hard (exit 5)."""

# ruff: noqa: ARG002 (a constructor takes its params, used or not)

from typing import Any

import pydantic
import torch
from torch import Tensor, nn

from model_defs import register_model


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    num_classes: int = 1000
    tied: bool = True


@register_model("classifier", params=Params)
class Classifier(nn.Module):
    """One layer whose size is a param."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.fc = nn.Linear(4, params.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


@register_model("tied", params=Params)
class Tied(nn.Module):
    """The last layer's weight is the first one's."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        if params.tied:
            self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


@register_model("scaled", params=Params)
class Scaled(nn.Module):
    """A scalar parameter, an integer buffer and a float16 one."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("offset", torch.zeros(3, dtype=torch.float16))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * self.gain + self.get_buffer("offset").to(x.dtype)


@register_model("without_memory", params=Params)
class WithoutMemory(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


@register_model("changes_what_it_loads", params=Params)
class ChangesWhatItLoads(nn.Module):
    """A hook halves a weight on its way in."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)
        self.register_load_state_dict_pre_hook(_halve)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x)


def _halve(_module: nn.Module, state: dict[str, Any], *_: Any) -> None:
    state["a.weight"] = state["a.weight"] / 2
