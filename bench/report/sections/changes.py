"""What changed since an earlier test."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.compare import Change, Comparison, cells
from bench.report.canvas import BACK, BAD, GOOD, INK, LINE, MUTED, Frame, Picture, figure, name_bar
from bench.report.markup import Column, Markup, element, sentence, strong, table
from bench.report.section import Section
from bench.report.sections.throughput import bar_axes
from bench.report.units import moment, percent
from bench.results import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 44
_COLOURS = {"worse": BAD, "better": GOOD, "same": MUTED}
_MARKERS = {"requests/s": "o", "p50 ms": "^", "p99 ms": "s", "failed": "X", "served / bound": "D"}
_FARTHEST = 0.5
"""A change beyond this share is drawn at it: its number stands beside it."""


def section(comparison: Comparison) -> Section:
    """Where an earlier results.json was given."""
    drawn = [one for one in comparison.changes if one.contender == OURS and one.change is not None]
    introduction = (
        f"Compared with the test of {moment(comparison.old_made_at)}. A number changed if its medians differ by more than "
        f"{percent(comparison.tolerance)}; beside it stands what the rounds "
        "differ by anyway. Worse: red and filled; better: green and hollow; within it: grey and small."
    )
    parts: list[str] = [_different(comparison)] if comparison.different else []
    parts.append(sentence(strong(comparison.summary)))
    parts += [figure(_picture(comparison, drawn))] if drawn else []
    parts += [_table(comparison.told)] if comparison.told else []
    parts += [_unmatched(comparison.unmatched)] if comparison.unmatched else []
    return Section("changes", "What changed", "Changes", introduction, parts)


def _different(comparison: Comparison) -> Markup:
    reasons = element("ul", *(element("li", reason) for reason in comparison.different))
    return element(
        "div", sentence(strong("The two tests differ in more than the server's speed:")), reasons, class_="box bad", role="note"
    )


def _unmatched(names: Sequence[str]) -> Markup:
    return element("div", sentence("Not compared:"), element("ul", *(element("li", name) for name in names)), class_="box warn")


def _picture(comparison: Comparison, drawn: Sequence[Change]) -> Picture:
    rows = list(dict.fromkeys(one.load for one in drawn))

    def draw(axes: "Axes", frame: Frame) -> None:
        far = max(comparison.tolerance * 1.6, *(min(abs(one.change or 0.0), _FARTHEST) for one in drawn))
        bar_axes(axes, len(rows), 1, "change, % (band: the tolerance)")
        axes.set_xlim(-far * 110, far * 110)
        axes.axvspan(-100 * comparison.tolerance, 100 * comparison.tolerance, color=LINE, alpha=0.45, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1.0)
        for number, load in enumerate(rows):
            _row(axes, frame, number, [one for one in drawn if one.load == load])
        _key(axes, drawn)

    says = "; ".join(f"{one.load} {one.unit}: {cells(one)[4]} {one.verdict}" for one in drawn)
    return Picture("changes", "Change of our numbers", f"{says}.", draw, height=_ROW * len(rows), bars=True, top=50)


def _row(axes: "Axes", frame: Frame, number: int, changes: Sequence[Change]) -> None:
    for one in changes:
        value = 100 * max(-_FARTHEST, min(_FARTHEST, one.change or 0.0))
        half = 50 * min(one.noise or 0.0, _FARTHEST)
        axes.plot([value - half, value + half], [number] * 2, color=_COLOURS[one.verdict], linewidth=1.2)
        axes.plot([value], [number], color=_COLOURS[one.verdict], marker=_marker(one), linestyle="", **_look(one))
    told = ", ".join(f"{one.unit.removesuffix(' ms')} {cells(one)[4]}{_word(one)}" for one in changes)
    name_bar(axes, number, f"{changes[0].load}: {_counts(changes) if frame.narrow else told}", 9)


def _look(one: Change) -> dict[str, Any]:
    """Not the colour alone tells worse from better: one is filled, the other hollow."""
    return {"markersize": 5.5 if one.verdict == "same" else 8.5, "markerfacecolor": BACK if one.verdict == "better" else None}


def _word(one: Change) -> str:
    return "" if one.verdict == "same" else f" {one.verdict}"


def _counts(changes: Sequence[Change]) -> str:
    """For a narrow page: `2 worse, 1 better`, or `same`."""
    counts = [(sum(one.verdict == kind for one in changes), kind) for kind in ("worse", "better")]
    return ", ".join(f"{count} {kind}" for count, kind in counts if count) or "same"


def _key(axes: "Axes", drawn: Sequence[Change]) -> None:
    """Which marker is which number, above the picture."""
    from matplotlib.lines import Line2D

    units = {_marker(one): one.unit.removesuffix(" ms") for one in drawn}
    looks = [Line2D([], [], color=MUTED, marker=marker, linestyle="", label=unit) for marker, unit in units.items()]
    at = (0, 1 + 6 / axes.get_window_extent().height)
    place = {"loc": "lower left", "bbox_to_anchor": at, "borderaxespad": 0, "borderpad": 0}
    axes.legend(handles=looks, ncols=3, handletextpad=0.2, columnspacing=1, **place)


def _marker(one: Change) -> str:
    return _MARKERS.get(one.unit, "o")


def _table(changes: Sequence[Change]) -> Markup:
    columns = [
        Column("load", numbers=False),
        Column("number", numbers=False),
        *(Column(name) for name in ("was", "is", "change", "rounds differ by")),
        Column("verdict", numbers=False),
    ]
    return table("Before and now", columns, [list(cells(one)) for one in changes])
