"""Shards: a checkpoint in several files, and the index that says which key lies where.

The index (Hugging Face's `*.index.json`) is checked both ways: every shard is there and inside the folder, every key is in the
shard that the index names, and no shard holds a key that the index does not place in it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from checkpoints.errors import UnreadableCheckpoint, UnsafeCheckpoint

MAX_INDEX_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Key -> shard, and the shards' paths by name, sorted."""

    weight_map: Mapping[str, str]
    shards: Mapping[str, Path]


def read_index(path: Path) -> ShardIndex:
    """Read an index and find its shards.

    Raises UnreadableCheckpoint where it is not an index or a shard is missing, UnsafeCheckpoint where a shard lies outside the
    index's folder.
    """
    weight_map = _weight_map(path)
    shards = {name: _shard_path(path, name) for name in sorted(set(weight_map.values()))}
    missing = [name for name, shard in shards.items() if not shard.is_file()]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UnreadableCheckpoint(
            f"{path.name} names {len(shards)} shards; {len(missing)} missing: {shown}. Copy them beside it."
        )
    return ShardIndex(weight_map, shards)


def check_shard(path: Path, index: ShardIndex, shard: str, keys: Mapping[str, Any]) -> None:
    """Compare the keys that a shard holds with those that the index places in it.

    Raises UnreadableCheckpoint with the first key that differs.
    """
    placed = {key for key, name in index.weight_map.items() if name == shard}
    for key in sorted(keys.keys() - placed):
        other = index.weight_map.get(key)
        where = f"places it in {other}" if other else "does not name it"
        raise UnreadableCheckpoint(
            f"{path.name} and {shard} disagree: the shard holds {key}, the index {where}. Save both again."
        )
    for key in sorted(placed - keys.keys()):
        raise UnreadableCheckpoint(
            f"{path.name} and {shard} disagree: the index places {key} there, the shard lacks it. Save both again."
        )


def _weight_map(path: Path) -> dict[str, str]:
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise UnreadableCheckpoint(f"{path.name} is larger than {MAX_INDEX_BYTES} bytes, too large for an index.")
    try:
        index = json.loads(path.read_bytes(), object_pairs_hook=lambda pairs: _no_doubles(path, pairs))
    except (ValueError, RecursionError) as error:
        raise UnreadableCheckpoint(f"{path.name} is not JSON: {error}. Copy it again.") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(name, str) for name in weight_map.values()):
        raise UnreadableCheckpoint(f"{path.name} is not an index: weight_map must map keys to file names.")
    return weight_map


def _no_doubles(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held: dict[str, Any] = {}
    for key, value in pairs:
        if key in held:
            raise UnreadableCheckpoint(f'{path.name} holds the key "{key}" twice. Save it again.')
        held[key] = value
    return held


def _shard_path(path: Path, name: str) -> Path:
    """The shard's path, proven to lie in the index's folder.

    Hugging Face's cache keeps `snapshots/<revision>/` as links into `blobs/` beside it; there those links are in order.
    """
    relative = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or relative.is_absolute() or ".." in relative.parts:
        raise UnsafeCheckpoint(f'{path.name} names the shard "{name}", which is not a plain name in its folder.')
    folder = path.parent.resolve()
    homes = [folder, folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [folder]
    shard = (folder / relative).resolve()
    if not any(shard.is_relative_to(home) for home in homes):
        raise UnsafeCheckpoint(f'{path.name} names the shard "{name}", a link to a file outside its folder.')
    return shard
