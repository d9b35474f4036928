"""A device's memory: how much of it PyTorch may take, and whether a failure was for want of it. Not run on a device yet."""

import logging
from typing import Protocol

import torch

from artifact.engines.cuda.streams import capturing

log = logging.getLogger("stateserve")

_CUDA_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation."""


class Memory(Protocol):
    """The memory of a device."""

    def ran_out(self, error: RuntimeError) -> bool:
        """Whether there was too little of it for what failed with this error."""
        ...

    def release(self) -> None:
        """Gives back what is kept for later."""
        ...


class CudaMemory:
    """The memory of a CUDA device. Its limit holds for all that this process does there."""

    def __init__(self, device: torch.device, limit_bytes: int | None) -> None:
        self._device = device
        if limit_bytes is not None:
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.memory.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)
        self._refused = self._refusals()

    def ran_out(self, error: RuntimeError) -> bool:
        """See `Memory.ran_out`.

        TorchScript's interpreter makes a plain RuntimeError of whatever fails in it: the type is lost there, but what PyTorch's
        allocator counts as refused tells it all the same. Of two calls that fail at once, one may be taken for the other.
        """
        refused, before = self._refusals(), self._refused
        self._refused = refused
        if isinstance(error, torch.OutOfMemoryError) or refused > before:
            return True
        return isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) == _CUDA_OUT_OF_MEMORY

    def release(self) -> None:
        """See `Memory.release`.

        Not while a graph is captured, when PyTorch refuses it. After a capture that failed it may refuse it for good.
        """
        try:
            with capturing:
                torch.cuda.empty_cache()
        except RuntimeError as error:
            log.warning("PyTorch gives no memory of %s back: %s", self._device, error)

    def _refusals(self) -> int:
        return torch.cuda.memory_stats(self._device).get("num_ooms", 0)
