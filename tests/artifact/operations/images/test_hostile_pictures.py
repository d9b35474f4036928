"""Files that mean harm, or are merely broken: refused with a message, from their headers, before anything is allocated."""

import concurrent.futures
import dataclasses
import io
import random
import sys
import tracemalloc

import numpy as np
import pytest
from made_pictures import KINDS, chunk, encoded, made, pixels, png
from PIL import Image

from artifact.operations import RawLimits
from artifact.operations.errors import BadImage, BadRaw, OperationsUnavailable, TooLarge
from artifact.operations.images import jpeg
from artifact.operations.images.decode import Decode, decode, read_header
from artifact.operations.images.resize import resized
from artifact.operations.kinds import Raw

LIMITS = RawLimits(image_pixels=50_000_000)
WHITE = (255, 255, 255)
SMALL = {kind: made(kind, 9, 8, 6, 1) for kind in KINDS}


def refused(data, error: type[BadRaw] = BadImage, limits=LIMITS):
    with pytest.raises(error) as caught:
        decode(data, "RGB", WHITE, limits)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated(kind):
    """A file that lacks bytes at its end is refused, however many."""
    data = SMALL[kind]
    decode(data, "RGB", WHITE, LIMITS)
    for length in range(len(data)):
        with pytest.raises(BadImage):
            decode(data[:length], "RGB", WHITE, LIMITS)
    assert "is truncated: it ends before its picture does; send the whole file" in refused(data[:-3])


@pytest.mark.parametrize("kind", KINDS)
def test_damaged(kind):
    """Changed bytes are refused, or give a picture of the size that the header says: nothing else is ever raised."""
    chance, data = random.Random(kind), SMALL[kind]
    for _ in range(150):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(data))] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        small = dataclasses.replace(LIMITS, image_pixels=1_000_000)
        try:
            picture = decode(bytes(changed), "RGB", WHITE, small)
        except BadRaw:
            continue
        header = read_header(bytes(changed))
        assert sorted(picture.size) == sorted((header.width, header.height))


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (encoded(Image.new("L", (3, 3)), "GIF"), "b'GIF87a"),
        (encoded(Image.new("L", (3, 3)), "TIFF"), "b'II*"),
        (encoded(Image.new("L", (3, 3)), "BMP"), "b'BM"),
        (encoded(Image.new("RGB", (3, 3)), "EPS"), "b'%!PS-Ado'"),
        (b"8BPS\0\1\0\0", "b'8BPS"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='99999' height='99999'/>", "b'<svg xml'"),
        (b"<?xml version='1.0'?><svg/>", "b'<?xml ve'"),
        (b"", "b''"),
    ],
)
def test_other_formats(data, start):
    """Only JPEG, PNG and WebP are read, by their bytes."""
    assert refused(data).startswith(f"the picture is no JPEG, PNG or WebP file: it begins with {start}")


