"""Whatever the bytes, reading ends in a checkpoint or a CheckpointError."""

import tempfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkpoints import CheckpointError, KeysDoNotMatch, match_keys, read, recognise, weights_digest

BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
MAGICS = [
    b"",
    b"PK\x03\x04",
    b"\x80\x02",
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
    b"\x08\x08\x12",
    b"\x10" + bytes(7) + b"{",
    b"{",
]


def valid_files():
    state = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(2)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        for zipped in (True, False):
            torch.save({"model": state, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
            yield path.read_bytes()
        safetensors.torch.save_file(state, path)
        yield path.read_bytes()


VALID = list(valid_files())


def read_or_refuse(path):
    recognise(path)
    try:
        checkpoint = read(path)
    except CheckpointError:
        return
    for weights in checkpoint.weight_sets.values():
        weights_digest(weights.tensors)


@given(st.sampled_from(MAGICS), st.binary(max_size=300))
@BOUNDED
def test_arbitrary_bytes(tmp_path, magic, data):
    """Arbitrary bytes after any magic number are read or refused, never anything else."""
    path = tmp_path / "best.pth"
    path.write_bytes(magic + data)

    read_or_refuse(path)


@pytest.mark.parametrize("whole", VALID, ids=["zip", "legacy", "safetensors"])
@given(data=st.data())
@BOUNDED
def test_mutated_checkpoints(tmp_path, whole, data):
    """A valid checkpoint with bytes changed, dropped or added is read or refused, never anything else."""
    path = tmp_path / "best.pth"
    mutated = bytearray(whole)
    for at, byte in data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=4)):
        mutated[at] = byte
    cut = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    path.write_bytes(bytes(mutated[:cut]) + data.draw(st.binary(max_size=8)))

    read_or_refuse(path)


NAMES = st.lists(st.sampled_from(["module", "_orig_mod", "model", "a", "b", "weight", "n_averaged"]), min_size=1, max_size=4).map(
    ".".join
)
SHAPES = st.dictionaries(NAMES, st.sampled_from([(), (1,), (2, 3)]), max_size=6)


@given(SHAPES, SHAPES)
@BOUNDED
def test_a_match_is_an_exact_bijection(file, model):
    """Whatever the keys, a match covers both sides with equal shapes, and a mismatch says how they differ."""
    try:
        match = match_keys(file, model)
    except KeysDoNotMatch as error:
        differences = (error.missing, error.unexpected, error.mismatched)
    else:
        assert_is_bijection(match, file, model)
        return

    assert any(differences)


def assert_is_bijection(match, file, model):
    assert sorted(match.mapping.values()) == sorted(model)
    assert sorted([*match.mapping, *match.ignored]) == sorted(file)
    assert all(file[old] == model[new] for old, new in match.mapping.items())


@given(SHAPES, st.sampled_from(["module.", "_orig_mod.", "net.", "module._orig_mod."]))
@BOUNDED
def test_a_wrapped_model_is_always_found(model, prefix):
    """Keys behind one wrapper always match the model that was wrapped."""
    match = match_keys({prefix + key: shape for key, shape in model.items()}, model)

    assert match.mapping == {prefix + key: key for key in model}
