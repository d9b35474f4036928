"""Whatever the bytes are, a codec answers with arrays that the signature allows, or with an error that is the client's."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from artifact.errors import InvalidInput
from artifact.signature import Dim, Signature, TensorSpec
from serving.errors import ServingError
from serving.messages import Request
from serving.protocols.asked import Limits
from serving.protocols.compression import decompress
from serving.protocols.json_body import nesting
from serving.protocols.oip import OipCodec
from serving.protocols.predictions import PredictionsCodec

ONE = Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),), {"batch": Dim(1, 4)})
TWO = Signature(
    (TensorSpec("a", "int8", ("batch", "n")), TensorSpec("b", "bool", ("batch",))),
    (TensorSpec("y", "float32", ("batch", 2)), TensorSpec("z", "int64", ("batch",))),
    {"batch": Dim(1, 4), "n": Dim(1, 3)},
)
SIGNATURES = {"one": ONE, "two": TWO}
OIP = {name: OipCodec(name, 1, signature, Limits(), {}) for name, signature in SIGNATURES.items()}
PREDICTIONS = {name: PredictionsCodec(name, 1, signature, Limits()) for name, signature in SIGNATURES.items()}
MODELS = st.sampled_from(sorted(SIGNATURES))
few = settings(max_examples=150, deadline=None)


def requested(body, headers=None):
    return Request("POST", "/", "", headers or {}, body)


def require_told(refusal):
    """It is the client's fault, and its message does not repeat all that the client sent."""
    assert getattr(refusal, "status", 400) in {400, 406, 413, 415}
    assert len(str(refusal)) < 1000


def decoded(codec, signature, sent):
    """What a codec makes of a request: None if it is refused, and else what keeps the promises of `Asked`."""
    try:
        asked = codec.decode(sent)
    except (ServingError, InvalidInput) as refusal:
        require_told(refusal)
        return None
    signature.validate_shapes(asked.inputs, Limits().max_rows)
    assert asked.rows == len(next(iter(asked.inputs.values())))
    assert all(array.flags.c_contiguous and array.flags.aligned for array in asked.inputs.values())
    return asked


sizes = st.one_of(st.integers(-2, 5), st.integers(2**31, 2**64), st.booleans(), st.floats(0, 4), st.none())
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-300, 300), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=12
)
parameters = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "classification", "binary_data_output", "priority", "timeout", "q"]),
    scalars,
    max_size=3,
)


def members(**strategies):
    """Objects with some of these members."""
    return st.fixed_dictionaries({}, optional=strategies)


datatypes = st.sampled_from(["FP32", "FP16", "BF16", "INT8", "BOOL", "BYTES", "UINT64", "x"])
tensors = members(
    name=st.sampled_from(["x", "a", "b", "?"]) | values,
    shape=st.lists(sizes, max_size=4) | values,
    datatype=datatypes | values,
    data=values,
    parameters=parameters | values,
)
documents = members(
    id=values,
    inputs=st.lists(tensors | values, max_size=3) | values,
    outputs=st.lists(members(name=st.sampled_from(["y", "z", "?"]) | values, parameters=parameters) | values, max_size=3)
    | values,
    parameters=parameters | values,
)


@few
@given(model=MODELS, body=st.binary(max_size=200), length=st.none() | st.integers(-1, 210).map(str) | st.text(max_size=5))
def test_any_bytes_to_oip(model, body, length):
    """Arbitrary bytes, with an arbitrary header, are refused or read."""
    headers = {} if length is None else {"inference-header-content-length": length}
    decoded(OIP[model], SIGNATURES[model], requested(body, headers))


@few
@given(model=MODELS, document=documents, rest=st.binary(max_size=40), is_binary=st.booleans())
def test_any_document_to_oip(model, document, rest, is_binary):
    """JSON that is nearly a request is refused or read, and what is read can be answered."""
    body = json.dumps(document).encode()
    headers = {"inference-header-content-length": str(len(body))} if is_binary else {}
    asked = decoded(OIP[model], SIGNATURES[model], requested(body + rest if is_binary else body, headers))
    if asked is not None:
        outputs = {spec.name: np.ones(spec.concrete({"batch": asked.rows}), spec.dtype) for spec in SIGNATURES[model].outputs}
        assert OIP[model].encode(asked, outputs).status == 200


CONTENT_TYPES = [None, "application/json", "application/x-npy", "application/octet-stream"]


