"""The model file of the measured archive: TorchServe builds it without arguments and loads the state_dict into it."""

import torch
from torch import nn


class Mlp(nn.Module):
    """784-128-10, its keys as in `model_defs`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 784) -> (B, 10)."""
        return self.layers(x)
