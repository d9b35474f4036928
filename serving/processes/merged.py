"""What several processes counted of one version, as one: sums, that never go back when one of the processes ends."""

from collections import Counter
from collections.abc import Iterable, Mapping

from serving.metrics import PROTOCOLS, REASONS, SECONDS, STAGES, Calls, Times, Totals

_NO_TIMES = Times((0,) * len(SECONDS), 0, 0.0)
NOTHING = Totals(
    answered=dict.fromkeys(PROTOCOLS, 0),
    failed=dict.fromkeys(REASONS, 0),
    failed_s=0.0,
    rows=0,
    stages=dict.fromkeys(STAGES, _NO_TIMES),
    whole=_NO_TIMES,
    calls={},
    last_s=None,
)
"""What a version did that did nothing yet."""


def summed(parts: Iterable[Totals]) -> Totals:
    """All that they did together."""
    parts = (NOTHING, *parts)
    latest = [part.last_s for part in parts if part.last_s is not None]
    return Totals(
        answered=_counts(part.answered for part in parts),
        failed=_counts(part.failed for part in parts),
        failed_s=sum(part.failed_s for part in parts),
        rows=sum(part.rows for part in parts),
        stages={stage: _times([part.stages[stage] for part in parts]) for stage in STAGES},
        whole=_times([part.whole for part in parts]),
        calls=_calls(part.calls for part in parts),
        last_s=max(latest, default=None),
    )


class Told:
    """What processes told of one version, the last of each. Any thread may ask, since what is held is replaced, never changed."""

    def __init__(self) -> None:
        self._totals: Mapping[str, Totals] = {}
        self._gauges: Mapping[str, tuple[int, int]] = {}

    def tell(self, process: str, totals: Totals, in_flight: int, queued_rows: int) -> None:
        """Takes the place of what the process told before."""
        self._totals = {**self._totals, process: totals}
        self._gauges = {**self._gauges, process: (in_flight, queued_rows)}

    def ended(self, process: str) -> None:
        """What it told last stays counted, and another process may have its name."""
        if process in self._totals:
            rest = {name: totals for name, totals in self._totals.items() if name not in {"", process}}
            self._totals = {**rest, "": summed([self._totals.get("", NOTHING), self._totals[process]])}
        self._gauges = {name: gauges for name, gauges in self._gauges.items() if name != process}

    def totals(self) -> Totals:
        """Everything up to what was told last."""
        return summed(self._totals.values())

    @property
    def in_flight(self) -> int:
        """Requests between their routing and their answer."""
        return sum(in_flight for in_flight, _ in self._gauges.values())

    @property
    def queued_rows(self) -> int:
        """Rows that wait for an engine."""
        return sum(queued_rows for _, queued_rows in self._gauges.values())


def _counts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for part in parts:
        for name, count in part.items():
            found[name] += count
    return dict(found)


def _times(parts: Iterable[Times]) -> Times:
    parts = list(parts)
    within = tuple(map(sum, zip(*(part.within for part in parts), strict=True)))
    return Times(within, sum(part.count for part in parts), sum(part.sum_s for part in parts))


def _calls(parts: Iterable[Mapping[int, Calls]]) -> dict[int, Calls]:
    found: dict[int, Calls] = {}
    for part in parts:
        for rows, calls in part.items():
            before = found.get(rows, Calls(0, 0.0))
            found[rows] = Calls(before.count + calls.count, before.seconds + calls.seconds)
    return dict(sorted(found.items()))
