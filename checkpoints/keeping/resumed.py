"""What a training is told when it goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from checkpoints.keeping.scan import Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The checkpoint that a training goes on from: `name` is the file with its weights.

    `skipped` are checkpoints that were passed over, with the reason; `notes` what a person should know (such as random numbers of
    a device that is not here); `extra` the plain values that were saved as `extra`: objects among them were restored in place.
    """

    step: int
    epoch: int | None
    name: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
