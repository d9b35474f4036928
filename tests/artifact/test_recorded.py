"""Arrays are read from safetensors bytes as its own library reads them, and nothing else is."""

import json

import numpy as np
import pytest
import safetensors.numpy

from artifact.recorded import read_arrays

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
ARRAYS = {dtype: np.random.default_rng(0).integers(0, 2, (3, 5)).astype(dtype) for dtype in DTYPES}


def file(header, content=b"", *, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + content


def entry(begin, end, shape=(1,), dtype="U8"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "arrays",
    [
        ARRAYS,
        {
            "scalar": np.array(2.5),
            "empty": np.zeros((0, 3), np.float32),
            "ü/x": np.array([-0.0, np.nan, np.inf, 1e-45], np.float32),
        },
        {},
    ],
    ids=["dtypes", "shapes", "none"],
)
def test_arrays_are_those_that_the_library_reads(arrays):
    """Names, dtypes, shapes and bytes are the same, and each array can be written to."""
    data = safetensors.numpy.save(arrays, metadata={"a": "b"})
    found, expected = read_arrays(data), safetensors.numpy.load(data)

    assert found.keys() == expected.keys() == arrays.keys()
    for name, array in found.items():
        assert (array.dtype, array.shape, array.tobytes()) == (
            expected[name].dtype,
            expected[name].shape,
            expected[name].tobytes(),
        )
        assert array.flags.writeable
        assert array.flags.aligned


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        file({}, length=3),
        file({}, length=2**63),
        file({}, b"x"),
        file(b"[]"),
        file(b"5"),
        file(b"{"),
        file({"a": 5}),
        file({"a": {"dtype": "U8", "shape": [1]}}, b"x"),
        file({"a": entry(0, 1, dtype="F8")}, b"x"),
        file({"a": entry(0, 1, dtype="I64")}, b"x"),
        file({"a": entry(0, 1, (2,))}, b"x"),
        file({"a": entry(0, 1, (-1, -1))}, b"x"),
        file({"a": entry(0, 1, (True,))}, b"x"),
        file({"a": entry(0, 2)}, b"x"),
        file({"a": entry(1, 2)}, b"xy"),
        file({"a": entry(0, 1), "b": entry(0, 1)}, b"x"),
        file({"a": entry(0, 1), "b": entry(2, 3)}, b"xyz"),
        file({"a": entry(1, 0)}, b"x"),
        file({"a": entry("0", "1")}, b"x"),
        file(b"[" * 100_000),
    ],
    ids=range(22),
)
def test_what_is_no_such_file(data):
    """A file that is cut, overlaps, has gaps, or states what we do not know, is refused."""
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError, RecursionError)):
        read_arrays(data)
