"""Hostile EXIF data: an orientation that is none, directories that lead nowhere or in a circle."""

import struct
from collections.abc import Mapping

PREFIX = b"Exif\0\0"
ORIENTATION = 0x0112


def directory(*entries: tuple[int, int, int, bytes], following: int = 0, count: int | None = None, start: int = 8) -> bytes:
    """A TIFF of one directory: entries of tag, type, number of values and four bytes; `following` is where the next one lies."""
    body = b"".join(struct.pack("<HHI", tag, kind, values) + data.ljust(4, b"\0") for tag, kind, values, data in entries)
    stated = len(entries) if count is None else count
    return b"II*\0" + struct.pack("<IH", start, stated) + body + struct.pack("<I", following)


def turned(orientation: int) -> bytes:
    """A good one."""
    return directory((ORIENTATION, 3, 1, struct.pack("<H", orientation)))


DATA: Mapping[str, bytes] = {
    "empty": b"",
    "no-tiff": b"not a TIFF at all",
    "orientation-0": turned(0),
    "orientation-9": turned(9),
    "orientation-65535": turned(65_535),
    "orientation-as-text": directory((ORIENTATION, 2, 4, b"six\0")),
    "orientation-of-2-billion-values": directory((ORIENTATION, 3, 2**31, struct.pack("<I", 8))),
    "orientation-of-type-77": directory((ORIENTATION, 77, 1, b"\6")),
    "orientation-elsewhere": directory((ORIENTATION, 4, 2, struct.pack("<I", 2**32 - 1))),
    "directory-beyond-the-end": directory((ORIENTATION, 3, 1, b"\6"), start=2**32 - 1),
    "directory-in-a-circle": directory((ORIENTATION, 3, 1, b"\1"), following=8),
    "directory-on-its-own-header": directory((ORIENTATION, 3, 1, b"\6"), start=0),
    "65535-entries": directory((0x9999, 3, 1, b"\1"), count=65_535),
    "65535-real-entries": directory(*[(0x010E, 2, 2**32 - 1, b"\xff" * 4)] * 5000, count=65_535),
    "cut-off": turned(6)[:15],
}
"""Name -> the TIFF, without its prefix. None of them is worth a refusal: the picture is decoded as if it had none."""
