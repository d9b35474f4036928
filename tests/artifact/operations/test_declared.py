"""What is declared is checked when it is read: names, parameters, kinds, sizes and ranges, each with its place in the YAML."""

import datetime as dt

import pytest

from artifact.operations import make, parse
from artifact.operations.errors import BadOperations
from artifact.signature import Dim, Signature, TensorSpec

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
DECODE, RESIZE, CROP = {"decode": {"mode": "RGB"}}, {"resize": {"short": 256}}, {"center_crop": {"size": 224}}
FLOAT, NORMALIZE = {"to_float": {"scale": 1 / 255}}, {"normalize": {"mean": MEAN, "std": STD}}
CHAIN = [DECODE, RESIZE, CROP, FLOAT, NORMALIZE]
LOGITS = TensorSpec("logits", "float32", ("batch", 10))


def signature(shape=("batch", 3, 224, 224), bounds=(-3, 3), dtype="float32", outputs=(LOGITS,), others=()):
    dims = {"batch": Dim(1, 16), "height": Dim(64, 256, 32), "width": Dim(64, 256, 32)}
    return Signature((TensorSpec("image", dtype, shape, bounds), *others), outputs, dims)


def refused(preprocess, given=None):
    """The path, with which the message begins, and the rest of the message."""
    with pytest.raises(BadOperations) as caught:
        make(parse(preprocess), given or signature(), {}, {})
    path, _, message = str(caught.value).partition(": ")
    assert path == ".".join(map(str, caught.value.path))
    return path, message


def with_(place, operation):
    return [*CHAIN[:place], operation, *CHAIN[place + 1 :]]


def test_a_chain_that_fits():
    """The usual chain makes the usual tensor; the raw input is called as the tensor that it makes."""
    operations = make(parse(CHAIN), signature(), {}, {})
    (raw,) = operations.raw_inputs
    assert raw.to_json() == {
        "name": "image",
        "kind": "image",
        "makes": ["image"],
        "mode": "RGB",
        "formats": ["image/jpeg", "image/png", "image/webp"],
    }
    assert not operations.predicts


def test_there_and_back():
    """What the manifest holds is every parameter, and declares the same again; an operation may stand without parameters."""
    chains = parse(["decode", {"resize": {"size": [8, 9]}}, {"to_float": None}])
    plain = chains.to_json()
    assert plain == {
        "preprocess": [
            {"decode": {"mode": "RGB"}},
            {"resize": {"size": [8, 9], "interpolation": "bilinear"}},
            {"to_float": {"scale": 1 / 255}},
        ]
    }
    assert parse(**plain) == parse(plain["preprocess"])
    assert parse(**plain).to_json() == plain
    assert parse().to_json() == {}
    by_name = parse({"image": CHAIN})
    assert parse(**by_name.to_json()).to_json() == by_name.to_json()


