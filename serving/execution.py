"""Where a version's calls run, with how many threads and rows: decided when it is loaded, by what its calls take here."""

from dataclasses import dataclass, replace
from pathlib import Path

import artifact
from artifact import Artifact, golden, read_manifest
from artifact.errors import EngineFailed, EngineUnavailable, GoldenMismatch
from serving.plan import Plan, make_plan, plan_untuned
from serving.settings import ModelSettings
from serving.warm_up import LOOP_CALL_S, WarmUp, warm_up


@dataclass(frozen=True, slots=True)
class Execution:
    """How a version's calls run, and the measurement that says so. `max_rows` are joined: on the loop fewer than in the plan."""

    on_loop: bool
    threads: int
    instances: int
    max_rows: int
    warm_up: WarmUp
    plan: Plan

    def __str__(self) -> str:
        where = "on the event loop" if self.on_loop else f"in {self.instances} thread(s) of its own"
        sizes = ", ".join(f"{rows} row(s) {seconds * 1e3:.3g} ms" for rows, seconds in self.warm_up.seconds.items())
        return f"calls run {where}, {self.threads} engine thread(s) each, at most {self.max_rows} rows joined; measured: {sizes}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """An artifact that passed its checks, with the engine that its execution asks for."""

    artifact: Artifact
    execution: Execution


def prepare(directory: Path, settings: ModelSettings) -> Prepared:
    """Checks every hash, makes the engine, replays the golden cases, and measures. Blocking.

    Raises:
        StateserveError: a check failed.
    """
    manifest = read_manifest(directory)
    plan = make_plan(directory, manifest, settings)
    try:
        return _prepared(directory, settings, plan)
    except (EngineFailed, EngineUnavailable, GoldenMismatch) as cause:
        if not plan.follows:
            raise
        return _prepared(directory, settings, plan_untuned(manifest.signature, settings, f"with it, {cause}"))


def _prepared(directory: Path, settings: ModelSettings, plan: Plan) -> Prepared:
    threads, most = plan.threads, plan.max_rows
    loaded = _proven(directory, plan.engine, threads, plan.instances)

    def in_threads(measured: WarmUp) -> Execution:
        return Execution(on_loop=False, threads=threads, instances=plan.instances, max_rows=most, warm_up=measured, plan=plan)

    if settings.execution == "thread":
        return Prepared(loaded, in_threads(warm_up(loaded, most, 0.0)))
    measured = warm_up(loaded, most, LOOP_CALL_S)
    on_loop_rows = measured.longest_within(LOOP_CALL_S)
    if on_loop_rows is None and settings.execution == "auto":
        return Prepared(loaded, in_threads(measured))
    if threads > 1 and settings.threads is None:  # so small a call gains nothing by a second thread
        threads, loaded = 1, _proven(directory, plan.engine, 1, 1)
        measured = warm_up(loaded, most, LOOP_CALL_S)
        on_loop_rows = measured.longest_within(LOOP_CALL_S)
    rows = on_loop_rows or min(measured.seconds)
    if plan.follows:
        plan = replace(plan, told=f"{plan.told}; so short calls run on the event loop, one at a time with {threads} thread(s)")
    on_loop = Execution(on_loop=True, threads=threads, instances=1, max_rows=rows, warm_up=measured, plan=plan)
    return Prepared(loaded, on_loop)


def _proven(directory: Path, engine: str, threads: int, calls: int) -> Artifact:
    loaded = artifact.load(directory, engine=engine, threads=threads, calls=calls)
    golden.require(loaded.replay())
    return loaded
