"""What changed since an earlier test."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.compare import Change, Comparison, cells
from bench.report.canvas import BAD, GOOD, INK, LINE, MUTED, Frame, Picture, figure, name_bar
from bench.report.markup import Column, Markup, element, sentence, strong, table
from bench.report.section import Section
from bench.report.sections.throughput import bar_axes
from bench.report.units import moment, percent
from bench.results import OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 40
_LOOKS = {"worse": (BAD, "v"), "better": (GOOD, "^"), "same": (MUTED, "o")}
_FARTHEST = 2.0
"""A change beyond this share is drawn at it."""


def section(comparison: Comparison) -> Section:
    """Where an earlier results.json was given."""
    drawn = [one for one in comparison.changes if one.contender == OURS and one.change is not None]
    introduction = (
        f"Compared with the test of {moment(comparison.old_made_at)}. A number changed if its medians differ by more than "
        f"{percent(comparison.tolerance)}; beside it stands what the rounds differ by anyway."
    )
    parts: list[str] = [_different(comparison)] if comparison.different else []
    parts.append(sentence(strong(comparison.summary)))
    parts += [figure(_picture(comparison, drawn))] if drawn else []
    parts += [_table(comparison.changes)] if comparison.changes else []
    parts += [_unmatched(comparison.unmatched)] if comparison.unmatched else []
    return Section("changes", "What changed", "Changes", introduction, parts)


def _different(comparison: Comparison) -> Markup:
    reasons = element("ul", *(element("li", reason) for reason in comparison.different))
    return element("div", sentence(strong("The two tests differ in more than the server's speed:")), reasons, class_="box bad", role="note")


def _unmatched(names: Sequence[str]) -> Markup:
    return element("div", sentence("Not compared:"), element("ul", *(element("li", name) for name in names)), class_="box warn")


def _picture(comparison: Comparison, drawn: Sequence[Change]) -> Picture:
    def draw(axes: "Axes", _: Frame) -> None:
        far = max(comparison.tolerance * 1.6, *(min(abs(one.change or 0.0), _FARTHEST) for one in drawn))
        bar_axes(axes, len(drawn), 1, "change, % (band: the tolerance)")
        axes.set_xlim(-far * 115, far * 115)
        axes.axvspan(-100 * comparison.tolerance, 100 * comparison.tolerance, color=LINE, alpha=0.45, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1.0)
        for number, one in enumerate(drawn):
            _row(axes, number, one)

    says = "; ".join(f"{one.load} {one.unit}: {cells(one)[4]} {one.verdict}" for one in drawn)
    return Picture("changes", "Change of every number of ours", f"{says}.", draw, height=_ROW * len(drawn), bars=True)


def _row(axes: "Axes", number: int, one: Change) -> None:
    look, marker = _LOOKS[one.verdict]
    value = 100 * max(-_FARTHEST, min(_FARTHEST, one.change or 0.0))
    half = 50 * min(one.noise or 0.0, _FARTHEST)
    axes.plot([value - half, value + half], [number] * 2, color=look, linewidth=1.2)
    axes.plot([value], [number], color=look, marker=marker, linestyle="", markersize=8)
    name = f"{one.load}, {one.unit}: {cells(one)[4]}" + ("" if one.verdict == "same" else f", {one.verdict}")
    name_bar(axes, number, name, 8)


def _table(changes: Sequence[Change]) -> Markup:
    columns = [Column("load", numbers=False), Column("number", numbers=False), *(Column(name) for name in ("was", "is", "change", "rounds differ by")), Column("", numbers=False)]
    return table("Before and now", columns, [list(cells(one)) for one in changes])
