"""The Open Inference Protocol: Triton's client is understood and understands, and what is wrong is refused with its name."""

import itertools
import json
import struct

import numpy as np
import pytest
import simdjson
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

from artifact.errors import InvalidInput
from artifact.signature import Dim, Signature, TensorSpec
from serving.errors import BadRequest, NotAcceptable
from serving.messages import Request
from serving.protocols.asked import Limits
from serving.protocols.oip import OipCodec

DIMS = {"batch": Dim(1, 8), "n": Dim(1, 6), "m": Dim(2, 8, 2)}
MLP = Signature(
    (TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("logits", "float32", ("batch", 4)),), {"batch": DIMS["batch"]}
)
TWO = Signature(
    (TensorSpec("ids", "int64", ("batch", "n"), (0, 99)), TensorSpec("mask", "bool", ("batch", "n"))),
    (TensorSpec("y", "float32", ("batch", "n", 3)), TensorSpec("length", "int32", ("batch",))),
    DIMS,
)
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def codec(signature=MLP, labels=None, **limits):
    return OipCodec("net", 3, signature, Limits(**limits), labels or {})


def one(dtype, shape=("batch", 3), **spec):
    """A model with one input and one output of a dtype."""
    return Signature((TensorSpec("x", dtype, shape, **spec),), (TensorSpec("y", dtype, shape),), DIMS)


def request(body, length=None, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    if length is not None:
        headers["inference-header-content-length"] = str(length)
    return Request("POST", "/v2/models/net/infer", "", {key.replace("_", "-"): value for key, value in headers.items()}, body)


def tensor(data=None, **members):
    """An input of MLP's as JSON; members that are None are left out."""
    members = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": X.ravel().tolist() if data is None else data} | members
    return {key: value for key, value in members.items() if value is not None}


def behind(data_bytes: object = 24, **members):
    """An input of MLP's whose data is behind the JSON."""
    stated = tensor(parameters={"binary_data_size": data_bytes}, **members)
    del stated["data"]
    return stated


def framed(header, *tensors):
    """A binary request out of its JSON and the bytes behind it."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return request(b"".join((header, *tensors)), len(header))


def from_client(arrays, outputs=None, *, binary=True, datatypes=None, **options):
    """A request as Triton's own client writes it."""
    inputs = []
    for name, array in arrays.items():
        datatype = (datatypes or {}).get(name) or np_to_triton_dtype(array.dtype)
        inputs.append(InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary))
    body, length = InferenceServerClient.generate_request_body(inputs, outputs=outputs, **options)
    return request(body, length)


def to_client(answer):
    """An answer as Triton's own client reads it."""
    headers = dict(answer.headers)
    length = headers.get("inference-header-content-length")
    return InferenceServerClient.parse_response_body(answer.body, header_length=length and int(length))


def received(answer, name):
    """An output as Triton's own client reads it."""
    array = to_client(answer).as_numpy(name)
    assert array is not None
    return array


DTYPES = ["bool", *(f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)), "float16", "float32", "float64"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_datatype_goes_there_and_back(dtype, binary):
    """What Triton's client sends arrives as it was, and what is answered arrives there as it was."""
    array = np.array([[0, 1, 1], [1, 0, 1]], bool) if dtype == "bool" else np.array([[0, 1, 2], [3, 125, 7]], dtype)
    protocol = codec(one(dtype))
    asked = protocol.decode(from_client({"x": array}, [InferRequestedOutput("y", binary_data=binary)], binary=binary))

    assert (asked.inputs["x"].dtype, asked.rows, asked.group) == (array.dtype, 2, ())
    np.testing.assert_array_equal(asked.inputs["x"], array)
    answered = received(protocol.encode(asked, {"y": array}), "y")
    assert answered.dtype == array.dtype
    np.testing.assert_array_equal(answered, array)


