"""Building a model so that it is the same every time, and in eval mode throughout."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import model_defs

SEED = 0
"""What is not in the checkpoint (buffers that are not saved) comes out of the constructor: it must be the same every time."""


def resolved_params(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The params of a registered model, defaults filled in.

    Raises:
        UnknownModel: no model is registered under this name.
    """
    return model_defs.definition(name).params.model_validate(dict(params)).model_dump()


def build_model(name: str, params: Mapping[str, Any]) -> nn.Module:
    """The registered model, built under a fixed seed, in eval mode, without gradients; the caller's random state is untouched.

    Raises:
        UnknownModel, InvalidParams: see `model_defs.build`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = model_defs.build(name, params)
    return model.requires_grad_(requires_grad=False).eval()
