"""Throughput against concurrency: ours, the others, and the engine alone as the line that nobody passes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.canvas import (
    INK,
    MUTED,
    End,
    Frame,
    Picture,
    at_ends,
    colour,
    figure,
    line_style,
    name_bar,
    plain_ticks,
    titles,
)
from bench.report.findings import bound_requests_per_s, load_name, order, spread, title
from bench.report.section import Section
from bench.report.units import per_second, rounded
from bench.results import Case, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 5
_ROW = 46
_FAR = 4
"""A bound that is so many times what was served, or more, is told and not drawn."""


def section(results: Results) -> Section | None:
    """A line per contender; bars where there is one concurrency only."""
    lines = {name: results.closed(name) for name in order(results) if results.closed(name)}
    if not lines:
        return None
    introduction = (
        "Closed loops: so many connections wait for an answer each before they ask again. The median of the rounds; "
        "the thin strokes go from the worst round to the best."
    )
    several = len({case.connections for cases in lines.values() for case in cases}) > 1
    picture = _lines(results, lines) if several else _bars(results, [cases[0] for cases in lines.values()])
    return Section("throughput", "Throughput against concurrency", "Throughput", introduction, [figure(picture)])


def _lines(results: Results, lines: dict[str, list[Case]]) -> Picture:
    bound = bound_requests_per_s(results)
    shown = dict(list(lines.items())[:_MOST])
    names = [title(results, name) for name in shown]

    def draw(axes: "Axes", frame: Frame) -> None:
        everywhere = sorted({case.connections for cases in shown.values() for case in cases})
        ends = []
        for number, (name, cases) in enumerate(shown.items()):
            _line(axes, number, [everywhere.index(case.connections) for case in cases], cases)
            ends.append(End(cases[-1].requests_per_s, title(results, name), number))
        axes.set_xticks(range(len(everywhere)), [f"{count:,}" for count in everywhere])
        axes.set_xlim(-0.12, len(everywhere) - 0.88)
        most = max(spread(case).high for cases in shown.values() for case in cases)
        axes.set_ylim(0, _top(most, bound))
        plain_ticks(axes, "y")
        _bound_line(axes, bound)
        titles(axes, "connections", "requests/s")
        at_ends(axes, frame, ends)

    says = "; ".join(
        f"{title(results, name)}: " + ", ".join(f"{per_second(case.requests_per_s)} at {load_name(case)}" for case in cases)
        for name, cases in shown.items()
    )
    limit = f" The engine alone: {per_second(bound)}." if bound else ""
    return Picture("throughput", "Requests answered in a second", f"{says}.{limit}", draw, names)


def _line(axes: "Axes", number: int, places: Sequence[int], cases: Sequence[Case]) -> None:
    for place, case in zip(places, cases, strict=True):
        axes.plot([place] * 2, [spread(case).low, spread(case).high], color=colour(number), linewidth=1.2)
    axes.plot(places, [case.requests_per_s for case in cases], **line_style(number))


def _top(most: float, bound: float | None) -> float:
    """The end of the axis: the bound is on it, unless it would press everything else to the ground."""
    return 1.1 * (bound if bound and most < bound <= _FAR * most else most or 1)


def _bound_line(axes: "Axes", bound: float | None) -> None:
    if bound is None:
        return
    if bound > axes.get_ylim()[1]:
        text = f"the engine alone: {rounded(bound)}/s, far above"
        axes.annotate(text, (1, 1), (0, 9), "axes fraction", "offset points", ha="right", color=INK)
        return
    axes.axhline(bound, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
    text = f"the engine alone: {rounded(bound)}/s"
    axes.annotate(text, (0, bound), (2, 5), xycoords=("axes fraction", "data"), textcoords="offset points", color=INK)


def _bars(results: Results, cases: Sequence[Case]) -> Picture:
    bound = bound_requests_per_s(results)

    def draw(axes: "Axes", _: Frame) -> None:
        most = _top(max(spread(case).high for case in cases), bound)
        for number, case in enumerate(cases):
            axes.barh(number, case.requests_per_s, 0.34, color=colour(number))
            axes.plot([spread(case).low, spread(case).high], [number] * 2, color=INK, linewidth=1.4)
            said = f"{title(results, case.contender)}: {rounded(case.requests_per_s)}"
            name_bar(axes, number, said, 10)
        if bound and bound <= most:
            axes.axvline(bound, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
            axes.annotate(
                f"the engine alone: {rounded(bound)}", (bound, 1), (-5, 8), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="right", color=MUTED,
            )  # fmt: skip
        bar_axes(axes, len(cases), most / 1.04, "requests/s")

    says = "; ".join(f"{title(results, case.contender)}: {per_second(case.requests_per_s)}" for case in cases)
    caption = f"Requests answered in a second, {load_name(cases[0])}"
    return Picture("throughput", caption, f"{says}.", draw, height=_ROW * len(cases), bars=True, top=26 if bound else 6)


def bar_axes(axes: "Axes", rows: int, most: float, name: str) -> None:
    """Axes for bars that lie, the first at the top, with room above each for its name."""
    axes.set_ylim(rows - 0.6, -0.75)
    axes.set_xlim(0, (most or 1) * 1.04)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    plain_ticks(axes, "x", 5)
    axes.set_xlabel(name, labelpad=7)
