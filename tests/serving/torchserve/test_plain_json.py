"""The stand-in for orjson inside a .mar takes and gives the values that orjson does."""

import json

import numpy as np
import orjson
import pytest

from serving.torchserve.packed import plain_json


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": [1, -2.5, true, false, null, "\\u00e9\xc3\xa9\\n"]}',
        b"[0, -0, 9223372036854775807, -9223372036854775808, 18446744073709551615]",
        b"[9223372036854775808, 18446744073709551616, -9223372036854775809, 123456789012345678901234567890]",
        b"[1e300, 1E-300, 0.1, 5e-324]",
        b'{"a": 1, "a": 2}',
        b'"\\ud83d\\ude00"',
    ],
)
def test_the_stand_in_reads_json_as_orjson_does(text):
    """The same values, and of the same types: integers beyond 64 bits are floats."""
    assert repr(plain_json.loads(text)) == repr(orjson.loads(text))


@pytest.mark.parametrize(
    "text", [b"", b"[1, 2", b"NaN", b"[Infinity]", b"-Infinity", b"\xff", b'"\\ud800"', b"1 2", b"[" * 100_000, b"{'a': 1}"]
)
def test_the_stand_in_refuses_what_orjson_refuses(text):
    """What is no JSON is none for either; they say so in one kind of error."""
    for loads in (plain_json.loads, orjson.loads):
        with pytest.raises(json.JSONDecodeError):
            loads(text)


def arrays():
    """Arrays of each kind that an answer can hold."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 4000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    yield bits.reshape(20, 50, 4)
    yield np.array([0, -0.0, 0.1, 1e16, 1e-7, 16777216, 1e-45, 3.4028235e38, np.nan, np.inf, -np.inf], np.float32)
    yield np.array([[0.1, np.nan], [np.inf, 1e300]])
    yield np.arange(6, dtype=np.int64).reshape(1, 2, 3)
    yield np.array([[True], [False]])
    yield np.zeros((0, 3), np.float32)
    yield np.zeros((2, 0), np.float32)


@pytest.mark.parametrize("array", list(arrays()))
def test_the_stand_in_writes_arrays_as_orjson_does(array):
    """Every number that is read back is the same, float32 with its own fewest digits; NaN and the infinities are null."""
    mine = plain_json.dumps(array, plain_json.OPT_SERIALIZE_NUMPY)
    other = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)

    assert json.dumps(json.loads(mine)) == json.dumps(json.loads(other))


@pytest.mark.parametrize("value", ['a/é\u2028\x7f\x01"\\', [1.5, [float("nan")], None], {"a": [True, -0.0]}, float("inf")])
def test_the_stand_in_writes_values_as_orjson_does(value):
    """Text is UTF-8 without needless escapes, and nothing has spaces."""
    assert plain_json.dumps(value) == orjson.dumps(value)
