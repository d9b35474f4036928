"""What a prune would do: which checkpoints stay, and why; which go. Nothing is changed here."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby

from checkpoints.keeping.policies import Best, kept
from checkpoints.listing.entry import Entry, Listing
from checkpoints.listing.keep import Every, Keep, Place, WrongKeep, describe
from checkpoints.listing.order import Measure, in_order, measure_of, place, series_of
from checkpoints.mismatch import nearest

ONE_SERIES = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a prune decides. `only` are globs: what none of them names stays. `one_series` takes all names as one series.

    `by_time` lets the file system's time order a series that nothing else orders; `milestones` lets go of what a Keeper's
    Every… policies marked to stay for good.
    """

    keep: Sequence[Keep]
    only: Sequence[str] = ()
    one_series: bool = False
    by_time: bool = False
    milestones: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`stays` is name -> its reasons, in the listing's order; `goes` are those to remove, the oldest first."""

    listing: Listing
    stays: Mapping[str, tuple[str, ...]]
    goes: tuple[Entry, ...]
    notes: tuple[str, ...]

    def freed_bytes(self, stayed: Collection[str] = ()) -> int:
        """The sizes of those that go, less those that `stayed`, and those whose bytes have another name."""
        return sum(entry.size_bytes for entry in self.goes if entry.name not in stayed and not entry.is_shared)


def make_plan(listing: Listing, choice: Choice) -> Plan:
    """Decide; every checkpoint stays that is protected, damaged, without an order, or the newest of its series.

    Raises WrongKeep where a policy asks for a metric or a count that a whole series does not have, or a glob names nothing.
    """
    _check_globs(listing, choice)
    stays: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    one_series = [replace(entry, series=ONE_SERIES) for entry in listing.entries]
    entries = in_order(one_series if choice.one_series else listing.entries, by_time=choice.by_time)
    for series, members in series_of(entries).items():
        if not any(_is_named(entry, choice) for entry in members):
            continue
        measure = measure_of(members, by_time=choice.by_time)
        if measure == "time":
            notes.append(f"{series}: ordered by the time of writing alone, as asked; copying or syncing a folder changes it.")
        stays |= _stay(series, members, measure, choice) if measure else _unordered(members)
    goes = []
    for entry in entries:
        reasons = (*_own_reasons(entry, choice), *stays.get(entry.name, ()))
        if reasons:
            stays[entry.name] = reasons
        else:
            goes.append(entry)
    ordered = {entry.name: stays[entry.name] for entry in entries if entry.name in stays}
    return Plan(listing=listing, stays=ordered, goes=tuple(goes), notes=(*listing.notes, *notes))


def _own_reasons(entry: Entry, choice: Choice) -> tuple[str, ...]:
    return (
        *entry.protected,
        *((f"unusable: {entry.damaged}",) if entry.damaged else ()),
        *(() if _is_named(entry, choice) else ("--only does not name it",)),
    )


def _is_named(entry: Entry, choice: Choice) -> bool:
    return not choice.only or any(fnmatchcase(entry.name, glob) for glob in choice.only)


def _unordered(members: Sequence[Entry]) -> dict[str, tuple[str, ...]]:
    if len(members) == 1:
        return {members[0].name: ("the only one of its series",)}
    return {entry.name: ("neither its name nor its content gives the series an order",) for entry in members}


def _stay(series: str, members: Sequence[Entry], measure: Measure, choice: Choice) -> dict[str, tuple[str, ...]]:
    """Name -> reasons, of one series that has an order."""
    ordered = sorted(members, key=lambda entry: place(entry, measure))
    groups = [list(group) for _, group in groupby(ordered, key=lambda entry: place(entry, measure))]
    if len(groups) == 1:
        return {
            entry.name: ("the newest of its series" if len(members) > 1 else "the only one of its series",) for entry in members
        }
    places = [_place(number, group, choice) for number, group in enumerate(groups, 1)]
    reasons: dict[int, list[str]] = {}
    for policy in choice.keep:
        _require_facts(series, places, policy)
        for sequence in policy.keeps(places):
            reasons.setdefault(sequence, []).append(describe(policy))
    for sequence in kept(choice.keep, places) - reasons.keys():
        newest = sequence == places[-1].sequence
        marked = ", ".join(places[sequence - 1].kept_by)
        reasons.setdefault(sequence, []).append("the newest of its series" if newest else f"its training keeps it: {marked}")
    return {entry.name: tuple(reasons[number]) for number, group in enumerate(groups, 1) if number in reasons for entry in group}


def _place(sequence: int, group: Sequence[Entry], choice: Choice) -> Place:
    first = group[0]
    metrics = {name: value for entry in reversed(group) for name, value in entry.metrics.items()}
    kept_by = () if choice.milestones else tuple(label for entry in group for label in entry.kept_by)
    return Place(sequence, first.step, first.epoch, metrics, kept_by)


def _require_facts(series: str, places: Sequence[Place], policy: Keep) -> None:
    if isinstance(policy, Best) and not any(policy.metric in one.metrics for one in places):
        known = sorted({name for one in places for name in one.metrics})
        near = nearest(policy.metric, known)
        has = f"its checkpoints have {', '.join(known)}" if known else "its checkpoints tell no metrics"
        hint = f" The nearest is {near}." if near else ""
        raise WrongKeep(
            f"--keep {describe(policy)}: no checkpoint of {series} has a metric {policy.metric}; {has}.{hint} "
            "Leave the series out by --only, or keep it by last:N."
        )
    if isinstance(policy, Every) and any(getattr(one, policy.unit.removesuffix("s")) is None for one in places):
        other = "epochs" if policy.unit == "steps" else "steps"
        raise WrongKeep(
            f"--keep {describe(policy)}: not every checkpoint of {series} says its {policy.unit}. "
            f"Say every:{policy.count}:{other}, or leave the series out by --only."
        )


def _check_globs(listing: Listing, choice: Choice) -> None:
    for glob in choice.only:
        if not any(fnmatchcase(entry.name, glob) for entry in listing.entries):
            raise WrongKeep(f'--only "{glob}" names no checkpoint in {listing.where}.')
