"""A model with an operator of its own, which has no ONNX form."""

# ruff: noqa: ARG002 (a constructor takes its params, used or not)

import pydantic
import torch
from torch import Tensor, nn

from model_defs import register_model


@torch.library.custom_op("stateserve_tests::double", mutates_args=())
def double(x: Tensor) -> Tensor:
    return x * 2


@double.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    pass


@register_model("custom_operator", params=Params)
class CustomOperator(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return double(self.a(x))
