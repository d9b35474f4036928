"""Hostile JPEG files (ITU-T T.81), made of good ones and of segments by hand."""

import io
import struct
from collections.abc import Mapping

from PIL import Image

from tests.hostile.raw import exif
from tests.hostile.raw.hostile import EITHER, REFUSED, TAKEN, TOO_LARGE, Hostile

_SOF, _PROGRESSIVE, _SCAN, _HUFFMAN, _END = 0xC0, 0xC2, 0xDA, 0xC4, b"\xff\xd9"


def segment(code: int, body: bytes, *, length: int | None = None) -> bytes:
    """A marker with its length, which is right unless it is given."""
    return struct.pack(">BBH", 0xFF, code, len(body) + 2 if length is None else length) + body


def good(width: int = 24, height: int = 24, **options: object) -> bytes:
    """A good picture of many colours."""
    pixels = bytes((index * 89 + index // 7 * 31) % 256 for index in range(3 * width * height))
    return _saved(Image.frombytes("RGB", (width, height), pixels), **options)


def frame(width: int, height: int, code: int = _SOF, bits: int = 8, components: int = 1) -> bytes:
    """The segment that states the size; every component alike."""
    parts = b"".join(bytes((number, 0x11, 0)) for number in range(1, components + 1))
    return segment(code, struct.pack(">BHHB", bits, height, width, components) + parts)


def resized(data: bytes, width: int, height: int, code: int | None = None) -> bytes:
    """The same file with another size in its header, or another kind of coding."""
    at = next(data.find(bytes((0xFF, one))) for one in (_SOF, _PROGRESSIVE) if data.find(bytes((0xFF, one))) > 0)
    changed = bytearray(data)
    changed[at + 5 : at + 9] = struct.pack(">HH", height, width)
    changed[at + 1] = changed[at + 1] if code is None else code
    return bytes(changed)


def progressive(width: int, height: int, scans: int) -> bytes:
    """Grey, whose scans after the first each say in a few bytes that all of their blocks are empty.

    One table: code 0 is "no difference" (DC), or an end of 2^14 blocks with 14 bits more (AC): T.81, G.1.2.2.
    """
    blocks = -(-width // 8) * -(-height // 8)
    quantise = segment(0xDB, b"\0" + b"\1" * 64)
    codes = segment(_HUFFMAN, b"\0\1" + b"\0" * 15 + b"\0") + segment(_HUFFMAN, b"\x10\1" + b"\0" * 15 + b"\xe0")
    first = segment(_SCAN, b"\1\1\0\0\0\0") + b"\0" * -(-blocks // 8)
    runs = -(-blocks // (1 << 14))  # 15 bits each: the code, and how many blocks more than 2^14: none
    empty = b"\0" * -(-runs * 15 // 8)
    others = b"".join(segment(_SCAN, b"\1\1\0\1\x3f" + _bits(number)) + empty for number in range(scans - 1))
    return b"\xff\xd8" + quantise + frame(width, height, _PROGRESSIVE) + codes + first + others + _END


def _bits(number: int) -> bytes:
    """Successive approximation: first from bit 13, then one bit finer each, and again and again the last."""
    low = max(0, 13 - number)
    return bytes((0 if number == 0 else (low + 1) << 4 | low,))


def with_exif(tiff: bytes) -> bytes:
    """A good picture with these EXIF data."""
    data = good()
    return data[:2] + segment(0xE1, exif.PREFIX + tiff) + data[2:]


def _saved(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


def _without(data: bytes, code: int) -> bytes:
    """The file without the segments of a kind."""
    kept, at = data[:2], 2
    while data[at + 1] != _SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        kept += b"" if data[at + 1] == code else data[at:end]
        at = end
    return kept + data[at:]


def _before_scan(more: bytes) -> bytes:
    """A good picture with another segment before its pixels."""
    data = good()
    return data[: _scan_at(data)] + more + data[_scan_at(data) :]


def _scan_at(data: bytes) -> int:
    return data.find(bytes((0xFF, _SCAN)))


FILES: Mapping[str, Hostile] = {
    "jpeg-65535-squared": Hostile("12 GB, says its header", lambda: resized(good(), 65_535, 65_535), TOO_LARGE, "pixels"),
    "jpeg-24-megapixel-of-nothing": Hostile(
        "within the limit, and 75 MB to be allocated for 1 KB", lambda: resized(good(), 4900, 4900), REFUSED
    ),
    "jpeg-100-megapixel": Hostile(
        "a real picture of 100 megapixel", lambda: _saved(Image.new("L", (10_000, 10_000)), quality=1), TOO_LARGE, "pixels"
    ),
    "jpeg-half-its-height": Hostile("more pixels than it says", lambda: resized(good(64, 64), 64, 32), EITHER),
    "jpeg-twice-its-height": Hostile("fewer pixels than it says", lambda: resized(good(64, 64), 64, 128), EITHER),
    "jpeg-no-width": Hostile("no pixels to divide by", lambda: resized(good(), 0, 24), REFUSED),
    "jpeg-no-height": Hostile("a height that is told later", lambda: resized(good(), 24, 0), REFUSED),
    "jpeg-two-sizes": Hostile(
        "a small size for who checks, a large one for who decodes",
        lambda: _before_scan(frame(60_000, 60_000, components=3)),
        REFUSED,
    ),
    "jpeg-size-after-the-pixels": Hostile(
        "another size between two scans",
        lambda: good()[:-2] + frame(60_000, 60_000, components=3) + good()[_scan_at(good()) :],
        EITHER,
    ),
    "jpeg-2000-scans": Hostile("each goes over all pixels", lambda: progressive(64, 64, 2000), TOO_LARGE, "scans"),
    "jpeg-60-scans-of-1-megapixel": Hostile("nearly as many scans as are allowed", lambda: progressive(1000, 1000, 60), EITHER),
    "jpeg-arithmetic": Hostile("a coding that few read", lambda: resized(good(), 24, 24, 0xC9), REFUSED),
    "jpeg-lossless": Hostile("another", lambda: resized(good(), 24, 24, 0xC3), REFUSED),
    "jpeg-12-bit": Hostile(
        "twelve bits for a sample",
        lambda: good().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
        REFUSED,
        "bits",
    ),
    "jpeg-255-components": Hostile(
        "255 components",
        lambda: b"\xff\xd8" + frame(8, 8, components=255) + segment(_SCAN, b"\1\1\0\0\x3f\0") + b"\0" * 9 + _END,
        REFUSED,
    ),
    "jpeg-no-components": Hostile(
        "none", lambda: b"\xff\xd8" + frame(8, 8, components=0) + segment(_SCAN, b"\0\0\x3f\0") + b"\0" * 9 + _END, REFUSED
    ),
    "jpeg-no-quantisation": Hostile("no table to multiply with", lambda: _without(good(), 0xDB), REFUSED),
    "jpeg-no-codes": Hostile("no Huffman codes", lambda: _without(good(), _HUFFMAN), EITHER),
    "jpeg-too-many-codes": Hostile(
        "more codes than a length can have",
        lambda: b"\xff\xd8" + segment(_HUFFMAN, b"\0" + b"\xff" * 16 + b"\0" * 300) + _without(good(), _HUFFMAN)[2:],
        REFUSED,
    ),
    "jpeg-segment-of-0": Hostile("a segment that does not move on", lambda: b"\xff\xd8" + segment(0xE1, b"", length=0), REFUSED),
    "jpeg-segment-of-1": Hostile("nor does this", lambda: b"\xff\xd8" + segment(0xE1, b"", length=1) + good()[2:], REFUSED),
    "jpeg-70000-segments": Hostile(
        "more segments than anybody needs", lambda: b"\xff\xd8" + segment(0xFE, b"") * 70_000 + good()[2:], TOO_LARGE, "parts"
    ),
    "jpeg-fill-bytes": Hostile("10 MB of FF", lambda: b"\xff\xd8" + b"\xff" * (10 << 20), REFUSED),
    "jpeg-no-end": Hostile("no end", lambda: good()[:-2], REFUSED, "truncated"),
    "jpeg-only-its-end": Hostile("a beginning and an end", lambda: b"\xff\xd8\xff\xd9", REFUSED),
    "jpeg-two-beginnings": Hostile("a file in a file", lambda: b"\xff\xd8" + good(), REFUSED),
    "jpeg-two-pictures": Hostile("a second picture behind the first", lambda: good() + good(), TAKEN),
    "jpeg-pixels-of-ones": Hostile(
        "codes that are none",
        lambda: good()[: _scan_at(good()) + 14] + b"\xff\x00" * 500 + _END,
        EITHER,
    ),
    **{
        f"jpeg-exif-{name}": Hostile("hostile EXIF data", lambda tiff=tiff: with_exif(tiff), TAKEN)
        for name, tiff in exif.DATA.items()
    },
}
"""Name -> what is sent as image/jpeg."""
