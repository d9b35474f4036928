"""Which config an export runs under: the command line's, the one beside the checkpoint, or the checkpoint's own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import model_defs
from checkpoints import Checkpoint, CheckpointError, match_keys
from export.config import Config, parse_config, read_document
from export.errors import ConfigError
from export.yaml_document import Document


@dataclass(frozen=True, slots=True)
class FoundConfig:
    """A config, where it was found, and the directory that the files it names are relative to."""

    config: Config
    document: Document
    directory: Path

    @property
    def source(self) -> str:
        """Its name, for messages."""
        return self.document.name


def find_config(given: Path | None, checkpoint: Checkpoint) -> FoundConfig:
    """The config: `given`, else STEM.yaml beside the checkpoint, else the checkpoint's own `config` entry, if it has `schema`.

    Raises:
        ConfigError: there is none (the message names the registered models whose keys match), it is wrong, or the checkpoint's
            own differs from the YAML.
    """
    beside = checkpoint.path.with_suffix(".yaml")
    path = given if given is not None else beside if beside.is_file() else None
    own = _own_config(checkpoint)
    if path is None:
        if own is None:
            raise ConfigError(_nothing_found(checkpoint, beside))
        return FoundConfig(own, _own_document(checkpoint), checkpoint.path.parent)
    document = read_document(path)
    config = parse_config(document)
    if own is not None:
        _require_same(config, own, path, checkpoint.path)
    return FoundConfig(config, document, path.parent)


def matching_models(checkpoint: Checkpoint) -> list[tuple[str, int, int]]:
    """Registered models (with default params) by how many of their keys the checkpoint has: name, found, all; the best first."""
    found = []
    for name, definition in model_defs.registered().items():
        try:
            with torch.device("meta"):
                keys = dict.fromkeys(definition.module(definition.params()).state_dict(), ())
        except (ValueError, TypeError):  # its params have no defaults: which keys it has depends on them
            continue
        best = max((_matched(weights.tensors, keys) for weights in checkpoint.weight_sets.values()), default=0)
        if best * 2 > len(keys):
            found.append((name, best, len(keys)))
    return sorted(found, key=lambda entry: (-entry[1] / entry[2], -entry[1], entry[0]))


def _matched(tensors: Mapping[str, Any], keys: Mapping[str, tuple[int, ...]]) -> int:
    """How many of the keys are there, by name alone; all, if a key rewrite makes them match."""
    try:
        return len(match_keys(dict.fromkeys(tensors, ()), keys).mapping)
    except CheckpointError:
        return len(set(tensors) & set(keys))


def _own_config(checkpoint: Checkpoint) -> Config | None:
    if checkpoint.config is None or "schema" not in checkpoint.config:
        return None
    document = _own_document(checkpoint)
    config = parse_config(document)
    labels = {f"outputs.{name}.labels": output.labels for name, output in config.outputs.items() if output.labels is not None}
    named = {".".join(map(str, path)): name for name, path in config.chains.files.items()}
    for key, name in {**labels, **named}.items():
        if not _is_beside(name, checkpoint.path.parent):
            raise ConfigError(
                f"{document.name}: {key} is {name!r}; a config inside a checkpoint may name a file beside it only, and no link"
            )
    return config


def _own_document(checkpoint: Checkpoint) -> Document:
    return Document(f"{checkpoint.path.name} (its own config)", dict(checkpoint.config or {}), {})


def _is_beside(name: str, directory: Path) -> bool:
    """A checkpoint comes from anywhere: its config must not copy other files of this machine into the artifact."""
    return Path(name).name == name and name not in {"", ".", ".."} and not (directory / name).is_symlink()


def _nothing_found(checkpoint: Checkpoint, beside: Path) -> str:
    matching = ", ".join(f"{name} ({found}/{total} keys)" for name, found, total in matching_models(checkpoint))
    hint = (
        f"registered models whose keys match: {matching}"
        if matching
        else "no registered model's keys match: --plugin brings in yours"
    )
    return f"no config for {checkpoint.path.name}: write {beside.name} beside it, or say --config YAML; {hint}"


def _require_same(config: Config, own: Config, path: Path, checkpoint: Path) -> None:
    declared, carried = dict(_flat(config.declaration())), dict(_flat(own.declaration()))
    differing = sorted(key for key in {*declared, *carried} if not _same(key, declared.get(key), carried.get(key)))
    if differing:
        lines = [f"  {key}: {declared.get(key)!r} in the YAML, {carried.get(key)!r} in the checkpoint" for key in differing]
        raise ConfigError(
            "\n".join(
                [f"{path} differs from the config inside {checkpoint.name}:", *lines, "Make them equal, or remove one of the two"]
            )
        )


def _same(key: str, declared: Any, carried: Any) -> bool:
    """Whether both say the same; what a labels file is called does not matter (an artifact calls every one labels.txt)."""
    if key.startswith("outputs.") and key.endswith(".labels") and declared is not None and carried is not None:
        return True
    return declared == carried


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value
