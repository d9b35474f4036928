"""Every load's numbers: the medians over its rounds, and the least and most throughput."""

from bench.report.findings import failures, load_name, order, spread, title
from bench.report.markup import Column, table
from bench.report.section import Section
from bench.report.units import exact
from bench.results import Case, Results

_LATENCIES = ("mean", "p50", "p90", "p99", "p999", "max")


def section(results: Results) -> Section | None:
    """A row per load."""
    if not results.cases:
        return None
    heads = (
        "rounds",
        "requests/s",
        "least",
        "most",
        "mean ms",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "failed",
    )
    columns = [Column("server", numbers=False), Column("load", numbers=False), *(Column(name) for name in heads)]
    cases = [case for name in order(results) for case in [*results.closed(name), *results.open(name)]]
    rows = [[title(results, case.contender), load_name(case), *_numbers(case)] for case in cases]
    introduction = "The medians over the rounds; requests/s of the worst round and the best, too. Every round is in results.csv."
    return Section("numbers", "All numbers", "All numbers", introduction, [table("Every load", columns, rows)])


def _numbers(case: Case) -> list[str]:
    over = spread(case)
    return [
        f"{len(case.rounds)}",
        *(exact(value, 5) for value in (over.median, over.low, over.high)),
        *(exact(case.latency_ms(name), 5) for name in _LATENCIES),
        f"{failures([case]).count:,}",
    ]
