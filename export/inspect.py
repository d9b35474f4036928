"""What a file is, what it holds, whether and how it would load: without running any of its code."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import model_defs
from artifact.manifest import MANIFEST
from checkpoints import Checkpoint, Recognised, WeightSet, read, recognise
from checkpoints.errors import UnreadableCheckpoint
from checkpoints.kinds import READABLE
from export.build import build_model, resolved_params
from export.capture import bind_inputs
from export.config import read_labels
from export.find_config import FoundConfig, find_config, matching_models
from export.operations import declared_operations
from export.strict import load_strictly
from foundation.errors import StateserveError


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found. `error` is why the file cannot be used as it is; None means that `python -m export` would load it."""

    recognised: Recognised
    checkpoint: Checkpoint | None
    would_load: dict[str, Any] | None
    matching: tuple[tuple[str, int, int], ...]
    error: StateserveError | None


def inspect(path: Path, config: Path | None = None, plugins: tuple[str, ...] = ()) -> Inspection:
    """Inspects a checkpoint: a file or a folder.

    Raises:
        UnreadableCheckpoint: there is nothing at that path.
        PluginFailed: a plugin cannot be loaded.
    """
    for plugin in plugins:
        model_defs.load_plugin(plugin)
    recognised = recognise(path)
    try:
        checkpoint = read(path)
    except StateserveError as error:
        artifacts = _artifacts(recognised)
        if artifacts is None:
            return Inspection(recognised, None, None, (), error)
        told = UnreadableCheckpoint(f"{path.name} is {artifacts.summary}; {artifacts.remedy}")
        return Inspection(artifacts, None, None, (), told)
    try:
        return Inspection(recognised, checkpoint, _would_load(checkpoint, config), (), None)
    except StateserveError as error:
        return Inspection(recognised, checkpoint, None, tuple(matching_models(checkpoint)), error)


def to_json(found: Inspection) -> dict[str, Any]:
    """The inspection as `--json` prints it."""
    entry: dict[str, Any] = {
        "path": str(found.recognised.path),
        "kind": str(found.recognised.kind),
        "size": found.recognised.size_bytes,
        "summary": found.recognised.summary,
        "remedy": found.recognised.remedy,
        "would_load": found.would_load,
        "matching_models": [{"model": name, "found": count, "keys": total} for name, count, total in found.matching],
        "error": None
        if found.error is None
        else {"type": type(found.error).__name__, "exit_code": found.error.exit_code, "message": str(found.error)},
    }
    if found.checkpoint is not None:
        entry |= {
            "layout": found.checkpoint.layout,
            "sha256": found.checkpoint.sha256,
            "facts": dict(found.checkpoint.provenance),
            "config": None if found.checkpoint.config is None else dict(found.checkpoint.config),
            "notices": list(found.checkpoint.notices),
            "weight_sets": [_set_facts(weights) for weights in found.checkpoint.weight_sets.values()],
        }
    return entry


def to_text(found: Inspection) -> str:
    """The inspection for a person."""
    entry = to_json(found)
    lines = [f"{entry['path']}: {entry['kind']}, {entry['size']} bytes", entry["summary"]]
    lines += entry.get("notices", [])
    for weights in entry.get("weight_sets", []):
        dtypes = ", ".join(f"{count} {dtype}" for dtype, count in weights["dtypes"].items())
        title = f"weights {weights['name'] or '(the whole file)'}"
        lines.append(f"{title}: {weights['tensors']} tensors ({dtypes}), {weights['values']} values, {weights['bytes']} bytes")
        lines += [f"  {name} {shape}" for name, shape in weights["first"].items()]
    if entry["would_load"] is not None:
        load = entry["would_load"]
        lines.append(f"would load into {load['model']} by {load['config']}: {load['tensors']} tensors, rewrite {load['rewrite']}")
        lines += [f"CUDA would compute in {load['precision']}"] if load["precision"] != "float32" else []
        lines += _operations_lines(load.get("operations", {}))
        lines += [f"note: {notice}" for notice in load["notices"]]
    else:
        lines += [f"would not load: {found.error}"]
        is_other = found.checkpoint is None and found.recognised.kind not in READABLE
        lines += [entry["remedy"]] if is_other and entry["remedy"] not in str(found.error) else []
    return "\n".join(line for line in lines if line)


def _artifacts(recognised: Recognised) -> Recognised | None:
    """A folder as what it is to us where it is an artifact, or holds some."""
    folders = {"": "an artifact", "*/": "a model's folder of artifacts", "*/*/": "a repository of artifacts"}
    for below, name in folders.items():
        for manifest in sorted(recognised.path.glob(below + MANIFEST)):
            remedy = f"run: stateserve check {manifest.parent}"
            return replace(recognised, summary=f"{name}, not a checkpoint", remedy=remedy)
    return None


def _operations_lines(declared: dict[str, Any]) -> list[str]:
    raw = ", ".join(f"{name} ({kind})" for name, kind in declared.get("raw_inputs", {}).items())
    lines = [f"would take {raw} raw, by {', '.join(declared['preprocess'])}"] if raw else []
    return [*lines, f"would answer by {', '.join(declared['postprocess'])}"] if declared.get("postprocess") else lines


def _would_load(checkpoint: Checkpoint, config: Path | None) -> dict[str, Any]:
    found = find_config(config, checkpoint)
    section = found.config.model
    model = build_model(section.name, section.params)
    weights = checkpoint.select(found.config.weights.select)
    params = resolved_params(section.name, section.params)
    loaded = load_strictly(model, weights, found.config.weights.ignore, params, checkpoint.path.name)
    declared = _operations(found, model)
    return {
        "config": found.source,
        "model": section.name,
        "weights": weights.name,
        "rewrite": loaded.rewrite,
        "ignored": list(loaded.ignored),
        "precision": found.config.precision,
        "tensors": loaded.tensors,
        "sha256": loaded.sha256,
        "notices": list(loaded.notices),
        **({"operations": declared} if declared else {}),
    }


def _operations(found: FoundConfig, model: nn.Module) -> dict[str, Any]:
    """What may be sent raw, and the operations of both sides, by name; empty where none are declared.

    Raises:
        ConfigError: they do not fit the model, or a file that they name cannot be read.
    """
    if not found.config.chains.to_json():
        return {}
    labels = read_labels(found.config, found.document, found.directory)
    declared = declared_operations(found, bind_inputs(model, found.config), labels)
    if declared is None:
        return {}
    chains = declared.operations.chains
    sides = {"preprocess": chains.preprocess, "postprocess": chains.postprocess}
    names = {side: [one.name for chain in by_name.values() for one in chain] for side, by_name in sides.items()}
    return {"raw_inputs": {spec.name: spec.kind for spec in declared.operations.raw_inputs}, **names}


def _set_facts(weights: WeightSet) -> dict[str, Any]:
    tensors = weights.tensors
    return {
        "name": weights.name,
        "tensors": len(tensors),
        "values": sum(tensor.numel() for tensor in tensors.values()),
        "bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "dtypes": dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        "first": {name: list(tensor.shape) for name, tensor in list(tensors.items())[:5]},
        "tied": dict(weights.aliases),
    }
