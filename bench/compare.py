"""Two load tests side by side: what changed, what of it is worse than it may be, and whether they can be compared at all.

A number changed if its medians differ by more than the tolerance; whether that lies within what the rounds differ by anyway is
said beside it, and does not excuse it. Only ours can count as worse: a peer that changed, too, tells that it was the machine.
What was not compared is no proof: a closed loop of ours that only the old test has counts, and so does nothing in common at all.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.page import Spread
from bench.report.findings import best, failures, latency_spread, load_name, order, share_of_bound, spread, title
from bench.report.units import counted, moment, percent, rounded, times
from bench.results import OURS, Case, Results

Verdict = Literal["worse", "better", "same"]

_LATENCIES = ("p50", "p99")
_MORE_IS_BETTER = {"requests/s", "served / bound"}
_COLUMNS = 100
_MACHINE = ("cpu", "cores", "isa", "system", "gpus")
"""What makes two machines two. Versions of packages are told apart from it: a new version may be what is tested."""
_ASKED = ("content_id", "engine", "threads", "instances", "device", "max_rows", "tuned")
"""What of the model's facts makes another server of it."""
_FACTS = {"content_id": "model content", "instances": "number of instances", "threads": "number of threads", "tuned": "tuning"}
_BOUND = ("engine", "threads", "instances", "device")
"""What makes two bounds two: beside an engine with more threads, a faster server reaches a smaller share."""
_SAME_RATE = 0.005
_NOTHING = "Nothing of ours could be compared: no load, bound or target is in both tests. It counts as worse."