@pytest.mark.parametrize("binary", [True, False])
def test_bytes_go_there_and_back(binary):
    """BYTES elements keep their length and, in binary, zero bytes at their end."""
    words = [b"", "ä".encode(), b"x" * 300] if not binary else [b"", b"\xff\x00", b"x" * 300]
    array = np.array([words], object)
    protocol = codec(one("bytes"))
    asked = protocol.decode(from_client({"x": array}, [InferRequestedOutput("y", binary_data=binary)], binary=binary))

    assert asked.inputs["x"].tolist() == [words]
    answered = received(protocol.encode(asked, {"y": asked.inputs["x"]}), "y")
    assert [word if isinstance(word, bytes) else word.encode() for word in answered[0]] == words


@pytest.mark.parametrize(("sent", "declared"), list(itertools.product(["FP16", "BF16"], ["float32", "float64"])))
def test_half_floats_are_widened(sent, declared):
    """FP16 and BF16, each of whose values a wider float holds, are taken where that is declared."""
    values = np.array([[1.5, -2.0, 0.15625]], np.float16 if sent == "FP16" else np.float32)
    asked = codec(one(declared)).decode(from_client({"x": values}, datatypes={"x": sent}))

    assert asked.inputs["x"].dtype == declared
    np.testing.assert_array_equal(asked.inputs["x"], values.astype(declared))


def test_the_default_call_of_the_client_is_binary_both_ways():
    """Without named outputs, Triton's client asks for all of them in binary, and gets them."""
    protocol = codec(TWO)
    ids, mask = np.array([[5, 6]]), np.array([[True, False]])
    asked = protocol.decode(from_client({"mask": mask, "ids": ids}, request_id="r-7"))
    outputs = {"y": np.ones((1, 2, 3), np.float32), "length": np.array([2], np.int32)}
    answer = protocol.encode(asked, outputs)

    assert (asked.rows, asked.group) == (1, (2,))
    np.testing.assert_array_equal(asked.inputs["ids"], ids)
    np.testing.assert_array_equal(asked.inputs["mask"], mask)
    result = to_client(answer)
    assert result.get_response() == {
        "model_name": "net",
        "model_version": "3",
        "id": "r-7",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2, 3], "parameters": {"binary_data_size": 24}},
            {"name": "length", "datatype": "INT32", "shape": [1], "parameters": {"binary_data_size": 4}},
        ],
    }
    for name, array in outputs.items():
        np.testing.assert_array_equal(result.as_numpy(name), array)
    assert dict(answer.headers)["content-type"] == "application/octet-stream"


def test_json_and_binary_tensors_may_be_mixed():
    """An input in JSON may stand beside one in binary, and so may outputs."""
    protocol = codec(TWO)
    header = {
        "inputs": [
            {"name": "ids", "shape": [1, 2], "datatype": "INT64", "data": [[5, 6]]},
            {"name": "mask", "shape": [1, 2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}},
        ],
        "outputs": [{"name": "length"}, {"name": "y", "parameters": {"binary_data": True}}],
    }
    asked = protocol.decode(framed(header, b"\x01\x00"))
    answer = protocol.encode(asked, {"y": np.ones((1, 2, 3), np.float32), "length": np.array([2], np.int32)})
    outputs = to_client(answer).get_response()["outputs"]

    assert {name: array.tolist() for name, array in asked.inputs.items()} == {"ids": [[5, 6]], "mask": [[True, False]]}
    assert [output["name"] for output in outputs] == ["length", "y"]
    assert outputs[0]["data"] == [2]
    assert received(answer, "y").tolist() == [[[1, 1, 1], [1, 1, 1]]]


@pytest.mark.parametrize("data", [X.ravel().tolist(), X.tolist()])
def test_data_may_be_flat_or_nested(data):
    """Data in JSON is row-major, flat or nested as its shape; whole numbers are floats where floats are meant."""
    asked = codec().decode(request({"inputs": [tensor(data)]}))

    assert (asked.rows, asked.inputs["x"].dtype) == (2, np.float32)
    np.testing.assert_array_equal(asked.inputs["x"], X)


