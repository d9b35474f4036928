"""Containers: what stands where in the object that a checkpoint holds.

Training scripts save a bare state_dict, or a dictionary with the state_dict under some name beside epoch, metrics, optimizer and
settings. Every mapping of names to tensors is a weight set; which one is meant is a person's choice, not ours.
"""

import argparse
import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from checkpoints.errors import UnreadableCheckpoint

CONFIG_ENTRIES = ("config", "hyper_parameters", "args", "cfg", "hparams", "model_args", "train_args", "opt")
"""Where training scripts keep their settings; the first that is there is the checkpoint's config."""

TRAINING_STATE = re.compile(r"optim|sched|scaler|callback|loops?$|rng|random_state|datamodule|sampler", re.IGNORECASE)
"""Entries of a training run's own state: never weights, never provenance."""

KEEPER_MARK = "stateserve_checkpoint"
"""The entry that says that a Keeper wrote the file."""

KEEPER_ENTRIES = ("model_state_dict", "epoch", "step", "metrics", "config")
"""What such a file says of its model; all else in it is for resuming the training, whatever it holds."""

MAX_PLAIN_NODES = 20_000
MAX_PLAIN_DEPTH = 32
MAX_PROVENANCE_ITEMS = 64
MAX_LISTED_ELEMENTS = 64


@dataclass(frozen=True, slots=True)
class Contents:
    """A checkpoint's parts: weight sets by the entry they stood under ("" for a bare state_dict), and the rest as plain data."""

    layout: str
    weight_sets: Mapping[str, Mapping[str, Any]]
    provenance: Mapping[str, Any]
    config: Mapping[str, Any] | None


def take_apart(path: Path, held: Any) -> Contents:
    """Find the weight sets in what a torch file holds.

    Raises UnreadableCheckpoint where there are none, and for what is known to need another treatment first (LoRA, quantised).
    """
    if not isinstance(held, Mapping):
        raise UnreadableCheckpoint(f"{path.name} holds a {type(held).__name__}, not a state_dict. Save model.state_dict().")
    is_kept = KEEPER_MARK in held
    if is_kept:
        held = {entry: held[entry] for entry in KEEPER_ENTRIES if entry in held}
    sets = dict(_weight_sets(held))
    if not sets:
        raise UnreadableCheckpoint(_no_weights(path, held))
    for name, tensors in sets.items():
        _refuse_adapter(path, name, tensors)
    config_entry = next((entry for entry in CONFIG_ENTRIES if _as_mapping(held.get(entry)) is not None), None)
    config = None if config_entry is None else plain(path, _as_mapping(held[config_entry]))
    return Contents("keeper" if is_kept else _layout(held, sets), sets, _provenance(path, held, sets, config_entry), config)


def is_tensor(value: Any) -> bool:
    """Whether the value is a torch tensor, of whatever kind."""
    import torch

    return isinstance(value, torch.Tensor)


# ---- the weight sets ----


