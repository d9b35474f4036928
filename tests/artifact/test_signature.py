"""The signature refuses what export did not prove, and says what it found and what it allows."""

import json
import re

import numpy as np
import pytest

from artifact.errors import InvalidInput
from artifact.signature import DTYPES, Dim, Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(
        TensorSpec("image", "float32", ("batch", 3, "side"), (-0.1, 0.1)),
        TensorSpec("ids", "int64", ("batch", "length"), (0, 9)),
    ),
    outputs=(TensorSpec("logits", "float32", ("batch", 10), labels="labels.txt"),),
    dims={"batch": Dim(1, 4, opt=2), "side": Dim(8, 32, multiple=8), "length": Dim(1, 6)},
)


def request(**changed):
    return {"image": np.zeros((2, 3, 16), np.float32), "ids": np.zeros((2, 5), np.int64), **changed}


def one(dtype, bounds, shape=(2,)):
    return Signature((TensorSpec("x", dtype, shape, bounds),), (TensorSpec("y", "float32", (1,)),))


def test_sizes():
    """A request that fits gives the size of every named dimension."""
    assert SIGNATURE.validate(request()) == {"batch": 2, "side": 16, "length": 5}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "the model takes image, ids; missing: image, ids"),
        ({"image": np.zeros((2, 3, 16), np.float32)}, "the model takes image, ids; missing: ids"),
        (request(mask=np.zeros(2)), "the model takes image, ids; unknown: mask"),
        (request(image=np.zeros((2, 3, 16))), 'input "image" is float64; the signature says float32'),
        (request(image=np.zeros((2, 3, 16), ">f4")), 'input "image" is >f4; the signature says float32'),
        (request(ids=np.zeros((2, 5), np.int32)), 'input "ids" is int32; the signature says int64'),
        (request(ids=np.zeros((2, 5), bool)), 'input "ids" is bool; the signature says int64'),
        (
            request(image=np.zeros((2, 3), np.float32)),
            'input "image" has shape [2, 3]; the signature says [batch, 3, side]',
        ),
        (request(ids=np.zeros((), np.int64)), 'input "ids" has shape []; the signature says [batch, length]'),
        (
            request(image=np.zeros((2, 4, 16), np.float32)),
            'input "image" has shape [2, 4, 16]; the signature says [batch, 3, side]',
        ),
        (request(image=np.zeros((0, 3, 16), np.float32)), 'input "image": batch is 0; the signature allows 1 to 4'),
        (request(image=np.zeros((5, 3, 16), np.float32)), 'input "image": batch is 5; the signature allows 1 to 4'),
        (
            request(image=np.zeros((2, 3, 12), np.float32)),
            'input "image": side is 12; the signature allows 8 to 32 in multiples of 8',
        ),
        (
            request(image=np.zeros((2, 3, 40), np.float32)),
            'input "image": side is 40; the signature allows 8 to 32 in multiples of 8',
        ),
        (request(ids=np.zeros((3, 5), np.int64)), 'input "ids": batch is 3, but 2 in another input'),
        (request(ids=np.full((2, 5), 10)), 'input "ids" holds 10; the signature allows 0 to 9'),
        (request(ids=np.full((2, 5), -1)), 'input "ids" holds -1; the signature allows 0 to 9'),
        (request(image=np.full((2, 3, 16), 0.5, np.float32)), 'input "image" holds 0.5; the signature allows -0.1 to 0.1'),
        (request(image=np.full((2, 3, 16), -0.5, np.float32)), 'input "image" holds -0.5; the signature allows -0.1 to 0.1'),
        (request(image=np.full((2, 3, 16), np.inf, np.float32)), 'input "image" holds inf; the signature allows -0.1 to 0.1'),
    ],
)
def test_refusals(inputs, message):
    """Every refusal names the input, what it is and what the signature says."""
    with pytest.raises(InvalidInput) as caught:
        SIGNATURE.validate(inputs)

    assert str(caught.value) == message


@pytest.mark.parametrize("place", [0, 7, -1])
def test_one_nan_is_found(place):
    """A single NaN anywhere is outside every range."""
    image = np.zeros((2, 3, 16), np.float32)
    image.flat[place] = np.nan

    with pytest.raises(InvalidInput, match=r'^input "image" holds nan; the signature allows -0\.1 to 0\.1$'):
        SIGNATURE.validate(request(image=image))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("bound", [0.1, 0.3, 1 / 3, 2.640000104904175])
def test_the_bound_itself_is_allowed_in_every_float_type(dtype, bound):
    """A range's end, rounded to the input's dtype, is inside the range; the next number outwards is not."""
    kind = DTYPES[dtype].type
    signature = one(dtype, (-bound, bound))
    signature.validate({"x": np.array([-bound, bound], kind)})

    for outside in (np.nextafter(kind(bound), kind(np.inf)), np.nextafter(kind(-bound), kind(-np.inf))):
        with pytest.raises(InvalidInput, match="the signature allows"):
            signature.validate({"x": np.array([0, outside], kind)})


