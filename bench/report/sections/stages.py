"""Where the time of a request goes, by the server's own histograms."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from bench.report.canvas import BACK, MUTED, SERIES, Frame, Picture, figure, name_bar
from bench.report.findings import load_name
from bench.report.markup import Column, Markup, table
from bench.report.section import Section
from bench.report.sections.throughput import bar_axes
from bench.report.units import exact, milliseconds
from bench.results import Case, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STAGES = ("queue", "decode", "infer", "encode", "client")
_TITLES = {"queue": "queue", "decode": "decode", "infer": "infer", "encode": "encode", "client": "network, HTTP, client"}
_LABELLED = {"wide": 9.0, "narrow": 19.0}
"""Per cent of a bar from which on a stage's share is written into it."""
_COLOURS = (*SERIES[:4], MUTED)
_ROW = 52

Split = dict[str, float]


def section(results: Results) -> Section | None:
    """A bar per load, its stages one after the other."""
    found = [(case, _split(case)) for case in [*results.closed(), *results.open()]]
    known = [(case, split) for case, split in found if split]
    if not known:
        return None
    closed = [(case, split) for case, split in known if case.loop == "closed"] or known
    introduction = (
        "The mean of a request by the server's own histograms: waiting for the engine, reading the body, the engine's call, "
        "writing the answer. All the rest of what the client saw is network, HTTP and the client itself."
    )
    parts = [figure(_picture(closed)), _table(known)]
    return Section("time", "Where the time goes", "Split of time", introduction, parts)


def _split(case: Case) -> Split:
    """The medians over the rounds; empty where a round has none."""
    stages = [one.stages_ms for one in case.rounds]
    if not stages or any(one is None for one in stages):
        return {}
    return {name: median(getattr(one, name) for one in stages) for name in (*_STAGES, "rows_per_call")}


def _picture(known: Sequence[tuple[Case, Split]]) -> Picture:
    def draw(axes: "Axes", frame: Frame) -> None:
        from matplotlib.patches import Patch

        totals = [sum(max(0.0, split[name]) for name in _STAGES) for _, split in known]
        for number, (case, split) in enumerate(known):
            _bar(axes, number, split, totals[number], _LABELLED[frame.name])
            said = f"{load_name(case)}: {milliseconds(totals[number])}"
            name_bar(axes, number, said, 12)
        bar_axes(axes, len(known), 100, "% of the time that the client waited (mean)")
        axes.set_xlim(0, 100)
        looks = [Patch(facecolor=_COLOURS[place], edgecolor="none", label=_TITLES[name]) for place, name in enumerate(_STAGES)]
        rows = axes.get_window_extent().height
        axes.legend(
            handles=looks, loc="lower left", bbox_to_anchor=(0, 1 + 4 / rows), borderaxespad=0, borderpad=0,
            ncols=3 if frame.narrow else 5, handlelength=1.0, handleheight=1.0, handletextpad=0.5, columnspacing=1.2,
        )  # fmt: skip

    says = "; ".join(
        f"{load_name(case)}: " + ", ".join(f"{_TITLES[name]} {milliseconds(split[name])}" for name in _STAGES)
        for case, split in known
    )
    return Picture("time", "Parts of a request's time", f"{says}.", draw, height=_ROW * len(known), bars=True, top=50)


def _bar(axes: "Axes", number: int, split: Split, total: float, labelled: float) -> None:
    begin = 0.0
    for place, name in enumerate(_STAGES):
        share = 100 * max(0.0, split[name]) / total if total else 0.0
        axes.barh(number, share, 0.4, begin, color=_COLOURS[place], edgecolor=BACK, linewidth=1.2)
        if share >= labelled:
            axes.text(begin + share / 2, number, f"{share:.0f} %", ha="center", va="center_baseline", color=BACK)
        begin += share


def _table(known: Sequence[tuple[Case, Split]]) -> Markup:
    columns = [Column("load", numbers=False), *(Column(f"{_TITLES[name]} ms") for name in _STAGES), Column("rows in a call")]
    rows = [[load_name(case), *(exact(split[name]) for name in _STAGES), exact(split["rows_per_call"])] for case, split in known]
    return table("Mean milliseconds of a request's stages", columns, rows)
