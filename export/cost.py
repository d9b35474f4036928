"""What a parity case will cost, so that the dearest are cut down or left out before they are started."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from artifact.signature import Signature
from export.capture import Captured


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """Parity stops adding cases that would take longer, all together, or need more memory than this."""

    time_s: float = 120.0
    memory_bytes: int = 4 << 30


@dataclass(slots=True)
class Clock:
    """Seconds spent, by precision of the reference, and the rate that the next case is estimated by."""

    limits: ParityLimits
    spent_s: float = 0.0
    _rate: dict[str, float] = field(default_factory=dict)

    def note(self, precision: str, elements: int, seconds: float) -> None:
        """A case of this many input elements took this long."""
        self.spent_s += seconds
        self._rate[precision] = seconds / elements

    def allows(self, precision: str, elements: int) -> bool:
        """Whether a case of this size is expected to end within the limit; unknown costs are tried."""
        return self.spent_s + self._rate.get(precision, 0.0) * elements <= self.limits.time_s


def activation_bytes(captured: Captured, signature: Signature, sizes: Mapping[str, int]) -> int:
    """The most memory that the captured program's tensors take at once, inputs included, if each lives until its last use."""
    symbols = _symbols(captured, signature, sizes)
    last_use = {used: index for index, node in enumerate(captured.program.graph.nodes) for used in node.all_input_nodes}
    living: dict[Any, int] = {}
    peak = 0
    for index, node in enumerate(captured.program.graph.nodes):
        if node.op == "call_function" or node.name in captured.program.graph_signature.user_inputs:
            living[node] = _bytes(node.meta.get("val"), symbols)
            peak = max(peak, sum(living.values()))
        living = {kept: size for kept, size in living.items() if last_use.get(kept, -1) > index}
    return peak


def _symbols(captured: Captured, signature: Signature, sizes: Mapping[str, int]) -> dict[Any, int]:
    """The program's symbols -> their values at these sizes."""
    nodes = {node.name: node for node in captured.program.graph.nodes}
    values: dict[Any, int] = {}
    for spec, name in zip(signature.inputs, captured.program.graph_signature.user_inputs, strict=True):
        for dim, size in zip(spec.shape, nodes[name].meta["val"].shape, strict=True):
            if isinstance(dim, str) and isinstance(size, torch.SymInt):
                step, symbol = size.node.expr.as_coeff_Mul()
                values[symbol] = sizes[dim] // int(step)
    return values


def _bytes(value: Any, symbols: Mapping[Any, int]) -> int:
    if isinstance(value, (tuple, list)):
        return sum(_bytes(item, symbols) for item in value)
    if not isinstance(value, torch.Tensor):
        return 0
    count = value.dtype.itemsize
    for size in value.shape:
        count *= int(size.node.expr.subs(symbols)) if isinstance(size, torch.SymInt) else int(size)
    return count
