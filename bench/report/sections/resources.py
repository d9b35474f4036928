"""What the servers used: processor, memory, GPU; and how busy the load generator was."""

from statistics import mean, median

from bench.report.findings import client_busy, load_name, machine_busy, order, title
from bench.report.markup import Column, Markup, table
from bench.report.section import Section
from bench.report.units import ABSENT, exact, of_bytes, percent, rounded
from bench.results import Case, GpuUse, Results


def section(results: Results) -> Section | None:
    """A row per load; GPUs in a table of their own."""
    if not results.cases:
        return None
    places = {name: number for number, name in enumerate(order(results))}
    cases = sorted(results.cases, key=lambda case: (places[case.contender], case.loop, case.rate_per_s or 0, case.connections))
    introduction = (
        "CPU seconds are those of all the server's processes; memory is the most at once. The load generator's share is that of "
        "its busiest process, at most in any round: near 100 % of a core, it was the limit. The machine's: all its cores."
    )
    return Section("resources", "Resources", "Resources", introduction, [_table(results, cases), *_gpus(results, cases)])


def _table(results: Results, cases: list[Case]) -> Markup:
    numbers = ("CPU ms a request", "cores used", "memory", "processes", "load generator", "machine")
    columns = [Column("server", numbers=False), Column("load", numbers=False), *(Column(name) for name in numbers)]
    return table(
        "Processor and memory", columns, [[title(results, case.contender), load_name(case), *_use(case)] for case in cases]
    )


def _use(case: Case) -> list[str]:
    busy = machine_busy(case)
    ends = [percent(client_busy(case)), ABSENT if busy is None else percent(busy)]
    known = [(one, one.server) for one in case.rounds if one.server is not None]
    if not known:
        return [ABSENT] * 4 + ends
    per_request = [use.cpu_s / one.requests for one, use in known if one.requests]
    return [
        exact(1000 * median(per_request)) if per_request else ABSENT,
        rounded(median(use.cpu_s / one.seconds for one, use in known)),
        of_bytes(max(use.rss_bytes for _, use in known)),
        f"{max(use.processes for _, use in known):,}",
        *ends,
    ]


def _gpus(results: Results, cases: list[Case]) -> list[Markup]:
    used = [(case, uses) for case in cases for uses in zip(*(one.gpus for one in case.rounds), strict=False)]
    rows = [[title(results, case.contender), load_name(case), *_gpu(uses)] for case, uses in used]
    columns = [
        Column("server", numbers=False),
        Column("load", numbers=False),
        Column("GPU", numbers=False),
        *(Column(name) for name in ("utilisation", "power", "memory")),
    ]
    return [table("GPU", columns, rows)] if rows else []


def _gpu(uses: tuple[GpuUse, ...]) -> list[str]:
    return [
        uses[0].name,
        percent(mean(use.utilisation for use in uses)),
        f"{rounded(mean(use.power_w for use in uses))} W",
        of_bytes(max(use.memory_bytes for use in uses)),
    ]
