"""Whatever plain values are saved, the same come back."""

import random
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoints.keeping.formats import files_of
from checkpoints.keeping.snapshot import Snapshotter
from checkpoints.kinds import Kind
from checkpoints.torch_file import load_torch_file

MODEL = torch.nn.Linear(1, 1)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 1999), 1 << 1999),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.text(alphabet=st.characters(categories=["Cs", "Lu"])),  # halves of characters too
    st.binary(),
    st.sampled_from([torch.float16, torch.device("cpu"), torch.Size([2, 3])]),
)
keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.tuples(st.integers(), st.text()))
structures = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(keys, inner, max_size=4).map(OrderedDict),
        st.frozensets(keys, max_size=4),
        st.sets(keys, max_size=4),
        st.lists(st.text(), max_size=4).map(Counter),
        st.binary().map(bytearray),
    ),
    max_leaves=20,
)


def written_and_read(value, path):
    snapshot = Snapshotter().gather(MODEL, extra={"value": value}).copy()
    _, state = files_of(snapshot, "step-00000001", "safetensors", {})
    with path.open("wb") as stream:
        state.produce(stream)
    return load_torch_file(path, Kind.TORCH_ZIP)["extra"]["value"]


def told(value):
    """Types and values; repr tells -0.0 from 0.0, and one nan is like the other. Sets have no order."""
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, value))
    if isinstance(value, dict):
        return type(value), [(told(key), told(one)) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [told(one) for one in value]
    return type(value), repr(value)


@settings(max_examples=60, deadline=None)
@given(value=structures)
def test_what_is_taken_comes_back_the_same(tmp_path_factory, value):
    """Through the file, our scan and torch's safe reader: types, order, signs."""
    found = written_and_read(value, tmp_path_factory.mktemp("plain") / "state.pth")
    assert told(found) == told(value)


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_arrays_of_every_number_come_back(tmp_path, kind):
    """And single numbers of NumPy; in either byte order (as NumPy reads it: in this machine's), with gaps, and of no elements."""
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    for one in (
        array,
        array.T[::2],
        array[:0],
        array[0, 0, 0],
        array.astype(array.dtype.newbyteorder(">")),
        np.asfortranarray(array),
    ):
        found = written_and_read([one], tmp_path / "state.pth")[0]
        assert type(found) is type(one)
        assert (found.dtype, found.shape) == (one.dtype.newbyteorder("="), one.shape)
        assert np.array_equal(found, one)


def test_generators_of_ones_own_come_back(tmp_path):
    """Python's and NumPy's states are plain values."""
    for state in (random.Random(1).getstate(), np.random.default_rng(2).bit_generator.state, np.random.Philox(3).state):
        found = written_and_read(state, tmp_path / "state.pth")
        assert repr(found) == repr(state)
