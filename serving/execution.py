"""Where a version's calls run, with how many threads and rows: decided when it is loaded, by what its calls take here."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import artifact
from artifact import Artifact, golden, read_manifest
from artifact.errors import DamagedArtifact, EngineFailed, EngineUnavailable, GoldenMismatch
from serving.plan import Plan, make_plan, plan_untuned
from serving.settings import ModelSettings
from serving.warm_up import LOOP_CALL_S, WarmUp, warm_up

_TRIES = 3
"""How often a version is planned anew whose files are replaced by another artifact's while it is being loaded."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How a version's calls run, and the measurement that says so.

    `max_rows` are joined: no more than was tuned, and on the loop than a short call takes. `untuned_rows` would be joined
    without bench.json: what clients are promised (how many rows may wait) follows them.
    """

    on_loop: bool
    threads: int
    instances: int
    max_rows: int
    untuned_rows: int
    warm_up: WarmUp
    plan: Plan

    def __str__(self) -> str:
        where = "on the event loop" if self.on_loop else f"in {self.instances} thread(s) of its own"
        sizes = ", ".join(f"{rows} row(s) {seconds * 1e3:.3g} ms" for rows, seconds in self.warm_up.seconds.items())
        return f"calls run {where}, {self.threads} engine thread(s) each, at most {self.max_rows} rows joined; measured: {sizes}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """An artifact that passed its checks, with the engine that its execution asks for.

    `planned` is the plan at first: the execution's is another one where the engine that was tuned is refused here.
    """

    artifact: Artifact
    execution: Execution
    planned: Plan


class _Replaced(Exception):
    """What was loaded is not what the plan is for."""


def prepare(directory: Path, settings: ModelSettings) -> Prepared:
    """Checks every hash, makes the engine, replays the golden cases, and measures. Blocking.

    Raises:
        StateserveError: a check failed.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(_Replaced):
            return _planned(directory, settings)
    raise DamagedArtifact(f"{directory} was replaced by another artifact {_TRIES} times while it was being loaded")


def _planned(directory: Path, settings: ModelSettings) -> Prepared:
    manifest = read_manifest(directory)
    plan = make_plan(directory, manifest, settings)
    try:
        with _own_threads_of_pytorch():
            loaded, execution = _prepared(directory, settings, plan)
    except (EngineFailed, EngineUnavailable, GoldenMismatch) as cause:
        if not plan.follows:
            raise
        instead = plan_untuned(manifest, settings, f"with it, {cause}")
        loaded, execution = _prepared(directory, settings, instead)
    return Prepared(loaded, execution, plan)


@contextlib.contextmanager
def _own_threads_of_pytorch() -> Iterator[None]:
    """An attempt that fails leaves PyTorch's number of threads, which is the whole process's, as other models have it."""
    library = sys.modules.get("torch")
    before = None if library is None else library.get_num_threads()
    try:
        yield
    except BaseException:
        if library is not None:
            library.set_num_threads(before)
        raise


def _prepared(directory: Path, settings: ModelSettings, plan: Plan) -> tuple[Artifact, Execution]:
    threads, most = plan.threads, plan.max_rows
    loaded = _proven(directory, plan, threads, plan.instances)

    def in_threads(measured: WarmUp) -> Execution:
        return Execution(
            on_loop=False,
            threads=threads,
            instances=plan.instances,
            max_rows=plan.joined_rows,
            untuned_rows=most,
            warm_up=measured,
            plan=plan,
        )

    if settings.execution == "thread":
        return loaded, in_threads(warm_up(loaded, most, 0.0))
    measured = warm_up(loaded, most, LOOP_CALL_S)
    on_loop_rows = measured.longest_within(LOOP_CALL_S)
    if on_loop_rows is None and settings.execution == "auto":
        return loaded, in_threads(measured)
    if threads > 1 and settings.threads is None:  # so small a call gains nothing by a second thread
        threads, loaded = 1, _proven(directory, plan, 1, 1)
        measured = warm_up(loaded, most, LOOP_CALL_S)
        on_loop_rows = measured.longest_within(LOOP_CALL_S)
    rows = on_loop_rows or min(measured.seconds)
    if plan.follows:
        plan = replace(plan, told=f"{plan.told}; so short calls run on the event loop, one at a time with {threads} thread(s)")
    return loaded, Execution(
        on_loop=True,
        threads=threads,
        instances=1,
        max_rows=min(rows, plan.joined_rows),
        untuned_rows=rows,
        warm_up=measured,
        plan=plan,
    )


def _proven(directory: Path, plan: Plan, threads: int, calls: int) -> Artifact:
    loaded = artifact.load(directory, engine=plan.engine, threads=threads, calls=calls)
    if loaded.manifest.content_id != plan.content_id:
        raise _Replaced
    golden.require(loaded.replay())
    return loaded
