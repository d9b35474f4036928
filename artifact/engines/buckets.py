"""Batch sizes at which a device is made ready, and rows that a model takes: what an engine is tried with when it is loaded."""

import math
from collections.abc import Mapping

import numpy as np

from artifact.signature import DTYPES, Dim, Signature, TensorSpec

MAX_BYTES = 256 << 20
"""Inputs of a bucket take no more: the largest batch may be larger than a start, or a device, can afford."""


def buckets(signature: Signature) -> tuple[int, ...]:
    """Powers of two up to the largest batch, and that; each as the model takes it, smallest first. (1,) without a batch.

    The smallest is always among them, and of the others those whose inputs take at most `MAX_BYTES`.
    """
    if signature.batch_dim is None:
        return (1,)
    dim = signature.dims[signature.batch_dim]
    most = dim.max - dim.max % dim.multiple
    powers = [1 << exponent for exponent in range(most.bit_length())]
    sizes = sorted({min(most, _allowed(dim, size)) for size in [*powers, most]})
    return tuple(size for size in sizes if size == sizes[0] or _bytes(signature, size) <= MAX_BYTES)


def example(signature: Signature, rows: int) -> dict[str, np.ndarray]:
    """Inputs of so many rows at the usual size of every other dimension; each value is the middle of its input's range.

    The middle of integers is rounded up, so that a mask is 1 everywhere; what has no range is 0.
    """
    return {spec.name: _middle(spec, _sizes(signature, rows)) for spec in signature.inputs}


def _bytes(signature: Signature, rows: int) -> int:
    sizes = _sizes(signature, rows)
    return sum(math.prod(spec.concrete(sizes)) * DTYPES[spec.dtype].itemsize for spec in signature.inputs)


def _sizes(signature: Signature, rows: int) -> dict[str, int]:
    usual = {name: _usual(dim) for name, dim in signature.dims.items()}
    return usual if signature.batch_dim is None else {**usual, signature.batch_dim: rows}


def _allowed(dim: Dim, size: int) -> int:
    return -(-max(size, dim.min) // dim.multiple) * dim.multiple


def _usual(dim: Dim) -> int:
    return _allowed(dim, dim.opt or dim.min)


def _middle(spec: TensorSpec, sizes: Mapping[str, int]) -> np.ndarray:
    dtype, shape = DTYPES[spec.dtype], spec.concrete(sizes)
    if spec.bounds is None:
        return np.zeros(shape, dtype)
    low, high = spec.bounds
    middle = low / 2 + high / 2 if dtype.kind == "f" else -(-(int(low) + int(high)) // 2)
    return np.full(shape, middle, dtype)
