"""Fitting: whether what was saved is the state of the very object that is to have it, found out before anything is changed."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkpoints.errors import KeysDoNotMatch, UnreadableCheckpoint
from checkpoints.keeping.snapshot import bare_optimizer
from checkpoints.keeping.unwrap import Wrappers, wrappers_of
from checkpoints.mismatch import Mismatch, explain

if TYPE_CHECKING:
    import torch


_COMPUTING = ("foreach", "fused", "capturable")
"""An optimizer's options that say how it computes, not what."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model's state under the model's own keys, wrappers included: `load` gives it to the model. `notes` are for a person."""

    load: Callable[[], None]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A model's state in a checkpoint.

    `held` is what its state_dict held by its own keys, `counters` how often AveragedModels in it were updated, `versions` module
    path -> version of its layout.
    """

    held: Mapping[str, Any]
    counters: Mapping[str, Any]
    versions: Mapping[str, int]


def fitted_model(name: str, what: str, model: "torch.nn.Module", saved: SavedModel) -> Fitted:
    """Lay what was saved under the keys that the model has now, whatever is wrapped around it.

    `name` is the checkpoint's, and `what` says which model it is.

    Raises KeysDoNotMatch where keys, shapes or types are not the model's exactly, where the model has no memory, or where it ties
    tensors that differ in the file.
    """
    wrappers = wrappers_of(model)
    held = model.state_dict()
    _require_shapes(what, held)
    paths = {path: wrappers.key(path) for path in held if path not in wrappers.counters}
    own = {key: held[path] for path, key in paths.items()}
    _require_keys(name, what, own, saved.held)
    _require_types(name, what, own, saved.held)
    _require_ties(name, what, own, saved.held)
    laid: OrderedDict[str, Any] = OrderedDict(
        (path, _copied(saved.held[paths[path]]) if path in paths else _counted(wrappers.key(path), saved.counters, held[path]))
        for path in held
    )
    laid._metadata = _versions(held, wrappers, saved.versions)  # type: ignore[attr-defined]  # noqa: SLF001 - where torch looks for them

    def load() -> None:
        model.load_state_dict(laid, strict=True)

    notes = (*_counter_notes(name, what, wrappers, saved.counters), *_untied_notes(name, what, own, saved.held))
    return Fitted(load, notes)


def fitted_optimizer(name: str, optimizer: Any, saved: Any) -> tuple[Any, tuple[str, ...]]:
    """The state to give to the optimizer, and what a person should know.

    How it computes (`fused`, `capturable`, `foreach`) goes with the device that it is on now, and stays as it is.

    Raises KeysDoNotMatch where it has other groups of parameters than the one that was saved, or parameters of other shapes.
    """
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    own = getattr(optimizer, "param_groups", None)
    if not isinstance(own, list):
        return saved, ()  # not torch's kind of optimizer: its own load_state_dict judges
    if not isinstance(groups, list) or not all(
        isinstance(one, Mapping) and isinstance(one.get("params"), list) for one in groups
    ):
        raise UnreadableCheckpoint(f"{name}: the optimizer's state has no groups of parameters.")
    sizes = [len(group["params"]) for group in groups]
    own_sizes = [len(group["params"]) for group in own]
    if sizes != own_sizes:
        raise KeysDoNotMatch(
            f"{name}: the optimizer has {_groups(own_sizes)}, the one that was saved had {_groups(sizes)}. "
            "Give it the same parameters in the same groups."
        )
    parameters = {
        index: parameter
        for group, own_group in zip(groups, own, strict=True)
        for index, parameter in zip(group["params"], own_group["params"], strict=True)
    }
    if type(bare_optimizer(optimizer)).__module__.startswith("torch.optim."):  # others may keep something else under these names
        for index, state in (saved.get("state") or {}).items():
            _require_moments(name, index, parameters.get(index), state)
    kept = [{option: group[option] for option in _COMPUTING if option in group} for group in own]
    notes = {
        f"{name}: the optimizer's {option} was {group.get(option)} when it was saved, and stays {value} as it is now."
        for group, options in zip(groups, kept, strict=True)
        for option, value in options.items()
        if group.get(option) != value
    }
    fitted = [{**group, **options} for group, options in zip(groups, kept, strict=True)]
    return {**saved, "param_groups": fitted}, tuple(sorted(notes))


def _require_moments(name: str, index: Any, parameter: Any, state: Any) -> None:
    """The averages of the gradients have their parameter's shape."""
    if parameter is None or not isinstance(state, Mapping):
        raise KeysDoNotMatch(f"{name}: the optimizer's state is of a parameter {index!r}, which it does not have.")
    for key in ("exp_avg", "exp_avg_sq", "momentum_buffer", "square_avg"):
        moment = state.get(key)
        if moment is not None and hasattr(moment, "shape") and moment.shape != parameter.shape:
            raise KeysDoNotMatch(
                f"{name}: the optimizer's {key} of parameter {index} is {tuple(moment.shape)}, the parameter is "
                f"{tuple(parameter.shape)}. Give the optimizer its parameters in the same order."
            )


def _groups(sizes: Sequence[int]) -> str:
    return f"{len(sizes)} group{'s' if len(sizes) != 1 else ''} of {', '.join(map(str, sizes))} parameters"


