"""The safetensors header, checked before any library sees the file.

The format (https://github.com/huggingface/safetensors#format): a little-endian u64 with the header's length, the header in JSON,
then the tensors' bytes, which must cover the rest of the file without a gap and without an overlap.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.errors import UnreadableCheckpoint

MAX_HEADER_BYTES = 100_000_000
"""The limit that the format itself sets."""

LENGTH_BYTES = 8

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes of one element. The format's types of less than a byte (F4, F6 …) hold quantised weights, which are refused."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor's place: its bytes are [begin, end) after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What the header says: the tensors in the file's order, and the free `__metadata__` strings."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header: every tensor's type, shape and place, and that together they cover the file exactly.

    Raises UnreadableCheckpoint, naming the tensor and the value, where anything is not as the format says.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if length > MAX_HEADER_BYTES:
            raise _broken(path, f"its header claims {length} bytes; the format allows {MAX_HEADER_BYTES}")
        if LENGTH_BYTES + length > size_bytes:
            raise _broken(path, f"it is cut off: the header claims {length} bytes, the file has {size_bytes} in all")
        header = _parsed(path, file.read(length))
    metadata = _metadata(path, header.pop("__metadata__", {}))
    tensors = {name: _entry(path, name, value) for name, value in header.items()}
    _check_cover(path, tensors, size_bytes - LENGTH_BYTES - length)
    return SafetensorsHeader(tensors, metadata)


def _broken(path: Path, why: str) -> UnreadableCheckpoint:
    return UnreadableCheckpoint(f"{path.name} is not a whole safetensors file: {why}. Copy or save it again.")


def _parsed(path: Path, raw: bytes) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise _broken(path, "its header does not begin with {")

    def no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        held: dict[str, Any] = {}
        for key, value in pairs:
            if key in held:
                raise _broken(path, f'its header holds the key "{key}" twice')
            held[key] = value
        return held

    try:
        return json.loads(raw, object_pairs_hook=no_doubles)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not JSON ({error})") from error


def _metadata(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _broken(path, "__metadata__ must map strings to strings")
    return value


def _entry(path: Path, name: str, value: Any) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f'tensor "{name}" must have dtype, shape and data_offsets, and nothing else')
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _broken(path, f'tensor "{name}" has the dtype {dtype!r}, which we do not read')
    if not _are_sizes(shape):
        raise _broken(path, f'tensor "{name}" has the shape {shape!r}; sizes are integers from 0')
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _broken(path, f'tensor "{name}" has the data_offsets {offsets!r}; they are two integers from 0')
    begin, end = offsets
    wanted = DTYPE_BYTES[dtype]
    for size in shape:
        wanted *= size
    if end - begin != wanted:
        raise _broken(
            path, f'tensor "{name}", {dtype} {shape}, needs {wanted} bytes; its data_offsets {offsets} hold {end - begin}'
        )
    return TensorEntry(dtype, tuple(shape), begin, end)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _check_cover(path: Path, tensors: Mapping[str, TensorEntry], data_bytes: int) -> None:
    reached, last = 0, "the header"
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin < reached:
            raise _broken(path, f'tensor "{name}" overlaps "{last}": it begins at byte {entry.begin}, before {reached}')
        if entry.begin > reached:
            raise _broken(path, f'{entry.begin - reached} bytes between "{last}" and tensor "{name}" belong to no tensor')
        reached, last = entry.end, name
    if reached > data_bytes:
        raise _broken(path, f"it is cut off: its tensors need {reached} bytes, {data_bytes} are there")
    if reached < data_bytes:
        raise _broken(path, f"{data_bytes - reached} bytes at its end belong to no tensor")
