"""A row of a table: named columns become a vector of numbers. docs/operations.md gives the formula."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from artifact.operations.errors import BadParameter, BadRow
from artifact.operations.kinds import Files, InputOperation, Kind, Operation, Raw, Step, Tensor, declared_range, number
from artifact.operations.raw import RawKind
from artifact.signature import TensorSpec

Name = Annotated[str, Field(min_length=1, max_length=256)]
Read = Callable[[Any], list[float]]
"""A column's value -> its numbers; raises BadRow."""


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
        """The least and the largest number that it makes; infinite where min and max do not say it."""
        least, most = -math.inf if self.min is None else self.min, math.inf if self.max is None else self.max
        return (least - self.mean) / self.std, (most - self.mean) / self.std

    def explain(self, values: str, declared: str) -> str:
        """Why it makes values that an input does not declare."""
        if lacking := [name for name, bound in (("min", self.min), ("max", self.max)) if bound is None]:
            return f"declare {' and '.join(lacking)} of column {self.name!r}: without, it makes any number, and {declared}"
        return f"column {self.name!r}, of {self._allowed()}, makes {values}, but {declared}; declare what it makes"

    @model_validator(mode="after")
    def _missing_fits(self) -> "NumberColumn":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"column {self.name}: min {self.min:g} is above max {self.max:g}")
        if self.missing is not None and not self._allows(self.missing):
            raise ValueError(f"column {self.name}: missing is {self.missing:g}, which is not within min and max")
        return self

    def read(self) -> Read:
        """What makes the number of a value."""
        return self._numbers

    def _numbers(self, value: Any) -> list[float]:
        if value is None:
            if self.missing is None:
                raise BadRow(f"column {self.name!r} is missing, and the model declares nothing in its place")
            value = self.missing
        if not _is_finite(value):
            raise BadRow(f"column {self.name!r} is {_shown(value)}; a finite number is expected")
        if not self._allows(value):
            raise BadRow(f"column {self.name!r} is {_shown(value)}; {self._allowed()} is expected")
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

    def explain(self, values: str, declared: str) -> str:
        """Why it makes values that an input does not declare."""
        return f"column {self.name!r} makes {values}, but {declared}; declare what it makes"

    @model_validator(mode="after")
    def _values_fit(self) -> "CategoryColumn":
        if len({_key(value) for value in self.values}) < len(self.values):
            raise ValueError(f"column {self.name}: a value stands twice")
        if self.missing is not None and _key(self.missing) not in map(_key, self.values):
            raise ValueError(f"column {self.name}: missing is {self.missing!r}, which is none of its values")
        if self.unknown == "zeros" and self.encode == "index":
            raise ValueError(f"column {self.name}: unknown: zeros needs encode: one_hot, where 0 is no value's place")
        return self

    def read(self) -> Read:
        """What makes the numbers of a value; the places of all values are looked up in one step, however many they are."""
        places = {_key(value): place for place, value in enumerate(self.values)}

        def numbers(value: Any) -> list[float]:
            if value is None:
                if self.missing is None:
                    raise BadRow(f"column {self.name!r} is missing, and the model declares nothing in its place")
                value = self.missing
            place = places.get(_key(value))
            if place is None and self.unknown == "refuse":
                known = ", ".join(repr(value) for value in self.values[:20])
                raise BadRow(f"column {self.name!r} is {_shown(value)}; one of {known} is expected")
            if self.encode == "index":
                return [float(place or 0)]
            found = [0.0] * len(self.values)
            if place is not None:
                found[place] = 1.0
            return found

        return numbers


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
            raise ValueError(f"it takes a row as it was sent, not {given}")  # noqa: TRY004 - as every `kind_of`
        lows, highs = zip(*map(self._bounds, self.columns), strict=True)
        return Tensor(self.dtype, (sum(column.size for column in self.columns),), min(lows), max(highs))

    def require_within(self, made: Tensor, spec: TensorSpec) -> None:  # noqa: ARG002 - the interface
        """Each column by itself, so that the message names one."""
        if spec.bounds is None:
            return
        for place, column in enumerate(self.columns):
            least, most = self._bounds(column)
            if not spec.bounds[0] <= least <= most <= spec.bounds[1]:
                values = f"{number(least, self.dtype)} to {number(most, self.dtype)}"
                raise BadParameter(column.explain(values, declared_range(spec)), "columns", place)

    def _bounds(self, column: NumberColumn | CategoryColumn) -> tuple[float, float]:
        """The least and the largest number of a column, as the tensor holds them."""
        if self.dtype.startswith("int"):
            return column.bounds
        with np.errstate(over="ignore"):
            low, high = np.array(column.bounds).astype(self.dtype).tolist()
        return low, high

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function."""
        reads = {column.name: column.read() for column in self.columns}

        def table(row: Any, _limits: object) -> np.ndarray:
            if not isinstance(row, Mapping):
                raise BadRow(f"a row is an object by column, not {type(row).__name__}")
            if unknown := [str(name) for name in row if name not in reads]:
                raise BadRow(f"the row has an unknown column {_shown(unknown[0])}; they are {', '.join(sorted(reads)[:20])}")
            return self._vector([one for name, read in reads.items() for one in read(row.get(name))])

        return table

    def _vector(self, numbers: list[float]) -> np.ndarray:
        wide = np.array(numbers, np.float64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            vector = wide.astype(self.dtype)
        if not self.dtype.startswith("int"):
            self._require(np.isfinite(vector), wide, f"which {self.dtype} cannot hold")
            return vector
        self._require(np.abs(wide) < _BEYOND_EXACT, wide, "but whole numbers are exact only below 2^53")
        self._require(wide == np.floor(wide), wide, "but the model takes whole numbers")
        self._require(vector == wide, wide, f"which {self.dtype} cannot hold")
        return vector

    def _require(self, holds: np.ndarray, numbers: np.ndarray, problem: str) -> None:
        if not holds.all():
            place = int(np.argmin(holds))
            ends = itertools.accumulate(column.size for column in self.columns)
            name = next(column.name for column, end in zip(self.columns, ends, strict=True) if place < end)
            raise BadRow(f"column {name!r} makes {float(numbers[place]):g}, {problem}")


_BEYOND_EXACT = 1 << 53
"""Whole numbers below it are float64's, in which all is computed. It is not: its neighbour would become it."""
_SHOWN = 80
"""Letters of a client's value in a message."""
_TOLD = {"name", "kind", "values", "missing", "unknown", "min", "max"}

OPERATIONS: Mapping[str, type[InputOperation]] = {"table": Table}
"""Every operation on rows of tables, by the name that the YAML gives it."""


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in {int, float} and math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def _key(value: Any) -> tuple[type, Any] | None:
    """Values are equal if they are so in JSON: `true` is not 1, 1.0 is. None: no value of a category, and never looked into."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return (type(value), value) if isinstance(value, str | int | bool) else None


def _shown(value: Any) -> str:
    """A client's value in a message; of what may be large or nest deeply only what it is, for `repr` walks through all of it."""
    if isinstance(value, str):
        return repr(value[:_SHOWN])
    if isinstance(value, int) and value.bit_length() > _INT_BITS:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, list | tuple) else repr(value)[:_SHOWN]


_INT_BITS = 256
"""A larger one is not written out: Python refuses to, from 4300 digits on."""
