"""What is exported: the net, with what the handler did before and after it."""

from model import Net
from pydantic import BaseModel
from torch import Tensor

from model_defs import register_model


class NoParams(BaseModel, frozen=True, extra="forbid"):
    """The net has none."""


@register_model("digits", params=NoParams)
class Digits(Net):
    """The same weights; pixels in, probabilities out."""

    def __init__(self, _: NoParams) -> None:
        super().__init__()

    def forward(self, pixels: Tensor) -> Tensor:  # (N, 8, 8), from 0 to 16
        """The probabilities, (N, 10)."""
        return super().forward(pixels.unsqueeze(1) / 16).softmax(1)
