"""Damage to raw values that knows what it damages: one chunk, one length, one marker, one part, one character.

Checksums of PNG chunks are made right again, or nothing behind them would ever be reached; pixels are changed before they are
deflated as well as after.
"""

import random
import re
import struct
import zlib
from dataclasses import replace

from tests.fuzz import mutate
from tests.fuzz.raw_seeds import KINDS, pictures_by_type
from tests.fuzz.seeds import LENGTH
from tests.fuzz.wire import Wire
from tests.hostile.raw import exif, jpeg, multipart, png

LENGTHS = (0, 1, 2, 3, 12, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1)
SIDES = (0, 1, 2, 8, 19, 64, 300, 16_383, 65_535, 2**31 - 1, 2**32 - 1)
CHARACTERS = (
    "\0",
    "\ufdfa",
    "e\u0301" * 20,
    "\U0010ffff",
    "\u202e",
    "##",
    "[MASK]",
    " " * 50,
    "a" * 400,
    "\ufeff",
    "\u200d",
    "\r\n",
)
TYPES = (
    *(
        "image/png",
        "image/jpeg",
        "image/svg+xml",
        "image/*",
        "text/plain",
        "text/plain; charset=utf-16",
        "text/html",
        "multipart/form-data",
    ),
    *("multipart/form-data; boundary=-", "application/json", "application/octet-stream", "application/x-npy", "IMAGE/PNG; q", ""),
)
_CHUNK_NAMES = (
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"IEND",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"iCCP",
    b"zTXt",
    b"gAMA",
    b"XXXX",
)
_MARKERS = bytes((*range(0xC0, 0xD0), 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xE1, 0xEE, 0xFE, 0x01, 0x00))
_WEBP_NAMES = (b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"EXIF", b"ICCP", b"XMP ", b"ABCD")
_DISPOSITIONS = (
    *(
        b'form-data; name="image"',
        b'form-data; name="text"; filename="../a"',
        b"form-data",
        b'form-data; name="',
        b"attachment; name=a",
    ),
    *(b"form-data; name*=utf-8''a", b'form-data; name="\xff"; filename*=x', b'form-data; name="a"; name="b"', b""),
)


def mutated(data: bytes, seed: int) -> bytes:
    """A request changed in one to four places, chosen by `seed`."""
    rng = random.Random(seed)
    fresh = rng.random() < 0.2
    wire = rng.choice(_valid()) if fresh else Wire.parse(data)
    for _ in range(rng.choice((0, 1, 1) if fresh else (1, 1, 1, 2, 2, 4))):
        wire = _change(wire, rng)
    return wire.encode()[: mutate.MOST_BYTES]


_VALID: list[Wire] = []


def _valid() -> list[Wire]:
    if not _VALID:
        _VALID.extend(wire for make in KINDS.values() for wire in make(0))
    return _VALID


def _change(wire: Wire, rng: random.Random) -> Wire:
    if rng.random() < 0.05:
        return wire.with_header("content-type", rng.choice(TYPES))
    if rng.random() < 0.02:
        model = rng.choice(("pictures", "words", "pieces", "rows"))
        return replace(wire, target=f"/predictions/{model}{rng.choice(('', '?outputs=tensors', '?outputs=x'))}")
    content_type = (wire.header("content-type") or "").lower()
    if wire.header(LENGTH.lower()) or "json" in content_type:
        return replace(mutate.change(wire, rng), target=wire.target) if rng.random() < 0.8 else _inside(wire, rng)
    if content_type.startswith("multipart"):
        return replace(wire, body=_form(wire.body, rng))
    if content_type.startswith("text"):
        return replace(wire, body=_text(wire.body, rng))
    return replace(wire, body=picture(wire.body, rng))


def _inside(wire: Wire, rng: random.Random) -> Wire:
    """A changed picture, text or letters of base64 where another was."""
    if wire.header(LENGTH.lower()):
        return replace(wire, body=_bytes(wire.body, rng))
    letters = [found.span() for found in re.finditer(rb'"[A-Za-z0-9+/=]{24,}"', wire.body)]
    if not letters:
        return replace(wire, body=_text(wire.body, rng))
    start, end = rng.choice(letters)
    return replace(wire, body=wire.body[: start + 1] + _bytes(wire.body[start + 1 : end - 1], rng) + wire.body[end - 1 :])


