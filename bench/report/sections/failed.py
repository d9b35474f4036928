"""Requests that were not answered, or not with success, by kind."""

from bench.report.findings import failures, load_name, title
from bench.report.markup import Column, table
from bench.report.section import Section
from bench.report.units import percent
from bench.results import Results


def section(results: Results) -> Section | None:
    """A row per load and kind; nothing where no request failed."""
    rows = []
    for case in results.cases:
        failed = failures([case])
        for kind, count in failed.kinds.items():
            share = percent(count / failed.offered) if failed.offered else "100 %"
            rows.append([title(results, case.contender), load_name(case), kind, f"{count:,}", share])
    if not rows:
        return None
    columns = [Column(name, numbers=False) for name in ("server", "load", "kind")] + [
        Column("failed"),
        Column("of the requests due"),
    ]
    introduction = "Latencies and throughput are those of answers with 2xx only: where many requests fail, they tell little."
    return Section("errors", "Failed requests", "Errors", introduction, [table("Failed requests by kind", columns, rows)])