def _require_shapes(what: str, held: Mapping[str, Any]) -> None:
    import torch

    for path, value in held.items():
        if torch.nn.parameter.is_lazy(value):
            raise KeysDoNotMatch(f"{path} of {what} has no shape yet. Run one batch through it first.")


def _require_keys(name: str, what: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    shapes, own_shapes = _shapes(saved), _shapes(own)
    both = own_shapes.keys() & shapes.keys()
    mismatch = Mismatch(
        rewrite="identity",
        matched=sum(shapes[key] == own_shapes[key] for key in both),
        missing=tuple(sorted(own_shapes.keys() - shapes.keys())),
        unexpected=tuple(sorted(shapes.keys() - own_shapes.keys())),
        names={key: key for key in shapes},
        mismatched=tuple((key, shapes[key], own_shapes[key]) for key in sorted(both) if shapes[key] != own_shapes[key]),
    )
    if mismatch.missing or mismatch.unexpected or mismatch.mismatched:
        raise KeysDoNotMatch(
            f"{name}: {what} is not the one that was saved. {explain(mismatch)}\n"
            "A training goes on with the same model; to take a part of the weights into another one: checkpoints.warm_start.",
            missing=mismatch.missing,
            unexpected=mismatch.unexpected,
            mismatched=mismatch.mismatched,
        )


def _shapes(held: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """What is no tensor (a module's extra state) has the shape ()."""
    return {key: tuple(getattr(value, "shape", ())) for key, value in held.items()}


def _require_types(name: str, what: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    import torch

    for key, value in own.items():
        is_tensor = isinstance(value, torch.Tensor)
        if is_tensor != isinstance(saved[key], torch.Tensor):
            raise KeysDoNotMatch(
                f"{name}: {key} is a {type(saved[key]).__name__} in the file, a {type(value).__name__} in {what}."
            )
        if is_tensor and value.is_meta:
            raise KeysDoNotMatch(
                f"{name}: {key} of {what} has no memory (the meta device). Give it some first: to_empty(device=…)."
            )
        if is_tensor and (saved[key].layout is not torch.strided or saved[key].device.type != "cpu"):
            raise UnreadableCheckpoint(f"{name}: {key} is not a plain tensor in the file.")
        if is_tensor and value.dtype != saved[key].dtype:
            raise KeysDoNotMatch(
                f"{name}: {key} is {_dtype(saved[key])} in the file, {_dtype(value)} in {what}. "
                f"A training goes on in the type that it was saved in: give {what} that type first."
            )


def _dtype(tensor: "torch.Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _require_ties(name: str, what: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    for first, other in _tied(own):
        if not _are_equal(saved[first], saved[other]):
            raise KeysDoNotMatch(f"{name}: {first} and {other} are one tensor in {what}, and differ in the file.")


def _are_equal(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    """Whether all bits are the same, those of NaN too."""
    import torch

    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    return torch.equal(*(value.contiguous().reshape(-1).view(torch.uint8) for value in (one, other)))


def _untied_notes(name: str, what: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    tied = set(_tied(own))
    return [
        f"{name}: {first} and {other} were one tensor when they were saved, and are two in {what}: they will differ from now on."
        for first, other in _tied(saved)
        if (first, other) not in tied
    ]


def _tied(held: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(first key, other key) of tensors that are the very same."""
    import torch

    first_of: dict[Any, str] = {}
    found: list[tuple[str, str]] = []
    for key, value in held.items():
        if isinstance(value, torch.Tensor) and value.numel():
            first = first_of.setdefault((value.data_ptr(), value.dtype, value.shape, value.stride(), value.device), key)
            if first != key:
                found.append((first, key))
    return found


def _copied(value: Any) -> Any:
    import torch

    return value if isinstance(value, torch.Tensor) else copy.deepcopy(value)


def _counted(key: str, counters: Mapping[str, Any], own: "torch.Tensor") -> "torch.Tensor":
    """How often an AveragedModel was updated: as saved; as it is where it was not saved, which a note says."""
    import torch

    saved = counters.get(key, own)
    if not isinstance(saved, torch.Tensor) or saved.shape != own.shape:
        raise UnreadableCheckpoint(f"The counter {key} of an AveragedModel is no number in the file.")
    return saved


def _counter_notes(name: str, what: str, wrappers: Wrappers, counters: Mapping[str, Any]) -> list[str]:
    own = {wrappers.key(path) for path in wrappers.counters}
    return [
        *(
            f"{name}: {what} is averaged ({key}), and was not when it was saved: its average begins anew."
            for key in sorted(own - counters.keys())
        ),
        *(
            f"{name}: {what} was averaged ({key}) when it was saved, and is not now: how often is left out."
            for key in sorted(counters.keys() - own)
        ),
    ]


def _versions(held: Any, wrappers: Wrappers, saved: Mapping[str, int]) -> "OrderedDict[str, Any]":
    """The versions by the paths of the model as it is wrapped now."""
    found: OrderedDict[str, Any] = OrderedDict()
    for path, facts in getattr(held, "_metadata", {}).items():
        version = saved.get(wrappers.key(path), facts.get("version"))
        found[path] = {**facts, "version": version}
    return found