def picture(data: bytes, rng: random.Random) -> bytes:
    """A damaged file."""
    if rng.random() < 0.1:
        return _bytes(data, rng)
    if data.startswith(png.MAGIC):
        return _png(data, rng)
    if data.startswith(b"\xff\xd8"):
        return _jpeg(data, rng)
    return _webp(data, rng) if data.startswith(b"RIFF") else _bytes(data, rng)


def _png(data: bytes, rng: random.Random) -> bytes:
    chunks, at = [], 8
    while at + 12 <= len(data) and len(chunks) < 200:
        size = min(int.from_bytes(data[at : at + 4], "big"), len(data) - at - 12)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    if not chunks:
        return _bytes(data, rng)
    place = rng.randrange(len(chunks))
    name, body = chunks[place]
    match rng.randrange(9):
        case 0:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[place])
        case 1:
            del chunks[place]
        case 2:
            chunks[place] = (rng.choice(_CHUNK_NAMES), body)
        case 3:
            chunks.insert(place, (rng.choice(_CHUNK_NAMES), rng.choice((b"", body, rng.randbytes(9), rng.choice(_EXIF)))))
        case 4 | 5 if name == b"IHDR" or chunks[0][0] == b"IHDR":
            chunks[0] = (b"IHDR", _ihdr(chunks[0][1], rng))
        case 6 if name == b"IDAT":
            chunks[place] = (name, _repacked(body, rng))
        case _:
            chunks[place] = (name, _bytes(body, rng))
    made = [png.chunk(name, body) for name, body in chunks]
    if chunks and rng.random() < 0.1:
        name, body = chunks[-1]
        made[-1] = png.chunk(name, body, length=rng.choice(LENGTHS), checksum=rng.choice((None, 0)))
    return data[:8] + b"".join(made)