def test_null_is_nothing():
    """`binary_data_size` of null is as good as none: the data are in the JSON. So is an id."""
    stated = tensor(parameters={"binary_data_size": None})

    assert codec().decode(request({"inputs": [stated]})).inputs["x"].tolist() == X.tolist()
    for body in ({"id": None, "inputs": [tensor()]}, {"id": None, "outputs": None, "inputs": [stated]}):
        assert codec().decode(request(body)).rows == len(X)


def test_the_usual_json_takes_the_quick_way():
    """Flat and nested data, outputs, parameters and ids do not keep a request from the quick way."""
    protocol = codec()
    more = {"id": "a", "outputs": [{"name": "logits"}], "parameters": {"binary_data_output": True, "list": [[1]]}}
    bodies = [{"inputs": [tensor()]}, {"inputs": [tensor(X.tolist())]}, {"inputs": [tensor()], **more}]

    assert all(protocol._quick(json.dumps(body).encode(), None) for body in bodies)


def test_an_answer_in_json():
    """JSON data is flat, NaN and infinities are null, and the id is that of the request."""
    protocol = codec()
    asked = protocol.decode(request({"id": 'a"ä', "inputs": [tensor()]}))
    answer = protocol.encode(asked, {"logits": np.array([[0.1, np.nan, np.inf, -2]], np.float32)})

    assert answer.headers == [("content-type", "application/json")]
    assert answer.body.decode() == (
        '{"model_name":"net","model_version":"3","id":"a\\"ä","outputs":'
        '[{"name":"logits","datatype":"FP32","shape":[1,4],"data":[0.1,null,null,-2.0]}]}'
    )


def test_a_known_header_gives_views_of_the_body():
    """A header that was seen before is not read again; its tensors are aligned, whatever the length of the JSON."""
    protocol = codec()
    for padding in range(4):
        header = json.dumps({"inputs": [behind()]}).encode() + b" " * padding
        first = protocol.decode(framed(header, X.tobytes())).inputs["x"]
        second = protocol.decode(framed(header, (X + 1).tobytes())).inputs["x"]
        np.testing.assert_array_equal(first, X)
        np.testing.assert_array_equal(second, X + 1)
        assert first.flags.aligned
        assert len(protocol._plans) == padding + 1


def test_unaligned_views_for_whoever_copies_them():
    """Where the arrays are copied anyway, each is a view of the body, wherever it begins there; values are the same."""
    protocol = codec(unaligned=True)
    for padding in range(4):
        header = json.dumps({"inputs": [behind()]}).encode() + b" " * padding
        asked = framed(header, X.tobytes())
        array = protocol.decode(asked).inputs["x"]
        np.testing.assert_array_equal(array, X)
        assert np.shares_memory(array, np.frombuffer(asked.body, np.uint8))
        assert array.flags.aligned is (len(header) % 4 == 0)


def test_headers_with_an_id_are_not_kept():
    """An id is another one in each request, so such headers would only push out the others."""
    protocol = codec()
    protocol.decode(from_client({"x": X}, request_id="1"))

    assert not protocol._plans


def test_known_headers_are_bounded():
    """However many headers come, a bounded number is kept."""
    protocol = codec(one("float32", ("batch", "n")))
    for number in range(600):
        protocol.decode(framed({"inputs": [behind(4, shape=[1, 1])], "parameters": {"number": number}}, bytes(4)))

    assert 0 < len(protocol._plans) <= 256


def test_a_raw_request_is_one_row():
    """With a header of length 0 the body is the one tensor, one row of it, and all outputs are binary."""
    protocol = codec()
    asked = protocol.decode(request(X[0].tobytes(), 0))
    answer = protocol.encode(asked, {"logits": np.zeros((1, 4), np.float32)})

    np.testing.assert_array_equal(asked.inputs["x"], X[:1])
    assert received(answer, "logits").tolist() == [[0, 0, 0, 0]]


def test_a_raw_request_tells_one_size():
    """One size that only has a name follows from the number of bytes."""
    asked = codec(one("int16", ("batch", "n", 2))).decode(request(bytes(12), 0))

    assert (asked.inputs["x"].shape, asked.rows, asked.group) == ((1, 3, 2), 1, (3,))


