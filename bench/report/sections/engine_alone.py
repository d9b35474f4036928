"""The engine without a server: rows in a second by batch size, the line that was fitted, and what is served of it."""

from typing import TYPE_CHECKING, Any

from bench.report.canvas import INK, End, Frame, Picture, at_ends, colour, figure, log_ticks, plain_ticks, titles
from bench.report.findings import best, load_name, share_of_bound
from bench.report.markup import Column, Markup, sentence, strong, table
from bench.report.section import Section
from bench.report.units import counted, exact, milliseconds, per_second, percent, rounded
from bench.results import Bound, Case, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEPS = 60
_MEASURED: dict[str, Any] = {"color": colour(0), "marker": "o", "linestyle": ""}
_FITTED: dict[str, Any] = {"color": colour(1), "linestyle": (0, (5, 2)), "linewidth": 1.4}


def section(results: Results) -> Section | None:
    """Where an artifact was given as the bound."""
    bound = results.bound
    if bound is None or not bound.points:
        return None
    served = best(results)
    introduction = (
        f"The engine {bound.engine} on {bound.device} in a process of its own, without any server: "
        f"{counted(bound.instances, 'instance')}, {counted(bound.threads, 'thread')}."
    )
    parts = [_words(results, bound, served), figure(_picture(bound, served)), _table(bound)]
    return Section("engine", "The engine alone", "Engine alone", introduction, parts)


def _words(results: Results, bound: Bound, served: Case | None) -> Markup:
    fit = f"A call of n rows takes {_fitted(bound)}. "
    share = None if served is None else share_of_bound(results, served)
    if served is None or share is None:
        return sentence(fit)
    most = f"At its best, {counted(bound.best.rows, 'row')} in a call, it does {rounded(bound.best.rows_per_s)} rows/s; "
    return sentence(fit, most, "served: ", strong(percent(share)), f" of that, at {load_name(served)}.")


def _fitted(bound: Bound) -> str:
    sign = "+" if bound.per_call_s >= 0 else "-"
    return f"{milliseconds(bound.per_row_s * 1e3)} · n {sign} {milliseconds(abs(bound.per_call_s) * 1e3)}"


def _picture(bound: Bound, served: Case | None) -> Picture:
    def draw(axes: "Axes", frame: Frame) -> None:
        rows = [point.rows for point in bound.points]
        measured = [point.rows_per_s for point in bound.points]
        curve = _curve(bound, rows)
        axes.plot(*zip(*curve, strict=True), **_FITTED)
        axes.plot(rows, measured, **_MEASURED)
        _rows_axis(axes, rows)
        level = [] if served is None else [served.rows_per_s]
        axes.set_ylim(0, 1.12 * max([*measured, *(rate for _, rate in curve), *level]))
        plain_ticks(axes, "y")
        if served is not None:
            axes.axhline(served.rows_per_s, color=INK, linewidth=1.2, linestyle=(0, (2, 2)))
            at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axes.annotate(f"served: {rounded(served.rows_per_s)}/s", (1, served.rows_per_s), (-2, 5), ha="right", **at)
        titles(axes, "rows in a call", "rows/s")
        at_ends(axes, frame, [End(measured[-1], "measured", 0, _MEASURED), End(curve[-1][1], "fitted", 1, _FITTED)])

    says = ", ".join(f"{per_second(point.rows_per_s)} with {counted(point.rows, 'row')}" for point in bound.points)
    served_words = "" if served is None else f" Served: {per_second(served.rows_per_s)}."
    return Picture("engine", "Rows in a second by rows in a call", f"Rows: {says}.{served_words}", draw, ["measured", "fitted"])


def _curve(bound: Bound, rows: list[int]) -> list[tuple[float, float]]:
    """Rows in a second, n / t(n), between the smallest and the largest batch, where the fitted time is one."""
    low, high = min(rows), max(rows)
    at = [low * (high / low) ** (step / _STEPS) for step in range(_STEPS + 1)]
    times = [(n, bound.per_row_s * n + bound.per_call_s) for n in at]
    found = [(n, n / time) for n, time in times if time > 0]
    return found or [(float(point.rows), point.rows_per_s) for point in bound.points]


def _rows_axis(axes: "Axes", rows: list[int]) -> None:
    log_ticks(axes, "x", min(rows) / 1.15, max(rows) * 1.15)
    axes.set_xticks(rows[:: 1 if len(rows) <= 9 else 2], [f"{count:,}" for count in rows[:: 1 if len(rows) <= 9 else 2]])


def _table(bound: Bound) -> Markup:
    columns = [Column(name) for name in ("rows in a call", "ms for a call", "fitted ms", "rows/s")]
    rows = [
        [
            f"{point.rows:,}",
            exact(point.call_s * 1e3),
            exact((bound.per_row_s * point.rows + bound.per_call_s) * 1e3),
            exact(point.rows_per_s),
        ]
        for point in bound.points
    ]
    return table("The engine alone, by rows in a call", columns, rows)
