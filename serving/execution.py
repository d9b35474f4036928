"""Where a version's calls run, with how many threads and rows: decided when it is loaded, by what its calls take here."""

import contextlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import artifact
from artifact import Artifact, golden, read_manifest
from artifact.errors import DamagedArtifact, EngineFailed, EngineUnavailable, GoldenMismatch
from serving.plan import Plan, devices, make_plan, plan_untuned
from serving.settings import ModelSettings
from serving.warm_up import LOOP_CALL_S, WarmUp, warm_up

_TRIES = 3
"""How often a version is planned anew whose files are replaced by another artifact's while it is being loaded."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How a version's calls run, and the measurement that says so.

    `max_rows` are joined: no more than was tuned, and on the loop than a short call takes. `untuned_rows` would be joined
    without bench.json: what clients are promised (how many rows may wait) follows them. `instances` are calls at a time in this
    process; the plan's are those of the whole server, on each device.
    """

    on_loop: bool
    threads: int
    instances: int
    max_rows: int
    untuned_rows: int
    warm_up: WarmUp
    plan: Plan
    device: str = "cpu"
    precision: str = "float32"

    def __str__(self) -> str:
        where = "on the event loop" if self.on_loop else f"in {self.instances} thread(s) of its own"
        where += "" if self.device == "cpu" else f", on {self.device} in {self.precision}"
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


@dataclass(frozen=True, slots=True)
class _Asked:
    directory: Path
    settings: ModelSettings
    device: str
    calls: int | None

    def is_short(self, on_loop_rows: int | None, plan: Plan) -> bool:
        """Whether calls belong on the event loop, where so many rows take little time.

        Where HTTP is spoken on that loop, or may be, small calls there are better than large ones elsewhere. An engine process
        has nothing else to do: there all that may be joined has to be short.
        """
        if on_loop_rows is None:
            return False
        is_beside_http = self.device == "cpu" and self.settings.execution == "auto"
        return is_beside_http or on_loop_rows >= plan.joined_rows


def prepare(directory: Path, settings: ModelSettings, device: str | None = None, calls: int | None = None) -> Prepared:
    """Checks every hash, makes the engine, replays the golden cases, and measures. Blocking.

    `device` is `cpu` or `cuda:NUMBER`; without it, the first that the settings allow. `calls` is how many may run at a time in
    this process; without it, as many as are planned.

    Raises:
        StateserveError: a check failed.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(_Replaced):
            return _planned(directory, settings, device, calls)
    raise DamagedArtifact(f"{directory} was replaced by another artifact {_TRIES} times while it was being loaded")


def _planned(directory: Path, settings: ModelSettings, device: str | None, calls: int | None) -> Prepared:
    manifest = read_manifest(directory)
    device = device or devices(settings, manifest)[0]
    plan = make_plan(directory, manifest, settings, device)
    asked = _Asked(directory, settings, device, calls)
    try:
        with _own_threads_of_pytorch():
            loaded, execution = _prepared(asked, plan)
    except (EngineFailed, EngineUnavailable, GoldenMismatch) as cause:
        if not plan.follows:
            raise
        instead = plan_untuned(manifest, settings, f"with it, {cause}")
        loaded, execution = _prepared(asked, instead)
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


def _prepared(asked: _Asked, plan: Plan) -> tuple[Artifact, Execution]:
    settings, threads, most = asked.settings, plan.threads, plan.max_rows
    calls = asked.calls or plan.instances
    loaded = _proven(asked, plan, threads, calls)

    def in_threads(measured: WarmUp) -> Execution:
        return Execution(
            on_loop=False,
            threads=threads,
            instances=calls,
            max_rows=plan.joined_rows,
            untuned_rows=most,
            warm_up=measured,
            plan=plan,
            device=asked.device,
            precision=loaded.precision,
        )

    is_on_gpu = asked.device != "cpu"  # there every size is made ready before the first request
    if settings.execution == "thread":
        return loaded, in_threads(warm_up(loaded, most, math.inf if is_on_gpu else 0.0))
    measured = warm_up(loaded, most, math.inf if is_on_gpu else LOOP_CALL_S)
    on_loop_rows = measured.longest_within(LOOP_CALL_S)
    if settings.execution != "loop" and not asked.is_short(on_loop_rows, plan):
        return loaded, in_threads(measured)
    if threads > 1 and settings.threads is None and not is_on_gpu:  # so small a call gains nothing by a second thread
        threads, loaded = 1, _proven(asked, plan, 1, 1)
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
        device=asked.device,
        precision=loaded.precision,
    )


def _proven(asked: _Asked, plan: Plan, threads: int, calls: int) -> Artifact:
    settings = asked.settings
    loaded = artifact.load(
        asked.directory,
        engine=plan.engine,
        threads=threads,
        calls=calls,
        device=asked.device,
        precision=settings.precision,
        memory_bytes=settings.device_memory_bytes,
    )
    if loaded.manifest.content_id != plan.content_id:
        raise _Replaced
    golden.require(loaded.replay())
    return loaded
