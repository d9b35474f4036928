"""The signature: named, typed, shaped inputs and outputs with their ranges, and the check of a request against it.

It is what export proved and what the server accepts. A dimension is a fixed size or the name of a declared one; a named dimension
has one size in a request, wherever it stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from artifact.errors import InvalidInput

DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
}
"""Element types that every engine of ours takes, under the names of NumPy and PyTorch."""


@dataclass(frozen=True, slots=True)
class Dim:
    """Sizes that a named dimension may take: min, min + multiple, … max; `opt` is the usual one."""

    min: int
    max: int
    multiple: int = 1
    opt: int | None = None

    def allows(self, size: int) -> bool:
        """Whether a request may have this size here."""
        return self.min <= size <= self.max and size % self.multiple == 0

    def __str__(self) -> str:
        suffix = f" in multiples of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.min} to {self.max}{suffix}"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its name, element type, shape (a name stands for a declared dimension) and range of values."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None
    labels: str | None = None

    def concrete(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with every named dimension replaced by its size."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.shape)

    def to_json(self) -> dict[str, Any]:
        """The spec as it stands in the manifest; what is not declared is left out."""
        entry: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        if self.range is not None:
            entry["range"] = list(self.range)
        if self.labels is not None:
            entry["labels"] = self.labels
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "TensorSpec":
        """The inverse of `to_json`."""
        bounds = entry.get("range")
        return cls(
            name=entry["name"],
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            range=None if bounds is None else (bounds[0], bounds[1]),
            labels=entry.get("labels"),
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, Dim] = field(default_factory=dict)

    @property
    def batch_dim(self) -> str | None:
        """The dimension that counts rows: the named one that leads every input and output; None if there is none."""
        leading = {spec.shape[0] if spec.shape else None for spec in (*self.inputs, *self.outputs)}
        dim = leading.pop() if len(leading) == 1 else None
        return dim if isinstance(dim, str) else None

    def validate(self, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Checks a request and returns the size of every named dimension in it.

        Raises:
            InvalidInput: an input is missing or unknown, or its dtype, shape or values are not as declared.
        """
        self._check_names(inputs)
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            array = inputs[spec.name]
            if array.dtype != DTYPES[spec.dtype]:
                raise InvalidInput(f'input "{spec.name}" is {array.dtype}; the signature says {spec.dtype}')
            self._check_shape(spec, array.shape, sizes)
            _check_values(spec, array)
        return sizes

    def _check_names(self, inputs: Mapping[str, np.ndarray]) -> None:
        declared = [spec.name for spec in self.inputs]
        missing = [name for name in declared if name not in inputs]
        unknown = [name for name in inputs if name not in declared]
        if missing or unknown:
            found = f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}"
            raise InvalidInput(f"the model takes {', '.join(declared)}; {found}")

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        if len(shape) != len(spec.shape):
            raise InvalidInput(f'input "{spec.name}" has shape {list(shape)}; the signature says {_shape_text(spec.shape)}')
        for dim, size in zip(spec.shape, shape, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    raise InvalidInput(
                        f'input "{spec.name}" has shape {list(shape)}; the signature says {_shape_text(spec.shape)}'
                    )
            elif not self.dims[dim].allows(size):
                raise InvalidInput(f'input "{spec.name}": {dim} is {size}; the signature allows {self.dims[dim]}')
            elif sizes.setdefault(dim, size) != size:
                raise InvalidInput(f'input "{spec.name}": {dim} is {size}, but {sizes[dim]} in another input')

    def to_json(self) -> dict[str, Any]:
        """The signature as it stands in the manifest."""
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "dims": {
                name: {"min": dim.min, "max": dim.max, "multiple": dim.multiple, "opt": dim.opt}
                for name, dim in self.dims.items()
            },
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> "Signature":
        """The inverse of `to_json`."""
        return cls(
            inputs=tuple(TensorSpec.from_json(spec) for spec in entry["inputs"]),
            outputs=tuple(TensorSpec.from_json(spec) for spec in entry["outputs"]),
            dims={name: Dim(**dim) for name, dim in entry["dims"].items()},
        )


def _check_values(spec: TensorSpec, array: np.ndarray) -> None:
    if spec.range is None or array.size == 0:
        return
    low, high = spec.range
    smallest, largest = array.min(), array.max()
    if low <= smallest and largest <= high:  # false for NaN too
        return
    outside = smallest if not smallest >= low else largest
    raise InvalidInput(f'input "{spec.name}" holds {outside}; the signature allows {low} to {high}')


def _shape_text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(str(dim) for dim in shape)}]"
