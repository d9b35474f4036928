"""The orientation in EXIF data, and nothing else of it."""

import struct

_PREFIX = b"Exif\0\0"
_ORIENTATION = 0x0112
_FORMATS = {3: "H", 4: "I"}  # SHORT as the standard says, LONG as some writers have it
_MAX_ENTRIES = 1024


def orientation(data: bytes) -> int:
    """1 to 8, as EXIF 2.32 counts (tag 0x0112 of the first directory); 1, upright, where it is absent or cannot be read."""
    try:
        value = _tag(data.removeprefix(_PREFIX))
    except struct.error:  # it ends too early
        return 1
    return value if 1 <= value <= 8 else 1


def _tag(tiff: bytes) -> int:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for place in range(min(count, _MAX_ENTRIES)):
        at = start + 2 + 12 * place
        tag, kind, values = struct.unpack_from(f"{order}HHI", tiff, at)
        if tag == _ORIENTATION:
            return struct.unpack_from(f"{order}{_FORMATS[kind]}", tiff, at + 8)[0] if kind in _FORMATS and values == 1 else 1
    return 1
