"""What a scenario is given, and what it hands back."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.soak.processes import ALONE, Processes

QUICK = 50
"""A quick form has about so many times fewer requests."""

_SHOWN_FAULTS = 10


@dataclass(frozen=True, slots=True)
class Soak:
    """How much is to be done, where files go, who is told how far it is, and how many processes the server is."""

    folder: Path
    quick: bool
    say: Callable[[str], None]
    processes: Processes = ALONE

    def count(self, full: int, least: int = 1) -> int:
        """How many of so many are made: all, or in the quick form a share of them."""
        return max(least, full // QUICK) if self.quick else full

    def repository(self, name: str) -> Path:
        """A new, empty directory for models."""
        path = self.folder / name
        path.mkdir()
        return path


@dataclass(slots=True)
class Faults:
    """What was wrong: all of it counted, the first of each told."""

    count: int = 0
    told: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Counts one."""
        self.count += 1
        if len(self.told) < _SHOWN_FAULTS:
            self.told.append(text)

    def require(self, holds: bool, text: str) -> None:  # noqa: FBT001 (a condition, not a switch)
        """Counts one, unless the condition holds."""
        if not holds:
            self.add(text)

    def add_all(self, texts: Iterable[str]) -> None:
        """Counts each."""
        for text in texts:
            self.add(text)

    def lines(self) -> list[str]:
        """What was wrong, a line each."""
        hidden = self.count - len(self.told)
        return [*self.told, *([f"… and {hidden} more"] if hidden else [])]


@dataclass(frozen=True, slots=True)
class Curve:
    """What the server held in memory, after so many requests: (requests, 10^6 bytes); `what` the kernel calls it."""

    points: list[tuple[int, float]]
    limit_mb: float
    what: str = "VmRSS"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one scenario showed: `faults` should be none; `missed` are bounds of time and memory, which a busy machine bends."""

    title: str
    text: str
    figures: Mapping[str, str]
    faults: list[str]
    missed: list[str] = field(default_factory=list)
    curve: Curve | None = None


def told_by_tenths(soak: Soak, title: str, total: int) -> Callable[[int], None]:
    """A function that is told how many are done, and says so at every tenth of them."""
    step = max(1, total // 10)

    def done(count: int) -> None:
        if count % step == 0:
            soak.say(f"{title}: {count:,} of {total:,}")

    return done


def percentiles_ms(seconds: list[float]) -> str:
    """`p50 / p99 / max`, in milliseconds."""
    if not seconds:
        return "-"
    return " / ".join(f"{1e3 * value:.1f}" for value in (percentile(seconds, 50), percentile(seconds, 99), max(seconds)))


def percentile(values: list[float], share: float) -> float:
    """The smallest value that so many percent of the values do not exceed."""
    ascending = sorted(values)
    return ascending[max(0, -int(-len(ascending) * share // 100) - 1)]
