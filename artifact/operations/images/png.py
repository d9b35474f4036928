"""PNG files (W3C PNG, third edition): the chunks, the size and the samples, before anything is decoded."""

import struct
import zlib
from dataclasses import dataclass, field

from artifact.operations.errors import BadImage
from artifact.operations.images.exif import orientation
from artifact.operations.images.header import Header, PngSamples, Span, require_few, too_few, truncated

MAGIC = b"\x89PNG\r\n\x1a\n"

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
_DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
_SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}
_READ = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf", b"acTL"})
_MAX_RATIO = 1032  # deflate's most: no byte of it becomes more
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x, y, steps
_INFLATED_BYTES = 1 << 18


@dataclass(slots=True)
class _Walk:
    """What was found so far."""

    parts: list[Span] = field(default_factory=lambda: [(0, 8)])
    idat: list[Span] = field(default_factory=list)
    ihdr: tuple[int, ...] | None = None
    colours: int = 0
    transparent: tuple[int, ...] | None = None
    orientation: int = 1
    frames: int = 1


def read(data: bytes) -> Header:
    """The header of a PNG file; of an animated one, the picture is the default one, which every reader shows.

    Raises:
        BadImage: it is truncated or damaged (a checksum is wrong), or says what cannot be.
        TooLarge: it has more chunks than real files.
    """
    walk, at = _Walk(), len(MAGIC)
    for count in range(1, len(data)):
        require_few(count, "PNG")
        if at + 12 > len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        start, end = at + 8, at + 8 + length
        if end + 4 > len(data):
            break
        _chunk(data, name, (start, end), walk)
        if name == b"IEND":
            return _header(walk)
        at = end + 4
    raise truncated("PNG")


def _chunk(data: bytes, name: bytes, span: Span, walk: _Walk) -> None:
    start, end = span
    if (walk.ihdr is None) != (name == b"IHDR"):
        raise BadImage("the PNG file must begin with one IHDR chunk")
    if name not in _READ:
        if not name.isalpha() or name[:1].isupper():
            raise BadImage(f"the PNG file has a chunk {name!r}, which the standard does not know")
        return
    if zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
        raise BadImage(f"the PNG file is damaged: the checksum of its {name.decode()} chunk is wrong")
    _note(data, name, span, walk)
    if name in {b"IHDR", b"PLTE", b"IDAT", b"IEND"} or (name == b"tRNS" and walk.ihdr and walk.ihdr[3] == PALETTE):
        walk.parts.append((start - 8, end + 4))


def _note(data: bytes, name: bytes, span: Span, walk: _Walk) -> None:
    """Takes what a chunk says."""
    body = data[slice(*span)] if name != b"IDAT" else b""
    if name == b"IHDR":
        walk.ihdr = _ihdr(body)
    elif name == b"PLTE":
        if walk.colours or walk.idat or not 3 <= len(body) <= 768 or len(body) % 3:
            raise BadImage("the PNG file's palette is not one: 1 to 256 colours of 3 bytes, once, before the pixels")
        walk.colours = len(body) // 3
    elif name == b"tRNS" and walk.ihdr is not None and walk.ihdr[3] in {GREY, RGB}:
        if len(body) != 2 * _SAMPLES[walk.ihdr[3]]:
            raise BadImage(f"the PNG file's transparent colour has {len(body)} bytes; {2 * _SAMPLES[walk.ihdr[3]]} were expected")
        walk.transparent = struct.unpack(f">{len(body) // 2}H", body)
    elif name == b"tRNS" and walk.ihdr is not None and walk.ihdr[3] == PALETTE and len(body) > walk.colours:
        raise BadImage(f"the PNG file's palette has {walk.colours} colours before their {len(body)} alphas; it must have as many")
    elif name == b"IDAT":
        walk.idat.append(span)
    elif name == b"eXIf":
        walk.orientation = orientation(body)
    elif name == b"acTL" and len(body) >= 4:
        walk.frames = max(1, int.from_bytes(body[:4], "big"))


def _ihdr(body: bytes) -> tuple[int, ...]:
    if len(body) != 13:
        raise BadImage(f"the PNG file's header has {len(body)} bytes; 13 were expected")
    ihdr = struct.unpack(">IIBBBBB", body)
    _, _, depth, colour, compression, filters, interlace = ihdr
    if depth not in _DEPTHS.get(colour, ()) or compression or filters or interlace > 1:
        raise BadImage(
            f"the PNG file's header says depth {depth}, colour type {colour}, compression {compression}, filter {filters}, "
            f"interlace {interlace}; the standard knows no such file"
        )
    return ihdr


def _header(walk: _Walk) -> Header:
    if walk.ihdr is None or not walk.idat:
        raise BadImage("the PNG file holds no picture")
    width, height, depth, colour, _, _, interlace = walk.ihdr
    if colour == PALETTE and not walk.colours:
        raise BadImage("the PNG file's pixels are numbers of a palette, but it has none")
    if walk.transparent is not None and depth == 16:
        raise BadImage("the PNG file has 16 bits per sample and one transparent colour; save it with an alpha channel")
    samples = PngSamples(depth, colour, bool(interlace), walk.transparent, tuple(walk.idat))
    return Header(
        "PNG",
        width,
        height,
        frames=walk.frames,
        orientation=walk.orientation,
        parts=tuple(walk.parts),
        contradiction=too_few(sum(end - start for start, end in walk.idat), raw_bytes(width, height, samples) // _MAX_RATIO),
        png=samples,
    )


def raw_bytes(width: int, height: int, samples: PngSamples) -> int:
    """How many bytes the pixels have, inflated: a byte for the filter and the samples, for each row of each pass."""
    bits = samples.depth * _SAMPLES[samples.colour]
    passes = _PASSES if samples.interlaced else ((0, 0, 1, 1),)
    total = 0
    for x, y, step_x, step_y in passes:
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total


def require_all_pixels(header: Header, samples: PngSamples, data: bytes) -> None:
    """Raises BadImage where the compressed data do not reach the last pixel: Pillow leaves the rest black, and says nothing."""
    needed, inflater = raw_bytes(header.width, header.height, samples), zlib.decompressobj()
    for start, end in samples.idat:
        given, made = data[start:end], _INFLATED_BYTES
        while needed > 0 and not inflater.eof and (given or made == _INFLATED_BYTES):
            made = len(inflater.decompress(given, _INFLATED_BYTES))
            needed, given = needed - made, inflater.unconsumed_tail
    if needed > 0:
        raise truncated("PNG")
