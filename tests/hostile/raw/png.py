"""Hostile PNG files, and the pieces that they are made of: nothing here needs a library."""

import functools
import struct
import zlib
from collections.abc import Mapping

from tests.hostile.raw.hostile import EITHER, REFUSED, TAKEN, TOO_LARGE, Hostile

MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, RGB_ALPHA = 0, 2, 3, 6
_SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, RGB_ALPHA: 4}
_MIB = 1 << 20


def chunk(name: bytes, body: bytes = b"", *, length: int | None = None, checksum: int | None = None) -> bytes:
    """One chunk; its length and checksum are right unless they are given."""
    stated = len(body) if length is None else length
    found = zlib.crc32(name + body) if checksum is None else checksum
    return struct.pack(">I", stated) + name + body + struct.pack(">I", found)


def header(width: int, height: int, colour: int = RGB, depth: int = 8, *, last: bytes = b"\0\0\0") -> bytes:
    """IHDR; `last` are compression, filter and interlace."""
    return chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, colour) + last)


@functools.cache
def packed(size: int, letter: bytes = b"\0") -> bytes:
    """So many equal bytes, deflated: about a thousandth of them, made piece by piece."""
    packer, piece = zlib.compressobj(9), letter * min(size, _MIB)
    parts = [packer.compress(piece[: min(_MIB, size - at)]) for at in range(0, size, _MIB)]
    return b"".join([*parts, packer.flush()])


