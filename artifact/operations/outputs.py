"""Operations on outputs: from a row of numbers to what a person asked for. docs/operations.md gives each as a formula.

All compute in float64. Of equal values the first comes first, and NaN comes last.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from artifact.operations.kinds import Output, OutputOperation, OutputStep

LEAST_LENGTH = 1e-12
"""A shorter vector is divided by this: PyTorch's `functional.normalize` does so too."""

Count = Annotated[int, Field(ge=1, le=100_000)]


class Softmax(OutputOperation):
    """`softmax: {axis: -1}`: exp(x) / sum of exp(x) along an axis of the row."""

    axis: int = -1

    def kind_of(self, given: Output, outputs: Mapping[str, Output]) -> Output:  # noqa: ARG002 - the interface
        """Numbers -> probabilities of the same shape."""
        shape = _floats(given)
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"axis {self.axis} is not in a row of {len(shape)} dimension(s)")
        return replace(given, dtype="float64", score="probability")

    def step(self, given: Output, outputs: Mapping[str, Output]) -> OutputStep:  # noqa: ARG002 - the interface
        """The function."""
        return lambda value, _row: softmax(value, self.axis)


class Sigmoid(OutputOperation):
    """`sigmoid`: 1 / (1 + exp(-x))."""

    def kind_of(self, given: Output, outputs: Mapping[str, Output]) -> Output:  # noqa: ARG002 - the interface
        """Numbers -> probabilities of the same shape."""
        _floats(given)
        return replace(given, dtype="float64", score="probability")

    def step(self, given: Output, outputs: Mapping[str, Output]) -> OutputStep:  # noqa: ARG002 - the interface
        """The function."""
        return lambda value, _row: sigmoid(value)


class TopK(OutputOperation):
    """`topk: {k: 5}`: the k largest, as `[{"label", "index", "probability" or "score"}]`, the largest first."""

    k: Count

    def kind_of(self, given: Output, outputs: Mapping[str, Output]) -> Output:  # noqa: ARG002 - the interface
        """A vector of numbers -> JSON."""
        size = _vector(given)
        if self.k > size:
            raise ValueError(f"k is {self.k}; the row has {size} values")
        return replace(given, shape=None)

    def step(self, given: Output, outputs: Mapping[str, Output]) -> OutputStep:  # noqa: ARG002 - the interface
        """The function."""
        return lambda value, _row: [_class(given, value, index) for index in descending(value)[: self.k]]


class ArgMax(OutputOperation):
    """`argmax`: the largest, as `{"label", "index", "probability" or "score"}`."""

    def kind_of(self, given: Output, outputs: Mapping[str, Output]) -> Output:  # noqa: ARG002 - the interface
        """A vector of numbers -> JSON."""
        _vector(given)
        return replace(given, shape=None)

    def step(self, given: Output, outputs: Mapping[str, Output]) -> OutputStep:  # noqa: ARG002 - the interface
        """The function."""
        return lambda value, _row: _class(given, value, descending(value)[0])


class Threshold(OutputOperation):
    """`threshold: {at: 0.5}`: those that are `at` or more, as `topk` gives them, the largest first."""

    at: float

    def kind_of(self, given: Output, outputs: Mapping[str, Output]) -> Output:  # noqa: ARG002 - the interface
        """A vector of numbers -> JSON."""
        _vector(given)
        return replace(given, shape=None)

    def step(self, given: Output, outputs: Mapping[str, Output]) -> OutputStep:  # noqa: ARG002 - the interface
        """The function."""
        return lambda value, _row: [_class(given, value, index) for index in descending(value) if value[index].item() >= self.at]


class NormalizeLength(OutputOperation):
    """`normalize_length`: x / max(|x|, 1e-12) along the last axis, so that each vector has the length 1."""

    def kind_of(self, given: Output, outputs: Mapping[str, Output]) -> Output:  # noqa: ARG002 - the interface
        """Numbers -> numbers of the same shape."""
        if not _floats(given):
            raise ValueError("it takes vectors; a row of this output is one number")
        return replace(given, dtype="float64", score="score")

    def step(self, given: Output, outputs: Mapping[str, Output]) -> OutputStep:  # noqa: ARG002 - the interface
        """The function."""
        return lambda value, _row: normalized_length(value)


