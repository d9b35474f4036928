"""Each operation on pictures equals Pillow's, or its formula, on 300 generated pictures."""

import io

import numpy as np
import pytest
from made_pictures import chunk, encoded, generated, png
from PIL import Image, ImageOps

from artifact.operations import RawLimits, make, parse
from artifact.operations.errors import BadImage, BadRaw
from artifact.operations.images.colours import over
from artifact.operations.images.crop import center_cropped
from artifact.operations.images.decode import decode
from artifact.operations.images.levels import levels, scaled
from artifact.operations.images.resize import letterboxed, resized, short_side
from artifact.signature import Dim, Signature, TensorSpec

LIMITS = RawLimits()
WHITE, ROSE = (255, 255, 255), (255, 0, 127)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAYS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures():
    return list(generated())


@pytest.fixture(scope="module")
def decoded(pictures):
    return [(name, decode(data, "RGB", WHITE, LIMITS)) for name, data in pictures]


def by_pillow(data, mode, background):
    """What Pillow itself makes of a file; alpha and 16 bits by the formulas of docs/operations.md."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data and mode != "RGBA":
        rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
        colour, alpha = rgba[:, :, :3], rgba[:, :, 3:]
        over = (colour * alpha + np.array(background) * (255 - alpha) + 127) // 255
        image = Image.fromarray(over.astype(np.uint8))
    return np.asarray(image.convert(mode))


@pytest.mark.parametrize(("mode", "background"), [("RGB", WHITE), ("RGB", ROSE), ("L", WHITE), ("RGBA", WHITE)])
def test_decode(pictures, mode, background):
    """Every mode of every picture has the levels that Pillow gives, bit for bit."""
    for name, data in pictures:
        made = decode(data, mode, background, LIMITS)
        assert made.mode == mode, name
        np.testing.assert_array_equal(np.asarray(made), by_pillow(data, mode, background), name)


@pytest.mark.parametrize("way", WAYS)
def test_resize(decoded, way):
    """The short side, an exact size and a letterbox are Pillow's resize to the size of the formula, bit for bit."""
    for name, picture in decoded:
        width, height = picture.size
        long = int(20 * max(width, height) / min(width, height))
        size = (20, long) if width >= height else (long, 20)
        np.testing.assert_array_equal(
            resized(picture, short_side(height, width, 20), way, LIMITS), picture.resize(size[::-1], way), name
        )
        np.testing.assert_array_equal(resized(picture, (24, 40), way, LIMITS), picture.resize((40, 24), way), name)
        scale = min(24 / height, 40 / width)
        inner = [max(1, round(side * scale)) for side in (height, width)]
        top, left = (24 - inner[0]) // 2, (40 - inner[1]) // 2
        expected = np.full((24, 40, 3), 114, np.uint8)
        expected[top : top + inner[0], left : left + inner[1]] = picture.resize((inner[1], inner[0]), way)
        np.testing.assert_array_equal(letterboxed(picture, (24, 40), (114,) * 3, way, LIMITS), expected, name)


def test_center_crop(decoded):
    """The middle is where torchvision cuts it: half of the rest, rounded as Python rounds."""
    for name, picture in decoded:
        array = np.asarray(picture)
        for height, width in {(1, 1), (min(5, picture.height), min(4, picture.width)), (picture.height, picture.width)}:
            top, left = round((picture.height - height) / 2.0), round((picture.width - width) / 2.0)
            expected = array[top : top + height, left : left + width]
            np.testing.assert_array_equal(center_cropped(picture, height, width), expected, name)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("order", ["CHW", "HWC"])