def rows(width: int, height: int, colour: int = RGB, depth: int = 8, letter: bytes = b"\0") -> bytes:
    """The deflated pixels of a picture of one value, without a filter where that is 0."""
    return packed(height * (1 + -(-width * depth * _SAMPLES[colour] // 8)), letter)


def png(*chunks: bytes) -> bytes:
    """A whole file of these chunks, and its end."""
    return b"".join([MAGIC, *chunks, chunk(b"IEND")])


def plain(width: int = 8, height: int = 8, colour: int = RGB, *more: bytes) -> bytes:
    """A good picture, with chunks more before its pixels."""
    return png(header(width, height, colour), *more, chunk(b"IDAT", rows(width, height, colour)))


def many_colours(width: int = 24, height: int = 24) -> bytes:
    """A good picture that does not compress: every byte of it counts."""
    line = bytes((index * 89 + index // 7 * 31) % 256 for index in range(3 * width * height))
    raw = b"".join(b"\0" + line[3 * width * row : 3 * width * (row + 1)] for row in range(height))
    return png(header(width, height), chunk(b"IDAT", zlib.compress(raw)))


def _bomb(name: bytes, before: bytes) -> bytes:
    return plain(8, 8, RGB, chunk(name, before + packed(300 * _MIB)))


def _palette(colours: int, letter: bytes, *more: bytes) -> bytes:
    pixels = zlib.compress((b"\0" + letter * 8) * 8)
    return png(header(8, 8, PALETTE), chunk(b"PLTE", b"\1\2\3" * colours), *more, chunk(b"IDAT", pixels))


def _animated(stated: int, frames: int) -> bytes:
    control = struct.pack(">IIIIIHHBB", 0, 8, 8, 0, 0, 1, 1, 0, 0)
    data = [chunk(b"fcTL", control), chunk(b"IDAT", rows(8, 8))]
    data += [chunk(b"fdAT", struct.pack(">I", number) + rows(8, 8)) for number in range(1, frames)]
    return png(header(8, 8), chunk(b"acTL", struct.pack(">II", stated, 0)), *data)


def _short_of_a_row(side: int) -> bytes:
    return png(header(side, side), chunk(b"IDAT", rows(side, side - 1)))


FILES: Mapping[str, Hostile] = {
    "png-60000-squared": Hostile(
        "a header of 10 GB over no pixels at all", lambda: png(header(60_000, 60_000), chunk(b"IDAT", b"\0")), TOO_LARGE, "pixels"
    ),
    "png-largest": Hostile(
        "the largest size that a header can hold",
        lambda: png(header(2**32 - 1, 2**32 - 1, RGB_ALPHA, 16), chunk(b"IDAT", rows(8, 8))),
        TOO_LARGE,
        "pixels",
    ),
    "png-one-long-row": Hostile(
        "a row of 20 million pixels: one side alone is too long",
        lambda: png(header(20_000_000, 1, GREY), chunk(b"IDAT", rows(20_000_000, 1, GREY))),
        TOO_LARGE,
        "side",
    ),
    "png-no-width": Hostile("no pixels to divide by", lambda: png(header(0, 8), chunk(b"IDAT", rows(0, 8))), REFUSED),
    "png-no-height": Hostile("no pixels to divide by", lambda: png(header(8, 0), chunk(b"IDAT", packed(1))), REFUSED),
    "png-24-megapixel-of-nothing": Hostile(
        "within the limit, and 75 MB to be allocated for 20 bytes",
        lambda: png(header(4900, 4900), chunk(b"IDAT", rows(8, 8))),
        REFUSED,
        "pixels",
    ),
    "png-short-of-a-row": Hostile("pixels that end one row early", lambda: _short_of_a_row(500), REFUSED, "truncated"),
    "png-100-megapixel": Hostile(
        "a real picture of 100 megapixel in 100 KB", lambda: plain(10_000, 10_000, GREY), TOO_LARGE, "100000000|10000 x 10000"
    ),
    "png-more-pixels-than-said": Hostile(
        "300 MB of pixels under a header of 8 x 8", lambda: png(header(8, 8), chunk(b"IDAT", packed(300 * _MIB))), EITHER
    ),
    "png-bomb-in-profile": Hostile("300 MB of colour profile", lambda: _bomb(b"iCCP", b"a\0\0"), EITHER),
    "png-bomb-in-text": Hostile("300 MB of compressed text", lambda: _bomb(b"zTXt", b"a\0\0"), EITHER),
    "png-bomb-in-international-text": Hostile("300 MB of another", lambda: _bomb(b"iTXt", b"a\0\1\0\0\0"), EITHER),
    "png-100-bombs": Hostile(
        "a hundred texts of 10 MB each",
        lambda: plain(8, 8, RGB, *[chunk(b"zTXt", b"a\0\0" + packed(10 * _MIB))] * 100),
        EITHER,
    ),
    "png-70000-chunks": Hostile(
        "more chunks than anybody needs", lambda: plain(8, 8, RGB, chunk(b"tEXt", b"a\0b") * 70_000), TOO_LARGE, "parts"
    ),
    "png-pixels-in-empty-chunks": Hostile(
        "60,000 empty pieces of pixels", lambda: plain(8, 8, RGB, chunk(b"IDAT") * 60_000), EITHER
    ),
    "png-chunk-of-2-gib": Hostile(
        "a length of 2 GiB", lambda: png(header(8, 8), chunk(b"IDAT", rows(8, 8), length=2**31 - 1)), REFUSED
    ),
    "png-chunk-of-4-gib": Hostile(
        "a length that is negative to some", lambda: png(header(8, 8), chunk(b"tEXt", b"", length=2**32 - 1)), REFUSED
    ),
    "png-wrong-checksum": Hostile(
        "damaged pixels that look whole", lambda: png(header(8, 8), chunk(b"IDAT", rows(8, 8), checksum=1)), REFUSED
    ),
    "png-wrong-checksum-of-header": Hostile(
        "a header whose checksum is not its own",
        lambda: png(chunk(b"IHDR", header(8, 8)[8:-4], checksum=7), chunk(b"IDAT", rows(8, 8))),
        REFUSED,
    ),
    "png-no-header": Hostile("pixels without a size", lambda: png(chunk(b"IDAT", rows(8, 8))), REFUSED),
    "png-two-headers": Hostile(
        "a small size for who checks, a large one for who decodes",
        lambda: png(header(8, 8), header(60_000, 60_000), chunk(b"IDAT", rows(8, 8))),
        REFUSED,
    ),
    "png-no-pixels": Hostile("a header and an end", lambda: png(header(8, 8)), REFUSED),
    "png-header-of-12": Hostile(
        "a header that is a byte short", lambda: png(chunk(b"IHDR", header(8, 8)[8:-5]), chunk(b"IDAT", rows(8, 8))), REFUSED
    ),
    "png-depth-3": Hostile(
        "three bits for a sample", lambda: png(header(8, 8, GREY, 3), chunk(b"IDAT", rows(8, 8))), REFUSED, "depth"
    ),
    "png-colour-5": Hostile("a colour type that is none", lambda: png(header(8, 8, 5), chunk(b"IDAT", rows(8, 8))), REFUSED),
    "png-interlace-7": Hostile(
        "an interlace that is none", lambda: png(header(8, 8, last=b"\0\0\7"), chunk(b"IDAT", rows(8, 8))), REFUSED
    ),
    "png-filter-9": Hostile(
        "filters that are none", lambda: png(header(8, 8), chunk(b"IDAT", rows(8, 8, letter=b"\x09"))), REFUSED
    ),
    "png-pixels-not-deflated": Hostile(
        "pixels that are no zlib stream", lambda: png(header(8, 8), chunk(b"IDAT", b"\xff" * 100)), REFUSED
    ),
    "png-no-palette": Hostile(
        "indices without a palette", lambda: png(header(8, 8, PALETTE), chunk(b"IDAT", rows(8, 8, PALETTE))), REFUSED, "palette"
    ),
    "png-palette-of-300": Hostile("more colours than a byte can say", lambda: _palette(300, b"\xff"), REFUSED),
    "png-palette-of-0": Hostile("an empty palette", lambda: _palette(0, b"\0"), REFUSED),
    "png-index-out-of-palette": Hostile("index 200 of 2 colours", lambda: _palette(2, b"\xc8"), EITHER),
    "png-transparency-of-300": Hostile(
        "more transparencies than colours", lambda: _palette(2, b"\1", chunk(b"tRNS", b"\x80" * 300)), EITHER
    ),
    "png-transparent-colour-short": Hostile(
        "half of a transparent colour", lambda: plain(8, 8, RGB, chunk(b"tRNS", b"\0\1\0")), REFUSED
    ),
    "png-16-bit": Hostile(
        "two bytes for a sample", lambda: png(header(8, 8, RGB, 16), chunk(b"IDAT", rows(8, 8, RGB, 16))), TAKEN
    ),
    "png-animated": Hostile("twenty pictures", lambda: _animated(20, 20), TOO_LARGE, "animated"),
    "png-animated-4-billion": Hostile("a number of pictures that lies", lambda: _animated(2**32 - 1, 2), TOO_LARGE, "animated"),
    "png-animated-0": Hostile("no pictures, it says", lambda: _animated(0, 3), EITHER),
    "png-two-counts-of-pictures": Hostile(
        "one picture, then a thousand",
        lambda: plain(8, 8, RGB, *(chunk(b"acTL", struct.pack(">II", count, 0)) for count in (1, 1000))),
        TAKEN | REFUSED | TOO_LARGE,
    ),
    "png-critical-unknown": Hostile("a chunk that must be known", lambda: plain(8, 8, RGB, chunk(b"XXXX", b"x" * 100)), EITHER),
    "png-name-no-letters": Hostile("a chunk whose name is no letters", lambda: plain(8, 8, RGB, chunk(b"\0\0\0\0")), EITHER),
    "png-after-its-end": Hostile("a script behind the picture", lambda: plain() + b"<script>alert(1)</script>" * 100, EITHER),
}
"""Name -> what is sent as image/png."""
