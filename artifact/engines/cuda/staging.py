"""Memory of the host between arrays and a device: pinned, so that copies go on while the processor does something else."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from artifact.engines.tensors import TORCH_DTYPES


class Staging:
    """One lane's buffers, by name: used again by every call, and grown to the next power of two when one is too small.

    What `put` and `take` give is valid until the next call for the same name. Without `pinned` it is plain memory, for tests.
    """

    def __init__(self, *, pinned: bool = True) -> None:
        self._pinned = pinned
        self._buffers: dict[str, torch.Tensor] = {}

    def put(self, name: str, array: np.ndarray) -> torch.Tensor:
        """The array as a tensor of the host: in a buffer, or where it is, if it lies in pinned memory as it should already."""
        if self._is_ready(array):
            return torch.from_numpy(array)
        tensor = self.take(f"input {name}", array.shape, TORCH_DTYPES[array.dtype.name])
        np.copyto(tensor.numpy(), array)
        return tensor

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A tensor of the host, with no values yet."""
        size = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = empty(1 << max(size - 1, 0).bit_length(), pinned=self._pinned)
        return buffer[:size].view(dtype).view(tuple(shape))

    def _is_ready(self, array: np.ndarray) -> bool:
        """A read-only array is copied: PyTorch has no such tensors, and says so in a warning."""
        is_plain = self._pinned and array.flags.writeable and array.flags.c_contiguous
        return is_plain and torch.from_numpy(array).is_pinned()


def empty(size: int, *, pinned: bool) -> torch.Tensor:
    """So many bytes of the host."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=pinned)