def test_to_float_and_normalize(pictures, mode, order):
    """The numbers are those of the formula within 1e-6, and those of float32 arithmetic bit for bit."""
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    mean, std = (*MEAN, 0.5)[:channels], (*STD, 0.25)[:channels]
    shape = ("batch", channels, "h", "w") if order == "CHW" else ("batch", "h", "w", channels)
    operations = made(
        [
            {"decode": {"mode": mode}},
            {"to_float": {"scale": 1 / 255}},
            {"normalize": {"mean": mean, "std": std}},
            {"layout": {"order": order}},
        ],
        shape,
        (-5, 5),
    )
    for name, data in pictures[::2]:
        row = operations.prepare({"image": data}, LIMITS)["image"]
        array = levels(decode(data, mode, WHITE, LIMITS))
        axes = (2, 0, 1) if order == "CHW" else (0, 1, 2)
        exact = ((array / 255 - mean) / std).transpose(axes)[np.newaxis]
        single = (array.astype(np.float32) / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
        assert row.dtype == np.float32, name
        assert np.abs(row - exact).max() <= 1e-6, name
        np.testing.assert_array_equal(row, single.transpose(axes)[np.newaxis], name)


def made(chain, shape, bounds, dtype="float32"):
    dims = {name: Dim(1, 4096) for name in shape if isinstance(name, str)}
    inputs = (TensorSpec("image", dtype, shape, bounds),)
    return make(parse(chain), Signature(inputs, (TensorSpec("y", "float32", ("batch", 2)),), dims), {}, {})


def test_batched_equals_single(pictures):
    """Rows that are joined are the rows themselves, whatever their neighbours are."""
    chain = [{"decode": {}}, {"resize": {"short": 32}}, {"center_crop": {"size": 32}}, {"to_float": {}}]
    operations = made(chain, ("batch", 3, 32, 32), (0, 1))
    rows = [operations.prepare({"image": data}, LIMITS) for _, data in pictures]
    joined = operations.join(rows)["image"]
    assert joined.shape == (300, 3, 32, 32)
    for number in (0, 1, 17, 150, 299):
        alone = operations.prepare({"image": pictures[number][1]}, LIMITS)["image"]
        np.testing.assert_array_equal(joined[number : number + 1], alone)
    np.testing.assert_array_equal(joined, np.concatenate([row["image"] for row in rows]))


def test_levels_as_they_are(pictures):
    """A model that takes uint8 is given the levels, contiguous; one channel may have no axis."""
    flat = made([{"decode": {"mode": "L"}}, {"layout": {"order": "HW"}}], ("batch", "h", "w"), (0, 255), "uint8")
    first = made(["decode"], ("batch", 3, "h", "w"), (0, 255), "uint8")
    last = made(["decode", {"layout": {"order": "HWC"}}], ("batch", "h", "w", 3), (0, 255), "uint8")
    for name, data in pictures[::5]:
        grey, rgb = (np.asarray(decode(data, mode, WHITE, LIMITS)) for mode in ("L", "RGB"))
        for operations, array in ((flat, grey), (first, rgb.transpose(2, 0, 1)), (last, rgb)):
            row = operations.prepare({"image": data}, LIMITS)["image"]
            assert row.dtype == np.uint8, name
            assert row.flags.c_contiguous, name
            np.testing.assert_array_equal(row[0], array, name)


def rows_of(array):
    """A PNG's raw rows, unfiltered, big-endian."""
    return b"".join(b"\0" + row.astype(f">u{array.itemsize}").tobytes() for row in array)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits(colour, channels):
    """A sample of 16 bits becomes its upper 8, in every colour type."""
    deep = np.random.default_rng(colour).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    made = np.asarray(decode(png(7, 5, rows_of(deep), depth=16, colour=colour), "RGBA", WHITE, LIMITS))
    high = (deep >> 8).astype(np.uint8)
    opaque = np.full((5, 7, 1), 255, np.uint8)
    grey, alpha = np.repeat(high[:, :, :1], 3, axis=2), high[:, :, -1:]
    expected = {0: (grey, opaque), 2: (high[:, :, :3], opaque), 4: (grey, alpha), 6: (high[:, :, :3], alpha)}[colour]
    np.testing.assert_array_equal(made, np.concatenate(expected, axis=2))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_few_bits_and_a_transparent_grey(depth):
    """Samples of few bits are spread over 0 to 255; the transparent one is see-through, and shows the background."""
    most = 2**depth - 1
    samples = np.arange(8) % (most + 1)
    packed = np.packbits(np.unpackbits(samples.astype(np.uint8)[:, np.newaxis], axis=1)[:, -depth:])
    data = png(8, 1, b"\0" + packed.tobytes(), depth=depth, extra=chunk(b"tRNS", b"\0\1"))
    made = np.asarray(decode(data, "L", ROSE, LIMITS))[0]
    rose = np.asarray(Image.new("RGB", (1, 1), ROSE).convert("L"))[0, 0]
    np.testing.assert_array_equal(made, np.where(samples == 1, rose, samples * (255 // most)))


def test_interlaced():
    """A PNG in seven passes has the same levels as one in rows."""
    array = np.random.default_rng(7).integers(0, 256, (11, 13, 3)).astype(np.uint8)
    array[-1] = 0
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    raw = b"".join(rows_of(array[y::down, x::right]) for x, y, right, down in passes)
    np.testing.assert_array_equal(decode(png(13, 11, raw, colour=2, interlace=1), "RGB", WHITE, LIMITS), array)


def test_to_float_is_a_division_by_255():
    """With the usual scale every level is x / 255 in float32, as torchvision's ToTensor has it."""
    x = np.arange(256)
    for scale in (1 / 255, 0.00392156862745098):
        np.testing.assert_array_equal(scaled(x, scale), x.astype(np.float32) / np.float32(255))


def test_strips():
    """A picture larger than a strip is put together from several without a seam."""
    array = np.random.default_rng(5).integers(0, 256, (600, 1000, 4)).astype(np.uint8)
    data = encoded(Image.fromarray(array), "PNG", compress_level=1)
    np.testing.assert_array_equal(decode(data, "RGB", ROSE, LIMITS), by_pillow(data, "RGB", ROSE))


def test_a_size_that_the_model_does_not_take():
    """Where the picture decides about the tensor's size, another than declared is the client's fault, by its sides."""
    dims = {"batch": Dim(1, 4), "h": Dim(32, 64, 32), "w": Dim(32, 128)}
    signature = Signature(
        (TensorSpec("image", "float32", ("batch", "h", "w", 1), (0, 1)),), (TensorSpec("y", "float32", ("batch", 2)),), dims
    )
    operations = make(parse([{"decode": {"mode": "L"}}, "to_float", {"layout": {"order": "HWC"}}]), signature, {}, {})
    for width, height, message in (
        (100, 64, None),
        (100, 63, "the picture has 100 x 63 pixels; the model takes a height of 32 to 64 in multiples of 32: send another size"),
        (129, 32, "the picture has 129 x 32 pixels; the model takes a width of 32 to 128: send another size"),
    ):
        data = encoded(Image.new("L", (width, height)), "PNG")
        if message is None:
            assert operations.prepare({"image": data}, LIMITS)["image"].shape == (1, height, width, 1)
            continue
        with pytest.raises(BadImage) as caught:
            operations.prepare({"image": data}, LIMITS)
        assert str(caught.value) == message


def test_a_picture_smaller_than_the_crop():
    """Nothing is padded: a picture that does not hold what is cut out is refused."""
    operations = made(
        [{"decode": {}}, {"crop": {"top": 2, "left": 1, "height": 8, "width": 9}}], ("batch", 3, 8, 9), None, "uint8"
    )
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (10, 10, 3)).astype(np.uint8))
    row = operations.prepare({"image": encoded(picture, "PNG")}, LIMITS)["image"]
    np.testing.assert_array_equal(row[0].transpose(1, 2, 0), np.asarray(picture)[2:10, 1:10])
    with pytest.raises(BadImage) as caught:
        operations.prepare({"image": encoded(picture.crop((0, 0, 10, 9)), "PNG")}, LIMITS)
    assert str(caught.value) == "the picture has 10 x 9 pixels where 9 x 8 are cut out; send a larger one"


def test_raw_inputs_by_name():
    """A request has exactly the raw inputs; rows of two sizes are not joined."""
    operations = made(["decode"], ("batch", 3, "h", "w"), (0, 255), "uint8")
    data = encoded(Image.new("RGB", (4, 5)), "PNG")
    with pytest.raises(BadRaw) as caught:
        operations.prepare({"picture": data}, LIMITS)
    assert str(caught.value) == "the raw inputs are image; the request has picture"
    rows = [operations.prepare({"image": encoded(Image.new("RGB", size), "PNG")}, LIMITS) for size in ((4, 5), (5, 4))]
    with pytest.raises(BadRaw) as caught:
        operations.join(rows)
    assert str(caught.value) == 'input "image": the rows of a request must be of one shape, not [3, 4, 5], [3, 5, 4]'


def test_formulas_of_colours():
    """Pillow converts as docs/operations.md states: colours to grey, CMYK to colours, colours over a background."""
    x = np.random.default_rng(9).integers(0, 256, (64, 256, 4)).astype(np.uint8)
    x[0, :, 0] = np.arange(256)
    colours, levels_, last = Image.fromarray(x[:, :, :3]), x[:, :, :3].astype(np.int64), x[:, :, 3:].astype(np.int64)
    np.testing.assert_array_equal(over(colours, "L", WHITE), (levels_ @ [19595, 38470, 7471] + 32768) // 65536)
    shown = over(Image.fromarray(x), "RGB", ROSE)
    np.testing.assert_array_equal(shown, np.rint((levels_ * last + np.array(ROSE) * (255 - last)) / 255))
    inks = Image.frombytes("CMYK", (256, 64), x.tobytes()).convert("RGB")
    np.testing.assert_array_equal(inks, (255 - last) - np.rint(levels_ * (255 - last) / 255))