def test_raw_bytes_are_one_element():
    """Raw BYTES are one element, without a length before it."""
    asked = codec(one("bytes", ("batch", 1))).decode(request(b"\x00\x01 text", 0))

    assert asked.inputs["x"].tolist() == [[b"\x00\x01 text"]]


def test_outputs_are_chosen_and_ordered():
    """Only the outputs that are named come, in that order."""
    protocol = codec(TWO)
    inputs = {"ids": np.array([[1]]), "mask": np.array([[True]])}
    outputs = {"y": np.ones((1, 1, 3), np.float32), "length": np.array([1], np.int32)}
    for names in (["length"], ["length", "y"]):
        asked = protocol.decode(from_client(inputs, [InferRequestedOutput(name) for name in names]))
        result = to_client(protocol.encode(asked, outputs)).get_response()
        assert [output["name"] for output in result["outputs"]] == names


@pytest.mark.parametrize("binary", [True, False])
def test_classification(binary):
    """The k largest of the last axis as value:index:label; ties in order, NaN last, labels as far as there are any."""
    protocol = codec(labels={"logits": ["cat", "dog", "hen"]})
    asked = protocol.decode(from_client({"x": X}, [InferRequestedOutput("logits", binary_data=binary, class_count=3)]))
    logits = np.array([[0.5, 2, -1, 2], [np.nan, 1, 3, -np.inf]], np.float32)
    answer = protocol.encode(asked, {"logits": logits})

    (output,) = to_client(answer).get_response()["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 3])
    assert [[str(item, "utf-8") if binary else item for item in row] for row in received(answer, "logits")] == [
        ["2.000000:1:dog", "2.000000:3", "0.500000:0:cat"],
        ["3.000000:2:hen", "1.000000:1:dog", "nan:0:cat"],
    ]


def test_classification_has_at_most_all_classes():
    """More classes than there are give all of them; whole numbers are written whole."""
    protocol = codec(one("uint8", ("batch", "n")))
    body = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "UINT8", "data": [0, 255]}],
        "outputs": [{"name": "y", "parameters": {"classification": 9}}],
    }
    asked = protocol.decode(request(body))
    result = json.loads(protocol.encode(asked, {"y": np.array([[0, 255]], np.uint8)}).body)

    assert result["outputs"] == [{"name": "y", "datatype": "BYTES", "shape": [1, 2], "data": ["255:1", "0:0"]}]


@pytest.mark.parametrize(
    ("parameters", "header", "priority", "timeout_s"),
    [
        ({}, None, 0, None),
        ({"priority": 2, "timeout": 1500}, None, 2, 0.0015),
        ({"timeout": 0}, "250", 0, 0.25),
        ({"timeout": 100_000}, "250", 0, 0.1),
        ({"timeout": 900_000}, "250.5", 0, 0.2505),
        ({"priority": None, "timeout": None}, None, 0, None),
        ({"sequence_id": 4, "sequence_start": True, "triton_x": "?", "mine": 1.5}, None, 0, None),
    ],
)
def test_priority_and_timeout(parameters, header, priority, timeout_s):
    """The smaller of the parameter `timeout` (µs) and the header holds; parameters that we do not know are passed over."""
    headers = {} if header is None else {"x_timeout_ms": header}
    in_json = codec().decode(request({"parameters": parameters, "inputs": [tensor()]}, **headers))
    head = json.dumps({"parameters": parameters, "inputs": [behind()]}).encode()
    binary = codec().decode(request(head + X.tobytes(), len(head), **headers))

    assert (in_json.priority, in_json.timeout_s) == (binary.priority, binary.timeout_s) == (priority, timeout_s)


def test_a_client_may_take_outputs_of_other_text():
    """Bytes that are no UTF-8 cannot be JSON, and the message says what can."""
    protocol = codec(one("bytes"))
    asked = protocol.decode(request({"inputs": [tensor(["a", "b", "c"], shape=[1, 3], datatype="BYTES")]}))

    with pytest.raises(NotAcceptable, match=r'^output "y" holds bytes that are not UTF-8; ask for it as binary data$'):
        protocol.encode(asked, {"y": np.array([[b"\xff", b"", b""]], object)})


