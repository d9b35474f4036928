"""A row of a table: named columns become a vector of numbers. docs/operations.md gives the formula."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from artifact.operations.errors import BadRow
from artifact.operations.kinds import Files, InputOperation, Kind, Operation, Raw, Step, Tensor
from artifact.operations.raw import RawKind

Name = Annotated[str, Field(min_length=1, max_length=256)]


class NumberColumn(Operation):
    """A column of numbers: (x - mean) / std. `missing` stands for a number that is null or not there, before that."""

    name: Name
    kind: Literal["number"]
    missing: float | None = None
    mean: float = 0.0
    std: Annotated[float, Field(gt=0)] = 1.0
    min: float | None = None
    max: float | None = None

    @property
    def size(self) -> int:
        """One number."""
        return 1

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest number that it makes, as far as min and max say it: one bound alone is both."""
        known = [(bound - self.mean) / self.std for bound in (self.min, self.max) if bound is not None] or [0.0]
        return known[0], known[-1]

    @model_validator(mode="after")
    def _missing_fits(self) -> "NumberColumn":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"column {self.name}: min {self.min:g} is above max {self.max:g}")
        if self.missing is not None and not self._allows(self.missing):
            raise ValueError(f"column {self.name}: missing is {self.missing:g}, which is not within min and max")
        return self

    def numbers(self, value: Any) -> list[float]:
        """The number that a value becomes. Raises BadRow."""
        if value is None:
            if self.missing is None:
                raise BadRow(f"column {self.name!r} is missing, and the model declares nothing in its place")
            value = self.missing
        if not _is_finite(value):
            raise BadRow(f"column {self.name!r} is {value!r:.80}; a finite number is expected")
        if not self._allows(value):
            raise BadRow(f"column {self.name!r} is {value}; {self._allowed()} is expected")
        return [(float(value) - self.mean) / self.std]

    def _allows(self, value: float) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def _allowed(self) -> str:
        if self.min is not None and self.max is not None:
            return f"{self.min:g} to {self.max:g}"
        return f"{self.max:g} or less" if self.min is None else f"{self.min:g} or more"


class CategoryColumn(Operation):
    """A column of one of `values`: a 1 at its place among 0s, or its place itself (`encode: index`).

    `missing` stands for a value that is null or not there; `unknown: zeros` makes 0s of a value that is not among them.
    """

    name: Name
    kind: Literal["category"]
    values: Annotated[tuple[str | int | bool, ...], Field(min_length=1, max_length=10_000)]
    missing: str | int | bool | None = None
    unknown: Literal["refuse", "zeros"] = "refuse"
    encode: Literal["one_hot", "index"] = "one_hot"

    @property
    def size(self) -> int:
        """One number, or one for each value."""
        return len(self.values) if self.encode == "one_hot" else 1

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest number that it makes."""
        return 0.0, 1.0 if self.encode == "one_hot" else len(self.values) - 1.0

    @model_validator(mode="after")
    def _values_fit(self) -> "CategoryColumn":
        if len({_key(value) for value in self.values}) < len(self.values):
            raise ValueError(f"column {self.name}: a value stands twice")
        if self.missing is not None and _key(self.missing) not in map(_key, self.values):
            raise ValueError(f"column {self.name}: missing is {self.missing!r}, which is none of its values")
        if self.unknown == "zeros" and self.encode == "index":
            raise ValueError(f"column {self.name}: unknown: zeros needs encode: one_hot, where 0 is no value's place")
        return self

    def numbers(self, value: Any) -> list[float]:
        """The numbers that a value becomes. Raises BadRow."""
        if value is None:
            if self.missing is None:
                raise BadRow(f"column {self.name!r} is missing, and the model declares nothing in its place")
            value = self.missing
        place = next((place for place, known in enumerate(self.values) if _key(known) == _key(value)), None)
        if place is None and self.unknown == "refuse":
            known = ", ".join(repr(value) for value in self.values[:20])
            raise BadRow(f"column {self.name!r} is {value!r:.80}; one of {known} is expected")
        if self.encode == "index":
            return [float(place or 0)]
        return [float(place == index) for index in range(len(self.values))]


class Table(InputOperation):
    """`table: {columns: [{name: age, kind: number, missing: 0}, {name: colour, kind: category, values: [red, green]}]}`."""

    raw: ClassVar[RawKind | None] = "row"

    columns: Annotated[
        tuple[Annotated[NumberColumn | CategoryColumn, Field(discriminator="kind")], ...], Field(min_length=1, max_length=10_000)
    ]
    dtype: Literal["float32", "float64", "int32", "int64"] = "float32"

    @model_validator(mode="after")
    def _names_differ(self) -> "Table":
        names = [column.name for column in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two columns are called {', '.join(twice)}")
        return self

    def details(self) -> dict[str, Any]:
        """The columns, with what a client may send."""
        return {"columns": [column.model_dump(mode="json", exclude_none=True, include=_TOLD) for column in self.columns]}

    def kind_of(self, given: Kind, files: Files) -> Kind:  # noqa: ARG002 - the interface
        """A row -> a vector."""
        if not isinstance(given, Raw):
            raise ValueError(f"table takes a row as it was sent, not {given}")  # noqa: TRY004 - as every `kind_of`
        bounds = [column.bounds for column in self.columns]
        low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
        return Tensor(self.dtype, (sum(column.size for column in self.columns),), low, high)

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function."""
        names = {column.name for column in self.columns}

        def table(row: Any, _limits: object) -> np.ndarray:
            if not isinstance(row, Mapping):
                raise BadRow(f"a row is an object by column, not {type(row).__name__}")
            if unknown := [str(name) for name in row if name not in names]:
                raise BadRow(f"the row has an unknown column {unknown[0]!r:.80}; they are {', '.join(sorted(names)[:20])}")
            return self._vector([number for column in self.columns for number in column.numbers(row.get(column.name))])

        return table

    def _vector(self, numbers: list[float]) -> np.ndarray:
        if self.dtype.startswith("int") and (broken := next((one for one in numbers if not one.is_integer()), None)) is not None:
            raise BadRow(f"the row makes {broken}, but the model takes whole numbers")
        with np.errstate(over="ignore", invalid="ignore"):
            vector = np.array(numbers, np.float64).astype(self.dtype)
        pairs = zip(numbers, vector.tolist(), strict=True)
        beyond = next((one for one, made in pairs if not abs(made - one) <= _ROUNDED * abs(one)), None)
        if beyond is not None:
            raise BadRow(f"the row makes {beyond:g}, which {self.dtype} cannot hold")
        return vector


_ROUNDED = 1e-3
"""Casts to float32 and back differ by less, unless the number is too large for it, or nearly too small."""
_TOLD = {"name", "kind", "values", "missing", "unknown", "min", "max"}

OPERATIONS: Mapping[str, type[InputOperation]] = {"table": Table}
"""Every operation on rows of tables, by the name that the YAML gives it."""


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in {int, float} and math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def _key(value: Any) -> tuple[type, Any]:
    """Values are equal if they are so in JSON: `true` is not 1."""
    return (type(value), value) if isinstance(value, str | int | bool) else (type(value), repr(value))
