"""What a version is to run with: what is set, else what `stateserve tune` found on this machine, else the defaults."""

import os
from dataclasses import dataclass
from pathlib import Path

from artifact import tuned
from artifact.artifact import computed_precision
from artifact.engines import MODEL_FILES, cuda_devices
from artifact.errors import EngineUnavailable
from artifact.manifest import BENCH, Manifest
from artifact.signature import Signature
from artifact.tuned import Arm, Choice, Ignored, Tuning
from foundation.environment import cores
from serving.settings import ModelSettings

_ON_CUDA = frozenset(MODEL_FILES)
_ON_CPU = _ON_CUDA - {"pt2"}
"""What is taken of what was tuned where no engine is set; .pt2, which PyTorch interprets, is never the fastest there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """For the artifact `content_id`: an engine (or `auto`), threads of one call, calls at a time, the most rows of one call.

    `joined_rows` are as many rows as requests are joined to: what was tuned, or the most. `told` says what of bench.json is
    followed, or why nothing is; "" where there is none. `follows`: whether anything is; `warns`: whether it is wrong that
    nothing is.
    """

    content_id: str
    engine: str
    threads: int
    instances: int
    max_rows: int
    joined_rows: int
    told: str = ""
    follows: bool = False
    warns: bool = False

    @property
    def effect(self) -> tuple[object, ...]:
        """What a version that is served under it would have to be loaded again for, where it is another."""
        return self.content_id, self.engine, self.threads, self.instances, self.max_rows, self.joined_rows, self.follows


def devices(settings: ModelSettings, manifest: Manifest) -> tuple[str, ...]:
    """What a version runs on here: `cpu`, or one or several of `cuda:0`, `cuda:1` and so on.

    Raises:
        EngineUnavailable: a GPU is set, and no engine of the artifact can run on it here.
    """
    if settings.device == "cpu":
        return ("cpu",)
    formats = tuple(manifest.formats) if settings.engine == "auto" else (settings.engine,)
    usable = tuple(sorted({device for name in formats for device in cuda_devices(name)}, key=_number))
    if settings.device == "auto":
        return usable or ("cpu",)
    if settings.device == "cuda" and usable:
        return usable
    asked = tuple(dict.fromkeys(settings.device.split(",")))
    if missing := [device for device in asked if device not in usable]:
        raise EngineUnavailable(
            f"device={settings.device}, but {' and '.join(formats)} cannot run on {', '.join(missing)} here; the GPUs that can "
            f"be used are: {', '.join(usable) or 'none'}"
        )
    return asked


def _number(device: str) -> int:
    return int(device.rpartition(":")[2])


def make_plan(directory: Path, manifest: Manifest, settings: ModelSettings, device: str | None = None) -> Plan:
    """The plan for a version on this machine; a bench.json that cannot be followed changes nothing.

    Without a `device` it is for the first that the settings allow.

    Raises:
        EngineUnavailable: see `devices`.
    """
    device = device or devices(settings, manifest)[0]
    if _all_is_set(manifest.signature, settings):
        there = os.path.lexists(directory / BENCH)
        return plan_untuned(manifest, settings, "all that it could say is set" if there else "", warns=False)
    found = tuned.follow(directory, manifest, device, computed_precision(settings.precision, manifest, device))
    if found is None:
        return plan_untuned(manifest, settings)
    if isinstance(found, Ignored):
        return plan_untuned(manifest, settings, f"it {found.reason}; `stateserve tune` measures here")
    choice = _agreeing(found, settings, _ON_CPU if device == "cpu" else _ON_CUDA)
    if choice is None:
        return plan_untuned(manifest, settings, f"it measured nothing that holds here with {_as_set(settings)}")
    most, arm = most_rows(manifest.signature, settings), choice.arm
    rows = most if _rows_are_set(settings) else choice.max_rows
    told = f"{BENCH} of {found.made_at} is followed: {Choice(arm=arm, max_rows=rows)}"
    if arm.engine == "torchscript":
        told += "; PyTorch has one number of threads for all models: that of the last one that was loaded"
    return Plan(manifest.content_id, arm.engine, arm.threads, arm.instances, most, rows, told, follows=True)


def plan_untuned(manifest: Manifest, settings: ModelSettings, why: str = "", *, warns: bool = True) -> Plan:
    """The plan without bench.json; `why` it is not followed, where it is there, and whether that should warn."""
    instances = settings.instances or 1
    threads = settings.threads or max(1, cores() // instances)
    most = most_rows(manifest.signature, settings)
    told = f"{BENCH} is not followed: {why}" if why else ""
    return Plan(manifest.content_id, settings.engine, threads, instances, most, most, told, warns=bool(why) and warns)


def most_rows(signature: Signature, settings: ModelSettings) -> int:
    """Rows of one call at most: what was proven, or less where the settings say so."""
    if signature.batch_dim is None:
        return 1
    dim = signature.dims[signature.batch_dim]
    most = min(dim.max, settings.max_batch_rows or dim.max)
    return max(dim.min, most - most % dim.multiple)


def _rows_are_set(settings: ModelSettings) -> bool:
    return settings.max_batch_rows is not None or bool(settings.preferred_batch_sizes)


def _all_is_set(signature: Signature, settings: ModelSettings) -> bool:
    """Whether no measurement could say anything more; a model without batches has nothing to join."""
    rows = signature.batch_dim is None or _rows_are_set(settings)
    return settings.engine != "auto" and None not in {settings.instances, settings.threads} and rows


def _agreeing(tuning: Tuning, settings: ModelSettings, taken: frozenset[str]) -> Choice | None:
    """The tuner's choice, or the best of what it measured with what is set; None where it measured no such arm.

    What another version of an engine's library measured does not count.
    """
    engines = tuning.engines_as_here() & (taken if settings.engine == "auto" else {settings.engine})

    def agrees(arm: Arm) -> bool:
        return arm.engine in engines and settings.instances in {None, arm.instances} and settings.threads in {None, arm.threads}

    if tuning.choice is not None and agrees(tuning.choice.arm):
        return tuning.choice
    measured = [one for one in tuning.measurements if agrees(one.arm)]
    return tuned.choose(measured, tuning.options.max_call_s) if measured else None


def _as_set(settings: ModelSettings) -> str:
    said = {"engine": settings.engine, "instances": settings.instances, "threads": settings.threads}
    named = [f"{name}={value}" for name, value in said.items() if value not in {None, "auto"}]
    return ", ".join(named) or "an engine that the server runs"