def _weight_sets(held: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if _is_state_dict(held):
        yield "", held
        return
    nested = [found for entry, value in held.items() for found in _sets_below(entry, value)]
    loose = {key: value for key, value in held.items() if isinstance(key, str) and is_tensor(value)}
    if nested:
        yield from nested
    elif any(tensor.dim() for tensor in loose.values()):  # a bare state_dict with a few scalars beside the tensors
        yield "", loose


def _sets_below(entry: Any, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The weight sets under one entry: the entry itself, or one level deeper ("ema" with "shadow" in it)."""
    if not isinstance(entry, str) or TRAINING_STATE.search(entry) or not isinstance(value, Mapping):
        return
    if _is_state_dict(value):
        yield entry, value
        return
    for inner, deeper in value.items():
        if isinstance(inner, str) and not TRAINING_STATE.search(inner) and isinstance(deeper, Mapping) and _is_state_dict(deeper):
            yield f"{entry}.{inner}", deeper


def _is_state_dict(value: Mapping[Any, Any]) -> bool:
    """Whether it maps names to tensors; a module's extra state and packed quantised weights may stand among them."""
    if not any(is_tensor(one) for one in value.values()):
        return False
    return all(isinstance(key, str) and (is_tensor(one) or _is_beside_tensors(key)) for key, one in value.items())


def _is_beside_tensors(key: str) -> bool:
    return key.endswith(("_extra_state", "_packed_params", "_packed_params.dtype"))


def _refuse_adapter(path: Path, name: str, tensors: Mapping[str, Any]) -> None:
    if all("lora_" in key for key in tensors):
        where = f' under "{name}"' if name else ""
        raise UnreadableCheckpoint(
            f"{path.name} holds only LoRA adapters{where} ({next(iter(tensors))}), not a model's weights. "
            f"Merge them first: model.merge_and_unload()."
        )


def _no_weights(path: Path, held: Mapping[Any, Any]) -> str:
    entries = [str(entry) for entry in held]
    if {"state", "param_groups"} <= set(entries):
        return f"{path.name} holds an optimizer's state, not a model's. Give the model's checkpoint."
    if not entries:
        return f"{path.name} holds an empty dictionary, no weights. Save model.state_dict()."
    shown = ", ".join(entries[:5]) + (f" and {len(entries) - 5} more" if len(entries) > 5 else "")
    return f"{path.name} holds no weights: no entry maps names to tensors ({shown}). Save model.state_dict()."


def _layout(held: Mapping[Any, Any], sets: Mapping[str, Any]) -> str:
    """The name of the first layout whose marks are there; "training" for a dictionary with no mark of a known tool."""
    if "" in sets:
        return "bare"
    marks = {
        "lightning": "pytorch-lightning_version" in held,
        "deepspeed": "ds_version" in held,
        "timm": "state_dict" in sets and "arch" in held,
        "generative": bool(sets.keys() & {"params", "params_ema", "params-ema", "g_ema", "generator"}),
        "self-distillation": sets.keys() >= {"teacher", "student"},
        "torchvision": "model" in sets and bool(held.keys() & {"lr_scheduler", "model_ema", "args"}),
    }
    return next((layout for layout, is_marked in marks.items() if is_marked), "training")


# ---- the rest, as plain data ----


def _provenance(path: Path, held: Mapping[Any, Any], sets: Mapping[str, Any], config_entry: str | None) -> dict[str, Any]:
    """Scalars and small plain structures beside the weights, such as epoch, best_acc and metrics."""
    entries_of_sets = {name.partition(".")[0] for name in sets} | sets.keys() | sets.get("", {}).keys()
    told: dict[str, Any] = {}
    for entry, value in held.items():
        if not isinstance(entry, str) or entry in entries_of_sets or entry == config_entry or TRAINING_STATE.search(entry):
            continue
        if is_tensor(value) and value.numel() != 1:
            continue
        if isinstance(value, (Mapping, list, tuple, set, frozenset)) and len(value) > MAX_PROVENANCE_ITEMS:
            continue
        told[entry] = plain(path, value)
    return told


def plain(path: Path, value: Any) -> Any:
    """The value as JSON can hold it: numbers of NumPy and torch become Python's, paths and times text, namespaces dictionaries.

    Raises UnreadableCheckpoint where it nests deeper than 32 levels or has more than 20 000 parts.
    """
    return _Plainer(path).plain(value, 0)


class _Plainer:
    """Counts the parts of one value, so that one that refers to itself ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = MAX_PLAIN_NODES

    def plain(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if depth > MAX_PLAIN_DEPTH or self.left < 0:
            raise UnreadableCheckpoint(
                f"{self.path.name} holds settings of more than {MAX_PLAIN_DEPTH} levels or {MAX_PLAIN_NODES} parts. Save fewer."
            )
        if (inner := _as_mapping(value)) is not None:
            return {str(key): self.plain(one, depth + 1) for key, one in inner.items()}
        if isinstance(value, (set, frozenset)):
            value = sorted(value, key=repr)
        if isinstance(value, (list, tuple)):
            return [self.plain(one, depth + 1) for one in value]
        return _plain_scalar(value)


def _as_mapping(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    return vars(value) if isinstance(value, argparse.Namespace) else None


def _plain_scalar(value: Any) -> Any:
    if is_tensor(value) or type(value).__module__ == "numpy":
        return _plain_array(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "backslashreplace")
    return str(value) if isinstance(value, (PurePath, dt.timedelta, complex)) else _named(value)


def _plain_array(value: Any) -> Any:
    """A tensor or a NumPy value: its number, its short list of numbers, or its shape in words."""
    shape = tuple(value.shape)
    has_no_list = is_tensor(value) and (value.is_meta or value.is_quantized or "strided" not in str(value.layout))
    if has_no_list or math.prod(shape) > MAX_LISTED_ELEMENTS:
        return f"array of shape {shape}"
    return _plain_list(value.tolist())


def _plain_list(listed: Any) -> Any:
    return [_plain_list(one) for one in listed] if isinstance(listed, list) else _plain_scalar(listed)


def _named(value: Any) -> str:
    text = str(value)
    return text if text.startswith("torch.") or len(text) < 32 else type(value).__name__
