"""Raw values that can be sent as they stand: one for each kind, that the model's own operations take."""

import math
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from artifact.operations import Operations, RawLimits, RawSpec, RawValue
from artifact.operations.errors import BadRaw

_SIDES = (32, 64, 224, 512, 1024)
"""Of the example's picture: the smallest that the operations take, as a crop may need so many pixels."""
_TEXT = "A sentence to try the model with."
_OTHER_TEXT = "And another one to compare it with."


def example_row(operations: Operations, limits: RawLimits) -> Mapping[str, RawValue]:
    """A row that the operations take; where none of ours is, the last one that was tried."""
    row: Mapping[str, RawValue] = {}
    for side in _SIDES:
        row = {spec.name: _value(spec, side) for spec in operations.raw_inputs}
        try:
            operations.prepare(row, limits)
        except BadRaw:
            continue
        break
    return row


def _value(spec: RawSpec, side: int) -> RawValue:
    if spec.kind == "image":
        return png(side)
    if spec.kind == "row":
        return {column["name"]: _cell(column) for column in spec.details["columns"]}
    return (_TEXT, _OTHER_TEXT) if spec.kind == "pair" else _TEXT


def _cell(column: Mapping[str, Any]) -> Any:
    """A category's first value; a number within its bounds, the middle or a whole one near it; else 0 or the next to it."""
    if column["kind"] == "category":
        return column["values"][0]
    low, high = column.get("min"), column.get("max")
    if low is not None and high is not None:
        middle = (low + high) / 2
        return next((whole for whole in (math.floor(middle), math.ceil(middle)) if low <= whole <= high), middle)
    return max(low or 0, 0) if high is None else min(high, 0)


def png(side: int) -> bytes:
    """A picture of `side` x `side` pixels: squares of blue and white, which take a few hundred bytes."""
    square = side // 4
    light, dark = b"\xff\xff\xff" * square, b"\x20\x50\xa0" * square
    lines = [b"\0" + (dark + light) * 2, b"\0" + (light + dark) * 2]
    pixels = b"".join(lines[row // square % 2] for row in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunks({b"IHDR": header, b"IDAT": zlib.compress(pixels, 9), b"IEND": b""}))


def _chunks(bodies: Mapping[bytes, bytes]) -> Iterable[bytes]:
    for name, body in bodies.items():
        yield struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