class Boxes(OutputOperation):
    """`boxes: {scores: NAME, min_score: 0.5, most: 100}`, on an output of boxes [n, 4].

    `scores` is the output of their scores: [n], or [n, classes], of which the best class counts. Given are those of `min_score`
    or more, the best first, as `{"box": [4 numbers], "score", "index", "label"}`; boxes that overlap are all given.
    """

    scores: str
    min_score: float = 0.5
    most: Count = 100

    def kind_of(self, given: Output, outputs: Mapping[str, Output]) -> Output:
        """Boxes -> JSON."""
        shape = _floats(given)
        if self.scores not in outputs:
            raise ValueError(f"{self.scores!r} is no output of the model; they are {', '.join(outputs)}")
        scores = _floats(outputs[self.scores])
        if len(shape) != 2 or shape[1] != 4 or len(scores) not in {1, 2} or scores[0] != shape[0]:
            raise ValueError(f"it takes boxes [n, 4] with scores [n] or [n, classes], not {list(shape)} with {list(scores)}")
        return replace(given, shape=None)

    def step(self, given: Output, outputs: Mapping[str, Output]) -> OutputStep:  # noqa: ARG002 - the interface
        """The function."""
        scores = outputs[self.scores]
        return lambda value, row: self._best(scores, value, row[self.scores])

    def _best(self, declared: Output, boxes: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
        classes = None if scores.ndim == 1 else largest(scores)
        best = scores if classes is None else np.take_along_axis(scores, classes[:, np.newaxis], 1)[:, 0]
        enough = np.flatnonzero(best.astype(np.float64) >= self.min_score)
        chosen = enough[descending(best[enough])[: self.most]].tolist()
        found = []
        for place in chosen:
            box = [plain(side) for side in boxes[place].tolist()]
            entry = {"box": box, "score": plain(best[place].item())}
            found.append(entry if classes is None else {**entry, **_name(declared, int(classes[place]))})
        return found


OPERATIONS: Mapping[str, type[OutputOperation]] = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "topk": TopK,
    "argmax": ArgMax,
    "threshold": Threshold,
    "normalize_length": NormalizeLength,
    "boxes": Boxes,
}
"""Every operation on outputs, by the name that the YAML gives it."""


def softmax(value: np.ndarray, axis: int) -> np.ndarray:
    """Probabilities in float64; the largest value is taken away first, so that nothing overflows."""
    wide = value.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinities make NaN, which is null in an answer
        powers = np.exp(wide - wide.max(axis=axis, keepdims=True))
        return powers / powers.sum(axis=axis, keepdims=True)


def sigmoid(value: np.ndarray) -> np.ndarray:
    """Probabilities in float64; exp is taken of what is not positive, so that nothing overflows."""
    wide = value.astype(np.float64)
    power = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1.0, power) / (1.0 + power)


def normalized_length(value: np.ndarray) -> np.ndarray:
    """Vectors of length 1 along the last axis, in float64."""
    wide = value.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return wide / np.maximum(np.sqrt((wide * wide).sum(axis=-1, keepdims=True)), LEAST_LENGTH)


def descending(value: np.ndarray) -> list[int]:
    """The places of a vector's values, the largest value first, the first of equal ones first, NaN last."""
    if value.dtype.kind != "f":
        return np.argsort(~value.astype(np.int64), kind="stable").tolist()  # -value - 1, which int64 holds for every value
    missing = np.isnan(value)
    return np.lexsort((-value.astype(np.float64), missing)).tolist()


def largest(rows: np.ndarray) -> np.ndarray:
    """The place of the largest value of each row, of numbers with a point: the first of `descending`."""
    missing = np.isnan(rows)
    places = np.where(missing, -np.inf, rows).argmax(axis=1)
    lost = np.flatnonzero(missing[np.arange(len(rows)), places])  # what is there is -inf, or nothing is
    places[lost] = (~missing[lost]).argmax(axis=1)
    return places


def plain(value: Any) -> Any:
    """Numbers as JSON has them, in lists too: NaN and the infinities, for which it has no words, are None."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _class(given: Output, value: np.ndarray, index: int) -> dict[str, Any]:
    return {**_name(given, index), given.score: plain(value[index].item())}


def _name(given: Output, index: int) -> dict[str, Any]:
    return {"index": index} if given.labels is None else {"label": given.labels[index], "index": index}


def _floats(given: Output) -> tuple[int | str, ...]:
    if given.shape is None or not given.dtype.startswith("float"):
        found = "what an operation made of it" if given.shape is None else given.dtype
        raise ValueError(f"it takes floating-point numbers, not {found}")
    return given.shape


def _vector(given: Output) -> int | float:
    """The size of a row that is a vector; infinite where it is a named dimension."""
    if given.shape is None or given.dtype == "bool" or len(given.shape) != 1:
        found = "what an operation made of it" if given.shape is None else f"{given.dtype} {list(given.shape)}"
        raise ValueError(f"it takes a row that is a vector of numbers, not {found}")
    (size,) = given.shape
    return size if isinstance(size, int) else math.inf
