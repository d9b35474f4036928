"""What a load test is asked to do: the command's words, read once."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bench.errors import NotAsked

Value = TypeVar("Value")

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
"""What a target may be about: the name as it is written, and the share of the requests."""

SWEEP = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.15)
"""The rates of `--rate sweep`, as shares of what a closed loop with all connections reached: up to and beyond the capacity."""

_OBJECTIVE = re.compile(r"(p50|p90|p99|p99\.9)\s*=\s*([0-9.]+)\s*(ms|s|us)")
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, slots=True)
class Objective:
    """A latency that a share of the requests must keep: `p99=20ms`."""

    text: str
    quantile: str
    limit_ms: float

    @property
    def share(self) -> float:
        """The share of the requests, 0 to 1."""
        return QUANTILES[self.quantile]


@dataclass(frozen=True, slots=True)
class Options:
    """A load test. `rates` are requests in a second; `sweep` asks for those that `SWEEP` says. See docs/load-test.md.

    Without `url`, our server is started on the artifact `bound`. `command` is what a reader types for the same test.
    """

    url: str | None = None
    model: str | None = None
    version: str | None = None
    protocol: str = "oip-binary"
    inputs: Sequence[Path] = ()
    headers: Sequence[tuple[str, str]] = ()
    rows: int = 1
    concurrency: Sequence[int] = (1, 8, 32)
    rates: Sequence[float] = ()
    sweep: bool = False
    objective: Objective | None = None
    duration_s: float = 10.0
    warmup_s: float = 2.0
    rounds: int = 3
    timeout_s: float = 30.0
    processes: int = 1
    max_connections: int = 256
    bound: Path | None = None
    against: Sequence[str] = ()
    out: Path = Path("bench_report")
    tolerance: float = 0.1
    command: str = ""


def parse_objective(text: str) -> Objective:
    """Reads `p99=20ms`.

    Raises:
        NotAsked: it is something else.
    """
    found = _OBJECTIVE.fullmatch(text.strip())
    try:
        limit_ms = float(found[2]) * _MS[found[3]] if found else 0.0
    except ValueError:
        limit_ms = 0.0
    if found is None or limit_ms <= 0:
        raise NotAsked(f"--slo {text!r} is no objective: write a quantile ({', '.join(QUANTILES)}) and a time, as in p99=20ms")
    return Objective(text.strip(), found[1], limit_ms)


def parse_concurrency(text: str) -> list[int]:
    """Reads `1,8,32`: ascending, each once; `0` or an empty text: no closed loop.

    Raises:
        NotAsked: it is something else.
    """
    return [] if text.strip() in {"", "0"} else _numbers("--concurrency", text, int)


def parse_rates(text: str | None) -> tuple[list[float], bool]:
    """Reads `100,500`, or `sweep`: the rates, and whether they follow from the closed loop's best.

    Raises:
        NotAsked: it is something else.
    """
    if text is None or text.strip() == "sweep":
        return [], text is not None
    return _numbers("--rate", text, float), False


def parse_header(text: str) -> tuple[str, str]:
    """Reads `Name: value`.

    Raises:
        NotAsked: it is something else.
    """
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or "\r" in value or "\n" in value:
        raise NotAsked(f"--header {text!r} is no header: write a name, a colon and a value, as in 'Authorization: Bearer abc'")
    return name, value.strip()


def _numbers(flag: str, text: str, kind: Callable[[str], Value]) -> list[Value]:
    try:
        found = sorted({kind(word) for word in text.split(",")})  # type: ignore[type-var]
    except ValueError as cause:
        raise NotAsked(f"{flag} {text!r}: write numbers with commas between them, as in 1,8,32") from cause
    if not all(0 < value < 1e9 for value in found):  # type: ignore[operator]
        raise NotAsked(f"{flag} {text!r}: every number must be above 0")
    return found