def with_size(width, height):
    """A small JPEG and WebP whose headers say another size."""
    lying = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    at = lying.index(b"\xff\xc0")
    lying[at + 5 : at + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    webp = bytearray(encoded(Image.new("RGB", (8, 8)), "WEBP", lossless=True))
    at = webp.index(b"VP8L") + 9
    webp[at : at + 4] = (width - 1 & 0x3FFF | (height - 1 & 0x3FFF) << 14).to_bytes(4, "little")
    return bytes(lying), bytes(webp)


def test_too_many_pixels():
    """A picture of 100 megapixels is refused by its header in every format, and nothing of its size is allocated."""
    tracemalloc.start()
    for data in (png(10_000, 10_000, b"", colour=2), *with_size(10_000, 10_000)):
        message = refused(data, TooLarge)
        assert message.endswith("file says 10000 x 10000 pixels; at most 50000000 are allowed: send a smaller picture")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert TooLarge.status == 413


def test_lying_headers():
    """A few bytes are not megapixels, where a format cannot make them so."""
    lying, _ = with_size(7000, 7000)
    assert refused(lying).startswith("the JPEG file says 7000 x 7000 pixels, but has only ")
    assert refused(png(7000, 7000, b"")).startswith("the PNG file says 7000 x 7000 pixels, but has only 8 bytes of them")
    assert refused(png(2**31 - 1, 1, b""), TooLarge).startswith("the PNG file says 2147483647 x 1 pixels")
    assert refused(png(70_000, 1, b"\0" * 70_001), TooLarge).endswith("a side may have at most 65535: send a smaller picture")
    assert refused(png(0, 5, b"")) == "the PNG file says 0 x 5 pixels; a picture has at least one"


def test_a_canvas_that_its_picture_does_not_fill():
    """A WebP whose canvas and picture have two sizes is refused: only one of them was looked at otherwise."""
    data = bytearray(made("webp-alpha", 9, 8, 6, 1))
    at = data.index(b"VP8X") + 12
    data[at : at + 3] = (99).to_bytes(3, "little")
    assert refused(bytes(data)) == "the WebP file says 100 x 9 pixels, but its picture has 8 x 9"
    data[at : at + 6] = b"\xfe\xff\xff" * 2
    assert refused(bytes(data), TooLarge).startswith("the WebP file says 16777215 x 16777215 pixels; at most 50000000")


def test_missing_rows():
    """A PNG whose compressed data end too early is refused, where Pillow leaves the rest black; black ones are not."""
    grey = b"\0" + b"\x64" * 10
    assert "is truncated" in refused(png(10, 10, grey * 9))
    assert "is truncated" in refused(png(10, 10, grey * 9 + b"\0" * 10))
    black = decode(png(10, 10, grey * 9 + b"\0" * 11), "L", WHITE, LIMITS)
    assert not np.asarray(black)[-1].any()


def test_inflate_bomb():
    """Compressed data that are more than the picture are left: of 200 megabytes only its own rows are inflated."""
    picture = decode(png(10, 10, b"\0" * 200_000_000), "L", WHITE, LIMITS)
    assert picture.size == (10, 10)


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_animated(format_):
    """Several pictures in one file are refused; where they are allowed, the first is taken."""
    frames = [Image.fromarray(pixels(np.random.default_rng(seed), 9, 8, 3)) for seed in range(4)]
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], lossless=True)
    shown = {"PNG": "PNG", "WEBP": "WebP"}[format_]
    assert refused(data, TooLarge) == (
        f"the {shown} file is animated, with 4 pictures; at most 1 may be in one file: send the one that is meant"
    )
    allowed = dataclasses.replace(LIMITS, image_frames=4)
    np.testing.assert_array_equal(decode(data, "RGB", WHITE, allowed), frames[0])


def test_too_many_bytes():
    """A file is measured before it is looked at."""
    assert refused(b"\xff\xd8\xff" * 10, TooLarge, dataclasses.replace(LIMITS, image_bytes=29)) == (
        "the picture's file has 30 bytes; at most 29 are allowed"
    )


