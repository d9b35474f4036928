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
    tensors = list(answer) if isinstance(answer, (tuple, list)) else [answer]
    if len(tensors) != len(names) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        kinds = ", ".join(type(tensor).__name__ for tensor in tensors)
        raise EngineFailed(f"the model gives {kinds}; the signature says {len(names)} tensor(s): {', '.join(names)}")
    return {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}
