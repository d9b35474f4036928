"""JPEG files (ITU-T T.81): the segments that lead to the picture, and its size, before anything is decoded."""

import re
from dataclasses import dataclass, field

from artifact.operations.errors import BadImage, TooLarge
from artifact.operations.images.exif import orientation
from artifact.operations.images.header import Header, Span, require_few, too_few, truncated

MAGIC = b"\xff\xd8\xff"

MAX_SCANS = 64
"""The most scans of a progressive file. Each goes over the whole picture, however few bytes it has; real files have about ten."""

_MAX_PIXELS_PER_BYTE = 2048  # of compressed data; one bit for a block of 8 x 8 is Huffman's least, and subsampling spreads it
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # data has a 0 after each FF; D0 to D7 restart within a scan
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: all with Huffman codes
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NEEDED = frozenset({*_FRAMES, 0xC4, 0xDB, 0xDD, 0xE0, 0xEE})  # tables, restarts, and what JFIF and Adobe say of the colours
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment


@dataclass(slots=True)
class _Walk:
    """What was found so far."""

    parts: list[Span] = field(default_factory=lambda: [(0, 2)])
    size: tuple[int, int] | None = None
    orientation: int | None = None
    scans: int = 0
    scan_bytes: int = 0


def read(data: bytes) -> Header:
    """The header of a JPEG file; pictures after its end (as in MPO files) are not looked at.

    Raises:
        BadImage: it is truncated, of a kind that is not decoded, or says what cannot be.
        TooLarge: it has more scans or segments than real files.
    """
    walk, at = _Walk(), 2
    for count in range(1, len(data)):
        require_few(count, "JPEG")
        marker = _MARKER.match(data, at)
        if marker is None:
            raise (
                truncated("JPEG")
                if len(data) - at < 2
                else BadImage(f"the JPEG file has no marker at byte {at}, where one belongs")
            )
        code, at = marker[1][0], marker.end()
        if code == _END:
            walk.parts.append((at - 2, at))
            return _header(walk)
        at = _segment(data, code, at, walk)
    raise truncated("JPEG")


def _segment(data: bytes, code: int, at: int, walk: _Walk) -> int:
    """Notes one segment, whose length stands at `at`; returns where the next marker is."""
    if code in _ALONE:
        raise BadImage(f"the JPEG file has marker {code:02X} at byte {at - 2}, where none may be")
    end = at + int.from_bytes(data[at : at + 2], "big")
    if end > len(data) or at + 2 > len(data):
        raise truncated("JPEG")
    if end < at + 2:
        raise BadImage(f"the JPEG file has a segment of {end - at} bytes at byte {at}; its length alone takes 2")
    if code == _SCAN:
        return _scan(data, at, end, walk)
    if code in _FRAMES or code in _OTHER_FRAMES:
        _frame(data[at + 2 : end], code, walk)
    if code == _APP1 and walk.orientation is None and data.startswith(b"Exif\0\0", at + 2):
        walk.orientation = orientation(data[at + 2 : end])
    if code in _NEEDED:
        walk.parts.append((at - 2, end))
    return end


def _frame(segment: bytes, code: int, walk: _Walk) -> None:
    if code not in _FRAMES:
        raise BadImage(
            f"the JPEG file is of kind SOF{code - 0xC0}; baseline, extended and progressive with Huffman codes are read"
        )
    if len(segment) < 6:
        raise truncated("JPEG")
    if walk.size is not None:
        raise BadImage("the JPEG file states its size twice")
    if segment[0] != 8:
        raise BadImage(f"the JPEG file has {segment[0]} bits per sample; 8 are read")
    walk.size = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[1:3], "big")


def _scan(data: bytes, at: int, end: int, walk: _Walk) -> int:
    if walk.size is None:
        raise BadImage("the JPEG file has pixels before it states their number")
    walk.scans += 1
    if walk.scans > MAX_SCANS:
        raise TooLarge(f"the JPEG file has more than {MAX_SCANS} scans; save the picture again")
    last = _SCAN_END.search(data, end)
    if last is None:
        raise truncated("JPEG")
    walk.parts.append((at - 2, last.start()))
    walk.scan_bytes += last.start() - end
    return last.start()


def _header(walk: _Walk) -> Header:
    if walk.size is None or not walk.scans:
        raise BadImage("the JPEG file holds no picture")
    width, height = walk.size
    return Header(
        "JPEG",
        width,
        height,
        frames=1,
        orientation=walk.orientation or 1,
        parts=tuple(walk.parts),
        contradiction=too_few(walk.scan_bytes, width * height // _MAX_PIXELS_PER_BYTE),
    )
