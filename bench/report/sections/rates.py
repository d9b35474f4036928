"""Latency against the rate at which requests are due, with the knee, the end of what the server can do, and the target."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.canvas import BACK, BAD, INK, End, Frame, Picture, at_ends, figure, line_style, log_ticks, plain_ticks, titles
from bench.report.findings import failures, keeps_up, knee, order, ours_title, saturated, title, to_be_answered_per_s
from bench.report.markup import Column, Markup, sentence, strong, table
from bench.report.section import Section
from bench.report.units import exact, milliseconds, per_second, percent, rounded
from bench.results import OURS, Case, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_QUANTILES = (("p50", "p50"), ("p90", "p90"), ("p99", "p99"))
_MOST = 5

Line = tuple[str, list[tuple[float, float]]]


def section(results: Results) -> Section | None:
    """Ours by quantile, and everybody's p99 where others were asked so, too."""
    everybody = {name: results.open(name) for name in order(results) if results.open(name)}
    if not everybody:
        return None
    parts = [*_words(results)]
    ours = everybody.get(OURS, [])
    if ours:
        lines = [(name, _points(ours, key)) for key, name in _QUANTILES]
        parts += [_figure(results, "rates", f"{ours_title(results)}: latency by rate", lines, ours)]
        parts += [_table(results, ours)]
    if len(everybody) > 1:
        lines = [(title(results, name), _points(cases, "p99")) for name, cases in everybody.items()][:_MOST]
        parts += [_figure(results, "rates-peers", "Everybody: p99 by rate", lines, [])]
    introduction = (
        "Open loops: requests are due at the moments of a Poisson process, whatever the server does, and a latency runs from the "
        "moment a request was due. Beyond what a server can do, latency grows for as long as the load lasts."
    )
    return Section("rates", "Latency against rate", "Rates", introduction, [part for part in parts if part])


def _points(cases: Sequence[Case], name: str) -> list[tuple[float, float]]:
    found = [(case.rate_per_s or 0.0, case.latency_ms(name)) for case in cases]
    return [(rate, ms) for rate, ms in found if ms]


def knee_words(results: Results, bend: Case) -> list[str]:
    """Where the knee is, its p99, and the caveat that it needs at either end of what was tried: for the verdict, too."""
    tried, p99 = results.open(), bend.latency_ms("p99")
    ends = {
        tried[0].load: ", the lowest rate that was tried: it may be lower",
        tried[-1].load: ", the highest rate that was tried: it may be higher",
    }
    return [
        strong(per_second(bend.rate_per_s or 0.0)), f" (p99 {milliseconds(p99)})" if p99 else "", ends.get(bend.load, "")
    ]  # fmt: skip


def _words(results: Results) -> list[Markup]:
    bend, full, tried = knee(results), saturated(results), results.open()
    said: list[str] = []
    if bend is not None:
        said += ["The knee, where throughput divided by mean latency is largest, is at ", *knee_words(results, bend), ". "]
    if full is not None:
        said += [
            "From ", strong(per_second(full.rate_per_s or 0.0)), " on, answers no longer keep up: ",
            f"about {rounded(full.requests_per_s)} in a second of {rounded(to_be_answered_per_s(full))} that were due",
            f", besides {percent(failures([full]).share)} that failed." if failures([full]).count else ".",
        ]  # fmt: skip
    elif tried:
        failed = failures(tried[-1:])
        but = f", where {percent(failed.share)} of the requests failed" if failed.count else ""
        said += [f"Answers kept up to the highest rate that was tried{but}."]
    return [sentence(*said)] if said else []


def _followed(case: Case) -> str:
    failed = failures([case])
    return ("kept up" if keeps_up(case) else "fell behind") + (f", {percent(failed.share)} failed" if failed.count else "")


def _figure(results: Results, key: str, caption: str, lines: Sequence[Line], ours: Sequence[Case]) -> Markup:
    drawn = [(name, points) for name, points in lines if points]
    if not drawn:
        return Markup("")

    def draw(axes: "Axes", frame: Frame) -> None:
        rates = [rate for _, points in drawn for rate, _ in points] + [case.rate_per_s or 0.0 for case in ours]
        latencies = [ms for _, points in drawn for _, ms in points]
        limit = results.slo.limit_ms if results.slo and ours else None
        axes.set_xlim(0, max(rates) * 1.03)
        log_ticks(axes, "y", min([*latencies, limit or latencies[0]]) / 1.4, max([*latencies, limit or latencies[0]]) * 1.6)
        plain_ticks(axes, "x", 5 if frame.narrow else 8)
        if ours:
            _marks(axes, results, limit)
        for number, (_, points) in enumerate(drawn):
            axes.plot(*zip(*points, strict=True), **line_style(number))
        titles(axes, "requests due in a second", "latency, ms")
        at_ends(axes, frame, [End(points[-1][1], name, number) for number, (name, points) in enumerate(drawn)])

    says = "; ".join(
        f"{name}: " + ", ".join(f"{milliseconds(ms)} at {per_second(rate)}" for rate, ms in (points[0], points[-1]))
        for name, points in drawn
    )
    return figure(Picture(key, caption, f"Latency against the rate of requests. {says}.", draw, [name for name, _ in drawn], 300))


def _marks(axes: "Axes", results: Results, limit: float | None) -> None:
    """The knee, the rates that were too many, the target."""
    full, bend = saturated(results), knee(results)
    if full is not None:
        axes.axvspan(full.rate_per_s or 0.0, axes.get_xlim()[1], color=BAD, alpha=0.1, linewidth=0)
        axes.annotate("cannot keep up", (1, 1), (0, 9), "axes fraction", "offset points", ha="right", color=BAD)
    if bend is not None:
        axes.axvline(bend.rate_per_s or 0.0, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
        box = {"facecolor": BACK, "edgecolor": "none", "pad": 1.5}
        at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate("knee", (bend.rate_per_s or 0.0, 0.93), (-6, 0), ha="right", va="center", bbox=box, **at)
    if limit is not None and results.slo is not None:
        axes.axhline(limit, color=INK, linewidth=1.0, linestyle=(0, (6, 3)))
        at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(results.slo.target, (0, limit), (2, 5), **at)


def _table(results: Results, cases: Sequence[Case]) -> Markup:
    columns = [
        Column("due/s", numbers=True),
        *(Column(name) for name in ("answered/s", "mean ms", "p50 ms", "p99 ms", "p99.9 ms")),
        Column("answers", numbers=False),
    ]
    rows = [
        [
            exact(case.rate_per_s),
            exact(case.requests_per_s),
            *(exact(case.latency_ms(name)) for name in ("mean", "p50", "p99", "p999")),
            _followed(case),
        ]
        for case in cases
    ]
    return table(f"{ours_title(results)} by rate", columns, rows)