@dataclass(frozen=True, slots=True)
class Change:
    """One number in both tests: medians, and what the rounds were from and to (equal to the median where there are none).

    `unit` is that of the number: `requests/s`, `p99 ms`, `failed`, `served / bound`. None: it could not be measured.
    """

    contender: str
    load: str
    unit: str
    old: Spread | None
    new: Spread | None
    tolerance: float

    @property
    def verdict(self) -> Verdict:
        """A number that is gone is worse, one that is new is better; from nothing, any number is a change."""
        if self.old is None or self.new is None:
            return "worse" if self.new is None else "better"
        grown = self.new.median - self.old.median
        if abs(grown) <= self.tolerance * abs(self.old.median):
            return "same"
        return "better" if (grown > 0) == (self.unit in _MORE_IS_BETTER) else "worse"

    @property
    def change(self) -> float | None:
        """The medians' difference as a share of the old one; None where there is no such share."""
        if self.old is None or self.new is None or not self.old.median:
            return None
        return self.new.median / self.old.median - 1

    @property
    def noise(self) -> float | None:
        """From the least round to the most, as a share of the median, of both tests the larger; None where none differ."""
        shares = [(one.high - one.low) / one.median for one in (self.old, self.new) if one is not None and one.median]
        return max(shares, default=0.0) or None

    @property
    def within_rounds(self) -> bool:
        """Whether a round of one test could as well have been one of the other: their ranges meet."""
        if self.old is None or self.new is None:
            return False
        return self.old.low <= self.new.high and self.new.low <= self.old.high

    @property
    def counts(self) -> bool:
        """Whether it makes the comparison fail."""
        return self.verdict == "worse" and self.contender == OURS


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed. `different` is why the two may not be comparable, `unmatched` what only one of them has.

    `gone` are closed loops of ours that only the old test has.
    """

    tolerance: float
    old_made_at: str
    new_made_at: str
    different: Sequence[str]
    changes: Sequence[Change]
    unmatched: Sequence[str]
    gone: Sequence[str] = ()

    @property
    def worse(self) -> list[Change]:
        """Numbers of ours that got worse beyond the tolerance."""
        return [one for one in self.changes if one.counts]

    @property
    def beyond(self) -> list[str]:
        """Why the comparison fails, a line each; empty where it does not: what got worse, what is gone, or nothing compared."""
        lines = [f"{one.load}, {one.unit}: {_value(one, one.old)} became {_value(one, one.new)}" for one in self.worse]
        lines += [f"{load}: in the old test only" for load in self.gone]
        return [*lines, *([] if self._ours else [_NOTHING])]

    @property
    def _ours(self) -> list[Change]:
        return [one for one in self.changes if one.contender == OURS]

    @property
    def summary(self) -> str:
        """One sentence."""
        ours = self._ours
        counts = {kind: sum(one.verdict == kind for one in ours) for kind in ("worse", "better", "same")}
        if not ours:
            return _NOTHING
        allowed = percent(self.tolerance)
        told = f"{counts['worse']} worse and {counts['better']} better by more than {allowed}; {counts['same']} within it"
        gone = f"; {counted(len(self.gone), 'load')} of the old test missing, which counts as worse" if self.gone else ""
        return f"Of {counted(len(ours), 'number')} of ours, {told}{gone}."

    @property
    def told(self) -> list[Change]:
        """Every number of ours, and what changed of the others."""
        return [one for one in self.changes if one.contender == OURS or one.verdict != "same"]

    @property
    def lines(self) -> list[str]:
        """For a terminal of 100 columns: what may not be comparable, every number of ours, what changed of the others."""
        return [
            f"Compared with the test of {moment(self.old_made_at)}:",
            *(line for reason in self.different for line in _wrapped(f"!! {reason}")),
            *_table(self.told),
            *(line for name in self.unmatched for line in _wrapped(f"Not compared: {name}")),
            *_wrapped(self.summary),
        ]


def compare(old: Results, new: Results, tolerance: float) -> Comparison:
    """What changed from `old` to `new`; `tolerance` is a share, 0.1 for 10 %."""
    pairs = _pairs(old, new)
    changes = [change for one, two in pairs for change in _of_a_case(one, two, tolerance)]
    changes += [*_of_the_bound(old, new, tolerance), *_of_the_target(old, new, tolerance)]
    unmatched = [*_unmatched(old, new, pairs), *_bounds_unmatched(old, new), *_targets_unmatched(old, new)]
    known = {one.load for one, _ in pairs}
    gone = [load_name(case) for case in old.closed() if case.load not in known]
    return Comparison(tolerance, old.made_at, new.made_at, list(_different(old, new)), changes, unmatched, gone)


def _pairs(old: Results, new: Results) -> list[tuple[Case, Case]]:
    """The same load on the same contender; rates may differ by half a per cent."""
    found = []
    for contender in order(new):
        mine = [case for case in old.cases if case.contender == contender]
        for case in [*new.closed(contender), *new.open(contender)]:
            same = next((one for one in mine if _same_load(one, case)), None)
            if same is not None:
                found.append((same, case))
    return found


def _same_load(one: Case, two: Case) -> bool:
    if one.load[:3] != two.load[:3] or one.rate_per_s is None or two.rate_per_s is None:
        return one.load == two.load
    return abs(one.rate_per_s - two.rate_per_s) <= _SAME_RATE * one.rate_per_s


def _of_a_case(old: Case, new: Case, tolerance: float) -> Iterator[Change]:
    """In an open loop the throughput is what was asked for: only latency and failures are the server's."""
    name = (new.contender, load_name(new))
    if new.loop == "closed":
        yield Change(*name, "requests/s", spread(old), spread(new), tolerance)
    for which in _LATENCIES:
        before, after = latency_spread(old, which), latency_spread(new, which)
        if before is not None or after is not None:
            yield Change(*name, f"{which} ms", before, after, tolerance)
    before, after = failures([old]), failures([new])
    if before.count or after.count:
        yield Change(*name, "failed", Spread.of([before.share]), Spread.of([after.share]), tolerance)


def _of_the_bound(old: Results, new: Results, tolerance: float) -> Iterator[Change]:
    if any(_bounds_differ(old, new)):
        return
    before, after = _share(old), _share(new)
    if before is not None and after is not None:
        yield Change(OURS, "at its best", "served / bound", Spread.of([before]), Spread.of([after]), tolerance)


def _bounds_differ(old: Results, new: Results) -> Iterator[str]:
    if old.bound is None or new.bound is None:
        return
    for name in _BOUND:
        before, after = getattr(old.bound, name), getattr(new.bound, name)
        if before != after:
            yield f"{name} {_was_is(before, after)}"


def _share(results: Results) -> float | None:
    most = best(results)
    return None if most is None else share_of_bound(results, most)


def _of_the_target(old: Results, new: Results, tolerance: float) -> Iterator[Change]:
    if old.slo is None or new.slo is None or old.slo.target != new.slo.target:
        return
    before, after = (None if one is None else Spread.of([one]) for one in (old.slo.highest_per_s, new.slo.highest_per_s))
    if before is not None or after is not None:
        yield Change(OURS, new.slo.target, "requests/s", before, after, tolerance)


