"""What a value is between two operations, and what an operation is.

A chain begins with a raw value, and each operation says which kind it makes of the one before it: so a chain is checked when it
is declared, and not when the first request comes.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from artifact.operations.raw import RawKind
from artifact.raw_limits import RawLimits
from artifact.signature import TensorSpec

Files = Mapping[str, bytes]
"""The files that operations name (tokenizer.json), by the name that the declaration gives them."""

Step = Callable[[Any, RawLimits], Any]
"""One operation at work: a value of the kind before it -> one of the kind that it makes."""


@dataclass(frozen=True, slots=True)
class Raw:
    """What the client sends."""

    kind: RawKind

    def __str__(self) -> str:
        return f"a raw {self.kind}"


@dataclass(frozen=True, slots=True)
class Image:
    """A picture of [height, width, channels]; a size of None is any, of `least` pixels where that is known.

    `low` and `high` are the least and the largest value that it can hold.
    """

    channels: int
    dtype: Literal["uint8", "float32"]
    height: int | None
    width: int | None
    low: float
    high: float
    least: int | None = None

    def __str__(self) -> str:
        return f"a picture of {self.dtype}"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of a tensor: `shape` without the leading dimension of 1; a size of None is any, up to what `most` says there.

    Where `fill` is given, rows of several sizes can be joined: shorter ones are filled with it, at the `side`.
    """

    dtype: str
    shape: tuple[int | None, ...]
    low: float
    high: float
    fill: int | float | None = None
    side: Literal["left", "right"] = "right"
    most: Mapping[int, int] | None = None

    def __str__(self) -> str:
        return f"a tensor of {self.dtype}"


@dataclass(frozen=True, slots=True)
class Tensors:
    """Several tensors of one raw value, by the names of the model's inputs."""

    by_name: Mapping[str, Tensor]

    def __str__(self) -> str:
        return f"the tensors {', '.join(self.by_name)}"


Kind = Raw | Image | Tensor | Tensors


def number(value: float, dtype: str) -> str:
    """A number as short as its dtype tells it apart: so that who declares it declares enough."""
    return str(np.dtype(dtype).type(value)).removesuffix(".0") if dtype.startswith("float") else f"{value:.15g}"


def declared_range(spec: TensorSpec) -> str:
    """What an input declares, for a message; its range is not None."""
    low, high = spec.range or (-np.inf, np.inf)
    return f"input {spec.name} declares the range [{low:.15g}, {high:.15g}]"


class Operation(BaseModel):
    """The parameters of one operation, as the YAML gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputOperation(Operation):
    """An operation on inputs: parameters, a check of what it is given, and the function that does it."""

    raw: ClassVar[RawKind | None] = None
    """The raw kind that it begins a chain with; None for those that continue one."""

    def begins_with(self) -> RawKind | None:
        """As `raw`, where the parameters decide."""
        return self.raw

    @abstractmethod
    def kind_of(self, given: Kind, files: Files) -> Kind:
        """The kind that it makes of the given one.

        Raises:
            ValueError: it does not take that kind; the message says which it takes, and what to do.
            BadParameter: the same, where one parameter is at fault.
        """

    @abstractmethod
    def step(self, given: Kind, files: Files) -> Step:
        """The function that does it, for values of the given kind; made once, called for every row, by several threads.

        Raises:
            OperationsUnavailable: a package that it needs is not installed.
        """

    def require_within(self, made: "Tensor", spec: TensorSpec) -> None:
        """Asked of a chain's last operation: whether all that the chain makes lies within the range of an input, if it has one.

        Raises:
            ValueError: it need not; the message says what is made, and what to do.
            BadParameter: the same, where one parameter is at fault.
        """
        if spec.bounds is not None and not spec.bounds[0] <= made.low <= made.high <= spec.bounds[1]:
            values = f"{number(made.low, made.dtype)} to {number(made.high, made.dtype)}"
            raise ValueError(f"the chain makes values from {values}, but {declared_range(spec)}; declare what it makes")

    def file_fields(self) -> tuple[str, ...]:
        """The names of the parameters that name files."""
        return ()

    def details(self) -> dict[str, Any]:
        """What a client should know of the raw value; asked of a chain's first operation."""
        return {}


@dataclass(frozen=True, slots=True)
class Output:
    """One row of an output, or what operations made of it: `shape` without the leading dimension; None: plain JSON data.

    `labels` are those of the last dimension's classes, `score` what an answer calls their values.
    """

    dtype: str
    shape: tuple[int | str, ...] | None
    labels: tuple[str, ...] | None = None
    score: Literal["score", "probability"] = "score"


OutputStep = Callable[[Any, Mapping[str, np.ndarray]], Any]
"""One output operation at work: the value so far and all of the row's outputs, by name -> the next value."""


class OutputOperation(Operation):
    """An operation on outputs: parameters, a check of what it is given, and the function that does it."""

    @abstractmethod
    def kind_of(self, given: Output, outputs: Mapping[str, Output]) -> Output:
        """What it makes of the given value; `outputs` are all that the model gives, by name.

        Raises:
            ValueError: it does not take that; the message says what it takes, and what to do.
        """

    @abstractmethod
    def step(self, given: Output, outputs: Mapping[str, Output]) -> OutputStep:
        """The function that does it, for values of the given kind."""
