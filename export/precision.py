"""Other precisions than float32: the model itself run in one on the CPU, and the budget that follows from how far it is off.

The machine that exports need not have CUDA, but it can round as CUDA does. `torch.autocast` takes products and convolutions in
float16 or bfloat16, whose sums are kept in float32 on both devices. For TF32 the inputs of products and convolutions are rounded
to its ten bits of mantissa: nothing else of it differs from float32.

Budgets come from the unit roundoff u, half the distance from 1 to the next number (Higham, "Accuracy and stability of numerical
algorithms", 2nd ed., section 2.1): 2^-11 for float16 and TF32 (10 bits of mantissa each), 2^-8 for bfloat16 (7 bits). The floor
is 4 u: a rounding of each factor, one of the result, and one to spare, where the cases happened to show none of them. The ceiling
is 32 u: rounding errors are random and grow with the square root of their number, so that some hundred layers stay below it
(Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019); beyond it the model does not stand that
precision.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._ops import HigherOrderOperator
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from artifact.golden import scaled_error
from artifact.signature import Signature
from export.cases import tensors
from export.errors import ParityFailed

Arrays = Mapping[str, np.ndarray]

UNIT_ROUNDOFF: Mapping[str, float] = {"tf32": 2.0**-11, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half the distance from 1 to the next number, by precision; see the module's docstring for what follows from it."""
FACTOR = 4.0
"""An engine may be so many times as wrong as the model itself was at export; as for float32, see `export.parity`."""
FLOOR_ROUNDOFFS = 4
CEILING_ROUNDOFFS = 32

_REMEDIES: Mapping[str, str] = {
    "tf32": "declare precision: float32",
    "float16": "declare precision: bfloat16, tf32 or float32",
    "bfloat16": "declare precision: float16, tf32 or float32",
}


@dataclass(frozen=True, slots=True)
class Measured:
    """The worst scaled error of one output in one precision, and the case that showed it."""

    scaled: float
    case: str


@dataclass(slots=True)
class Rounded:
    """The model on the CPU in another precision than float32, and how far it was off so far, by output."""

    model: nn.Module
    signature: Signature
    precision: str
    worst: dict[str, Measured] = field(default_factory=dict)

    def measure(self, case: str, inputs: Arrays, expected: Arrays) -> None:
        """Runs the model, and notes how far each output lies from the expected one.

        Raises:
            ParityFailed: the model fails in this precision, or gives values that are not finite: float16 ends at 65504.
        """
        answers = self._run(case, inputs)
        for spec in self.signature.outputs:
            answer = answers[spec.name]
            if not np.isfinite(answer).all():
                raise ParityFailed(
                    f"{self.precision} makes output {spec.name} NaN or infinite in case {case!r}, where float32 does not: values "
                    f"leave the range of {self.precision}; {_REMEDIES[self.precision]}"
                )
            error = scaled_error(answer, expected[spec.name])
            if spec.name not in self.worst or error > self.worst[spec.name].scaled:
                self.worst[spec.name] = Measured(error, case)

    def budgets(self) -> dict[str, float]:
        """The budget of every output, from what was measured: `max(4 * measured, 4 u)`; 0 for integers and booleans.

        Raises:
            ParityFailed: an output is further off than rounding explains, or an integer one differs at all.
        """
        return {spec.name: self._budget(spec.name, is_float=spec.dtype.startswith("float")) for spec in self.signature.outputs}

    def _budget(self, output: str, *, is_float: bool) -> float:
        worst, unit = self.worst[output], UNIT_ROUNDOFF[self.precision]
        if not is_float and worst.scaled > 0:
            raise ParityFailed(
                f"output {output} holds whole numbers, and {self.precision} gives others than float32 in case {worst.case!r}: "
                "close values change places by rounding. Give the scores themselves as the output, or declare precision: float32"
            )
        if worst.scaled > CEILING_ROUNDOFFS * unit:
            raise ParityFailed(
                f"{self.precision} takes output {output} a scaled error of {worst.scaled:.2e} away from float64 in case "
                f"{worst.case!r}; at most {CEILING_ROUNDOFFS * unit:.2e} is allowed ({CEILING_ROUNDOFFS} roundings of "
                f"{self.precision}). The model does not stand this precision; {_REMEDIES[self.precision]}"
            )
        return max(FACTOR * worst.scaled, FLOOR_ROUNDOFFS * unit) if is_float else 0.0

    def _run(self, case: str, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            with torch.no_grad(), _computing_in(self.precision):
                answer: Any = self.model(*tensors(inputs, self.signature))
        except Exception as cause:  # the model's own code: anything can come out
            first = next((line for line in str(cause).splitlines() if line.strip()), "")
            raise ParityFailed(
                f"the model itself fails in {self.precision} in case {case!r}: {type(cause).__name__}: "
                f"{first[:300].rstrip('. ')}. Let forward take dtypes and fill values from its tensors, or "
                f"{_REMEDIES[self.precision]}"
            ) from cause
        answers = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        return {
            spec.name: tensor.to(getattr(torch, spec.dtype)).numpy()
            for spec, tensor in zip(self.signature.outputs, answers, strict=True)
        }


def round_to_tf32(tensor: torch.Tensor) -> torch.Tensor:
    """float32 values rounded to ten bits of mantissa, to nearest, ties to even; infinities and NaN stay."""
    bits = tensor.view(torch.int32)
    rounded = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return torch.where(torch.isfinite(tensor), rounded.view(torch.float32), tensor)


class _Tf32(TorchDispatchMode):
    """Rounds the float32 factors of every product and convolution, as tensor cores do; what is added to them is left."""

    supports_higher_order_operators = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by PyTorch for every operator."""
        if func is torch.ops.higher_order.cond:
            condition, then, otherwise, operands = args
            with self:
                return (then if condition else otherwise)(*operands)
        if isinstance(func, HigherOrderOperator):
            raise NotImplementedError(f"there is no rule for {func} in TF32")
        factors = _FACTORS.get(func.overloadpacket, ())
        rounded = tuple(_rounded(value) if place in factors else value for place, value in enumerate(args))
        return func(*rounded, **(kwargs or {}))


def _rounded(value: Any) -> Any:
    is_float32 = isinstance(value, torch.Tensor) and value.dtype == torch.float32
    return round_to_tf32(value) if is_float32 else value


_ATEN = torch.ops.aten
_FACTORS: Mapping[Any, tuple[int, ...]] = {
    _ATEN.mm: (0, 1),
    _ATEN.bmm: (0, 1),
    _ATEN.mv: (0, 1),
    _ATEN.dot: (0, 1),
    _ATEN.addmm: (1, 2),
    _ATEN.baddbmm: (1, 2),
    _ATEN.addbmm: (1, 2),
    _ATEN.addmv: (1, 2),
    _ATEN.convolution: (0, 1),
    _ATEN.mkldnn_rnn_layer: (0, 1, 2, 5),
}
"""Operator -> which of its arguments are factors. All other products come apart into these before they get here."""


@contextlib.contextmanager
def _as_tf32() -> Iterator[None]:
    """Fused attention and the encoder's fast path come apart into products that can be seen."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Tf32():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


_CONTEXTS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "tf32": _as_tf32,
    "float16": functools.partial(torch.autocast, "cpu", torch.float16),
    "bfloat16": functools.partial(torch.autocast, "cpu", torch.bfloat16),
}


def _computing_in(precision: str) -> contextlib.AbstractContextManager[Any]:
    return _CONTEXTS[precision]()
