"""WebP files (RFC 9649): the chunks, the canvas and the number of pictures, before anything is decoded."""

from collections.abc import Iterator

from artifact.operations.errors import BadImage
from artifact.operations.images.exif import orientation
from artifact.operations.images.header import Header, Span, require_few, truncated

_LOSSY, _LOSSLESS, _EXTENDED, _FRAME, _EXIF = b"VP8 ", b"VP8L", b"VP8X", b"ANMF", b"EXIF"
_ANIMATED = 0x02


def is_webp(data: bytes) -> bool:
    """Whether the first bytes are those of WebP."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def read(data: bytes) -> Header:
    """The header of a WebP file; of an animated one, the picture is the first.

    Raises:
        BadImage: it is truncated, or says what cannot be.
        TooLarge: it has more chunks than real files.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated("WebP")
    chunks = list(_chunks(data, end))
    if not chunks:
        raise BadImage("the WebP file holds no picture")
    first, (start, stop) = chunks[0]
    contradiction = ""
    pictures = [(name, span) for name, span in chunks if name in {_LOSSY, _LOSSLESS}]
    frames = sum(name == _FRAME for name, _ in chunks)
    if first != _EXTENDED:
        size, frames = _picture_size(data, first, (start, stop)), 1
    else:
        size, animated = _canvas(data[start:stop])
        if not animated:
            frames, contradiction = 1, _contradiction(data, size, pictures)
    if not frames:
        raise BadImage("the WebP file holds no picture")
    exif = next((data[slice(*span)] for name, span in chunks if name == _EXIF), b"")
    return Header("WebP", *size, frames, orientation(exif), ((0, end),), contradiction)


def _chunks(data: bytes, end: int) -> Iterator[tuple[bytes, Span]]:
    at, count = 12, 0
    while at + 8 <= end:
        count += 1
        require_few(count, "WebP")
        start = at + 8
        stop = start + int.from_bytes(data[at + 4 : start], "little")
        if stop > end:
            raise truncated("WebP")
        yield data[at : at + 4], (start, stop)
        at = stop + stop % 2


def _canvas(body: bytes) -> tuple[tuple[int, int], bool]:
    if len(body) < 10:
        raise truncated("WebP")
    size = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    return size, bool(body[0] & _ANIMATED)


def _contradiction(data: bytes, size: tuple[int, int], pictures: list[tuple[bytes, Span]]) -> str:
    """A picture that does not move fills its canvas; another size would be allocated without our having seen it."""
    if not pictures:
        raise BadImage("the WebP file holds no picture")
    found = (_picture_size(data, name, span) for name, span in pictures)
    return next((f"its picture has {width} x {height}" for width, height in found if (width, height) != size), "")


def _picture_size(data: bytes, name: bytes, span: Span) -> tuple[int, int]:
    head = data[span[0] : min(span[1], span[0] + 10)]
    if name == _LOSSY and len(head) == 10 and not head[0] & 1 and head[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    if name == _LOSSLESS and len(head) >= 5 and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise BadImage(f"the WebP file has a chunk {name!r} that is no picture")