def _ihdr(body: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5 and len(body) == 13:
        return struct.pack(">II", *(rng.choice((*SIDES, int.from_bytes(body[:4], "big"))) for _ in range(2))) + body[8:]
    changed = bytearray(body or b"\0")
    changed[rng.randrange(len(changed))] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return bytes(changed)


def _repacked(body: bytes, rng: random.Random) -> bytes:
    try:
        raw = zlib.decompressobj().decompress(body, 1 << 16)
    except zlib.error:
        return _bytes(body, rng)
    return zlib.compress(_bytes(raw, rng) if rng.random() < 0.7 else raw * rng.choice((0, 2, 9)))


def _jpeg(data: bytes, rng: random.Random) -> bytes:
    places = [found.start() for found in re.finditer(rb"\xff[^\x00\xff]", data)]
    if not places or rng.random() < 0.2:
        return _sized(data, rng)
    at = rng.choice(places)
    end = min(at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"), len(data))
    tiff = rng.choice(_EXIF)
    match rng.randrange(7):
        case 0:
            changed = data[: at + 1] + bytes((rng.choice(_MARKERS),)) + data[at + 2 :]
        case 1:
            changed = data[: at + 2] + struct.pack(">H", rng.choice(LENGTHS) & 0xFFFF) + data[at + 4 :]
        case 2:
            changed = data[:at] + data[end:]
        case 3:
            changed = data[:end] + data[at:end] * rng.choice((1, 1, 3, 70)) + data[end:]
        case 4:
            changed = data[:at] + jpeg.segment(0xE1, exif.PREFIX + tiff) + data[at:]
        case _:
            changed = data[: at + 4] + _bytes(data[at + 4 : end], rng) + data[end:]
    return changed


def _sized(data: bytes, rng: random.Random) -> bytes:
    """Another size in a JPEG file's header."""
    found = re.search(rb"\xff[\xc0-\xc2]..\x08", data, re.DOTALL)
    if found is None:
        return _bytes(data, rng)
    size = struct.pack(">HH", *(rng.choice(SIDES) & 0xFFFF for _ in range(2)))
    return data[: found.end()] + size + data[found.end() + 4 :]


def _webp(data: bytes, rng: random.Random) -> bytes:
    chunks, at = [], 12
    while at + 8 <= len(data) and len(chunks) < 200:
        size = min(int.from_bytes(data[at + 4 : at + 8], "little"), len(data) - at - 8)
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    if not chunks:
        return _bytes(data, rng)
    place = rng.randrange(len(chunks))
    name, body = chunks[place]
    match rng.randrange(6):
        case 0:
            chunks.insert(rng.randrange(len(chunks) + 1), chunks[place])
        case 1:
            del chunks[place]
        case 2:
            chunks[place] = (rng.choice(_WEBP_NAMES), body)
        case 3:
            canvas = bytes((rng.randrange(64), 0, 0, 0)) + rng.choice(
                (b"\x13\0\0\x0d\0\0", b"\xff" * 6, b"\0" * 6, rng.randbytes(6))
            )
            chunks.insert(0, (b"VP8X", canvas))
        case 4:
            chunks.insert(place, (rng.choice(_WEBP_NAMES), rng.choice((b"", body, *_EXIF))))
        case _:
            chunks[place] = (name, _bytes(body, rng))
    inside = b"WEBP" + b"".join(
        name + struct.pack("<I", len(body) if rng.random() < 0.97 else rng.choice(LENGTHS)) + body + b"\0" * (len(body) % 2)
        for name, body in chunks
    )
    return b"RIFF" + struct.pack("<I", len(inside) if rng.random() < 0.95 else rng.choice(LENGTHS)) + inside


_EXIF = tuple(exif.DATA.values())


def _text(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    at = rng.randrange(len(text) + 1)
    match rng.randrange(5):
        case 0:
            return (text[:at] + rng.choice(CHARACTERS) + text[at:]).encode()
        case 1:
            return (text[:at] + text[at : at + 9] * rng.choice((0, 2, 50)) + text[at:]).encode()
        case 2:
            return (text[:at] + chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))) + text[at:]).encode()
        case 3:
            return text[:at].encode()
        case _:
            return _bytes(data, rng)


def _form(body: bytes, rng: random.Random) -> bytes:
    mark = b"--" + multipart.BOUNDARY
    parts = body.split(mark)
    place = rng.randrange(len(parts))
    head, blank, content = parts[place].partition(b"\r\n\r\n")
    match rng.randrange(9):
        case 0:
            parts[place] = parts[place] + rng.choice((b"--", b"\r\n", b"\n", b" ", b""))
        case 1:
            parts[place:place] = [parts[place]] * rng.choice((1, 1, 3, 40))
        case 2:
            del parts[place]
        case 3:
            lines = b"\r\nContent-Disposition: " + rng.choice(_DISPOSITIONS)
            parts[place] = lines + rng.choice((b"\r\nContent-Type: text/plain", b"", b"\r\n x: y", b"\r\n:")) + blank + content
        case 4:
            parts[place] = head + blank + rng.choice(pictures_by_type())[1] + b"\r\n"
        case 5:
            parts[place] = head + blank + picture(content, rng)
        case 6:
            parts[place] = _bytes(head, rng) + blank + content
        case 7:
            mark = rng.choice((mark + b"a", b"-" + mark, mark[:-1]))
        case _:
            return _bytes(body, rng)
    return mark.join(parts)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, taken out or put in, or the rest cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if changed:
                changed[at - 1] = rng.choice((rng.randrange(256), 0, 255, changed[at - 1] ^ (1 << rng.randrange(8))))
            case 1:
                del changed[at : at + rng.choice((1, 2, 4, 100))]
            case 2:
                changed[at:at] = rng.randbytes(rng.choice((1, 2, 4, 30)))
            case 3 if rng.random() < 0.3:
                del changed[at:]
            case _ if changed:
                changed[at - 1] = rng.randrange(256)
    return bytes(changed)
