"""How latencies are spread: at what share of the requests which latency is reached, the slowest ones drawn out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.report.canvas import End, Frame, Picture, at_ends, colour, figure, line_style, log_ticks, titles
from bench.report.findings import best, load_name, order, ours_title, title
from bench.report.section import Section
from bench.report.units import milliseconds
from bench.results import Case, Latency, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 5
_TICKS = {0.0: "0 %", 0.5: "50 %", 0.9: "90 %", 0.99: "99 %", 0.999: "99.9 %", 0.9999: "99.99 %", 0.99999: "99.999 %"}
_NAMED = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))


@dataclass(frozen=True, slots=True)
class Curves:
    """One case's curves, one per round; `middle` is the round whose p99 is the middle one, `number` its look."""

    name: str
    number: int
    rounds: Sequence[Latency]

    @property
    def middle(self) -> Latency:
        """The round that stands for them all."""
        return sorted(self.rounds, key=lambda one: one.p99)[(len(self.rounds) - 1) // 2]


def section(results: Results) -> Section | None:
    """Ours at every concurrency, then at some rates, then everybody under the same load."""
    ours = [case for case in results.closed() if _answered(case)]
    rates = [case for case in results.open() if _answered(case)]
    name = ours_title(results)
    pictures = [
        _picture("latency-closed", f"{name} by concurrency", [_curves(case, load_name(case)) for case in some(ours)]),
        _picture("latency-open", f"{name} by rate (open loop)", [_curves(case, load_name(case)) for case in some(rates)]),
        _everybody(results),
    ]
    shown = [figure(picture) for picture in pictures if picture]
    if not shown:
        return None
    introduction = (
        "How long the fastest half, nine tenths, … of the requests took at most. Thick: the round whose p99 is the middle one; "
        "thin: the others. In an open loop a latency runs from the moment a request was due, so a stall is not hidden."
    )
    return Section("latency", "Latency distribution", "Latency", introduction, shown)


def some(cases: Sequence[Case]) -> list[Case]:
    """At most five, the first and the last among them."""
    if len(cases) <= _MOST:
        return list(cases)
    return [cases[round(place * (len(cases) - 1) / (_MOST - 1))] for place in range(_MOST)]


def _everybody(results: Results) -> Picture | None:
    """Every contender under the load where ours was best."""
    most = best(results)
    if most is None:
        return None
    same = {case.contender: case for case in results.cases if case.load[1:] == most.load[1:] and _answered(case)}
    if len(same) < 2:
        return None
    curves = [_curves(same[name], title(results, name)) for name in order(results) if name in same]
    return _picture("latency-peers", f"Everybody, {load_name(most)}", curves)


def _answered(case: Case) -> bool:
    return any(one.latency_ms is not None for one in case.rounds)


def _curves(case: Case, name: str) -> tuple[str, list[Latency]]:
    return name, [one.latency_ms for one in case.rounds if one.latency_ms is not None]


def _picture(key: str, caption: str, cases: Sequence[tuple[str, list[Latency]]]) -> Picture | None:
    curves = [Curves(name, number, rounds) for number, (name, rounds) in enumerate(cases[:_MOST])]
    if not curves:
        return None
    says = "; ".join(f"{one.name}: p50 {milliseconds(one.middle.p50)}, p99 {milliseconds(one.middle.p99)}" for one in curves)

    def draw(axes: "Axes", frame: Frame) -> None:
        _draw(axes, frame, curves)

    return Picture(key, caption, f"Latency in ms at growing shares of the requests. {says}.", draw, [one.name for one in curves])


def _draw(axes: "Axes", frame: Frame, curves: Sequence[Curves]) -> None:
    ends, seen = [], []
    for one in curves:
        for latency in one.rounds:
            x, y = _tail(latency)
            seen += zip(x, y, strict=True)
            if latency is not one.middle:
                axes.plot(x, y, color=colour(one.number), linewidth=0.8, alpha=0.45)
        x, y = _tail(one.middle)
        axes.plot(x, y, color=colour(one.number), linestyle=line_style(one.number)["linestyle"])
        named = [(_place(share), getattr(one.middle, name)) for name, share in _NAMED]
        axes.plot(*zip(*named, strict=True), color=colour(one.number), linestyle="", marker=line_style(one.number)["marker"])
        ends.append(End(y[-1], one.name, one.number))
    _scales(axes, frame, max(x for x, _ in seen), [y for _, y in seen])
    titles(axes, "share of the requests answered", "latency, ms")
    at_ends(axes, frame, ends)


def _scales(axes: "Axes", frame: Frame, last: float, latencies: Sequence[float]) -> None:
    log_ticks(axes, "y", min(latencies) / 1.25, max(latencies) * 1.25)
    axes.set_xlim(0, last * 1.01)
    shown = [
        (share, text) for share, text in _TICKS.items() if _place(share) <= last * 1.001 and not (frame.narrow and share == 0)
    ]
    axes.set_xticks([_place(share) for share, _ in shown], [text for _, text in shown])


def _tail(latency: Latency) -> tuple[list[float], list[float]]:
    """The curve over the number of nines; without a curve, the named quantiles."""
    curve = [(share, ms) for share, ms in latency.curve if share < 1 and ms > 0]
    curve = curve or [(share, max(getattr(latency, name), 1e-6)) for name, share in _NAMED]
    return [_place(share) for share, _ in curve], [ms for _, ms in curve]


def _place(share: float) -> float:
    return -math.log10(1 - share)
