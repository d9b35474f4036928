"""How much is measured: all of it, about a quarter of it, or a rehearsal with tiny models on a machine without a GPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.gpu.models import BERT, IMAGES, RESNET50, TINY_BERT, GpuModel

PRECISIONS = ("float16", "float32", "tf32", "bfloat16")
"""What matters most first: that is exported first, and measured where time runs out."""
LIMIT_S = 480.0
"""All stages together take no longer, the time to start and end their processes included."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long; `budgets_s` has the seconds that each stage may take.

    `call_s` is the time for calls of one batch size; a load runs for `load_s` after `warmup_s` that are not counted.
    `frontends` are the shares of the cores that a server has as front ends, one server after the other (0: one front end).
    `memory_limit_mib` is what an engine may take of the device when it is asked for `memory_asked_mib`.
    """

    name: str
    models: Sequence[GpuModel]
    precisions: Sequence[str]
    budgets_s: Mapping[str, float]
    call_s: float
    load_s: float
    warmup_s: float
    frontends: Sequence[float]
    kills: int
    memory_limit_mib: int
    memory_asked_mib: int

    def model(self, key: str) -> GpuModel:
        """The model of this name."""
        return next(one for one in self.models if one.key == key)


_FULL_S = {"facts": 15, "export": 125, "parity": 35, "bound": 85, "served": 110, "memory": 20, "kills": 45, "packed": 25}
_QUICK_S = {"facts": 15, "export": 110, "parity": 20, "bound": 40, "served": 65, "memory": 20, "kills": 30, "packed": 20}
_REHEARSAL_S = dict.fromkeys(_FULL_S, 300)

PLANS: Mapping[str, Plan] = {
    "full": Plan("full", (RESNET50, BERT), PRECISIONS, _FULL_S, 0.12, 2.0, 0.5, (0.5, 0), 2, 1024, 8192),
    "quick": Plan("quick", (RESNET50, BERT), ("float16", "float32"), _QUICK_S, 0.05, 1.0, 0.5, (0.5,), 1, 1024, 8192),
    "rehearsal": Plan("rehearsal", (IMAGES, TINY_BERT), PRECISIONS, _REHEARSAL_S, 0.01, 0.5, 0.2, (1.0,), 1, 1024, 1 << 20),
    "smallest": Plan("smallest", (TINY_BERT,), ("float16",), _REHEARSAL_S, 0.01, 0.2, 0.1, (1.0,), 1, 1024, 1 << 20),
}
"""The two that a user can ask for, and two for machines without a GPU, whose budgets are for two busy cores."""


def frontend_count(share: float, cores: int) -> int:
    """Front ends of a server that has this share of the cores for them: one at least, eight at most."""
    return max(1, min(8, round(share * cores)))