def test_a_range_wider_than_the_dtype():
    """A bound that the dtype cannot hold allows every finite value, and no infinity."""
    signature = one("float16", (-1e6, 1e6))
    signature.validate({"x": np.array([-65504, 65504], np.float16)})

    with pytest.raises(InvalidInput, match=r'^input "x" holds inf; the signature allows -1000000 to 1000000$'):
        signature.validate({"x": np.array([0, np.inf], np.float16)})


def test_a_range_is_told_as_it_was_written():
    """Whole bounds have no decimals, others keep theirs."""
    for bounds, told in (((-4.0, 4.0), "-4 to 4"), ((-0.5, 1.0), "-0.5 to 1"), ((0, 9), "0 to 9")):
        with pytest.raises(InvalidInput, match=rf"^input \"x\" holds 10\.0; the signature allows {re.escape(told)}$"):
            one("float32", bounds).validate({"x": np.array([0, 10], np.float32)})


def test_what_is_no_array():
    """A list is told what is expected, not what it lacks."""
    with pytest.raises(InvalidInput) as caught:
        one("float32", (-1, 1)).validate({"x": [[0.5]]})  # pyright: ignore[reportArgumentType]

    assert str(caught.value) == 'input "x" is a list; give a NumPy array of float32'


def test_large_integers_are_compared_exactly():
    """An int64 one above a bound is outside, also where a float64 cannot tell the two apart."""
    signature = one("int64", (0, 2**53))
    signature.validate({"x": np.array([0, 2**53])})

    with pytest.raises(InvalidInput, match="holds 9007199254740993"):
        signature.validate({"x": np.array([0, 2**53 + 1])})


def test_a_range_beyond_an_unsigned_type():
    """A range that reaches outside the integer type does not wrap around."""
    one("uint8", (-5, 300)).validate({"x": np.array([0, 255], np.uint8)})


def test_without_a_range_every_value_is_allowed():
    """No range, no check of the values."""
    one("float32", None).validate({"x": np.array([np.nan, np.inf], np.float32)})


def test_one_name_twice_in_a_shape():
    """A named dimension has one size wherever it stands, in one shape too."""
    signature = Signature((TensorSpec("x", "float32", ("n", "n")),), (TensorSpec("y", "float32", ("n",)),), {"n": Dim(1, 9)})
    signature.validate({"x": np.zeros((3, 3), np.float32)})

    with pytest.raises(InvalidInput, match=r'^input "x": n is 4, but 3 in another input$'):
        signature.validate({"x": np.zeros((3, 4), np.float32)})


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([("batch", 3)], [("batch", 10)], "batch"),
        ([("batch",), ("batch", 4)], [("batch", 2), ("batch",)], "batch"),
        ([("batch", 3)], [("rows", 10)], None),
        ([("batch", 3), ("rows", 3)], [("batch", 10)], None),
        ([("batch", 3), (3,)], [("batch", 10)], None),
        ([(1, 3)], [(1, 10)], None),
        ([("batch", 3)], [()], None),
        ([(3, "batch")], [("batch", 10)], None),
        ([("rows", 3)], [("rows", 10)], None),  # another name is the model's own affair
    ],
)
def test_the_batch_dimension(inputs, outputs, expected):
    """Rows are counted by the dimension called batch, where it leads every input and every output; elsewhere are no rows."""
    signature = Signature(
        tuple(TensorSpec(f"in{i}", "float32", shape) for i, shape in enumerate(inputs)),
        tuple(TensorSpec(f"out{i}", "float32", shape) for i, shape in enumerate(outputs)),
        {"batch": Dim(1, 8), "rows": Dim(1, 8)},
    )

    assert signature.batch_dim == expected


def test_concrete_shapes():
    """A shape's names give way to sizes."""
    assert SIGNATURE.inputs[0].concrete({"batch": 2, "side": 16}) == (2, 3, 16)


def test_json_round_trip():
    """A signature comes back from JSON as it was."""
    assert Signature.from_json(json.loads(json.dumps(SIGNATURE.to_json()))) == SIGNATURE


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value["inputs"].clear(),
        lambda value: value["outputs"].clear(),
        lambda value: value["inputs"][0].update(name=3),
        lambda value: value["inputs"][0].update(name="ids"),
        lambda value: value["inputs"][0].update(dtype="object"),
        lambda value: value["inputs"][0].update(dtype=["float32"]),
        lambda value: value["inputs"][0].update(shape=["nowhere"]),
        lambda value: value["inputs"][0].update(shape=[-1]),
        lambda value: value["inputs"][0].update(shape=[1.5]),
        lambda value: value["inputs"][0].update(shape=[True]),
        lambda value: value["inputs"][0].update(range=["low", "high"]),
        lambda value: value["inputs"][0].update(range=[0, float("nan")]),
        lambda value: value["inputs"][0].update(range=[0]),
        lambda value: value["dims"]["batch"].update(min="1"),
        lambda value: value["dims"]["batch"].update(max=0),
        lambda value: value["dims"]["batch"].update(multiple=0),
        lambda value: value["dims"]["batch"].update(opt=5),
        lambda value: value["dims"]["batch"].update(more=5),
    ],
)
def test_signatures_that_export_never_writes(change):
    """What is no signature is refused when it is read, not when the first request comes."""
    value = SIGNATURE.to_json()
    change(value)

    with pytest.raises((ValueError, TypeError, KeyError)):
        Signature.from_json(value)
