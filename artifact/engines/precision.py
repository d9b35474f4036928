"""What PyTorch computes in: autocast for the half precisions, its switches for TF32."""

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
    value = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = value
    torch.backends.cudnn.conv.fp32_precision = value  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = value  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
