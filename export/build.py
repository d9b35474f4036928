"""Building a model so that it is the same every time, and in eval mode throughout."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
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
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 (what constructors draw from)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            np.random.seed(SEED)  # noqa: NPY002
            random.seed(SEED)
            model = model_defs.build(name, params)
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
    return model.requires_grad_(requires_grad=False).eval()
