"""A plugin that prints when it is loaded, built and called."""

# ruff: noqa: ARG002 (a constructor takes its params, used or not)

import pydantic
from torch import Tensor, nn

from model_defs import register_model

print("loading the plugin")


class Params(pydantic.BaseModel, frozen=True, extra="forbid"):
    pass


@register_model("chatty", params=Params)
class Chatty(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        print("building the model")
        self.a = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        print("calling the model")
        return self.a(x)