def test_too_many_parts():
    """Millions of empty parts, and scans without data, are not gone through."""
    header = png(1, 1, b"\0\0")[:33]
    assert "more than 65536 parts" in refused(header + chunk(b"abCd", b"") * 70_000, TooLarge)
    assert "more than 65536 parts" in refused(b"\xff\xd8" + b"\xff\xe2\0\2" * 70_000, TooLarge)
    riff = b"RIFF" + (4 + 8 * 70_000).to_bytes(4, "little") + b"WEBP" + b"abcd\0\0\0\0" * 70_000
    assert "more than 65536 parts" in refused(riff, TooLarge)
    progressive = encoded(Image.new("RGB", (8, 8)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    assert refused(progressive[:-2] + scan * jpeg.MAX_SCANS + b"\xff\xd9", TooLarge) == (
        "the JPEG file has more than 64 scans; save the picture again"
    )


def test_resize_of_a_thread():
    """A picture of one pixel's width would grow to gigapixels, as a result or on the way: refused."""
    thread = Image.new("L", (1, 65_000))
    limits = dataclasses.replace(LIMITS, image_pixels=1_000_000)
    for size in ((65_000 * 224, 224), (224, 224)):
        with pytest.raises(TooLarge, match="at most 1000000 pixels are allowed"):
            resized(thread, size, Image.Resampling.BILINEAR, limits)


def test_what_is_left_out():
    """Texts, profiles and broken EXIF change nothing and warn of nothing; a picture after the end is not looked at."""
    image = Image.fromarray(pixels(np.random.default_rng(3), 6, 5, 3))
    plain = encoded(image, "PNG")
    bomb = chunk(b"zTXt", b"k\0\0" + b"no zlib") + chunk(b"iCCP", b"p\0\0junk") + chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(plain[:33] + bomb + plain[33:], "RGB", WHITE, LIMITS), image)
    plain = encoded(image, "JPEG")
    exif = b"\xff\xe1\0\x12Exif\0\0MM\0*\0\0\0\x08\xff\xff"
    expected = decode(plain, "RGB", WHITE, LIMITS)
    for odd in (plain[:2] + exif + plain[2:], plain + plain, plain + b"tail"):
        np.testing.assert_array_equal(decode(odd, "RGB", WHITE, LIMITS), expected)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xd9", "the JPEG file holds no picture"),
        (b"\xff\xd8\xff\xd8", "the JPEG file has marker D8 at byte 2, where none may be"),
        (b"\xff\xd8\xff\xe0\0\1", "the JPEG file has a segment of 1 bytes at byte 4; its length alone takes 2"),
        (
            b"\xff\xd8\xff\xc9\0\x08\x08\0\1\0\1\1",
            "the JPEG file is of kind SOF9; baseline, extended and progressive with Huffman",
        ),
        (b"\xff\xd8\xff\xc1\0\x08\x0c\0\1\0\1\1", "the JPEG file has 12 bits per sample; 8 are read"),
        (b"\xff\xd8" + b"\xff\xc0\0\x08\x08\0\1\0\1\1" * 2, "the JPEG file states its size twice"),
        (b"\xff\xd8\xff\xda\0\x02", "the JPEG file has pixels before it states their number"),
        (b"\xff\xd8\xff\xe0\0\2junk", "the JPEG file has no marker at byte 6, where one belongs"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b""), "the PNG file must begin with one IHDR chunk"),
        (png(1, 1, b"\0\0", depth=3), "the PNG file's header says depth 3, colour type 0, compression 0, filter 0, interlace 0"),
        (png(1, 1, b"\0\0", colour=3), "the PNG file's pixels are numbers of a palette, but it has none"),
        (png(1, 1, b"\0\0", extra=chunk(b"CgBI", b"")), "the PNG file has a chunk b'CgBI', which the standard does not know"),
        (png(1, 1, b"\0\0", extra=chunk(b"PLTE", b"1234")), "the PNG file's palette is not one"),
        (
            png(1, 1, b"\0\0", colour=3, extra=chunk(b"PLTE", b"123456") + chunk(b"tRNS", bytes(300))),
            "the PNG file's palette has 2 colours before their 300 alphas; it must have as many",
        ),
        (png(1, 1, b"\0\0", extra=chunk(b"tRNS", b"1")), "the PNG file's transparent colour has 1 bytes; 2 were expected"),
        (png(1, 1, b"\0\0\0", depth=16, extra=chunk(b"tRNS", b"12")), "the PNG file has 16 bits per sample and one transparent"),
        (png(1, 1, b"\0\0").replace(b"IEND", b"iEND"), "the PNG file is truncated"),
        (png(1, 1, b"\0\0")[:-1] + b"\0", "the PNG file is damaged: the checksum of its IEND chunk is wrong"),
        (b"RIFF\x04\0\0\0WEBP", "the WebP file holds no picture"),
        (b"RIFF\x10\0\0\0WEBPVP8 \x04\0\0\0abcd", "the WebP file has a chunk b'VP8 ' that is no picture"),
        ("text", 'a picture is the bytes of its file, not a str; in JSON it is {"b64": "…"}'),
    ],
)
def test_messages(data, message):
    """What is wrong is said."""
    assert refused(data).startswith(message)


def test_threads():
    """Eight threads decode what one does."""
    files = list(SMALL.values()) * 8
    alone = [decode(data, "RGB", WHITE, LIMITS).tobytes() for data in files]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode(data, "RGB", WHITE, LIMITS).tobytes(), files))
    assert together == alone


def test_without_pillow(monkeypatch):
    """Without Pillow the operation cannot be made, and the message says what to install."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(OperationsUnavailable) as caught:
        Decode().step(Raw("image"), {})
    assert str(caught.value) == "pictures need pillow, which is not installed: pip install 'stateserve[images]'"


def test_a_memoryview_is_bytes():
    """The body of a request need not be copied first."""
    data = SMALL["png-rgb"]
    expected = Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(decode(memoryview(data), "RGB", WHITE, LIMITS), expected)