def _different(old: Results, new: Results) -> Iterator[str]:
    for name in _MACHINE:
        before, after = old.machine.get(name), new.machine.get(name)
        if before != after:
            yield f"another machine: {name} {_was_is(before, after)}"
    for what, before, after in _asked(old, new):
        if before != after:
            yield f"another {what}: it {_was_is(before, after)}"
    bounds = list(_bounds_differ(old, new))
    if bounds:
        yield f"another bound: {'; '.join(bounds)}: served / bound is not compared"
    for name, before, after in _versions(old.machine, new.machine):
        yield f"another version: {name} was {before}, is {after}"
    for which, one in (("old", old), ("new", new)):
        if not one.complete:
            yield f"the {which} test is incomplete: {one.stopped_by or 'it was stopped'}"


def _asked(old: Results, new: Results) -> Iterator[tuple[str, Any, Any]]:
    yield "model", old.model.name, new.model.name
    for name in _ASKED:
        yield _FACTS.get(name, name), old.model.facts.get(name), new.model.facts.get(name)
    yield "protocol", old.payload.protocol, new.payload.protocol
    yield "payload", _payload(old), _payload(new)


def _payload(results: Results) -> str:
    return f"{rounded(results.payload.rows)} rows, {rounded(results.payload.body_bytes)} bytes"


def _versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    before, after = ({"python": one.get("python"), **(one.get("packages") or {})} for one in (old, new))
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            yield name, _word(before.get(name)), _word(after.get(name))


def _was_is(before: Any, after: Any) -> str:
    """`was 2, is 4`; of two lists what only one of them has."""
    if not (isinstance(before, list | tuple) and isinstance(after, list | tuple)):
        return f"was {_word(before)}, is {_word(after)}"
    gone, come = ([one for one in left if one not in right] for left, right in ((before, after), (after, before)))
    return "; ".join(f"{word} {_word(one)}" for word, one in (("lost", gone), ("gained", come)) if one)


def _word(value: Any) -> str:
    if value is None:
        return "not known"
    return ", ".join(str(one) for one in value) if isinstance(value, list | tuple) else str(value)


def _unmatched(old: Results, new: Results, pairs: Sequence[tuple[Case, Case]]) -> Iterator[str]:
    """One line per contender and loop: a sweep has other rates every time."""
    matched = ({one.load for one, _ in pairs}, {two.load for _, two in pairs})
    for which, results, known in zip(("old", "new"), (old, new), matched, strict=True):
        for contender in order(results):
            for loop, cases in (("closed", results.closed(contender)), ("open", results.open(contender))):
                left = [load_name(case) for case in cases if case.load not in known]
                if left:
                    name = title(results, OURS) if contender == OURS else contender
                    counts = ", which counts as worse" if (contender, loop, which) == (OURS, "closed", "old") else ""
                    yield f"{name}, {loop} loop, {', '.join(left)}: in the {which} test only{counts}"


def _bounds_unmatched(old: Results, new: Results) -> Iterator[str]:
    if (old.bound is None) != (new.bound is None):
        yield f"served / bound: in the {'new' if old.bound is None else 'old'} test only"


def _targets_unmatched(old: Results, new: Results) -> Iterator[str]:
    before, after = (None if one.slo is None else one.slo.target for one in (old, new))
    if before != after:
        yield f"the target: it was {before or 'none'}, is {after or 'none'}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, subsequent_indent="   ")


def _table(changes: Sequence[Change]) -> list[str]:
    rows = [("", "", "was", "is", "change", "rounds", "")]
    rows += [cells(one) for one in changes]
    if len(rows) == 1:
        return []
    widths = [max(len(row[place]) for row in rows) for place in range(7)]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:6], widths[2:6], strict=True)]
        lines.append("  ".join([*left, *right, row[6]]).rstrip())
    return lines


def cells(one: Change) -> tuple[str, str, str, str, str, str, str]:
    """As it stands in a table: load, unit, before, after, change, what the rounds differ by, what is to be said."""
    change, noise = one.change, one.noise
    return (
        one.load if one.contender == OURS else f"{one.contender}, {one.load}",
        one.unit,
        _value(one, one.old),
        _value(one, one.new),
        "" if change is None else times(1 + change),
        "" if noise is None else f"± {50 * noise:.1f} %",
        said(one),
    )


def _value(one: Change, found: Spread | None) -> str:
    if found is None:
        return "none"
    return percent(found.median) if one.unit in {"failed", "served / bound"} else rounded(found.median)


def said(one: Change) -> str:
    """What is to be said of it: nothing where it is the same."""
    if one.verdict == "same":
        return ""
    within = ", within the rounds" if one.within_rounds and one.noise else ""
    return f"{one.verdict.upper() if one.counts else one.verdict}{within}"
