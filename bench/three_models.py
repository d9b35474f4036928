"""The full load test of three models against plain FastAPI and TorchServe: `python -m bench.three_models --to docs/benchmarks`.

Writes a report for every model, `<to>/<model>/report.html`, and a page with what matters of all, `<to>/load-test.md`.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench import load_test, page
from bench.live import LiveTest
from bench.models import BERT, MLP, RESNET18, MeasuredModel, export_model
from bench.options import Options, parse_objective
from bench.page import Section, Spread
from bench.report.findings import share_of_bound
from bench.report.units import exact
from bench.results import OURS, Case, Results
from foundation.command import exit_codes

PEERS = ("fastapi", "torchserve")


@dataclass(frozen=True, slots=True)
class Plan:
    """How one model is asked. `factor`: how many times longer than the others' one of its loads takes."""

    model: MeasuredModel
    protocol: str
    objective: str
    concurrency: tuple[int, ...]
    factor: float = 1.0


PLANS = (
    Plan(MLP, "predictions-raw", "p99=10ms", (1, 8, 32)),
    Plan(RESNET18, "predictions-npy", "p99=250ms", (1, 8, 16), factor=2.0),
    Plan(BERT, "predictions-json", "p99=250ms", (1, 8, 16), factor=1.5),
)
"""Each in a form that all contenders take; in JSON only where it is small: TorchServe's worker reads and writes it in Python."""


def measure(plan: Plan, to: Path, rounds: int, duration_s: float) -> Results:
    """The load test of one model, written to `<to>/<model>`.

    Raises:
        BenchError: see `load_test.run`.
    """
    with tempfile.TemporaryDirectory(prefix="stateserve-bench-") as folder, LiveTest().running() as shown:
        shown.step(f"export {plan.model.name}")
        directory = export_model(plan.model, Path(folder))
        options = Options(
            model=plan.model.name,
            protocol=plan.protocol,
            concurrency=plan.concurrency,
            sweep=True,
            objective=parse_objective(plan.objective),
            duration_s=duration_s * plan.factor,
            warmup_s=1.0,
            rounds=rounds,
            bound=directory,
            against=PEERS,
            out=to / plan.model.name,
            command=f"python -m bench.three_models --rounds {rounds} --duration-s {duration_s:g} --to docs/benchmarks",
        )
        return load_test.run(options, shown)


def _section(plan: Plan, results: Results) -> Section:
    """All contenders, and how far ours is from the limit."""
    most = f"{plan.concurrency[-1]} connections"
    return Section(
        f"{plan.model.title}, {plan.protocol}",
        " ".join(["One row in a request.", *_limits(results), f"[The whole report]({plan.model.name}/report.html)."]),
        ("server", f"requests/s, {most}", "ours / it", "p50 ms, 1 connection", f"p99 ms, {most}", "CPU s per 1,000 requests"),
        [_contender(results, key) for key in results.contenders],
    )


def _limits(results: Results) -> Iterator[str]:
    bound, slo = results.bound, results.slo
    if bound is not None:
        best = f"{bound.best.rows_per_s:,.0f} rows/s with {bound.best.rows} rows in a call and {bound.threads} thread(s)"
        share = share_of_bound(results, max(results.closed(), key=lambda case: case.rows_per_s))
        yield f"The engine alone runs {best}: served is {exact(share, 2)} of it."
    if slo is not None and slo.highest_per_s is not None:
        yield f"The highest rate of ours that holds {slo.target} is {slo.highest_per_s:,.0f} in a second."


def _contender(results: Results, key: str) -> tuple[str, ...]:
    cases = results.closed(key)
    ours, most, alone = results.closed()[-1], cases[-1], cases[0]
    ratio = Spread.of_ratios(_each(ours), _each(most))
    cpu = [one.server.cpu_s / one.requests * 1e3 for one in most.rounds if one.server is not None and one.requests]
    return (
        results.contenders[key].title,
        Spread.of(_each(most)).text(0 if most.requests_per_s > 100 else 1),
        "" if key == OURS else ratio.text(2),
        exact(alone.latency_ms("p50"), 3),
        exact(most.latency_ms("p99"), 3),
        exact(Spread.of(cpu).median if cpu else None, 3),
    )


def _each(case: Case) -> list[float]:
    return [one.requests_per_s for one in case.rounds]


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 3,
    duration_s: Annotated[float, typer.Option(min=0.5, help="Seconds of one load; twice as many with images.")] = 2.0,
    only: Annotated[list[str] | None, typer.Option(help="This model only; repeatable: mlp, resnet18, bert.")] = None,
    to: Annotated[Path, typer.Option(help="The folder for the reports and the page.")] = Path("docs/benchmarks"),
) -> None:
    """Measure three models against FastAPI and TorchServe, and write the reports; the page, too, where none was left out."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda found, _: sys.exit(128 + found))
    with exit_codes(as_json=False):
        load_average = os.getloadavg()[0]
        plans = [plan for plan in PLANS if not only or plan.model.name in only]
        sections = [_section(plan, measure(plan, to, rounds, duration_s)) for plan in plans]
        text = page.to_markdown("The load test: three models", _introduction(rounds, duration_s, load_average), sections)
        typer.echo(text)
        if len(plans) == len(PLANS):
            (to / "load-test.md").write_text(text)


def _introduction(rounds: int, duration_s: float, load_average: float) -> str:
    longer = ", ".join(f"{duration_s * plan.factor:g} s for {plan.model.title}" for plan in PLANS)
    return (
        "Made by `make bench`: the load test (`python -m bench`) with our server, FastAPI and TorchServe side by side on one "
        f"machine with the load generator, asked in turn in {rounds} rounds ({longer}). All run the same artifact with the same "
        "engine on the same cores, and every answer was compared with the engine's numbers first. Numbers are medians, with the "
        "smallest and the largest in brackets; a ratio is the median of the rounds' own ratios. The machine's load average was "
        f"{load_average:.1f} before the start. [gpu.md](gpu.md) says what has not been measured."
    )


if __name__ == "__main__":
    typer.run(main)
