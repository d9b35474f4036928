"""Checkpoint files: one reader per kind of file, each giving the same parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.containers import take_apart
from checkpoints.errors import UnreadableCheckpoint
from checkpoints.kinds import Kind
from checkpoints.notices import notices_of
from checkpoints.recognise import recognise
from checkpoints.refusal import refusal
from checkpoints.safetensors_file import load_safetensors
from checkpoints.shards import check_shard, read_index
from checkpoints.torch_file import load_torch_file
from checkpoints.weights import WeightSet, make_weight_set


@dataclass(frozen=True, slots=True)
class Parts:
    """What one file, or several together, gave."""

    layout: str
    weight_sets: Mapping[str, WeightSet]
    files: tuple[Path, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    notices: tuple[str, ...] = ()


def read_file(path: Path) -> Parts:
    """Read a torch.save file, a safetensors file, or an index with its shards.

    Raises UnreadableCheckpoint or UnsafeCheckpoint where the file is none of these, or damaged, or would run code.
    """
    found = recognise(path)
    reader = FILE_READERS.get(found.kind)
    if reader is None:
        raise refusal(found)
    return reader(path)


def _read_torch(path: Path, kind: Kind) -> Parts:
    contents = take_apart(path, load_torch_file(path, kind))
    sets = {name: make_weight_set(path, name, entries, {}) for name, entries in contents.weight_sets.items()}
    return Parts(contents.layout, sets, (path,), contents.provenance, contents.config, notices_of(path, contents, sets))


def _read_safetensors(path: Path) -> Parts:
    contents = load_safetensors(path)
    weights = make_weight_set(path, "", contents.tensors, contents.aliases)
    return Parts("bare", {"": weights}, (path,), {key: text for key, text in contents.metadata.items() if key != "format"})


def _read_index(path: Path) -> Parts:
    index = read_index(path)
    tensors: dict[str, Any] = {}
    versions: dict[str, int] = {}
    aliases: dict[str, str] = {}
    for name, shard in index.shards.items():
        weights = _read_shard(shard)
        check_shard(path, index, name, weights.tensors)
        tensors.update(weights.tensors)
        versions.update(weights.versions)
        aliases.update(weights.aliases)
    return Parts("sharded", {"": WeightSet("", tensors, versions, aliases)}, (path, *index.shards.values()))


def _read_shard(shard: Path) -> WeightSet:
    parts = read_file(shard)
    if parts.layout != "bare":
        raise UnreadableCheckpoint(
            f"{shard.name} is named as a shard but holds more than tensors ({', '.join(parts.weight_sets)})."
        )
    return parts.weight_sets[""]


FILE_READERS: Mapping[Kind, Callable[[Path], Parts]] = {
    Kind.TORCH_ZIP: lambda path: _read_torch(path, Kind.TORCH_ZIP),
    Kind.TORCH_LEGACY: lambda path: _read_torch(path, Kind.TORCH_LEGACY),
    Kind.SAFETENSORS: _read_safetensors,
    Kind.SHARD_INDEX: _read_index,
}
