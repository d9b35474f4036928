"""The search for the highest rate that holds a target: every rate that was tried."""

from typing import TYPE_CHECKING

from bench.report.canvas import BAD, GOOD, INK, Frame, Picture, figure, log_ticks, plain_ticks, titles
from bench.report.markup import Column, Markup, sentence, strong, table
from bench.report.section import Section
from bench.report.units import exact, milliseconds, per_second
from bench.results import Probe, Results, Slo

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def section(results: Results) -> Section | None:
    """Where a target was given."""
    slo = results.slo
    if slo is None:
        return None
    introduction = (
        "Open loops at one rate after the other, until the lowest that failed and the highest that held are 5 % apart; "
        "what held is tried once more. A failed request counts as slower than any other."
    )
    parts = [_words(slo)]
    if any(probe.latency_ms for probe in slo.probes):
        parts.append(figure(_picture(slo)))
    if slo.probes:
        parts.append(_table(slo))
    return Section("slo", f"The target {slo.target}", "Target", introduction, parts)


def _words(slo: Slo) -> Markup:
    bold, rest = slo_words(slo)
    return sentence(strong(bold), rest)


def _picture(slo: Slo) -> Picture:
    def draw(axes: "Axes", frame: Frame) -> None:
        known = [probe for probe in slo.probes if probe.latency_ms]
        latencies = [probe.latency_ms or 0.0 for probe in known]
        axes.set_xlim(0, max(probe.rate_per_s for probe in slo.probes) * 1.05)
        log_ticks(axes, "y", min(*latencies, slo.limit_ms) / 1.5, max(*latencies, slo.limit_ms) * 2)
        plain_ticks(axes, "x", 5 if frame.narrow else 8)
        axes.axhline(slo.limit_ms, color=INK, linewidth=1.0, linestyle=(0, (6, 3)))
        at = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(slo.target, (0, slo.limit_ms), (2, 5), **at)
        for held, marker, colour, name in ((True, "o", GOOD, "held"), (False, "X", BAD, "did not hold")):
            points = [(probe.rate_per_s, probe.latency_ms) for probe in known if probe.held is held]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle="", label=name, markersize=8)
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, borderpad=0, ncols=2, handletextpad=0.2, columnspacing=1
        )
        titles(axes, "requests due in a second", f"{slo.quantile}, ms")

    says = "; ".join(f"{per_second(one.rate_per_s)}: {'held' if one.held else one.why_not}" for one in slo.probes)
    return Picture("slo", "Every rate that was tried", f"{says}.", draw)


def _table(slo: Slo) -> Markup:
    columns = [Column("due/s"), Column("answered/s"), Column(f"{slo.quantile} ms"), Column("result", numbers=False)]
    rows = [[exact(one.rate_per_s), exact(one.achieved_per_s), exact(one.latency_ms), _held(one)] for one in slo.probes]
    return table("In the order in which they were tried", columns, rows)


def _held(probe: Probe) -> str:
    return "held" if probe.held else f"did not hold: {probe.why_not}" if probe.why_not else "did not hold"


def slo_words(slo: Slo) -> tuple[str, str]:
    """What the search found, here and in the verdict: what is told in bold, and the rest."""
    if slo.highest_per_s is not None:
        return f"{slo.target} holds up to {per_second(slo.highest_per_s)}", "."
    if not slo.probes:
        too_few = f"at the rates that the server reaches, one load may have too few requests to tell {slo.quantile}"
        return f"No rate was tried for {slo.target}", f": {too_few}; give a longer --duration."
    once = [probe.rate_per_s for probe in slo.probes if probe.held]
    if once:
        return f"No rate held {slo.target} twice", f"; {per_second(max(once))} was the highest that held it once."
    lowest = min(slo.probes, key=lambda probe: probe.rate_per_s)
    told = f"{slo.quantile} {milliseconds(lowest.latency_ms)}" if lowest.latency_ms else lowest.why_not
    return f"{slo.target} is not held at any rate that was tried", f"; the lowest was {per_second(lowest.rate_per_s)}: {told}."
