"""Raw golden cases: written and read, compared, and hostile ones, which are damage and never another error."""

import io
import json

import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from artifact import raw_cases
from artifact.errors import DamagedArtifact
from artifact.golden import GoldenCase
from artifact.operations import RawLimits, make, parse
from artifact.raw_cases import RawCase, answer_error
from artifact.signature import Dim, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 3)),), {"batch": Dim(1, 4)}
)
COLUMNS = [{"name": "a", "kind": "number"}, {"name": "b", "kind": "category", "values": ["s"], "unknown": "zeros"}]
OPERATIONS = make(parse([{"table": {"columns": COLUMNS}}], [{"topk": {"k": 1}}]), SIGNATURE, {}, {})
CASE = RawCase("raw-00", {"x": {"a": 1.5, "b": "s"}}, [{"index": 2, "score": 3.0}])
X, Y = np.array([[1.5, 1]], np.float32), np.array([[1, 2, 3]], np.float32)


def golden_case(inputs=X, outputs=Y):
    return GoldenCase("raw-00", {"x": inputs}, {"onnx": {"y": outputs}}, {"y": Y.astype(np.float64)})


def replay(*cases, golden=None):
    return raw_cases.replay(OPERATIONS, cases, [golden or golden_case()], "onnx")


def changed(**values):
    """The bytes of the case, with other bytes for its keys."""
    arrays = safetensors.numpy.load(raw_cases.encode([CASE]))
    keys = {"x": "raw-00/raw/x", "answer": "raw-00/answer"}
    return safetensors.numpy.save(arrays | {keys[key]: np.frombuffer(value, np.uint8) for key, value in values.items()})


def test_they_are_what_was_written():
    """Numbers, texts and half a character too; and they pass."""
    odd = RawCase("raw-01", {"x": {"a": 0.1, "b": "\ud800"}}, None)
    assert raw_cases.decode(raw_cases.encode([CASE, odd]), OPERATIONS) == (CASE, odd)
    assert all(result.passed and result.bit_equal for result in replay(CASE))


@pytest.mark.parametrize(
    "values",
    [
        {"answer": b""},
        {"answer": b'[{"index": 2, "score": NaN}]'},
        {"answer": b'[{"index": 2, "score": 1e999}]'},
        {"answer": b"[" * 100_000},
        {"x": b"\xff"},
        {"x": b'{"a": Infinity, "b": "s"}'},
    ],
)
def test_values_that_are_none(values):
    """Not JSON, not a number, nested beyond reason."""
    with pytest.raises(DamagedArtifact, match="the raw golden cases cannot be read"):
        raw_cases.decode(changed(**values), OPERATIONS)


def test_a_pair_that_is_none(pairs):
    """A list of no texts is not two."""
    data = safetensors.numpy.save({"raw-00/raw/text": np.frombuffer(b"[]", np.uint8)})
    with pytest.raises(DamagedArtifact, match="the raw golden cases cannot be read: IndexError"):
        raw_cases.decode(data, pairs)


@pytest.fixture
def pairs():
    """Operations on two texts."""
    from fuzz.raw_models import words_tokenizer

    ids = TensorSpec("input_ids", "int64", ("batch", "length"))
    signature = Signature((ids,), SIGNATURE.outputs, {"batch": Dim(1, 2), "length": Dim(1, 16)})
    chain = [{"tokenize": {"file": "t.json", "max_tokens": 16, "pair": True}}]
    return make(parse(chain), signature, {"t.json": words_tokenizer()}, {})


@pytest.mark.parametrize("value", [b"5", b"null", b"[]", b'{"a": 1.5}', b'{"a": "1.5", "b": "s"}'])
def test_raw_values_of_another_kind(value):
    """Read, and refused by the operations: the case is named."""
    (case,) = raw_cases.decode(changed(x=value), OPERATIONS)
    with pytest.raises(DamagedArtifact, match="raw golden case raw-00 cannot be prepared here"):
        replay(case)


@pytest.mark.parametrize(
    "outputs", [np.float32(1), Y[:0], Y[0], Y[:, :2], Y[:, np.newaxis], Y.astype(np.int64), np.array([["a", "b", "c"]])]
)
def test_recorded_outputs_of_another_shape(outputs):
    """Operations on outputs take what the signature says and nothing else."""
    with pytest.raises(DamagedArtifact, match="golden case raw-00 records y as "):
        replay(CASE, golden=golden_case(outputs=np.asarray(outputs)))


@pytest.mark.parametrize(("levels", "passed"), [(0, True), (16, True), (17, False)])
def test_levels_of_a_flat_jpeg(levels, passed):
    """Decoders may differ by 16 levels of the 256 that there are, however few of them a picture has."""
    file = io.BytesIO()
    PIL.Image.new("L", (8, 8), 100).save(file, "JPEG")
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 1, 8, 8)),), (TensorSpec("y", "float32", ("batch", 3)),), {"batch": Dim(1, 4)}
    )
    chain = [
        {"decode": {"mode": "L"}},
        {"resize": {"size": [8, 8]}},
        {"to_float": {}},
        {"normalize": {"mean": [0.5], "std": [0.25]}},
    ]
    operations = make(parse(chain), signature, {}, {})
    tensor = operations.prepare({"x": file.getvalue()}, RawLimits())["x"]
    recorded = golden_case(inputs=tensor + np.float32(levels * 0.9999 / 255 / 0.25))

    (result,) = raw_cases.replay(operations, [RawCase("raw-00", {"x": file.getvalue()}, None)], [recorded], "onnx")

    assert (result.passed, result.bit_equal) == (passed, levels == 0)


def test_a_wrong_answer_is_found():
    """The error is that of the worst number, and infinite where anything else differs."""
    assert answer_error([{"score": 2.0}, 1.0], [{"score": 1.0}, 1.0]) == 1.0
    for other in ([{"score": 1.0}], [{"sore": 1.0}, 1.0], [{"score": "1"}, 1.0], [{"score": True}, 1.0], None):
        assert answer_error(other, [{"score": 1.0}, 1.0]) == float("inf")
    (wrong,) = raw_cases.decode(changed(answer=json.dumps([{"index": 1, "score": 3.0}]).encode()), OPERATIONS)
    assert [result.passed for result in replay(wrong)] == [True, False]
