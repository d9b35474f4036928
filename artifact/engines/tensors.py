"""Named arrays as PyTorch's tensors, and its answers as named arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from artifact.errors import EngineFailed


def copied_tensors(inputs: Mapping[str, np.ndarray], names: Sequence[str], device: str = "cpu") -> list[torch.Tensor]:
    """The inputs in the given order, copied: a program may write into its own, and an array may be read-only or a view."""
    return [torch.from_numpy(np.array(inputs[name], order="C")).to(device) for name in names]


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
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
