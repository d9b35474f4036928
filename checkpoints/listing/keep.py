"""What a person asks to keep: `last:3`, `best:val_acc:max:2`, `every:1000`, as policies."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from checkpoints.errors import KeeperError
from checkpoints.keeping.policies import Best, Candidate, Last, Moment

FORMS = "last:3, best:val_acc:max, best:val_loss:min:2, every:1000, every:1000:steps or every:5:epochs"


class WrongKeep(KeeperError):
    """What is to be kept cannot be told from what was asked, or from what is there; nothing was removed."""

    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class Place:
    """What policies see: all checkpoints of one place in a series, oldest first by `sequence`."""

    sequence: int
    step: int | None = None
    epoch: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    kept_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Every:
    """The first checkpoint at or after each `count`th step or epoch; what it keeps is told by the numbers, not by a training."""

    count: int
    unit: Literal["steps", "epochs"] = "steps"

    @property
    def label(self) -> str:
        """As `Policy.label`."""
        return f"every {self.count} {self.unit}"

    def wants(self, moment: Moment, candidates: Sequence[Candidate]) -> bool:
        """As `Policy.wants`: it saves nothing."""
        del moment, candidates
        return False

    def keeps(self, candidates: Sequence[Candidate]) -> set[int]:
        """As `Policy.keeps`, of places that all have a step, or an epoch."""
        stay: set[int] = set()
        before = 0
        for place in sorted(candidates, key=lambda candidate: candidate.sequence):
            value = getattr(place, self.unit.removesuffix("s"), None)
            if value is not None:
                if value // self.count > before // self.count:
                    stay.add(place.sequence)
                before = value
        return stay


Keep = Last | Best | Every


def parse_keep(texts: Iterable[str]) -> list[Keep]:
    """The policies that the texts ask for. Raises WrongKeep where there are none, or one is not of the known forms."""
    policies = list(dict.fromkeys(_parse_one(text) for text in texts))
    if not policies:
        raise WrongKeep(f"Say what to keep: --keep {FORMS}; repeatable, what any of them names stays.")
    return policies


def describe(policy: Keep) -> str:
    """The policy as a person asks for it."""
    if isinstance(policy, Last):
        return f"last:{policy.count}"
    if isinstance(policy, Best):
        return f"best:{policy.metric}:{policy.mode}:{policy.top}"
    return f"every:{policy.count}:{policy.unit}"


def _parse_one(text: str) -> Keep:
    if found := re.fullmatch(r"last:([1-9]\d{0,8})", text):
        return Last(int(found[1]))
    if found := re.fullmatch(r"every:([1-9]\d{0,14})(?::(steps|epochs))?", text):
        return Every(int(found[1]), "epochs" if found[2] == "epochs" else "steps")
    if found := re.fullmatch(r"best:(.+?):(min|max)(?::([1-9]\d{0,8}))?", text):
        return Best(found[1], "min" if found[2] == "min" else "max", int(found[3] or 1))
    if text.startswith("best:"):
        raise WrongKeep(
            f"--keep {text} does not say whether the smallest or the largest is best: {text.rstrip(':')}:min or :max."
        )
    raise WrongKeep(f"--keep {text} is not known; expected {FORMS}.")