REFUSALS = {
    "not JSON": (b'{"inputs": [', "the body is not JSON: "),
    "a list": ([], "the body is a list; a JSON object is expected"),
    "no inputs": ({}, "the request: inputs is missing; a list is expected"),
    "inputs an object": ({"inputs": {}}, "the request: inputs is an object; a list is expected"),
    "an input a number": ({"inputs": [1]}, "inputs[0] is a number; an object is expected"),
    "no name": ({"inputs": [{}]}, "inputs[0]: name is missing; a string is expected"),
    "no shape": ({"inputs": [tensor(shape=None)]}, 'input "x": shape is missing; a list is expected'),
    "a shape of booleans": (
        {"inputs": [tensor(shape=[True, 3])]},
        'input "x": shape holds True; sizes are integers of 0 or more',
    ),
    "a shape of floats": (
        {"inputs": [tensor(shape=[2.0, 3])]},
        'input "x": shape holds 2.0; sizes are integers of 0 or more',
    ),
    "a nested shape": (
        {"inputs": [tensor(shape=[[2, 3]])]},
        'input "x": shape holds [2, 3]; sizes are integers of 0 or more',
    ),
    "a negative size": ({"inputs": [tensor(shape=[-1, 3])]}, 'input "x": shape holds -1; sizes are integers of 0 or more'),
    "no datatype": ({"inputs": [tensor(datatype=None)]}, 'input "x": datatype is missing; a string is expected'),
    "an unknown datatype": (
        {"inputs": [tensor(datatype="FLOAT")]},
        (
            'input "x" has datatype "FLOAT", which is none of BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, '
            "FP16, FP32, FP64, BYTES, BF16"
        ),
    ),
    "another datatype": ({"inputs": [tensor(datatype="FP64")]}, 'input "x" is sent as FP64; the model takes FP32'),
    "BF16 in JSON": (
        {"inputs": [tensor(datatype="BF16")]},
        'input "x" is sent as BF16, which has no JSON; send FP32, or binary data',
    ),
    "no data": (
        b'{"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32"}]}',
        'input "x" has neither data nor binary_data_size; one of them is expected',
    ),
    "both": (
        {"inputs": [tensor(parameters={"binary_data_size": 24})]},
        'input "x" has both data and binary_data_size; one of them is expected',
    ),
    "binary without header": (
        {"inputs": [behind()]},
        'input "x" has binary_data_size, but the request has no header Inference-Header-Content-Length',
    ),
    "shared memory": (
        {"inputs": [tensor(parameters={"shared_memory_region": "r"})]},
        'input "x" is in shared memory, which is not offered; send its data',
    ),
    "twice": ({"inputs": [tensor(), tensor()]}, 'input "x" is there twice'),
    "another name": ({"inputs": [tensor(name="y")]}, "the model takes x; missing: x"),
    "one more": ({"inputs": [tensor(), tensor(name="y" * 200)]}, f"the model takes x; unknown: {'y' * 80}…"),
    "another rank": ({"inputs": [tensor(shape=[6])]}, 'input "x" has shape [6]; the signature says [batch, 3]'),
    "another size": ({"inputs": [tensor(shape=[3, 2])]}, 'input "x" has shape [3, 2]; the signature says [batch, 3]'),
    "huge sizes": (
        {"inputs": [tensor(shape=[2**63, 2**63])]},
        'input "x" has shape [9223372036854775808, 9223372036854775808]; the signature says [batch, 3]',
    ),
    "sizes whose product is 0 in 64 bits": (
        {"inputs": [tensor(shape=[2**32, 2**32])]},
        'input "x" has shape [4294967296, 4294967296]; the signature says [batch, 3]',
    ),
    "no rows": ({"inputs": [tensor([], shape=[0, 3])]}, 'input "x": batch is 0; the signature allows 1 to 1024'),
    "too few values": ({"inputs": [tensor([1, 2])]}, 'input "x" has 2 values; shape [2, 3] has 6'),
    "ragged": (
        {"inputs": [tensor([[1, 2, 3], [4, 5]])]},
        'input "x" has data that is neither flat nor nested as shape [2, 3]',
    ),
    "ragged, as many values": (
        {"inputs": [tensor([[1, 2], [3, 4, 5, 6]])]},
        'input "x" has data that is neither flat nor nested as shape [2, 3]',
    ),
    "flat and nested": (
        {"inputs": [tensor([1, 2, 3, 4, 5, [6]])]},
        'input "x" has data that is neither flat nor nested as shape [2, 3]',
    ),
    "nested one level more": (
        {"inputs": [tensor([[[1], 2, 3], [4, 5, 6]])]},
        'input "x" has data that is neither flat nor nested as shape [2, 3]',
    ),
    "a boolean": ({"inputs": [tensor([1, 2, 3, 4, 5, True])]}, 'input "x" holds true, which is not FP32'),
    "null": ({"inputs": [tensor([1, 2, 3, 4, 5, None])]}, 'input "x" holds null, which is not FP32'),
    "text": ({"inputs": [tensor([1, 2, 3, 4, 5, "[" * 99])]}, f'input "x" holds "{"[" * 79}…, which is not FP32'),
    "an object": ({"inputs": [tensor([1, 2, 3, 4, 5, {}])]}, 'input "x" holds an object, which is not FP32'),
    "overflow": ({"inputs": [tensor([1, 2, 3, 4, 5, 1e39])]}, 'input "x" holds 1e+39, which FP32 cannot hold'),
    "id": ({"id": 7, "inputs": [tensor()]}, "the request: id is a number; a string is expected"),
    "parameters": ({"parameters": [], "inputs": [tensor()]}, "the request: parameters is a list; an object is expected"),
    "priority": (
        {"parameters": {"priority": -1}, "inputs": [tensor()]},
        "parameters: priority is -1; an integer of 0 or more is expected",
    ),
    "timeout": (
        {"parameters": {"timeout": 1.5}, "inputs": [tensor()]},
        "parameters: timeout is a number; an integer is expected",
    ),
    "binary_data_output": (
        {"parameters": {"binary_data_output": 1}, "inputs": [tensor()]},
        "parameters: binary_data_output is a number; a boolean is expected",
    ),
    "an output a string": ({"outputs": ["y"], "inputs": [tensor()]}, "outputs[0] is a string; an object is expected"),
    "an unknown output": (
        {"outputs": [{"name": "y"}], "inputs": [tensor()]},
        "the model gives logits; unknown: y",
    ),
    "an output twice": (
        {"outputs": [{"name": "logits"}, {"name": "logits"}], "inputs": [tensor()]},
        'output "logits" is asked for twice',
    ),
    "classes": (
        {"outputs": [{"name": "logits", "parameters": {"classification": True}}], "inputs": [tensor()]},
        'output "logits": classification is a boolean; an integer is expected',
    ),
    "an output in shared memory": (
        {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "r"}}], "inputs": [tensor()]},
        'output "logits" is to be put into shared memory, which is not offered',
    ),
    "deep": (
        b'{"inputs": ' + b"[" * 70 + b"]" * 70 + b"}",
        "the body is nested 71 levels deep; at most 64 are read (setting max_json_depth)",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_json_that_is_refused(case):
    """A request that is not right is refused, and the message names what, where it stands, and what was expected."""
    body, message = REFUSALS[case]
    protocol = codec()
    for _ in range(2):  # the second time the parser must have let go of what the first one held
        with pytest.raises((BadRequest, InvalidInput)) as refusal:
            protocol.decode(request(body))
        assert str(refusal.value) == message or (case == "not JSON" and str(refusal.value).startswith(message))
    assert protocol.decode(request({"inputs": [tensor()]})).rows == 2


@pytest.mark.parametrize(
    ("dtype", "datatype", "value", "message"),
    [
        ("int64", "INT64", 1.0, "holds 1.0, which is not INT64"),
        ("int64", "INT64", True, "holds true, which is not INT64"),
        ("int64", "INT64", 2**63, "holds 9223372036854775808, which INT64 cannot hold"),
        ("int8", "INT8", 128, "holds 128, which INT8 cannot hold"),
        ("uint8", "UINT8", -1, "holds -1, which UINT8 cannot hold"),
        ("uint64", "UINT64", -1, "holds -1, which UINT64 cannot hold"),
        ("bool", "BOOL", 1, "holds 1, which is not BOOL"),
        ("float16", "FP16", 65520, "holds 65520.0, which FP16 cannot hold"),
        ("float32", "FP16", 1e5, "holds 100000.0, which FP16 cannot hold"),
        ("bytes", "BYTES", 1, "holds 1, which is not BYTES"),
    ],
)
def test_values_that_the_datatype_cannot_hold(dtype, datatype, value, message):
    """No value is changed to fit: not floats to integers, not booleans to numbers, not those beyond the range of the type."""
    body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": datatype, "data": [value] * 3}]}
    with pytest.raises(BadRequest) as refusal:
        codec(one(dtype)).decode(request(body))

    assert str(refusal.value) == f'input "x" {message}'


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "float64"])
def test_the_largest_integers(dtype):
    """Integers are exact up to the last bit; floats take those that only unsigned integers of 64 bits hold."""
    value = 2**64 - 1 if dtype in {"uint64", "float64"} else np.iinfo(dtype).max
    datatype = np_to_triton_dtype(np.dtype(dtype))
    body = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": datatype, "data": [value, 0, 1]}]}
    protocol = codec(one(dtype))

    assert protocol._quick(json.dumps(body).encode(), None)
    assert protocol.decode(request(body)).inputs["x"].tolist() == [[int(value) if dtype != "float64" else float(value), 0, 1]]


