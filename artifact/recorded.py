"""Arrays out of the bytes of a safetensors file, by NumPy alone: golden cases are read wherever an engine runs.

Source: https://github.com/huggingface/safetensors#format. Eight bytes, little-endian, are the header's length; the header is
JSON, name -> dtype, shape and where its bytes stand behind the header; the arrays' bytes follow one another without a gap.
"""

import json
import math
from typing import Any

import numpy as np

from artifact.signature import DTYPES

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays by name, in memory of their own.

    Raises:
        ValueError, KeyError, TypeError: the bytes are no safetensors file, or not one of our dtypes.
    """
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(data) < start:
        raise ValueError(f"{len(data)} bytes are there; the header ends at {start}")
    entries = json.loads(data[_LENGTH_BYTES:start])
    entries.pop(_METADATA, None)
    content = data[start:]
    _require_gapless(entries, len(content))
    return {name: _array(name, entry, content) for name, entry in entries.items()}


def _require_gapless(entries: dict[str, Any], size: int) -> None:
    """Raises ValueError unless the arrays' bytes are all that there is, each byte of one array."""
    end = 0
    for begin, stop in sorted(entry["data_offsets"] for entry in entries.values()):
        if begin != end or stop < begin:
            raise ValueError(f"an array's bytes stand from {begin} to {stop}; those before it end at {end}")
        end = stop
    if end != size:
        raise ValueError(f"the arrays have {end} bytes; {size} are there")


def _array(name: str, entry: dict[str, Any], content: bytes) -> np.ndarray:
    dtype, shape = DTYPES[_DTYPES[entry["dtype"]]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if not all(type(size) is int and size >= 0 for size in shape) or end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {end - begin} bytes; shape {list(shape)} of {dtype} has others")
    return np.frombuffer(content[begin:end], dtype).reshape(shape).copy()
