"""Ours divided by each peer's throughput, with the spread of the rounds' own ratios."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.canvas import INK, Frame, Picture, colour, figure, line_style, log_ticks, name_bar
from bench.report.findings import Ratio, failures, load_name, order, ours_title, ratios, title
from bench.report.markup import Column, Markup, definitions, table
from bench.report.section import Section
from bench.report.units import exact, percent, rounded
from bench.results import OURS, Case, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 46


def section(results: Results) -> Section | None:
    """A row per load and peer; what the peers are stands below."""
    peers = [name for name in order(results) if name != OURS]
    if not peers:
        return None
    found = [(case, one) for case in results.closed() for one in ratios(results, case)]
    introduction = (
        f"{ours_title(results)}'s requests/s divided by the peer's: same machine, model, engine, requests and cores, asked in "
        "turn, round by round. The median of the rounds' own ratios, the least and the most of them."
    )
    parts: list[str] = [figure(_picture(results, found)), _table(results, found)] if found else []
    about = [(title(results, name), _about(results, name)) for name in [OURS, *peers]]
    return Section("peers", "Against the others", "Peers", introduction, [*parts, definitions(about)])


def _about(results: Results, name: str) -> str:
    if name not in results.contenders:
        return ""
    one = results.contenders[name]
    settings = ", ".join(f"{key} {value}" for key, value in one.settings.items() if value not in one.about)
    return f"{one.about} ({settings})" if settings else one.about


def _picture(results: Results, found: Sequence[tuple[Case, Ratio]]) -> Picture:
    """Under the load where ours was best."""
    shown_load = max((case for case, _ in found), key=lambda case: case.requests_per_s)
    shown = [one for case, one in found if case is shown_load]
    names = order(results)

    def draw(axes: "Axes", _: Frame) -> None:
        low, high = min(0.8, *(one.spread.low for one in shown)), max(1.25, *(one.spread.high for one in shown))
        axes.set_yticks([])
        axes.set_ylim(len(shown) - 0.6, -0.75)
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        log_ticks(axes, "x", low / 1.15, high * 1.15)
        axes.axvline(1, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
        axes.set_xlabel("times the peer's requests/s (1: as fast)", labelpad=7)
        for number, one in enumerate(shown):
            _row(axes, number, one, title(results, one.contender), names.index(one.contender))

    says = "; ".join(f"{rounded(one.spread.median)} times {title(results, one.contender)}{failed_words(one)}" for one in shown)
    return Picture(
        "peers",
        f"Times as many requests/s, {load_name(shown_load)}",
        f"{ours_title(results)} has {says}.",
        draw,
        height=_ROW * len(shown),
        bars=True,
    )


def _row(axes: "Axes", number: int, one: Ratio, name: str, look: int) -> None:
    axes.plot([one.spread.low, one.spread.high], [number] * 2, color=colour(look), linewidth=3, alpha=0.5)
    axes.plot([1, one.spread.median], [number] * 2, color=colour(look), linewidth=1.4)
    axes.plot([one.spread.median], [number], color=colour(look), marker=line_style(look)["marker"])
    name_bar(axes, number, f"{name}: {_times(one)}{failed_words(one)}", 9)


def failed_words(one: Ratio) -> str:
    """What must stand beside a ratio whose peer did not answer all: for the verdict, too."""
    failed = failures([one.case])
    return f" ({percent(failed.share)} of its requests failed)" if failed.count else ""


def _times(one: Ratio) -> str:
    return f"{rounded(one.spread.median)} ({rounded(one.spread.low)}–{rounded(one.spread.high)})"  # noqa: RUF001


def _table(results: Results, found: Sequence[tuple[Case, Ratio]]) -> Markup:
    columns = [
        Column("load", numbers=False),
        Column("peer", numbers=False),
        *(
            Column(name)
            for name in ("ours/s", "theirs/s", "times", "least", "most", "p99, ours ms", "p99, theirs ms", "theirs, failed")
        ),
    ]
    rows = [
        [
            load_name(case),
            title(results, one.contender),
            exact(case.requests_per_s),
            exact(one.case.requests_per_s),
            *(rounded(value) for value in (one.spread.median, one.spread.low, one.spread.high)),
            exact(case.latency_ms("p99")),
            exact(one.case.latency_ms("p99")),
            percent(failures([one.case]).share),
        ]
        for case, one in found
    ]
    return table("Throughput against the others", columns, rows)