BINARY_REFUSALS = {
    "bytes left": (
        framed({"inputs": [behind()]}, bytes(25)),
        "the body has 25 bytes behind its JSON, which states 24",
    ),
    "bytes missing": (framed({"inputs": [behind()]}, bytes(23)), "the body has 23 bytes behind its JSON, which states 24"),
    "another size": (
        framed({"inputs": [behind(shape=[1, 3])]}, bytes(24)),
        'input "x" has 24 bytes; shape [1, 3] of FP32 has 12',
    ),
    "a size that is none": (
        framed({"inputs": [behind("24")]}, bytes(24)),
        'input "x": binary_data_size is a string; an integer is expected',
    ),
    "a negative size": (
        framed({"inputs": [behind(-24)]}, bytes(24)),
        'input "x": binary_data_size is -24; an integer of 0 or more is expected',
    ),
    "a length beyond the body": (
        request(b"{}", 3),
        'header Inference-Header-Content-Length is "3"; a number from 0 to the 2 bytes of the body is expected',
    ),
    "a negative length": (
        request(b"{}", -1),
        'header Inference-Header-Content-Length is "-1"; a number from 0 to the 2 bytes of the body is expected',
    ),
    "a length that is none": (
        request(b"{}", "²"),
        'header Inference-Header-Content-Length is "²"; a number from 0 to the 2 bytes of the body is expected',
    ),
    "a timeout that is none": (
        request({"inputs": [tensor()]}, x_timeout_ms="soon"),
        'header x-timeout-ms is "soon"; a positive number of milliseconds is expected',
    ),
    "a timeout of nothing": (
        request({"inputs": [tensor()]}, x_timeout_ms="0"),
        'header x-timeout-ms is "0"; a positive number of milliseconds is expected',
    ),
    "raw, too long": (request(bytes(24), 0), 'input "x" has 24 bytes; shape [1, 3] of FP32 has 12'),
}


