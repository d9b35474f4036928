"""Which checkpoints are kept: policies that compose, as pure functions of what is there and of what a training says.

A save is written if any policy wants it; a checkpoint stays as long as any policy keeps it. No decision asks the clock on the
wall: `EverySeconds` counts the seconds of a process.
"""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from checkpoints.errors import KeeperError

MILESTONE = "every-"
"""What the labels of `EverySteps`, `EveryEpochs` and `EverySeconds` begin with.

A checkpoint with one stays, whatever policies a later training has: what was once kept for good is removed by a person only."""


class Candidate(Protocol):
    """A checkpoint as policies see it; a `Sidecar` is one. `sequence` orders them by age."""

    @property
    def sequence(self) -> int:
        """The larger, the newer; unique."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """By name, may be NaN."""
        ...

    @property
    def kept_by(self) -> Sequence[str]:
        """The labels of the policies that wanted it."""
        ...


SomeCandidate = TypeVar("SomeCandidate", bound=Candidate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a training says at a save, and what it said at the save before.

    `step_before` and `epoch_before` are those of the save before in this process, or of what was resumed from; at the start of a
    training 0 and -1. `seconds` are of the process's own clock; `seconds_before` when each policy last wanted a save, by label.
    """

    step: int
    epoch: int | None
    metrics: Mapping[str, float]
    seconds: float
    step_before: int = 0
    epoch_before: int = -1
    seconds_before: Mapping[str, float]


class Policy(Protocol):
    """One reason to keep checkpoints."""

    @property
    def label(self) -> str:
        """What a sidecar's `kept_by` says of it."""
        ...

    def wants(self, moment: Moment, candidates: Sequence[Candidate]) -> bool:
        """Whether what is saved now is to be written; `candidates` are the checkpoints that there are."""
        ...

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """The sequences of those that stay."""
        ...


@dataclass(frozen=True, slots=True)
class Best:
    """The `top` best by a metric. Of equal ones the earlier stays; NaN is never best; a save without metrics is no candidate."""

    metric: str
    mode: Literal["min", "max"] = "min"
    top: int = 1

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise KeeperError(f'Best: mode is {self.mode!r}, expected "min" or "max".')
        if not isinstance(self.metric, str) or not self.metric:
            raise KeeperError(f"Best: metric is {self.metric!r}, expected the name of a metric.")
        _check_count("Best: top", self.top)

    @property
    def label(self) -> str:
        """As `Policy.label`."""
        return f"best-{self.metric}-{self.mode}-{self.top}"

    def wants(self, moment: Moment, candidates: Sequence[Candidate]) -> bool:
        """As `Policy.wants`. Raises KeeperError where there are metrics but not this one."""
        if not moment.metrics:
            return False
        if self.metric not in moment.metrics:
            raise KeeperError(_no_such_metric(self.metric, moment.metrics))
        value = moment.metrics[self.metric]
        better = [other for other in self.ranked(candidates) if not self._is_better(value, other.metrics[self.metric])]
        return not math.isnan(value) and len(better) < self.top

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """As `Policy.keeps`."""
        return {candidate.sequence for candidate in self.ranked(candidates)[: self.top]}

    def ranked(self, candidates: Iterable[SomeCandidate]) -> list[SomeCandidate]:
        """Those that have the metric, the best first, of equal ones the earlier first."""
        sign = 1.0 if self.mode == "min" else -1.0
        having = [candidate for candidate in candidates if not math.isnan(candidate.metrics.get(self.metric, math.nan))]
        return sorted(having, key=lambda candidate: (sign * candidate.metrics[self.metric], candidate.sequence))

    def _is_better(self, value: float, other: float) -> bool:
        return value < other if self.mode == "min" else value > other


@dataclass(frozen=True, slots=True)
class EverySteps:
    """The first save at or after every `steps`th step, kept for good."""

    steps: int

    def __post_init__(self) -> None:
        _check_count("EverySteps: steps", self.steps)

    @property
    def label(self) -> str:
        """As `Policy.label`."""
        return f"{MILESTONE}{self.steps}-steps"

    def wants(self, moment: Moment, candidates: Sequence[Candidate]) -> bool:
        """As `Policy.wants`."""
        del candidates
        return moment.step // self.steps > moment.step_before // self.steps

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """As `Policy.keeps`."""
        return _labelled(self.label, candidates)


