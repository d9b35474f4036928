"""Hostile WebP files (RFC 9649), made of good ones and of chunks by hand."""

import io
import struct
from collections.abc import Mapping

from PIL import Image

from tests.hostile.raw import exif
from tests.hostile.raw.hostile import EITHER, REFUSED, TAKEN, TOO_LARGE, Hostile

_MOST = (1 << 24) - 1
_ANIMATED, _EXIF, _PROFILE, _ALPHA = 0x02, 0x08, 0x20, 0x10


def chunk(name: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """One chunk, filled up to an even length; its length is right unless it is given."""
    return name + struct.pack("<I", len(body) if length is None else length) + body + b"\0" * (len(body) % 2)


def riff(*chunks: bytes, length: int | None = None) -> bytes:
    """A whole file of these chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if length is None else length) + body


def canvas(width: int, height: int, flags: int = 0) -> bytes:
    """VP8X."""
    return chunk(b"VP8X", struct.pack("<I", flags) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))


def good(width: int = 24, height: int = 24, *, lossless: bool = False) -> bytes:
    """A good picture of many colours."""
    pixels = bytes((index * 89 + index // 7 * 31) % 256 for index in range(3 * width * height))
    return _saved(Image.frombytes("RGB", (width, height), pixels), lossless=lossless)


def picture(width: int = 24, height: int = 24, *, lossless: bool = False) -> bytes:
    """Its VP8 or VP8L chunk."""
    return good(width, height, lossless=lossless)[12:]


def with_exif(tiff: bytes) -> bytes:
    """A good picture with these EXIF data."""
    return riff(canvas(24, 24, _EXIF), picture(), chunk(b"EXIF", tiff))


def _saved(first: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    first.save(file, "WEBP", **options)
    return file.getvalue()


def _animated(frames: int) -> bytes:
    pictures = [Image.new("RGB", (24, 24), (number, 0, 0)) for number in range(frames)]
    return _saved(pictures[0], save_all=True, append_images=pictures[1:], duration=10)


def _lossless_size(width: int, height: int) -> bytes:
    data = bytearray(picture(lossless=True))
    data[9:13] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return riff(bytes(data))


def _lossy_size(width: int, height: int) -> bytes:
    data = bytearray(picture())
    data[14:18] = struct.pack("<HH", width, height)
    return riff(bytes(data))


def _moving(width: int, height: int, *frames: bytes) -> bytes:
    """An animation of a large canvas and small frames."""
    head = struct.pack("<6x") + (23).to_bytes(3, "little") * 2 + b"\0" * 4
    return riff(canvas(width, height, _ANIMATED), chunk(b"ANIM", b"\0" * 6), *(chunk(b"ANMF", head + frame) for frame in frames))


FILES: Mapping[str, Hostile] = {
    "webp-16383-squared-lossy": Hostile("800 MB, says its header", lambda: _lossy_size(16_383, 16_383), TOO_LARGE, "pixels"),
    "webp-16384-squared-lossless": Hostile("1 GB, says its header", lambda: _lossless_size(16_384, 16_384), TOO_LARGE, "pixels"),
    "webp-16-million-squared": Hostile(
        "the largest canvas that can be said", lambda: riff(canvas(_MOST, _MOST), picture()), TOO_LARGE | REFUSED
    ),
    "webp-24-megapixel-of-nothing-lossy": Hostile("75 MB for 1 KB", lambda: _lossy_size(4900, 4900), REFUSED),
    "webp-24-megapixel-of-nothing-lossless": Hostile("100 MB for 1 KB", lambda: _lossless_size(4900, 4900), REFUSED),
    "webp-canvas-smaller": Hostile("a canvas of 8 x 8 over a picture of 24 x 24", lambda: riff(canvas(8, 8), picture()), REFUSED),
    "webp-canvas-larger": Hostile("and one of 4000 x 4000", lambda: riff(canvas(4000, 4000), picture()), REFUSED),
    "webp-animated": Hostile("twenty pictures", lambda: _animated(20), TOO_LARGE, "animated"),
    "webp-animated-one-picture": Hostile("an animation of one picture", lambda: _moving(24, 24, picture()), EITHER),
    "webp-animated-none": Hostile("an animation of none", lambda: _moving(24, 24), REFUSED),
    "webp-animated-large-canvas": Hostile(
        "a canvas of 100 MB under one picture of 24 x 24", lambda: _moving(4900, 4900, picture()), EITHER
    ),
    "webp-animated-frame-lies": Hostile(
        "a frame of 24 x 24 that holds one of 16383 x 16383", lambda: _moving(24, 24, _lossy_size(16_383, 16_383)[12:]), REFUSED
    ),
    "webp-two-pictures": Hostile("two pictures that do not move", lambda: riff(canvas(24, 24), picture(), picture()), EITHER),
    "webp-no-picture": Hostile("a canvas alone", lambda: riff(canvas(24, 24)), REFUSED),
    "webp-no-chunk": Hostile("not even that", riff, REFUSED),
    "webp-length-of-4-gib": Hostile("a length of 4 GiB", lambda: riff(picture(), length=2**32 - 1), REFUSED, "truncated"),
    "webp-length-of-0": Hostile("a length of nothing", lambda: riff(picture(), length=0), REFUSED),
    "webp-chunk-of-4-gib": Hostile("the same of a chunk", lambda: riff(chunk(b"VP8 ", b"\0" * 20, length=2**32 - 1)), REFUSED),
    "webp-70000-chunks": Hostile(
        "more chunks than anybody needs",
        lambda: riff(canvas(24, 24), chunk(b"ABCD", b"") * 70_000, picture()),
        TOO_LARGE,
        "parts",
    ),
    "webp-profile-of-10-mb": Hostile(
        "a colour profile of 10 MB", lambda: riff(canvas(24, 24, _PROFILE), chunk(b"ICCP", b"\0" * 10_000_000), picture()), EITHER
    ),
    "webp-alpha-of-rubbish": Hostile(
        "alpha that is none", lambda: riff(canvas(24, 24, _ALPHA), chunk(b"ALPH", b"\xff" * 50), picture()), EITHER
    ),
    "webp-rubbish": Hostile("a picture of rubbish", lambda: riff(chunk(b"VP8L", b"\x2f" + b"\xff" * 100)), REFUSED | TOO_LARGE),
    **{
        f"webp-exif-{name}": Hostile("hostile EXIF data", lambda tiff=tiff: with_exif(tiff), TAKEN)
        for name, tiff in exif.DATA.items()
    },
}
"""Name -> what is sent as image/webp."""
