"""The reference: eager PyTorch in float64, and beside it eager in the model's own precision, whose error sets the budget."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from artifact.signature import DTYPES, Signature, TensorSpec
from export.cases import tensors
from export.errors import ParityFailed

Arrays = Mapping[str, np.ndarray]


class Reference:
    """The loaded model, and its float64 twin; `precision` is "float64", or "float32" where forward cannot run in float64."""

    def __init__(self, model: nn.Module, signature: Signature, probe: Arrays) -> None:
        self._model = model
        self._signature = signature
        self._wide: nn.Module | None = None
        self.obstacle: str | None = None
        self._require_repeatable(probe)  # whether the model itself takes its declared inputs comes first
        try:
            self._wide = copy.deepcopy(model).double()
            self._call(self._wide, probe, torch.float64)
        except Exception as cause:  # noqa: BLE001 (the model's own code: anything can come out, and it is reported)
            self._wide = None
            self.obstacle = f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
        self.precision = "float32" if self._wide is None else "float64"

    def _require_repeatable(self, probe: Arrays) -> None:
        first, again = self.eager(probe), self.eager(probe)
        differing = [name for name, answer in first.items() if not np.array_equal(answer, again[name])]
        if differing:
            raise ParityFailed(
                f"the model itself gives another {differing[0]} each time for the same input: forward draws random numbers or "
                "remembers earlier calls. Take that out (torch.nn.functional.dropout needs training=self.training)"
            )

    def eager(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The model's own answer, in its own precision.

        Raises:
            ParityFailed: the model fails on these declared inputs, or answers with NaN, infinities, or another shape.
        """
        return self._checked(self._model, inputs, None)

    def wide(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The float64 answer. Raises as `eager` does."""
        if self._wide is None:
            return self.eager(inputs)
        return self._checked(self._wide, inputs, torch.float64)

    def expected(self, inputs: Arrays, eager: Arrays) -> dict[str, np.ndarray]:
        """What engines are judged by for these inputs, see `judged_by`. Raises as `eager` does."""
        return judged_by(self.wide(inputs), eager)

    def _checked(self, model: nn.Module, inputs: Arrays, dtype: torch.dtype | None) -> dict[str, np.ndarray]:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
        try:
            answers = self._call(model, inputs, dtype)
        except Exception as cause:  # see above
            raise ParityFailed(
                f"the model itself fails on a declared input, {shapes}: {_words(cause)}. "
                "Declare under dims and range only what the model takes"
            ) from cause
        sizes = self._signature.validate(inputs)
        for spec in self._signature.outputs:
            if answers[spec.name].shape != spec.concrete(sizes):
                raise ParityFailed(
                    f"the model itself gives {spec.name} {list(answers[spec.name].shape)} for {shapes}; "
                    f"the config declares {list(spec.concrete(sizes))}"
                )
            if not np.isfinite(answers[spec.name]).all():
                raise ParityFailed(
                    f"the model itself gives NaN or infinity in {spec.name} for a declared input, {shapes}. "
                    "Narrow the input's range to what the model takes, or mend the model"
                )
        return answers

    def _call(self, model: nn.Module, inputs: Arrays, dtype: torch.dtype | None) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            answer: Any = model(*tensors(inputs, self._signature, dtype))
        answers = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        return {spec.name: tensor.numpy() for spec, tensor in zip(self._signature.outputs, answers, strict=True)}


def require_ranges(model: nn.Module, signature: Signature) -> None:
    """Runs the model with both ends of every declared range of integers, one at a time and at the smallest sizes.

    Raises:
        ParityFailed: it fails with one: an embedding of fewer ids, say, of which a lowering would tell in words of its own.
    """
    sizes = {name: dim.min for name, dim in signature.dims.items()}
    usual = {spec.name: _filled(spec, sizes, 0) for spec in signature.inputs}
    ranges = [(spec, bound) for spec in signature.inputs if not spec.dtype.startswith("float") for bound in spec.range or ()]
    if not ranges or _failure(model, usual, signature) is not None:  # a failure of all values is none of a range
        return
    for spec, bound in ranges:
        if (cause := _failure(model, {**usual, spec.name: _filled(spec, sizes, bound)}, signature)) is not None:
            raise ParityFailed(
                f"input {spec.name} declares the range {[int(end) for end in spec.range or ()]}, but the model itself fails with "
                f"{int(bound)}: {_words(cause)}. Declare only what it takes; of token ids, check the size of its vocabulary"
            ) from cause


def _filled(spec: TensorSpec, sizes: Mapping[str, int], value: float) -> np.ndarray:
    """The input full of one value: the nearest one that it declares."""
    low, high = spec.range or (value, value)
    return np.full(spec.concrete(sizes), min(max(value, low), high), DTYPES[spec.dtype])


def _failure(model: nn.Module, inputs: Arrays, signature: Signature) -> Exception | None:
    try:
        with torch.inference_mode():
            model(*tensors(inputs, signature))
    except Exception as cause:  # noqa: BLE001 (the model's own code: anything can come out)
        return cause
    return None


def _words(cause: Exception) -> str:
    first = next((line for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {first[:300]}"


def judged_by(wide: Arrays, eager: Arrays) -> dict[str, np.ndarray]:
    """What engines are judged by: the float64 answer, and eager's own where an output holds integers or booleans.

    These have no error that a budget could allow, and a comparison may well come out otherwise in float64.
    """
    return {name: array if array.dtype.kind == "f" else eager[name] for name, array in wide.items()}