@dataclass(frozen=True, slots=True)
class EveryEpochs:
    """The first save of every `epochs`th epoch, kept for good; epochs count from 0: `EveryEpochs(5)` wants 4, 9, 14 and so on.

    So give `epoch` to the save at an epoch's end, and leave it out in the middle. Where such an epoch has no save, the next save
    of a later one takes its place.
    """

    epochs: int

    def __post_init__(self) -> None:
        _check_count("EveryEpochs: epochs", self.epochs)

    @property
    def label(self) -> str:
        """As `Policy.label`."""
        return f"{MILESTONE}{self.epochs}-epochs"

    def wants(self, moment: Moment, candidates: Sequence[Candidate]) -> bool:
        """As `Policy.wants`."""
        del candidates
        return moment.epoch is not None and (moment.epoch + 1) // self.epochs > (moment.epoch_before + 1) // self.epochs

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """As `Policy.keeps`."""
        return _labelled(self.label, candidates)


@dataclass(frozen=True, slots=True)
class EverySeconds:
    """The first save at or after `seconds` since the last one that this policy wanted in this process, kept for good."""

    seconds: float

    def __post_init__(self) -> None:
        if not (isinstance(self.seconds, int | float) and math.isfinite(self.seconds) and self.seconds > 0):
            raise KeeperError(f"EverySeconds: seconds is {self.seconds!r}, expected a number above 0.")

    @property
    def label(self) -> str:
        """As `Policy.label`."""
        return f"{MILESTONE}{self.seconds:g}-seconds"

    def wants(self, moment: Moment, candidates: Sequence[Candidate]) -> bool:
        """As `Policy.wants`."""
        del candidates
        return moment.seconds - moment.seconds_before[self.label] >= self.seconds

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """As `Policy.keeps`."""
        return _labelled(self.label, candidates)


@dataclass(frozen=True, slots=True)
class Last:
    """Every save is wanted; the newest `count` stay."""

    count: int = 1

    def __post_init__(self) -> None:
        _check_count("Last: count", self.count)

    @property
    def label(self) -> str:
        """As `Policy.label`."""
        return f"last-{self.count}"

    def wants(self, moment: Moment, candidates: Sequence[Candidate]) -> bool:
        """As `Policy.wants`."""
        del moment, candidates
        return True

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """As `Policy.keeps`."""
        return set(sorted(candidate.sequence for candidate in candidates)[-self.count :])


def wanted_by(policies: Sequence[Policy], moment: Moment, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The labels of the policies that want a save; empty: it is not written.

    Raises KeeperError where a policy asks for a metric that the save does not have, though it has others.
    """
    return tuple(policy.label for policy in policies if policy.wants(moment, candidates))


def kept(policies: Sequence[Policy], candidates: Sequence[Candidate]) -> set[int]:
    """The sequences of the checkpoints that stay: what any policy keeps, every milestone, and the newest one."""
    stay = {sequence for policy in policies for sequence in policy.keeps(candidates)}
    stay |= {candidate.sequence for candidate in candidates if any(map(is_milestone, candidate.kept_by))}
    return stay | {max((candidate.sequence for candidate in candidates), default=0)}


def check_policies(policies: Sequence[object]) -> None:
    """Raises KeeperError where one is not a policy, or is there twice."""
    labels = []
    for policy in policies:
        if isinstance(policy, type) or not all(hasattr(policy, name) for name in ("label", "wants", "keeps")):
            raise KeeperError(
                f"{policy!r} is not a policy; expected Best, EverySteps, EveryEpochs, EverySeconds or Last with values."
            )
        labels.append(getattr(policy, "label", ""))
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise KeeperError(f"The policy {twice[0]} is there twice; once is enough.")


def is_milestone(label: str) -> bool:
    """Whether it is the label of a policy that keeps for good."""
    return re.fullmatch(re.escape(MILESTONE) + r"[0-9.e+]+-(steps|epochs|seconds)", label) is not None


def _labelled(label: str, candidates: Iterable[Candidate]) -> set[int]:
    return {candidate.sequence for candidate in candidates if label in candidate.kept_by}


def _check_count(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise KeeperError(f"{what} is {value!r}, expected a whole number from 1 on.")


def _no_such_metric(metric: str, metrics: Mapping[str, float]) -> str:
    near = difflib.get_close_matches(metric, metrics, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Best asks for the metric {metric!r}; this save has {', '.join(map(repr, sorted(metrics)))}.{hint}"
