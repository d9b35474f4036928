"""Named arrays as PyTorch's tensors, and its answers as named arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from artifact.errors import EngineFailed
from artifact.signature import DTYPES, TensorSpec

TORCH_DTYPES: Mapping[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
"""PyTorch's element types under the signature's names."""


def copied_tensors(inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> list[torch.Tensor]:
    """The inputs in the given order, copied: a program may write into its own, and an array may be read-only or a view."""
    return [torch.from_numpy(np.array(inputs[name], order="C")) for name in names]


def listed_outputs(answer: object, names: Sequence[str]) -> list[torch.Tensor]:
    """A tensor, or a tuple or list of them, as the list that the signature says.

    Raises:
        EngineFailed: the answer is of another kind, or their number is not the signature's.
    """
    values = list(answer) if isinstance(answer, (tuple, list)) else [answer]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if len(values) != len(names) or len(tensors) != len(names):
        kinds = ", ".join(type(value).__name__ for value in values)
        raise EngineFailed(f"the model gives {kinds}; the signature says {len(names)} tensor(s): {', '.join(names)}")
    return tensors


def as_declared(tensors: Sequence[torch.Tensor], specs: Sequence[TensorSpec]) -> list[torch.Tensor]:
    """The outputs in the element types of the signature: autocast ends in half precision, which clients were not promised."""
    return [tensor.to(TORCH_DTYPES[spec.dtype]) for tensor, spec in zip(tensors, specs, strict=True)]


def named_arrays(tensors: Sequence[torch.Tensor], specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """The outputs as arrays, by name."""
    return {spec.name: tensor.detach().numpy() for spec, tensor in zip(specs, tensors, strict=True)}
