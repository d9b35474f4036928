"""Counters, gauges and histograms in the text that TorchServe writes: every number a float, a comma after the last label."""

import math
import re
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""Upper bounds, inclusive, of every histogram, whatever its unit: those of Prometheus' Java client."""
NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
"""What a metric can be called."""
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
"""What a label can be called."""

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True, slots=True)
class Declared:
    """A metric as metrics.yaml declares it."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]


class Family:
    """The series of one metric. One thread adds; any may read."""

    def __init__(self, declared: Declared) -> None:
        self.declared = declared
        self._values: dict[tuple[str, ...], float] = {}
        self._buckets: dict[tuple[str, ...], list[int]] = {}

    def add(self, labels: tuple[str, ...], value: float) -> bool:
        """Counts or notes a value; False where the labels are not as declared, or a counter would fall."""
        if len(labels) != len(self.declared.labels) or (self.declared.kind == "counter" and not value >= 0):
            return False
        if self.declared.kind == "gauge":
            self._values[labels] = value
            return True
        if self.declared.kind == "histogram":
            self._buckets.setdefault(labels, [0] * (len(BUCKETS) + 1))[bisect_left(BUCKETS, value)] += 1
        self._values[labels] = self._values.get(labels, 0.0) + value
        return True

    def lines(self, names: Collection[str] = ()) -> Iterator[str]:
        """The family's lines; with `names`, only the samples of these names, and nothing where there is none."""
        samples = [
            f"{name}{{{labels}}} {java_number(value)}" for name, labels, value in self._samples() if not names or name in names
        ]
        if samples or not names:
            name, kind = self.declared.name, self.declared.kind
            yield f"# HELP {name} Torchserve prometheus {kind} metric with unit: {_escaped_help(self.declared.unit)}"
            yield f"# TYPE {name} {kind}"
            yield from samples

    def _samples(self) -> Iterator[tuple[str, str, float]]:
        name = self.declared.name
        for values, total in sorted(self._values.copy().items()):
            labels = _text(self.declared.labels, values)
            if self.declared.kind != "histogram":
                yield name, labels, total
                continue
            within = 0
            for bound, count in zip((*BUCKETS, math.inf), tuple(self._buckets[values]), strict=True):
                within += count
                yield f"{name}_bucket", f'{labels}le="{java_number(bound)}",', within
            yield f"{name}_count", labels, within
            yield f"{name}_sum", labels, total


def java_number(value: float) -> str:
    """A number as Java writes a double: `8.0`, `1.0E7`, `+Inf`."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return repr(float(value))
    if 1e-3 <= abs(value) < 1e7:
        return repr(float(value))
    sign, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    first, rest = str(digits[0]), "".join(map(str, digits[1:])) or "0"
    return f"{'-' if sign else ''}{first}.{rest}E{int(exponent) + len(digits) - 1}"


def _text(names: Sequence[str], values: Sequence[str]) -> str:
    return "".join(f'{name}="{value.translate(_ESCAPES)}",' for name, value in zip(names, values, strict=True))


def _escaped_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")