@few
@given(
    model=MODELS,
    body=st.binary(max_size=200) | values.map(lambda value: json.dumps({"inputs": value}).encode()),
    content_type=st.sampled_from(CONTENT_TYPES) | st.text(max_size=20),
    accept=st.none() | st.text(max_size=20) | st.sampled_from(["*/*", "application/x-npy;q=0.3, */*;q=0.2"]),
    timeout=st.none() | st.text(max_size=8),
)
def test_any_bytes_to_predictions(model, body, content_type, accept, timeout):
    """Arbitrary bodies and headers are refused or read."""
    named = {"content-type": content_type, "accept": accept, "x-timeout-ms": timeout}
    headers = {name: value for name, value in named.items() if value is not None}
    decoded(PREDICTIONS[model], SIGNATURES[model], requested(body, headers))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def oip_binary(array):
    stated = {"name": "x", "shape": array.shape, "datatype": "FP32", "parameters": {"binary_data_size": array.nbytes}}
    head = json.dumps({"inputs": [stated], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    return head + array.tobytes(), {"inference-header-content-length": str(len(head))}


def oip_json(array, *, nested=True):
    data = array.tolist() if nested else array.ravel().tolist()
    return json.dumps({"inputs": [{"name": "x", "shape": array.shape, "datatype": "FP32", "data": data}]}).encode(), {}


ARRAYS = st.integers(1, 4).flatmap(
    lambda rows: st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2 * rows, max_size=2 * rows)
).map(lambda numbers: np.array(numbers, np.float32).reshape(-1, 2))  # fmt: skip

WRITERS = {
    "oip binary": (OIP["one"], oip_binary),
    "oip JSON": (OIP["one"], oip_json),
    "oip flat JSON": (OIP["one"], lambda array: oip_json(array, nested=False)),
    "JSON": (PREDICTIONS["one"], lambda array: (json.dumps({"inputs": {"x": array.tolist()}}).encode(), {})),
    "npy": (PREDICTIONS["one"], lambda array: (npy(array), {"content-type": "application/x-npy"})),
    "raw": (PREDICTIONS["one"], lambda array: (array.tobytes(), {"content-type": "application/octet-stream"})),
}


@pytest.mark.parametrize("form", WRITERS)
@few
@given(array=ARRAYS)
def test_what_is_sent_arrives(form, array):
    """Every finite float32 arrives to the last bit, in every form; the sign of a zero, too."""
    codec, write = WRITERS[form]

    asked = decoded(codec, ONE, requested(*write(array)))
    assert asked is not None
    assert asked.inputs["x"].tobytes() == array.tobytes()


@pytest.mark.parametrize("form", WRITERS)
@few
@given(
    array=ARRAYS,
    at=st.integers(0, 400),
    change=st.binary(max_size=3) | st.sampled_from([b"[", b"]", b'"', b",", b"-", b"\\", b"1e999", b"null", b"true"]),
    removed=st.integers(0, 3),
)
def test_what_is_damaged_is_refused_or_read(form, array, at, change, removed):
    """A request with some bytes changed, lost or added never breaks a codec."""
    codec, write = WRITERS[form]
    body, headers = write(array)
    at %= len(body)
    decoded(codec, ONE, requested(body[:at] + change + body[at + removed :], headers))


@few
@given(document=documents, prediction=values)
@example(document={"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1], [2]]}]}, prediction=[[[1], 2]])
@example(document={"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[], [1, 2, 3, 4]]}]}, prediction=[])
@example(document={"inputs": [{"name": "x", "shape": [[1, 2]], "datatype": "FP32", "data": ["[", 2]}]}, prediction=[["[", 1]])
def test_both_ways_agree(document, prediction):
    """What the quick way reads, the exact way reads too, and the same."""
    body, codec = json.dumps(document).encode(), OIP["one"]
    if (quick := codec._quick(body, None)) is not None:
        exact = codec._exact(body, None)
        assert (quick.rows, quick.group, quick.priority, quick.timeout_s) == (
            exact.rows,
            exact.group,
            exact.priority,
            exact.timeout_s,
        )
        assert (quick.reply.form, quick.reply.id) == (exact.reply.form, exact.reply.id)
        assert quick.inputs["x"].tobytes() == exact.inputs["x"].tobytes()
    body = json.dumps({"inputs": prediction}).encode()
    if (read := PREDICTIONS["one"]._quick(body)) is not None:
        assert read[0]["x"].tobytes() == PREDICTIONS["one"]._exact(body)[0]["x"].tobytes()


def depth(value):
    """How deep a value is nested, by its definition."""
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@few
@given(
    value=st.recursive(st.text('[]{}"\\a', max_size=6), lambda inner: st.lists(inner) | st.dictionaries(st.text('["\\'), inner))
)
def test_the_depth_of_json_is_exact(value):
    """Brackets, quotes and backslashes in strings are no lists and objects."""
    assert nesting(json.dumps(value).encode()) == depth(value)


@few
@given(body=st.binary(max_size=60), encoding=st.sampled_from(["gzip", "deflate", "deflate, gzip"]) | st.text(max_size=12))
def test_any_bytes_to_decompress(body, encoding):
    """Arbitrary bytes under an arbitrary encoding are unpacked within the limit, or refused."""
    try:
        assert len(decompress(body, encoding, 1000)) <= 1000
    except ServingError as refusal:
        require_told(refusal)


def test_threads_share_a_codec():
    """Requests that are decoded in many threads at once each get their own arrays."""
    codec = OIP["one"]

    def check(number):
        array = np.full((1 + number % 4, 2), number, np.float32)
        asked = codec.decode(requested(*(oip_json if number % 2 else oip_binary)(array)))
        return asked.inputs["x"].tobytes() == array.tobytes()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(check, range(2000)))
