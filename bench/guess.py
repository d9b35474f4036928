"""A signature out of the Open Inference Protocol's metadata, which has no bounds of sizes and values: we choose, and tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from artifact import Dim, Signature, TensorSpec
from artifact.signature import BATCH
from bench.payloads import DTYPES

IMAGE_SIZE = 224
SIZE = 128
"""Sizes of dimensions that may vary: of images, and of all others."""

_ANY = 2**31 - 1
_VALUES = (
    "The server does not say which values its inputs may have: where --input gave no others, floats from 0 to 1, bytes (uint8) "
    "from 0 to 255 and other integers of 0 and 1 were sent."
)


def guess(metadata: Mapping[str, Any], max_batch_size: int | None) -> tuple[Signature, list[str]]:
    """The signature, and what a reader of the results must know of it.

    `max_batch_size` is that of Triton's configuration: rows of one request at most, and 0 where there is no batch; None where
    nothing is known of it. A first dimension of -1 is the batch. Of a datatype that NumPy does not have, the name stays.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the metadata is not of the protocol's form.
    """
    guessed = _Guess(max_batch_size)
    inputs = tuple(guessed.spec(tensor) for tensor in metadata["inputs"])
    usual = {name: dim.opt or 1 for name, dim in guessed.dims.items()}
    varies = any(isinstance(dim, str) and dim != BATCH for spec in inputs for dim in spec.shape)
    sizes = ", ".join(f"{spec.name} {list(spec.concrete(usual))}" for spec in inputs)
    chosen = f"The server does not say how large its variable dimensions may be; without --input, one row is: {sizes}."
    outputs = tuple(guessed.spec(tensor) for tensor in metadata.get("outputs") or ())
    return Signature(inputs, outputs, guessed.dims), [_VALUES, *([chosen] if varies else [])]


@dataclass(slots=True)
class _Guess:
    """The dimensions that were named so far: `batch`, and others by the axis where they stand, so that inputs agree."""

    max_batch_size: int | None
    dims: dict[str, Dim] = field(default_factory=dict)

    def spec(self, tensor: Mapping[str, Any]) -> TensorSpec:
        name, shape, datatype = tensor["name"], tensor["shape"], tensor["datatype"]
        if not isinstance(name, str) or not all(type(size) is int and (size > 0 or size == -1) for size in shape):
            raise ValueError(f"{name!r} has shape {shape!r}")
        named = tuple(size if size > 0 else self._named(axis, shape) for axis, size in enumerate(shape))
        dtype = DTYPES.get(datatype)
        return TensorSpec(name, str(datatype) if dtype is None else dtype.name, named)

    def _named(self, axis: int, shape: Sequence[int]) -> str:
        if axis == 0 and self.max_batch_size != 0:
            self.dims[BATCH] = Dim(1, self.max_batch_size or _ANY, opt=1)
            return BATCH
        is_image = len(shape) == 4 and not {1, 3}.isdisjoint((shape[1], shape[3]))
        name = f"pixels{axis}" if is_image else f"axis{axis}"
        self.dims[name] = Dim(1, _ANY, opt=IMAGE_SIZE if is_image else SIZE)
        return name