@pytest.mark.parametrize(
    ("preprocess", "path", "message"),
    [
        ("decode", "preprocess", 'a list of operations is expected, or a mapping of names to such lists, not "decode"'),
        ({1: CHAIN}, "preprocess.1", "1 is no name of an input or output: it has letters, digits and _"),
        ({"": CHAIN}, "preprocess.", "'' is no name of an input or output: it has letters, digits and _"),
        ([], "preprocess", "a list of at least one operation is expected, as [{softmax: {axis: -1}}]"),
        ({"image": []}, "preprocess.image", "a list of at least one operation is expected, as [{softmax: {axis: -1}}]"),
        ([[1]], "preprocess.0", "one operation is a mapping of its name to its parameters, as {resize: {short: 256}}"),
        (with_(0, {"decod": {}}), "preprocess.0", "there is no operation 'decod'; nearest: decode"),
        (with_(0, {"decode": {"mode": "BGR"}}), "preprocess.0.decode.mode", "input should be 'RGB', 'L' or 'RGBA', got \"BGR\""),
        (
            with_(0, {"decode": {"mode": "rgb"}}),
            "preprocess.0.decode.mode",
            "input should be 'RGB', 'L' or 'RGBA', got \"rgb\"; nearest: RGB",
        ),
        (
            with_(1, {"resize": {"short": 9, "interpolation": "linear"}}),
            "preprocess.1.resize.interpolation",
            "input should be 'bilinear' or 'bicubic', got \"linear\"; nearest: bilinear",
        ),
        (with_(0, {"decode": {"moed": "L"}}), "preprocess.0.decode.moed", "unknown parameter 'moed'; nearest: mode"),
        (
            with_(0, {"decode": {"mode": "RGBA", "background": [0, 0, 0]}}),
            "preprocess.0.decode",
            "mode RGBA keeps the alpha channel, so nothing is laid over a background; remove one of them",
        ),
        (
            with_(1, {"resize": {"short": 2, "size": [1, 1]}}),
            "preprocess.1.resize",
            "it takes one of short, size: [height, width] and letterbox; short, size given",
        ),
        (with_(1, {"resize": {"short": "256"}}), "preprocess.1.resize.short", 'input should be a valid integer, got "256"'),
        (with_(1, {"resize": {"short": True}}), "preprocess.1.resize.short", "input should be a valid integer, got true"),
        (with_(1, {"resize": {"short": 0}}), "preprocess.1.resize.short", "input should be greater than or equal to 1, got 0"),
        (
            with_(1, {"resize": {"letterbox": {"size": [9, 9], "fil": 3}}}),
            "preprocess.1.resize.letterbox.fil",
            "unknown parameter 'fil'; nearest: fill",
        ),
        (
            with_(1, {"resize": {"letterbox": {"size": [9, 9], "fill": [1, 2]}}}),
            "preprocess.1.resize",
            "the letterbox's fill has 2 levels, the picture 3 channels",
        ),
        (
            with_(2, {"center_crop": {"size": [3, "a"]}}),
            "preprocess.2.center_crop.size.1",
            'input should be a valid integer, got "a"',
        ),
        (with_(2, {"center_crop": {}}), "preprocess.2.center_crop", "parameter 'size' is required, but not there"),
        (
            with_(2, {"center_crop": {"size": 300}}),
            "preprocess.2.center_crop",
            "300 pixels are cut out, but a picture may be only 256 high here; resize it larger before",
        ),
        (
            with_(3, {"to_float": {"scale": float("nan")}}),
            "preprocess.3.to_float.scale",
            "input should be a finite number, got NaN",
        ),
        (
            with_(3, {"to_float": {"scale": dt.date(2020, 1, 1)}}),
            "preprocess.3.to_float",
            "the parameters of to_float hold more than plain data: Object of type date is not JSON serializable",
        ),
        (
            with_(3, {"to_float": {"scale": 1e300}}),
            "preprocess.3.to_float",
            "scale 1e+300 makes numbers that float32 does not hold",
        ),
        (
            with_(4, {"normalize": {"mean": [0.5], "std": [0.5]}}),
            "preprocess.4.normalize",
            "mean has 1 numbers, the picture 3 channels",
        ),
        (
            with_(4, {"normalize": {"mean": MEAN, "std": [1, 1, 0]}}),
            "preprocess.4.normalize.std.2",
            "input should be greater than 0, got 0",
        ),
        (
            with_(4, {"normalize": {"mean": MEAN, "std": [1, 1, 1e-300]}}),
            "preprocess.4.normalize",
            "mean and std make numbers that float32 does not hold",
        ),
    ],
)
def test_wrong_parameters(preprocess, path, message):
    """A parameter that is not what the operation takes is named, with its place."""
    assert refused(preprocess) == (path, message)


@pytest.mark.parametrize(
    ("preprocess", "path", "message"),
    [
        (CHAIN[1:], "preprocess.0.resize", "a chain begins with decode"),
        ([DECODE, *CHAIN], "preprocess.1.decode", "it takes a picture's file, not a picture of uint8"),
        (
            [DECODE, NORMALIZE],
            "preprocess.1.normalize",
            "it takes numbers of float32, not levels of uint8; put to_float before it",
        ),
        ([DECODE, FLOAT, RESIZE], "preprocess.2.resize", "it takes levels of uint8, not float32; put it before to_float"),
        (
            [DECODE, "layout", FLOAT],
            "preprocess.2.to_float",
            "it takes a picture, not a tensor of uint8; it stands after decode",
        ),
        (
            [DECODE, "layout", "layout"],
            "preprocess.2.layout",
            "it takes a picture, not a tensor of uint8; it is the last",
        ),
        (
            [*CHAIN, {"layout": {"order": "HW"}}],
            "preprocess.5.layout",
            "order HW is for one channel, and the picture has 3",
        ),
        (CHAIN[:3], "preprocess.2.center_crop", "the chain makes uint8, but input image is float32; add to_float"),
        ([DECODE, FLOAT], "preprocess.1.to_float", "the chain makes [3, any, any] for a row, but input image is [3, 224, 224]"),
        (
            with_(4, {"normalize": {"mean": MEAN, "std": [0.1] * 3}}),
            "preprocess.4.normalize",
            "the chain makes values from -4.85 to 5.9399996, but",
        ),
        (
            {"imag": CHAIN},
            "preprocess.imag.4.normalize",
            "the chain makes 'imag', which is no input of the model; they are image",
        ),
    ],
)
def test_chains_that_do_not_fit(preprocess, path, message):
    """A chain is followed from the raw value to the declared tensor, and refused where it breaks."""
    found, said = refused(preprocess)
    assert (found, said[: len(message)]) == (path, message)


