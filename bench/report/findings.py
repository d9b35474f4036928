"""What follows from the results: the best load, the knee, how far from the engine, who was the limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.page import Spread
from bench.report.units import capital, load
from bench.results import OURS, Case, Results, Round

CLIENT_FULL = 0.9
"""Of a core: the load generator was the limit."""
MACHINE_FULL = 0.95
"""Of all cores: the machine was the limit."""
NEARLY_FULL = 0.8
"""Of a core or of all: from here on nobody can say that it was not the limit."""
KEPT_UP = 0.97
"""Of the requests due, those that failed left out: a server that answers fewer in the time is beyond what it can do."""
_TOO_LATE = "timeout"
"""The one kind of failure that is a backlog, too: the answer would have come later than anybody waits."""
_RATES_FOR_A_KNEE = 3


@dataclass(frozen=True, slots=True)
class Ratio:
    """Our throughput divided by a peer's under the same load: the rounds' own ratios."""

    contender: str
    case: Case
    spread: Spread


@dataclass(frozen=True, slots=True)
class Failures:
    """Requests of a contender that were due, and those without a good answer, by kind."""

    offered: int
    kinds: dict[str, int]

    @property
    def count(self) -> int:
        """All that failed."""
        return sum(self.kinds.values())

    @property
    def share(self) -> float:
        """Of those due, 0 to 1."""
        return self.count / self.offered if self.offered else float(self.count > 0)


def order(results: Results) -> list[str]:
    """The contenders that were measured: ours first, the others as they were given."""
    known = [OURS, *(name for name in results.contenders if name != OURS)]
    asked = list(dict.fromkeys(case.contender for case in results.cases))
    return [name for name in known if name in asked] + [name for name in asked if name not in known]


def title(results: Results, contender: str) -> str:
    """How a contender is called."""
    return results.contenders[contender].title if contender in results.contenders else contender


def ours_title(results: Results) -> str:
    """How ours is called at the beginning of a sentence: a server of somebody else is not Stateserve."""
    return capital(title(results, OURS))


def best(results: Results, contender: str = OURS) -> Case | None:
    """The closed loop with the most answers in a second."""
    return max(results.closed(contender), key=lambda case: case.requests_per_s, default=None)


def spread(case: Case, of: str = "requests_per_s") -> Spread:
    """A property of the rounds: its median, least and most."""
    return Spread.of([getattr(one, of) for one in case.rounds])


def latency_spread(case: Case, name: str) -> Spread | None:
    """One number of `Latency` over the rounds; None where a round had no answer."""
    if case.latency_ms(name) is None:
        return None
    return Spread.of([getattr(one.latency_ms, name) for one in case.rounds])


def failures(cases: Sequence[Case]) -> Failures:
    """What failed in all rounds of some cases."""
    kinds: dict[str, int] = {}
    for one in _rounds(cases):
        for kind, count in one.errors.items():
            kinds[kind] = kinds.get(kind, 0) + count
    return Failures(sum(one.offered for one in _rounds(cases)), dict(sorted(kinds.items(), key=lambda item: -item[1])))


def to_be_answered_per_s(case: Case) -> float:
    """Requests that were due in a second and did not fail at once: the median over the rounds."""
    return Spread.of([_to_be_answered(one) / one.seconds for one in case.rounds]).median


def _to_be_answered(one: Round) -> int:
    return one.offered - sum(count for kind, count in one.errors.items() if kind != _TOO_LATE)


def keeps_up(case: Case) -> bool:
    """Whether answers came as fast as requests were due. Those that failed are left out: they are told as failures.

    Both are counted over the same seconds, the answers whenever they were due: in a steady state they are the same number,
    however long an answer takes.
    """
    return case.requests_per_s >= KEPT_UP * to_be_answered_per_s(case)


def power(case: Case) -> float:
    """Throughput divided by mean latency, per second and millisecond: the largest of all rates is the knee.

    L. Kleinrock, Power and deterministic rules of thumb for probabilistic problems in computer communications, ICC 1979.
    """
    mean = case.latency_ms("mean")
    return case.requests_per_s / mean if mean else 0.0


def knee(results: Results) -> Case | None:
    """The open loop where throughput is best paid for in latency.

    None where fewer than three rates were tried, or where it would be one that the server could not follow: that is no knee.
    """
    tried, full = results.open(), saturated(results)
    if len(tried) < _RATES_FOR_A_KNEE:
        return None
    bend = max(tried, key=power)
    return bend if full is None or (bend.rate_per_s or 0.0) < (full.rate_per_s or 0.0) else None


def saturated(results: Results) -> Case | None:
    """The lowest rate beyond all that ours could follow: one that failed among others that did not was bad luck."""
    tried = results.open()
    followed = [place for place, case in enumerate(tried) if keeps_up(case)]
    beyond = tried[followed[-1] + 1 :] if followed else tried
    return beyond[0] if beyond else None


def share_of_bound(results: Results, case: Case) -> float | None:
    """Served rows divided by those of the engine alone, at its best batch size."""
    if results.bound is None or not results.bound.best.rows_per_s:
        return None
    return case.rows_per_s / results.bound.best.rows_per_s


def bound_requests_per_s(results: Results) -> float | None:
    """What the engine alone could answer, in requests."""
    if results.bound is None or not results.payload.rows:
        return None
    return results.bound.best.rows_per_s / results.payload.rows


def ratios(results: Results, ours: Case) -> list[Ratio]:
    """Ours against every peer that was asked in the same way; a round that only one of them had or answered is left out."""
    found = []
    for case in results.cases:
        pairs = [(one, two) for one, two in zip(ours.rounds, case.rounds, strict=False) if two.in_time]
        if case.contender != OURS and case.load[1:] == ours.load[1:] and pairs:
            values = [one.requests_per_s / two.requests_per_s for one, two in pairs]
            found.append(Ratio(case.contender, case, Spread.of(values)))
    return found


def _rounds(cases: Sequence[Case]) -> list[Round]:
    return [one for case in cases for one in case.rounds]


def client_full(results: Results) -> list[Case]:
    """The loads of any contender where the load generator was the limit."""
    return [case for case in results.cases if client_busy(case) > CLIENT_FULL]


def client_busy(case: Case) -> float:
    """The share of a core that the busiest process of the load generator used, at most in any round."""
    return max(one.client_busy for one in case.rounds)


def machine_busy(case: Case) -> float | None:
    """The share of all cores that was used, on the median of the rounds; None where that is not known."""
    known = [one.machine_busy for one in case.rounds if one.machine_busy is not None]
    return Spread.of(known).median if known else None


def load_name(case: Case) -> str:
    """A case's load in a word: `32 connections`, or `500/s`."""
    return load(case.connections, case.rate_per_s)
