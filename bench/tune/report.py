"""What a person sees of a tuning: the ways worth choosing from, the choice, and what the server does with it."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from artifact import tuned
from artifact.manifest import BENCH
from artifact.tuned import Choice, Measurement, Tuning
from bench.tune import halving
from bench.tune.run import QUIET, SERVED, SERVED_ON_CUDA

LOOP_CALL_S = 300e-6
"""Shorter calls run on the server's event loop: serving/warm_up.py says so, and a test that both are the same."""

_P99_CALLS = 20
"""Of fewer calls the 99th percentile is the longest one, or nearly: it is not shown."""


def table(tuning: Tuning) -> list[Measurement]:
    """The sizes of arms that no other beats in both speed and latency, and the choice; shortest call first."""
    arms = tuned.usable(tuning.measurements, tuning.options.max_call_s)
    found = halving.front([point for points in arms.values() for point in points])
    chosen = [point for points in arms.values() for point in points if _is_chosen(point, tuning.choice) and point not in found]
    return sorted([*found, *chosen], key=lambda point: (point.p50_s, point.rows_per_s))


def to_json(tuning: Tuning, directory: Path) -> dict[str, Any]:
    """All of it as one object."""
    pareto = [{**point.model_dump(), "chosen": _is_chosen(point, tuning.choice)} for point in table(tuning)]
    return {
        "artifact": str(directory),
        "bench": str(directory / BENCH),
        "tuning": tuning.model_dump(),
        "pareto": pareto,
        "server": server_does(tuning, directory),
    }


def show(tuning: Tuning, directory: Path, console: Console) -> None:
    """Prints it."""
    machine = tuning.machine
    console.print(
        f"{directory} on {_place(tuning)}: {machine.cpu}, {machine.cores} cores, in {tuning.spent_s:.0f} s", style="bold"
    )
    if (noise := noisy(tuning)) is not None:
        console.print(noise, soft_wrap=True)
    console.print("\nWhat no other way beats in both rows/s and the time of one call:")
    console.print(_pareto(tuning))
    console.print("\nThe time of one call of n rows, t(n) = a · n + b:")
    console.print(_fits(tuning))
    for failure in tuning.failures:
        console.print(f"left out: {failure.arm}: {failure.reason}", soft_wrap=True)
    console.print(f"\n{server_does(tuning, directory)}", soft_wrap=True)


def _place(tuning: Tuning) -> str:
    return tuning.device if tuning.device == "cpu" else f"{tuning.device} in {tuning.precision}"


def noisy(tuning: Tuning) -> str | None:
    """What to say where other work took part in what was measured; None where the machine was quiet."""
    if tuning.busy_before <= QUIET:
        return None
    return (
        f"The machine was not quiet: before the run began, other work took {tuning.busy_before:.0%} of its cores' time. "
        "--again on a quiet one gives a choice to rely on."
    )


def server_does(tuning: Tuning, directory: Path) -> str:
    """What follows for the server, in a few sentences."""
    choice = tuning.choice
    if choice is None:
        return "Nothing was chosen."
    if choice.arm.engine not in (SERVED if tuning.device == "cpu" else SERVED_ON_CUDA):
        return f"{choice} is in {BENCH}. The server does not run {choice.arm.engine}, and does not follow it."
    name = directory.resolve().parent.name
    if tuning.device != "cpu":
        return (
            f"From its next start, or after POST /v2/repository/models/{name}/load, `stateserve serve` runs it on "
            f"{tuning.device} with {choice}, where it computes in {tuning.precision}. What is set of engine, instances, "
            "threads and max_batch_rows holds against that."
        )
    return (
        f"From its next start, or after POST /v2/repository/models/{name}/load, `stateserve serve` runs it here with {choice}. "
        f"What is set of engine, instances, threads and max_batch_rows holds against that.{_on_loop(tuning, choice)}"
    )


def _on_loop(tuning: Tuning, choice: Choice) -> str:
    shortest = next((point for point in table(tuning) if point.arm.engine == choice.arm.engine), None)
    if shortest is None or shortest.p50_s > LOOP_CALL_S:
        return ""
    return (
        f" Calls of less than {LOOP_CALL_S * 1e3:g} ms run on its event loop, one at a time and with one thread "
        "(docs/adr/0009): of those it follows the engine and the rows."
    )


def _pareto(tuning: Tuning) -> Table:
    made = _table("engine", "instances", "threads", "rows", "rows/s", "p50 ms", "p99 ms", "")
    for point in table(tuning):
        chosen = _is_chosen(point, tuning.choice)
        p99 = f"{point.p99_s * 1e3:.3g}" if point.calls >= _P99_CALLS else f"({point.calls} calls)"
        numbers = (f"{point.rows_per_s:,.0f}", f"{point.p50_s * 1e3:.3g}", p99)
        made.add_row(*_arm(point), str(point.rows), *numbers, "<- chosen" if chosen else "", style="bold" if chosen else None)
    return made


def _fits(tuning: Tuning) -> Table:
    made = _table("engine", "instances", "threads", "a ms", "b ms", "best rows/s", "with rows")
    arms = tuned.usable(tuning.measurements, tuning.options.max_call_s)
    for fit in tuning.fits:
        best = tuned.best(arms[fit.arm])
        numbers = (f"{fit.per_row_s * 1e3:.3g}", f"{fit.per_call_s * 1e3:.3g}", f"{best.rows_per_s:,.0f}", str(best.rows))
        made.add_row(*_arm(best), *numbers)
    return made


def _arm(point: Measurement) -> tuple[str, str, str]:
    return point.arm.engine, str(point.arm.instances), str(point.arm.threads)


def _table(first: str, *others: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim")
    made.add_column(first)
    for name in others:
        made.add_column(name, justify="right")
    return made


def _is_chosen(point: Measurement, choice: Choice | None) -> bool:
    return choice is not None and (point.arm, point.rows) == (choice.arm, choice.max_rows)