@pytest.mark.parametrize(
    ("preprocess", "path", "made"),
    [
        (with_(2, {"center_crop": {"size": [224, 200]}}), "preprocess.2.center_crop", "[3, 224, 200]"),
        ([*with_(2, {"crop": {"top": 0, "left": 0, "height": 9, "width": 9}}), "layout"], "preprocess.2.crop", "[3, 9, 9]"),
        (
            [DECODE, {"resize": {"size": [9, 9]}}, {"crop": {"top": 0, "left": 0, "height": 9, "width": 8}}, FLOAT],
            "preprocess.2.crop",
            "[3, 9, 8]",
        ),
        ([DECODE, RESIZE, FLOAT, NORMALIZE], "preprocess.1.resize", "[3, any, any]"),
        ([{"decode": {"mode": "L"}}, RESIZE, CROP, FLOAT], "preprocess.0.decode", "[1, 224, 224]"),
        ([{"decode": {"mode": "L"}}, RESIZE, CROP, FLOAT, {"layout": {"order": "HW"}}], "preprocess.4.layout", "[224, 224]"),
        ([*CHAIN, {"layout": {"order": "HWC"}}], "preprocess.5.layout", "[224, 224, 3]"),
        ([DECODE, FLOAT, NORMALIZE], "preprocess.2.normalize", "[3, any, any]"),
    ],
)
def test_what_set_the_wrong_size(preprocess, path, made):
    """The place is that of the operation that last changed the size, of `layout` where only the order is wrong, else the end."""
    assert refused(preprocess) == (path, f"the chain makes {made} for a row, but input image is [3, 224, 224]")


def test_what_it_makes_can_be_declared():
    """The values of the message, taken as they stand, are a range that holds all that the chain makes."""
    chain = with_(4, {"normalize": {"mean": MEAN, "std": [0.1, 0.3, 0.7]}})
    _, message = refused(chain)

    low, high = (float(word.rstrip(",")) for word in message.split()[5:8:2])

    make(parse(chain), signature(bounds=(low, high)), {}, {})


def test_declared_dimensions():
    """A fixed size must be one that the dimension allows; one that the picture decides is for each request to fit."""
    shape = ("batch", 3, "height", "width")
    make(parse([DECODE, {"resize": {"size": [64, 256]}}, FLOAT]), signature(shape), {}, {})
    make(parse([DECODE, FLOAT]), signature(shape), {}, {})
    path, message = refused([DECODE, {"resize": {"size": [64, 250]}}, FLOAT], signature(shape))
    sizes = "64 to 256 in multiples of 32"
    assert path == "preprocess.1.resize"
    assert message == f"the chain makes [3, 64, 250] for a row, but input image is [3, height: {sizes}, width: {sizes}]"


def test_every_input_is_made():
    """A model of two inputs has a chain for each, by name."""
    mask = TensorSpec("mask", "uint8", ("batch", 1, 8, 8), (0, 255))
    two = signature(others=(mask,))
    chain = [{"decode": {"mode": "L"}}, {"resize": {"size": [8, 8]}}]
    make(parse({"image": CHAIN, "mask": chain}), two, {}, {})
    assert refused(CHAIN, two) == ("preprocess", "the model takes image, mask: name the chain's, as {image: [...]}")
    assert refused({"image": CHAIN}, two) == ("preprocess", "no chain makes the input mask; declare one for each")


def test_rows():
    """A model whose first dimension counts no rows has none to make pictures of."""
    path, message = refused(CHAIN, signature((3, 224, 224)))
    assert path == "preprocess.4.normalize"
    assert message == "input image has no leading dimension of rows ('batch', or 1)"
