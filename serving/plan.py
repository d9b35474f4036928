"""What a version is to run with: what is set, else what `stateserve tune` found on this machine, else the defaults."""

from dataclasses import dataclass
from pathlib import Path

from artifact import tuned
from artifact.engines import MODEL_FILES
from artifact.manifest import BENCH, Manifest
from artifact.signature import Signature
from artifact.tuned import Arm, Choice, Ignored, Tuning
from foundation.environment import cores
from serving.settings import ModelSettings

_ENGINES = frozenset(MODEL_FILES) - {"pt2"}
"""What the server runs of what can be tuned: the values of the setting `engine`."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An engine (or `auto`), threads of one call, calls at a time, and the most rows of one call.

    `told` says what of bench.json is followed, or why nothing is; "" where there is none. `follows`: whether anything is.
    """

    engine: str
    threads: int
    instances: int
    max_rows: int
    told: str = ""
    follows: bool = False


def make_plan(directory: Path, manifest: Manifest, settings: ModelSettings) -> Plan:
    """The plan for a version on this machine; a bench.json that cannot be followed changes nothing."""
    found = tuned.follow(directory, manifest)
    if found is None:
        return plan_untuned(manifest.signature, settings)
    if isinstance(found, Ignored):
        return plan_untuned(manifest.signature, settings, f"it {found.reason}; `stateserve tune` measures here")
    choice = _agreeing(found, settings)
    if choice is None:
        return plan_untuned(manifest.signature, settings, f"it measured nothing with {_as_set(settings)}")
    if settings.engine != "auto" and settings.instances and settings.threads and settings.max_batch_rows:
        return plan_untuned(manifest.signature, settings, "all that it could say is set")
    limited = settings.max_batch_rows is not None or bool(settings.preferred_batch_sizes)
    rows = most_rows(manifest.signature, settings) if limited else choice.max_rows
    arm = choice.arm
    told = f"{BENCH} of {found.made_at} is followed: {Choice(arm=arm, max_rows=rows)}"
    return Plan(arm.engine, arm.threads, arm.instances, rows, told, follows=True)


def plan_untuned(signature: Signature, settings: ModelSettings, why: str = "") -> Plan:
    """The plan without bench.json; `why` it is not followed, where it is there."""
    instances = settings.instances or 1
    threads = settings.threads or max(1, cores() // instances)
    told = f"{BENCH} is not followed: {why}" if why else ""
    return Plan(settings.engine, threads, instances, most_rows(signature, settings), told)


def most_rows(signature: Signature, settings: ModelSettings) -> int:
    """Rows of one call at most: what was proven, or less where the settings say so."""
    if signature.batch_dim is None:
        return 1
    dim = signature.dims[signature.batch_dim]
    most = min(dim.max, settings.max_batch_rows or dim.max)
    return max(dim.min, most - most % dim.multiple)


def _agreeing(tuning: Tuning, settings: ModelSettings) -> Choice | None:
    """The tuner's choice, or the best of what it measured with what is set; None where it measured no such arm."""

    def agrees(arm: Arm) -> bool:
        engines = _ENGINES if settings.engine == "auto" else {settings.engine}
        return arm.engine in engines and settings.instances in {None, arm.instances} and settings.threads in {None, arm.threads}

    if tuning.choice is not None and agrees(tuning.choice.arm):
        return tuning.choice
    measured = [one for one in tuning.measurements if agrees(one.arm)]
    return tuned.choose(measured, tuning.options.max_call_s) if measured else None


def _as_set(settings: ModelSettings) -> str:
    said = {"engine": settings.engine, "instances": settings.instances, "threads": settings.threads}
    named = [f"{name}={value}" for name, value in said.items() if value not in {None, "auto"}]
    return ", ".join(named) or "an engine that the server runs"
