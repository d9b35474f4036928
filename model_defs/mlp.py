"""A multilayer perceptron: linear layers with ReLU between them, for tables.

Keys are those of an `nn.Sequential` under `layers`: `layers.0.weight`, `layers.0.bias`, `layers.2.weight`, … (the odd places
are the ReLUs').

Shapes: B batch, F in_features, K out_features.
"""

from typing import Annotated

from pydantic import BaseModel, Field, PositiveInt
from torch import Tensor, nn

from model_defs.registry import register_model


class MLPParams(BaseModel, frozen=True, extra="forbid", strict=True):
    """Sizes of a multilayer perceptron; without hidden layers it is linear."""

    in_features: PositiveInt
    hidden: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()  # a YAML has lists, no tuples; the numbers stay strict
    out_features: PositiveInt


@register_model("mlp", params=MLPParams)
class MLP(nn.Module):
    """Maps each row of features to a row of numbers."""

    def __init__(self, params: MLPParams) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = params.in_features
        for hidden in params.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU()]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, params.out_features))

    def forward(self, x: Tensor) -> Tensor:  # (B, F)
        """The outputs, (B, K), with no activation after the last layer."""
        return self.layers(x)
