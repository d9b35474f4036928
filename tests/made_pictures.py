"""Pictures for tests, of every kind that the formats know, made from a fixed seed."""

import io
import random
import struct
import zlib

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
SIDES = (1, 2, 3, 5, 7, 8, 9, 16, 17, 31, 33, 64, 97, 130)
KINDS = (
    "jpeg-rgb",
    "jpeg-420",
    "jpeg-progressive",
    "jpeg-l",
    "jpeg-cmyk",
    "png-1",
    "png-l",
    "png-la",
    "png-i16",
    "png-p",
    "png-p-alpha",
    "png-p-key",
    "png-rgb",
    "png-rgb-key",
    "png-l-key",
    "png-rgba",
    "webp-lossy",
    "webp-lossless",
    "webp-alpha",
)


def pixels(rng, height, width, channels):
    """Levels that are smooth and noisy in turn, so that neither a codec nor a filter has an easy time."""
    noise = rng.integers(0, 256, (height, width, channels))
    slope = np.linspace(0, 255, height * width).reshape(height, width, 1)
    return np.where(rng.random((height, width, 1)) < 0.3, noise, slope).astype(np.uint8)


def encoded(image, format_, orientation=1, **options):
    """The file of a Pillow image; with an orientation other than 1, with EXIF."""
    stream = io.BytesIO()
    if orientation != 1:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    image.save(stream, format_, **options)
    return stream.getvalue()


def made(kind, height, width, orientation, seed):
    """One picture's file."""
    rng = np.random.default_rng(seed)
    rgb = Image.fromarray(pixels(rng, height, width, 3))
    grey = Image.fromarray(pixels(rng, height, width, 1)[:, :, 0])
    alpha = Image.fromarray(pixels(rng, height, width, 1)[:, :, 0])
    rgba, la = rgb.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    deep = Image.fromarray(rng.integers(0, 65536, (height, width)).astype(np.uint16))
    indexed = rgb.quantize(16)
    image, format_, options = {
        "jpeg-rgb": (rgb, "JPEG", {"subsampling": 0, "quality": 90}),
        "jpeg-420": (rgb, "JPEG", {"subsampling": 2}),
        "jpeg-progressive": (rgb, "JPEG", {"progressive": True}),
        "jpeg-l": (grey, "JPEG", {}),
        "jpeg-cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "png-1": (grey.convert("1"), "PNG", {}),
        "png-l": (grey, "PNG", {}),
        "png-la": (la, "PNG", {}),
        "png-i16": (deep, "PNG", {}),
        "png-p": (indexed, "PNG", {}),
        "png-p-alpha": (indexed, "PNG", {"transparency": bytes(range(0, 256, 16))}),
        "png-p-key": (indexed, "PNG", {"transparency": 1}),
        "png-rgb": (rgb, "PNG", {}),
        "png-rgb-key": (rgb, "PNG", {"transparency": rgb.getpixel((0, 0))}),
        "png-l-key": (grey, "PNG", {"transparency": grey.getpixel((0, 0))}),
        "png-rgba": (rgba, "PNG", {}),
        "webp-lossy": (rgb, "WEBP", {}),
        "webp-lossless": (rgb, "WEBP", {"lossless": True}),
        "webp-alpha": (rgba, "WEBP", {"lossless": True}),
    }[kind]
    return encoded(image, format_, orientation, **options)


def generated(count=300):
    """(name, file) of so many pictures over kinds, sizes and orientations; the same every time."""
    chance = random.Random(8)
    for number in range(count):
        kind, orientation = KINDS[number % len(KINDS)], 1 + number % 8
        height, width = chance.choice(SIDES), chance.choice(SIDES)
        yield f"{number:03} {kind} {width}x{height} o{orientation}", made(kind, height, width, orientation, number)


def chunk(name, body):
    """A PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, raw, *, depth=8, colour=0, extra=b"", interlace=0):
    """A PNG made by hand: `raw` are the rows, each after its filter's byte; `extra` are chunks between header and pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
