"""How many processes a server is, on which cores its front ends run, and on which devices its engines: decided at the start."""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from foundation.environment import cores
from serving.errors import SettingsError
from serving.settings import ModelDefaults, Settings
from serving.torchserve.keys import address, asks_for_tokens
from serving.torchserve.workers.host import found_gpus

_CORES_PER_FRONT_END = 4
_MOST_FRONT_ENDS = 8
"""Of those that are chosen here; the setting may say more."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is: how many cores may be used at once, their numbers (more, where a quota says less), and the GPUs."""

    cores: int
    core_numbers: Sequence[int]
    gpus: int


@dataclass(frozen=True, slots=True)
class Spread:
    """`frontends` is 0 where one process is the whole server. `cores` has an entry for each front end, or none where they share.

    `why` ends the line that the log has of it.
    """

    frontends: int
    cores: Sequence[Sequence[int]]
    why: str

    def __str__(self) -> str:
        if not self.frontends:
            return f"one process: {self.why}"
        named = "1 front end" if self.frontends == 1 else f"{self.frontends} front ends"
        if not self.cores:
            return f"{named}: {self.why}"
        *first, last = [_range(numbers) for numbers in self.cores]
        return f"{named} on cores {' and '.join([', '.join(first), last] if first else [last])}: {self.why}"


def machine() -> Machine:
    """What this process has of its machine."""
    numbers = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return Machine(cores(), tuple(numbers), found_gpus())


def spread(settings: Settings, found: Machine) -> Spread:
    """Several processes where `frontends` is more than 1, a model is to run in processes of its own, or on a GPU; else one.

    Raises:
        SettingsError: several are asked for where only one is possible, or front ends shall have cores that there are not.
    """
    asked = _asks_for_several(settings)
    hindrance = _hindrance(settings)
    if hindrance is not None:
        if asked is not None:
            raise SettingsError(f"{asked}, and {hindrance}: one process only")
        return Spread(0, (), hindrance)
    count, why = _front_ends(settings, found)
    if asked is None and count == 1 and not _runs_on_gpus(settings, found.gpus):
        return Spread(0, (), why)
    return Spread(count, _pinned(settings, count, found), why)


def devices(asked: str, gpus: int) -> tuple[str, ...]:
    """What a model's setting `device` comes to here: `cpu`, or GPUs by name. What is named counts, there or not."""
    if asked == "cpu" or (asked == "auto" and not gpus):
        return ("cpu",)
    if asked in {"auto", "cuda"}:
        return tuple(f"cuda:{number}" for number in range(max(1, gpus)))
    return tuple(asked.split(","))


def _asks_for_several(settings: Settings) -> str | None:
    """The setting that asks for several processes, as the beginning of a sentence."""
    if settings.frontends is not None and settings.frontends > 1:
        return f"frontends is {settings.frontends}"
    if settings.execution == "process":
        return "execution is process"
    named = [name for name, own in settings.model_settings.items() if own.execution == "process"]
    return f"execution of {', '.join(named)} is process" if named else None


def _hindrance(settings: Settings) -> str | None:
    """Why there can be one process only, as the end of a sentence."""
    if settings.model_store is not None and settings.model_store.is_dir():
        return "a model store's archives have processes of their own beside the server's"
    if address(settings, "inference").scheme == "unix":
        return "processes cannot share a Unix socket (inference_address)"
    is_one_address = address(settings, "inference") == address(settings, "management")
    if asks_for_tokens(settings) and (is_one_address or settings.model_store is not None):
        return "the tokens of predictions are looked at by one process (disable_token_authorization=true lets them pass)"
    return None


def _front_ends(settings: Settings, found: Machine) -> tuple[int, str]:
    """How many, and why."""
    if settings.frontends is not None:
        return settings.frontends, f"frontends={settings.frontends} is set"
    count = min(max(1, found.cores // _CORES_PER_FRONT_END), _MOST_FRONT_ENDS)
    there_are = "there is 1 core" if found.cores == 1 else f"there are {found.cores} cores"
    if _runs_on_gpus(settings, found.gpus):
        return max(2, count), f"GPUs want to be fed, and {there_are}"
    return count, there_are if count == 1 else f"one for each {_CORES_PER_FRONT_END} of {found.cores} cores, at most 8"


def _runs_on_gpus(settings: Settings, gpus: int) -> bool:
    models: list[ModelDefaults] = [settings, *settings.model_settings.values()]
    return any(devices(model.device, gpus) != ("cpu",) for model in models)


def _pinned(settings: Settings, count: int, found: Machine) -> Sequence[Sequence[int]]:
    """The cores of each front end: all of them, in as many parts, none in two."""
    numbers = found.core_numbers
    if settings.pin_frontends == "on" and len(numbers) < count:
        raise SettingsError(
            f"pin_frontends is on, and there are {len(numbers)} cores for {count} front ends: it should be auto or off"
        )
    enough = count >= 2 and len(numbers) >= count and found.cores == len(numbers)
    if settings.pin_frontends == "off" or (settings.pin_frontends == "auto" and not enough):
        return ()
    bounds = [len(numbers) * part // count for part in range(count + 1)]
    return tuple(tuple(numbers[start:end]) for start, end in itertools.pairwise(bounds))


def _range(numbers: Sequence[int]) -> str:
    """As text: 3, or 4-7 where they follow each other, else 0+2."""
    if len(numbers) > 1 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return "+".join(map(str, numbers))
