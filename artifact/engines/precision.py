"""What PyTorch computes in: autocast for the half precisions, its switches for TF32."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def computing_in(precision: str, device_type: str) -> AbstractContextManager[Any]:
    """While it is open, products and convolutions are computed in the precision; PyTorch knows which others may not be.

    Without autocast's cache of converted weights: a captured graph would go on reading what the cache has let go.
    """
    dtype = _HALVES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype, cache_enabled=False)


def allow_tf32(*, allowed: bool) -> None:
    """Lets CUDA round the inputs of float32's products and convolutions to ten bits, or not; for the whole process.

    Sums of half-precision products are kept in float32 in any case, as they were when the budgets were measured.
    """
    with warnings.catch_warnings():
        # The older switches, which PyTorch may call deprecated, set the newer ones too. The newer leave the older as they are,
        # and whatever then asks for those, a profiler or a part of PyTorch, fails: the two say different things.
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