@pytest.mark.parametrize("case", BINARY_REFUSALS)
def test_binary_requests_that_are_refused(case):
    """Bytes that do not fit what the JSON or the header states are refused with both numbers."""
    sent, message = BINARY_REFUSALS[case]
    with pytest.raises(BadRequest) as refusal:
        codec().decode(sent)

    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("signature", "body", "message"),
    [
        (TWO, b"", "the model takes ids, mask; a request without JSON can hold one input only"),
        (
            one("float32", ("batch", "n", "m")),
            bytes(16),
            'input "x" has sizes that its bytes do not tell: n, m; send its shape in JSON before them',
        ),
        (
            one("float32", ("batch", "n", 3)),
            bytes(16),
            'input "x" has 16 bytes; shape [1, n, 3] of FP32 has a multiple of 12',
        ),
        (one("bool"), b"\x00\x01\x02", 'input "x" holds the byte 2; a BOOL is 0 or 1'),
    ],
)
def test_raw_requests_that_are_refused(signature, body, message):
    """A raw body is refused where its shape, or the input that it is for, cannot be told."""
    with pytest.raises(BadRequest) as refusal:
        codec(signature).decode(request(body, 0))

    assert str(refusal.value) == message


@pytest.mark.parametrize("data", [struct.pack("<I", 5) + b"four", b"\x00\x00", b"", struct.pack("<I", 0) * 4])
def test_bytes_elements_that_are_refused(data):
    """BYTES elements must fill their bytes exactly, one for each place of the shape."""
    stated = {"name": "x", "shape": [1, 3], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    with pytest.raises(BadRequest) as refusal:
        codec(one("bytes")).decode(framed({"inputs": [stated]}, data))

    assert (
        str(refusal.value) == f'input "x" has {len(data)} bytes, which are not 3 BYTES elements, each after its length in 4 bytes'
    )


def test_limits():
    """At most max_tensors inputs, max_rows rows and max_json_depth levels are read."""
    with pytest.raises(BadRequest, match=r"^the request has 3 inputs; at most 2 are read \(setting max_tensors\)$"):
        codec(max_tensors=2).decode(request({"inputs": [tensor()] * 3}))
    with pytest.raises(InvalidInput, match=r'^input "x": batch is 2; the signature allows 1 to 1$'):
        codec(max_rows=1).decode(request({"inputs": [tensor()]}))
    shallow = codec(max_json_depth=4)
    assert shallow.decode(request({"inputs": [tensor()]})).rows == 2
    with pytest.raises(BadRequest, match=r"^the body is nested 5 levels deep; at most 4 are read"):
        shallow.decode(request({"inputs": [tensor(X.tolist())]}))
    with pytest.raises(BadRequest, match=r"^the body is nested 6 levels deep; at most 4 are read"):
        shallow.decode(request({"parameters": {"a": {"b": {"c": {"d": {}}}}}, "inputs": [tensor()]}))


@pytest.mark.parametrize(("length", "expected"), [(None, 30), ("0", 0), ("7", 7), ("31", 30), ("-1", 30), ("9" * 9999, 30)])
def test_bytes_that_are_parsed(length, expected):
    """Only the JSON of a request is parsed: all of it, or as much as the header says that there is."""
    assert codec().parsed_bytes(request(b" " * 30, length)) == expected


def test_a_parser_that_is_still_held_is_replaced():
    """Whoever keeps a part of a document of the same thread does not stop the next request."""
    protocol = codec()
    held = protocol._parsers.parse(b'{"a": [1]}')["a"]

    assert protocol._quick(json.dumps({"inputs": [tensor()]}).encode(), None)
    assert isinstance(held, simdjson.Array)


def test_a_list_longer_than_simdjson_counts():
    """A list of more than 2^24 elements, which simdjson does not count to the end, is read whole."""
    count = (1 << 24) + 5
    signature = Signature((TensorSpec("x", "uint8", (count,)),), (TensorSpec("y", "uint8", (1,)),), {})
    zeros = b"[%s1]" % (b"0," * (count - 1))
    body = b'{"inputs":[{"name":"x","shape":[%d],"datatype":"UINT8","data":%s}]}' % (count, zeros)
    protocol = codec(signature)

    assert protocol._quick(body, None)
    array = protocol.decode(request(body)).inputs["x"]
    assert (array.shape, int(array.sum())) == ((count,), 1)
