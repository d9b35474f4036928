"""The safetensors file as bytes: the same tensors give the same file, and none is copied to be written.

The format: https://github.com/huggingface/safetensors#format. The widest elements stand first, so that every tensor begins at a
multiple of its element's size; the header is filled up with spaces to a multiple of eight bytes.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

DTYPES: Final = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e8m0fnu": "F8_E8M0",
    "int16": "I16", "uint16": "U16", "float16": "F16", "bfloat16": "BF16",
    "int32": "I32", "uint32": "U32", "float32": "F32",
    "int64": "I64", "uint64": "U64", "float64": "F64", "complex64": "C64",
}  # fmt: skip
"""torch's name of a type -> the format's."""

PIECE_BYTES: Final = 4 << 20
"""Small tensors are written together up to here, and large ones in pieces of it, while the hash still finds them in the cache."""


def write_safetensors(write: Callable[[Any], Any], tensors: "Mapping[str, torch.Tensor]", aliases: Mapping[str, str]) -> None:
    """Write a whole safetensors file from front to back.

    `aliases` (key -> key in `tensors`, the very same tensor) go to the metadata; one that the metadata cannot hold is written
    as a tensor of its own.
    """
    doubled = {key: kept for key, kept in aliases.items() if key == "format"}
    held = {**tensors, **{key: tensors[kept] for key, kept in doubled.items()}}
    ordered = sorted(held, key=lambda key: (-held[key].element_size(), key))
    metadata = {key: kept for key, kept in aliases.items() if key not in doubled}
    if "pt" not in held:  # else a reader would take the word for an alias of that tensor
        metadata["format"] = "pt"
    write(_header({key: held[key] for key in ordered}, metadata))
    for piece in _pieces(held[key] for key in ordered):
        write(piece)


def _header(tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str]) -> bytes:
    fields: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    reached = 0
    for key, tensor in tensors.items():
        end = reached + tensor.nbytes
        dtype = DTYPES[str(tensor.dtype).removeprefix("torch.")]
        fields[key] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _pieces(tensors: "Iterator[torch.Tensor]") -> Iterator[Any]:
    waiting = bytearray()
    for tensor in tensors:
        raw = raw_bytes(tensor)
        if len(raw) >= PIECE_BYTES:
            if waiting:
                yield waiting
                waiting = bytearray()
            for begin in range(0, len(raw), PIECE_BYTES):
                yield raw[begin : begin + PIECE_BYTES]
            continue
        waiting += raw
        if len(waiting) >= PIECE_BYTES:
            yield waiting
            waiting = bytearray()
    if waiting:
        yield waiting


def raw_bytes(tensor: "torch.Tensor") -> memoryview:
    """A CPU tensor's values in row order, little-endian; its own memory where that is so already."""
    import torch

    if not tensor.numel():
        return memoryview(b"")
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if sys.byteorder == "big":
        part_bytes = tensor.element_size() // (2 if tensor.is_complex() else 1)
        raw = raw.reshape(-1, part_bytes).flip(1).contiguous().reshape(-1)
    return raw.numpy().data
