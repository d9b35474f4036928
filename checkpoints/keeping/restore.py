"""Restoring: a training's objects get back the state that a checkpoint holds, all of them or none."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from checkpoints import rng
from checkpoints.errors import KeysDoNotMatch, UnreadableCheckpoint
from checkpoints.keeping.fitting import SavedModel, fitted_model, fitted_optimizer
from checkpoints.keeping.saved import Saved, opened
from checkpoints.keeping.snapshot import (
    CLASSES,
    EXTRA,
    EXTRA_OBJECTS,
    MODEL,
    MODEL_COUNTERS,
    MODEL_VERSIONS,
    OPTIMIZER,
    RNG,
    SCALER,
    SCHEDULER,
    class_of,
    has_state,
)

if TYPE_CHECKING:
    import torch

    from checkpoints.keeping.sidecar import Sidecar
    from checkpoints.keeping.store import Store


@dataclass(frozen=True, slots=True)
class Restored:
    """What a person should know, and the plain values that were saved as `extra`."""

    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Step:
    """One object that is given its state, once everything was checked."""

    what: str
    load: Callable[[], None]


def restore(  # noqa: PLR0913, PLR0917 - what a training has, in the order of Keeper.resume
    store: "Store",
    sidecar: "Sidecar",
    model: "torch.nn.Module",
    optimizer: Any = None,
    scheduler: Any = None,
    scaler: Any = None,
    extra: Mapping[str, Any] | None = None,
    *,
    rank: int = 0,
) -> Restored:
    """Give every object the state that was saved of it, on whatever device it is now; the random numbers go on as they were.

    The random numbers are those of the process that saved: of a training with several processes only the one of rank 0 gets them.
    What was saved and is not asked for is said in the notes. Everything is read and checked before anything is changed.

    Raises UnreadableCheckpoint where a file is damaged, KeysDoNotMatch where the objects are not those that were saved.
    """
    with opened(store, sidecar) as saved:
        notes: list[str] = []
        steps = [
            *_extra_steps(saved, extra or {}, notes),
            _model_step(saved, model, notes),
            *_object_steps(saved, {OPTIMIZER: optimizer, SCHEDULER: scheduler, SCALER: scaler}, notes),
        ]
        states = _states(saved)
        plain = copy.deepcopy(_mapping(saved, EXTRA))
        for step in steps:
            _load(saved, step)
    notes.extend(rng.restore(states) if rank == 0 else (_other_rank(rank),))
    return Restored(tuple(notes), plain)


def _load(saved: Saved, step: _Step) -> None:
    try:
        step.load()
    except Exception as error:
        raise KeysDoNotMatch(
            f"{saved.name}: {step.what} does not take the state that was saved of it: {type(error).__name__}: {error}. "
            "Some objects may have theirs already: make them anew before you go on."
        ) from error


def _model_step(saved: Saved, model: "torch.nn.Module", notes: list[str]) -> _Step:
    held = SavedModel(saved.model, _mapping(saved, MODEL_COUNTERS), saved.versions)
    fitted = fitted_model(saved.name, "the model", model, held)
    notes.extend(fitted.notes)
    return _Step("the model", fitted.load)


def _object_steps(saved: Saved, given: Mapping[str, Any], notes: list[str]) -> list[_Step]:
    steps: list[_Step] = []
    classes = _mapping(saved, CLASSES)
    for entry, value in given.items():
        what = f"the {entry.partition('_')[0]}"
        if value is None:
            if entry in saved.state:
                notes.append(f"{saved.name} holds the state of {what} ({classes.get(entry)}), which was not asked for.")
            continue
        if entry not in saved.state:
            raise KeysDoNotMatch(f"{saved.name} holds no state of {what}. To go on with a new one, resume without it.")
        _require_class(saved, what, classes.get(entry), value)
        state = saved.state[entry]
        if entry == OPTIMIZER:
            state, said = fitted_optimizer(saved.name, value, state)
            notes.extend(said)
        if entry == SCALER and not state and value.state_dict():
            notes.append(f"{saved.name}: the scaler was off when it was saved, and is on now: its scale begins anew.")
            continue
        steps.append(_Step(what, _loader(value, state)))
    return steps


def _loader(value: Any, state: Any) -> Callable[[], None]:
    """The state is copied first: its tensors are the file's, and torch's optimizers keep what they are given."""

    def load() -> None:
        value.load_state_dict(copy.deepcopy(state))

    return load


def _require_class(saved: Saved, what: str, name: Any, value: Any) -> None:
    if name != class_of(value):
        raise KeysDoNotMatch(
            f"{saved.name} holds the state of {name}, {what} is {class_of(value)} now. Resume with the same, or without it."
        )


def _extra_steps(saved: Saved, extra: Mapping[str, Any], notes: list[str]) -> list[_Step]:
    import torch

    states = _mapping(saved, EXTRA_OBJECTS)
    objects = {name: value for name, value in extra.items() if has_state(value)}
    missing = sorted(objects.keys() - states.keys())
    if missing:
        raise KeysDoNotMatch(
            f"{saved.name} holds no state of extra {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, states)) or 'none'}. To go on with a new one, resume without it."
        )
    notes.extend(
        f"{saved.name} holds the state of extra {name!r}, which was not asked for." for name in states if name not in objects
    )
    steps: list[_Step] = []
    for name, value in objects.items():
        if isinstance(value, torch.nn.Module):
            steps.append(_module_step(saved, f"extra {name!r}", value, states[name], notes))
        else:
            steps.append(_Step(f"extra {name!r}", _loader(value, states[name])))
    return steps


def _module_step(saved: Saved, what: str, module: "torch.nn.Module", state: Any, notes: list[str]) -> _Step:
    parts = [state.get(entry) if isinstance(state, Mapping) else None for entry in (MODEL, MODEL_COUNTERS, MODEL_VERSIONS)]
    held, counters, versions = (part if isinstance(part, Mapping) else None for part in parts)
    if held is None or counters is None or versions is None:
        raise KeysDoNotMatch(f"{saved.name}: {what} is a torch.nn.Module, and was none when it was saved.")
    fitted = fitted_model(saved.name, what, module, SavedModel(held, counters, versions))
    notes.extend(fitted.notes)
    return _Step(what, fitted.load)


def _states(saved: Saved) -> Mapping[str, Any]:
    states = copy.deepcopy(_mapping(saved, RNG))
    rng.check(states)
    return states


def _mapping(saved: Saved, entry: str) -> Mapping[str, Any]:
    value = saved.state.get(entry)
    if not isinstance(value, Mapping):
        raise UnreadableCheckpoint(f"{saved.name}: there is no {entry} by name, which a Keeper writes.")
    return value


def _other_rank(rank: int) -> str:
    return f"The random numbers were saved by the process of rank 0; this one, of rank {rank}, goes on with its own."
