"""The order of checkpoints: within a series, by what all of them say; never by time unless asked."""

from collections.abc import Iterable, Sequence
from typing import Literal

from checkpoints.listing.entry import Entry

Measure = Literal["sequence", "step", "epoch", "number", "time"]
MEASURES: tuple[Measure, ...] = ("sequence", "step", "epoch", "number")


def series_of(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Series -> its whole checkpoints; damaged ones belong to none."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.damaged is None:
            found.setdefault(entry.series, []).append(entry)
    return found


def measure_of(entries: Sequence[Entry], *, by_time: bool = False) -> Measure | None:
    """The first measure that every one of the series has; without one the time if asked, else None: they have no order."""
    for measure in MEASURES:
        if all(_value(entry, measure) is not None for entry in entries):
            return measure
    return "time" if by_time and all(entry.written_s is not None for entry in entries) else None


def place(entry: Entry, measure: Measure) -> tuple[float, ...]:
    """What a series is sorted by: its measure, then what else orders saves of one step. Equal places are kept or go together."""
    if measure == "time":
        return (entry.written_s or 0.0,)
    finer = (entry.step, entry.epoch, entry.number)
    return (_value(entry, measure) or 0, *(-1 if value is None else value for value in finer), entry.version)


def in_order(entries: Iterable[Entry], *, by_time: bool = False) -> tuple[Entry, ...]:
    """Series by series, the oldest first; damaged ones after the whole ones of their series."""
    entries = list(entries)
    measures: dict[str, Measure | None] = {
        series: measure_of(members, by_time=by_time) for series, members in series_of(entries).items()
    }

    def key(entry: Entry) -> tuple[str, bool, tuple[float, ...], str]:
        measure = measures.get(entry.series)
        return entry.series, entry.damaged is not None, place(entry, measure) if measure else (), entry.name

    return tuple(sorted(entries, key=key))


def _value(entry: Entry, measure: Measure) -> float | None:
    return {
        "sequence": entry.sequence,
        "step": entry.step,
        "epoch": entry.epoch,
        "number": entry.number,
        "time": entry.written_s,
    }[measure]
