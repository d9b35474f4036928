"""PyTorch's answers as named arrays."""

from collections.abc import Sequence

import numpy as np
import torch

from artifact.errors import EngineFailed


def named_outputs(answer: object, names: Sequence[str]) -> dict[str, np.ndarray]:
    """A tensor, or a tuple or list of them in the signature's order, as arrays by name.

    Raises:
        EngineFailed: the answer is of another kind, or their number is not the signature's.
    """
    values = list(answer) if isinstance(answer, (tuple, list)) else [answer]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if len(values) != len(names) or len(tensors) != len(names):
        kinds = ", ".join(type(value).__name__ for value in values)
        raise EngineFailed(f"the model gives {kinds}; the signature says {len(names)} tensor(s): {', '.join(names)}")
    return {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
