"""The signature: named, typed, shaped inputs and outputs with their ranges, and the check of a request against it.

It is what export proved and what the server accepts. A dimension is a fixed size or the name of a declared one; a named dimension
has one size in a request, wherever it stands.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from artifact.errors import InvalidInput

DTYPES: Mapping[str, np.dtype] = {
    name: np.dtype(name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
}
"""Element types that every engine of ours takes, under the names of NumPy and PyTorch."""


BATCH = "batch"
"""The name of the dimension along which requests are joined. A leading dimension of another name is the model's own affair."""


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
    bounds: tuple[float, float] | None = field(init=False, repr=False, compare=False)
    """The range as the dtype can hold it, for a client who sends the bound itself: 0.1 is a little more in float32."""

    def __post_init__(self) -> None:
        bounds = None if self.range is None else (_nearest(self.range[0], self.dtype), _nearest(self.range[1], self.dtype))
        object.__setattr__(self, "bounds", bounds)

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
        if bounds is not None:
            low, high = bounds
            bounds = (low, high)
        return cls(
            name=entry["name"],
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            range=bounds,
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
        """The dimension that counts rows: `batch`, where it leads every input and output; None elsewhere."""
        leading = {spec.shape[0] if spec.shape else None for spec in (*self.inputs, *self.outputs)}
        return BATCH if leading == {BATCH} else None

    def validate(self, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Checks a request and returns the size of every named dimension in it.

        Raises:
            InvalidInput: an input is missing or unknown, or its dtype, shape or values are not as declared.
        """
        sizes = self.validate_shapes(inputs)
        self.validate_values(inputs)
        return sizes

    def validate_shapes(self, inputs: Mapping[str, np.ndarray], max_rows: int | None = None) -> dict[str, int]:
        """As `validate`, without a look at the values; with `max_rows`, so many rows are allowed, and not the declared most.

        A server joins and splits requests along `batch_dim`, so that its engine is never given more rows than were proven.
        """
        self._check_names(inputs)
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            array = inputs[spec.name]
            if not isinstance(array, np.ndarray):
                raise InvalidInput(f'input "{spec.name}" is a {type(array).__name__}; give a NumPy array of {spec.dtype}')
            if array.dtype != DTYPES[spec.dtype]:
                raise InvalidInput(f'input "{spec.name}" is {array.dtype}; the signature says {spec.dtype}')
            self._check_shape(spec, array.shape, sizes, max_rows)
        return sizes

    def validate_values(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Raises InvalidInput where a value lies outside its input's declared range. Names and shapes are not looked at."""
        for spec in self.inputs:
            _check_values(spec, inputs[spec.name])

    def _check_names(self, inputs: Mapping[str, np.ndarray]) -> None:
        declared = [spec.name for spec in self.inputs]
        missing = [name for name in declared if name not in inputs]
        unknown = [name for name in inputs if name not in declared]
        if missing or unknown:
            found = f"missing: {', '.join(missing)}" if missing else f"unknown: {', '.join(unknown)}"
            raise InvalidInput(f"the model takes {', '.join(declared)}; {found}")

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int], max_rows: int | None) -> None:
        if len(shape) != len(spec.shape):
            raise InvalidInput(f'input "{spec.name}" has shape {list(shape)}; the signature says {_shape_text(spec.shape)}')
        for dim, size in zip(spec.shape, shape, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    raise InvalidInput(
                        f'input "{spec.name}" has shape {list(shape)}; the signature says {_shape_text(spec.shape)}'
                    )
            elif not (allowed := self._dim(dim, max_rows)).allows(size):
                raise InvalidInput(f'input "{spec.name}": {dim} is {size}; the signature allows {allowed}')
            elif sizes.setdefault(dim, size) != size:
                raise InvalidInput(f'input "{spec.name}": {dim} is {size}, but {sizes[dim]} in another input')

    def _dim(self, name: str, max_rows: int | None) -> Dim:
        dim = self.dims[name]
        return dim if max_rows is None or name != self.batch_dim else Dim(min(dim.min, max_rows), max_rows, 1)

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
        """The inverse of `to_json`.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is no signature that export writes.
        """
        signature = cls(
            inputs=tuple(TensorSpec.from_json(spec) for spec in entry["inputs"]),
            outputs=tuple(TensorSpec.from_json(spec) for spec in entry["outputs"]),
            dims={name: Dim(**dim) for name, dim in entry["dims"].items()},
        )
        _require_well_formed(signature)
        return signature


def _check_values(spec: TensorSpec, array: np.ndarray) -> None:
    if spec.bounds is None or array.size == 0:
        return
    # `item` gives Python's own numbers, which compare exactly: NumPy rounds the bound to the array's dtype, or not, by version.
    smallest, largest = np.minimum.reduce(array, axis=None).item(), np.maximum.reduce(array, axis=None).item()
    low, high = spec.bounds
    if low <= smallest and largest <= high:  # false for NaN too
        return
    outside = largest if low <= smallest else smallest
    stated_low, stated_high = spec.range or spec.bounds
    shown = array.dtype.type(outside)
    raise InvalidInput(f'input "{spec.name}" holds {shown}; the signature allows {_number(stated_low)} to {_number(stated_high)}')


def _number(bound: float) -> str:
    return str(int(bound) if float(bound).is_integer() else bound)


def _nearest(bound: float, dtype: str) -> float:
    if dtype not in DTYPES or not dtype.startswith("float"):
        return bound
    limits = np.finfo(dtype)
    return float(DTYPES[dtype].type(min(max(bound, float(limits.min)), float(limits.max))))


def _require_well_formed(signature: Signature) -> None:
    """Raises ValueError where the parts are not of their kinds, or do not fit together."""
    for name, dim in signature.dims.items():
        opt = dim.min if dim.opt is None else dim.opt
        if not all(_is_size(size) for size in (dim.min, dim.max, dim.multiple, opt)) or not dim.min <= opt <= dim.max:
            raise ValueError(f"dimension {name!r} has no sizes: {dim!r}")
    specs = (*signature.inputs, *signature.outputs)
    if not signature.inputs or not signature.outputs or len({spec.name for spec in specs}) < len(specs):
        raise ValueError("there are no inputs, no outputs, or two of one name")
    for spec in specs:
        if not isinstance(spec.name, str) or spec.dtype not in DTYPES:
            raise ValueError(f"tensor {spec.name!r} has dtype {spec.dtype!r}")
        if not all(dim in signature.dims if isinstance(dim, str) else _is_size(dim) for dim in spec.shape):
            raise ValueError(f"tensor {spec.name!r} has shape {spec.shape!r}")
        if spec.range is not None and not all(_is_finite(bound) for bound in spec.range):
            raise ValueError(f"tensor {spec.name!r} has range {spec.range!r}")


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0


def _is_finite(value: object) -> bool:
    return type(value) in {int, float} and math.isfinite(value)  # type: ignore[arg-type]


def _shape_text(shape: tuple[int | str, ...]) -> str:
    return f"[{', '.join(str(dim) for dim in shape)}]"
