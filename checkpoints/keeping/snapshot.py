"""The snapshot: a training's state at one moment, on the CPU, so that the training goes on while it is written."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from checkpoints import rng
from checkpoints.errors import KeeperError
from checkpoints.keeping.copies import Buffers, Copies
from checkpoints.keeping.safetensors_bytes import DTYPES
from checkpoints.keeping.unwrap import wrappers_of

if TYPE_CHECKING:
    import torch

MODEL, OPTIMIZER, SCHEDULER, SCALER = "model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "scaler_state_dict"
"""The entries of a checkpoint, as training scripts call them."""

CLASSES, RNG, EXTRA, EXTRA_OBJECTS = "classes", "rng_state", "extra", "extra_state_dicts"
MODEL_VERSIONS, MODEL_COUNTERS, MODEL_REST = "model_versions", "model_averaged", "model_extra_state"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A training's state, which nothing changes until the next snapshot is taken into the same memory.

    `tensors` are the model's by its own keys, without wrappers; `aliases` is key -> key in `tensors` that is the very same
    tensor. `versions` is module path -> version of its layout. `state` is everything else, by the names above.
    """

    tensors: "Mapping[str, torch.Tensor]"
    aliases: Mapping[str, str]
    versions: Mapping[str, int]
    state: Mapping[str, Any]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that a snapshot will hold, found and checked, its tensors not copied yet; `size_bytes` is what they need."""

    snapshot: Snapshot
    copies: Copies

    @property
    def size_bytes(self) -> int:
        """The bytes of all tensors and arrays, shared ones counted once."""
        return self.snapshot.size_bytes

    def copy(self) -> Snapshot:
        """Copy the tensors: the values that they have now."""
        self.copies.make()
        return self.snapshot


class Snapshotter:
    """Takes snapshots for checkpoints of one format, one at a time, into memory that it keeps.

    A snapshot must be written before the next is gathered.
    """

    def __init__(self, format: str = "pth") -> None:  # noqa: A002 - what it is called in every file
        self._format = format
        self._buffers = Buffers()

    def gather(
        self,
        model: "torch.nn.Module",
        optimizer: Any = None,
        scheduler: Any = None,
        scaler: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Gathered:
        """Find and check all that a checkpoint will hold; nothing is copied yet but plain values.

        Raises KeeperError, naming the place and the type, for what a checkpoint could not give back.
        """
        copies = Copies(self._buffers)
        weights = _model(copies, model, "model")
        if self._format == "safetensors":
            _check_safetensors(weights.tensors)
        state = {MODEL_VERSIONS: weights.versions, MODEL_COUNTERS: weights.counters, MODEL_REST: weights.rest}
        named = {OPTIMIZER: optimizer, SCHEDULER: scheduler, SCALER: scaler}
        given = {entry: one for entry, one in named.items() if one is not None}
        for entry, one in given.items():
            state[entry] = copies.plain(_state_dict(one, entry.partition("_")[0]), entry.partition("_")[0])
        state[CLASSES] = {entry: class_of(one) for entry, one in given.items()}
        state[EXTRA], state[EXTRA_OBJECTS] = _extra(copies, extra or {})
        state[RNG] = rng.capture()
        snapshot = Snapshot(weights.tensors, weights.aliases, weights.versions, state, copies.size_bytes)
        return Gathered(snapshot, copies)


def class_of(value: Any) -> str:
    """The name of an optimizer's, scheduler's or scaler's class; of what another library put around an optimizer, that inside."""
    return type(bare_optimizer(value)).__name__


def bare_optimizer(value: Any) -> Any:
    """The optimizer in what accelerate or Lightning put around it; anything else as it is."""
    inner = getattr(value, "optimizer", None)
    return inner if inner is not None and hasattr(value, "param_groups") and hasattr(inner, "param_groups") else value


def has_state(value: Any) -> bool:
    """Whether a value of `extra` is an object with a state to save, and not a plain value."""
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


@dataclass(frozen=True, slots=True)
class _Weights:
    tensors: "dict[str, torch.Tensor]"
    aliases: dict[str, str]
    versions: dict[str, int]
    counters: dict[str, Any]
    rest: dict[str, Any]


def _model(copies: Copies, model: "torch.nn.Module", where: str) -> _Weights:
    """A model's tensors by its own keys, each once; what its state_dict holds beside tensors is the rest."""
    import torch

    if not isinstance(model, torch.nn.Module):
        raise KeeperError(f"{where} is a {type(model).__name__}, expected a torch.nn.Module.")
    wrappers = wrappers_of(model)
    held = model.state_dict()
    found = _Weights({}, {}, _versions(held, wrappers.key), {}, {})
    first: dict[int, str] = {}
    for path, value in held.items():
        key = wrappers.key(path)
        is_counter = path in wrappers.counters
        if key in found.counters if is_counter else key in found.tensors or key in found.aliases or key in found.rest:
            raise KeeperError(f"{where}: two tensors are called {key} once the wrappers are left out. Rename one of them.")
        if is_counter:
            found.counters[key] = copies.tensor(value, f"{where}: {path}")
        elif isinstance(value, torch.Tensor):
            target = copies.tensor(value, f"{where}: {path}")
            kept = first.setdefault(id(target), key)
            if kept == key:
                found.tensors[key] = target
            else:
                found.aliases[key] = kept
        else:
            found.rest[key] = copies.plain(value, f"{where}: {path}")
    return found


def _versions(held: Any, key: Any) -> dict[str, int]:
    metadata = getattr(held, "_metadata", {})
    return {key(path): facts["version"] for path, facts in metadata.items() if type(facts.get("version")) is int}


def _state_dict(value: Any, where: str) -> Any:
    if not has_state(value):
        raise KeeperError(f"{where} is a {type(value).__name__}, which has no state_dict and load_state_dict.")
    return value.state_dict()


def _extra(copies: Copies, extra: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The plain values, and the states of the objects."""
    import torch

    plain: dict[str, Any] = {}
    states: dict[str, Any] = {}
    for name, value in extra.items():
        where = f"extra[{name!r}]"
        if not isinstance(name, str):
            raise KeeperError(f"{where}: its name is a {type(name).__name__}, expected a text.")
        if isinstance(value, torch.nn.Module):
            weights = _model(copies, value, where)
            states[name] = {MODEL: full_state_dict(weights), MODEL_COUNTERS: weights.counters, MODEL_VERSIONS: weights.versions}
        elif has_state(value):
            states[name] = copies.plain(value.state_dict(), where)
        else:
            plain[name] = copies.plain(value, where)
    return plain, states


def full_state_dict(weights: "_Weights | Snapshot") -> "OrderedDict[str, Any]":
    """One dictionary with all of a model's keys, shared tensors shared, and the versions where torch puts them."""
    rest = weights.rest if isinstance(weights, _Weights) else weights.state[MODEL_REST]
    shared = {key: weights.tensors[kept] for key, kept in weights.aliases.items()}
    held: OrderedDict[str, Any] = OrderedDict({**weights.tensors, **shared, **rest})
    held._metadata = OrderedDict((path, {"version": version}) for path, version in weights.versions.items())  # type: ignore[attr-defined]  # noqa: SLF001
    return held


def _check_safetensors(tensors: "Mapping[str, torch.Tensor]") -> None:
    for key, tensor in tensors.items():
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise KeeperError(f'model: {key} is {name}, which safetensors does not hold. Use Keeper(…, format="pth").')
    if "__metadata__" in tensors:
        raise KeeperError(
            'model: a tensor is called __metadata__, which safetensors does not allow. Use Keeper(…, format="pth").'
        )
