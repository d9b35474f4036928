"""What is sent is what was meant, and what comes back is read, in every protocol."""

import json

import numpy as np
import pytest

from artifact.signature import Dim, Signature, TensorSpec
from bench import inputs, payloads, target
from bench.errors import NotAsked, WrongAnswer
from bench.payloads import PROTOCOLS, Body, Payload
from bench.target import Target

X = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
ONE = Signature((TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),), {"batch": Dim(1, 8)})
Y = ONE.outputs
HERE = Target("here", 8080, "/api", "m/1", "a b", ONE, {})
JSON = {"content-type": "application/json; charset=utf-8"}


def refused(*asked):
    """Why requests cannot be built."""
    with pytest.raises(NotAsked) as caught:
        payloads.build(*asked)
    return str(caught.value)


@pytest.mark.parametrize("model", ["half", "mixed", "one", "whole"])
@pytest.mark.parametrize("protocol", [key for key, protocol in PROTOCOLS.items() if protocol.write is not None])
def test_our_server_takes_it_and_its_answer_is_read(served, protocol, model):
    """Made-up inputs of every dtype come back as they were sent, from a model that gives back what it gets."""
    found = target.look(f"http://127.0.0.1:{served.port}", model)
    rows = 1 if model == "whole" else 3
    arrays = inputs.made_up(found.signature, rows, different=2)
    if len(arrays[0]) > 1 and PROTOCOLS[protocol].one_input:
        names = ", ".join(arrays[0])
        wanted = f"--protocol {protocol} has a place for one input, the model takes {names}: use oip-binary"
        assert refused(protocol, found, arrays) == wanted
        return
    sent = payloads.build(protocol, found, arrays)

    assert [payload.rows for payload in sent] == [rows, rows]
    for payload, expected in zip(sent, arrays, strict=True):
        _, headers, content = target.ask(found.host, found.port, payload)
        answer = payloads.read_answer(protocol, headers, content, found.signature.outputs)
        assert [*answer] == [f"{name}_back" for name in expected]
        for name, array in expected.items():
            assert answer[f"{name}_back"].dtype == array.dtype
            assert np.array_equal(answer[f"{name}_back"], array.ravel())


def test_the_answer_has_the_form_of_the_request(served):
    """Binary protocols ask for binary answers."""
    found = target.look(f"http://127.0.0.1:{served.port}", "one")
    arrays = inputs.made_up(found.signature, different=1)
    kinds = {}
    for protocol in [key for key, protocol in PROTOCOLS.items() if protocol.write is not None]:
        headers = target.ask(found.host, found.port, payloads.build(protocol, found, arrays)[0])[1]
        kinds[protocol] = headers["content-type"], "inference-header-content-length" in headers

    assert kinds == {
        "oip-binary": ("application/octet-stream", True),
        "oip-json": ("application/json", False),
        "predictions-json": ("application/json", False),
        "predictions-npy": ("application/x-npy", False),
        "predictions-raw": ("application/octet-stream", False),
    }


def test_the_bytes_of_a_request():
    """A request is whole: path with its version, host, the protocol's headers and the user's, and the length of the body."""
    (payload,) = payloads.build("predictions-json", HERE, [{"x": X}], [("X-A", "1"), ("content-type", "text/x"), ("x-a", "2")])
    request = payloads.request(payload, "here", 8080)

    assert (payload.path, payload.rows, request.rows) == ("/api/predictions/m%2F1/a%20b", 3, 3)
    assert request.content == (
        b"POST /api/predictions/m%2F1/a%20b HTTP/1.1\r\nHost: here:8080\r\ncontent-type: text/x\r\nx-a: 2\r\n"
        b'Content-Length: 48\r\n\r\n{"inputs":{"x":[[1.0,2.0],[3.0,4.0],[5.0,6.0]]}}'
    )
    assert payloads.build("oip-json", HERE, [{"x": X}])[0].path == "/api/v2/models/m%2F1/versions/a%20b/infer"


def test_a_host_in_a_request():
    """An IPv6 address stands in brackets, port 80 is left out, a user may say another host, and a GET has no length."""
    get = Payload("/", {}, b"", 1, "GET")

    assert payloads.request(get, "::1", 80).content == b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n"
    assert payloads.request(Payload("/", {"host": "b"}, b"", 1, "POST"), "a", 81).content == (
        b"POST / HTTP/1.1\r\nhost: b\r\nContent-Length: 0\r\n\r\n"
    )


def test_arrays_are_sent_row_by_row_and_little_endian():
    """However an array lies in memory, its bytes are the protocol's."""
    plain = payloads.build("oip-binary", HERE, [{"x": X}])[0].content

    for array in (np.asfortranarray(X), X.astype(">f4"), np.repeat(X, 2, axis=1)[:, ::2]):
        assert payloads.build("oip-binary", HERE, [{"x": array}])[0].content == plain


def test_rows_are_the_batch():
    """Where the first axis is no batch, a request is one row; so is a file as it is."""
    whole = Target("here", 80, "", "m", None, Signature((TensorSpec("x", "float32", (3, 2)),), Y), {})

    assert payloads.build("oip-json", whole, [{"x": X}])[0].rows == 1
    assert payloads.build("predictions-image", HERE, [Body(b"image", {})])[0].rows == 1


def test_what_cannot_be_sent():
    """Files go with the protocols that send files, tensors with the others; framing is the generator's own affair."""
    file, tensors = [Body(b"a", {})], [{"x": X}]

    assert refused("oip-json", HERE, file) == (
        "--protocol oip-json sends tensors, not files as they are: give --input as json, npy or npz"
    )
    wanted = "--protocol predictions-image sends files as they are, and there is none: give --input FILE, or a folder"
    assert refused("predictions-image", HERE, tensors) == refused("predictions-image", HERE, []) == wanted
    assert refused("oip-binary", HERE, [{"x": X.astype("U4")}]) == (
        f"input x (<U4) has no datatype in the Open Inference Protocol: these have: {', '.join(payloads.DATATYPES)}"
    )
    assert refused("oip-json", HERE, tensors, [("Connection", "close")]) == (
        "--header Connection says how a request is sent, which is the load generator's own affair: leave it out"
    )
    assert refused("oip-json", HERE, tensors, [("A", "é")]) == "--header A holds characters that are not printable ASCII: 'é'"


def test_answers_of_other_servers():
    """Other servers may answer in JSON where binary was asked for, in other orders, and with outputs that are no numbers."""
    specs = (TensorSpec("a", "int64", ("batch",)), TensorSpec("b", "float32", ("batch",)))
    a = {"name": "a", "datatype": "INT64", "shape": [2], "data": [[1], [2]]}
    text = {"name": "t", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}
    b = {"name": "b", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"outputs": [text, b, a]}).encode()
    content = head + b"\1\0\0\0t" + np.array([0.5, 1.5], np.float32).tobytes()
    found = payloads.read_answer("oip-binary", {"inference-header-content-length": str(len(head))}, content, specs)
    nothing = payloads.read_answer("predictions-json", JSON, b'{"outputs": {"y": [[null, 1]]}}', Y)["y"]

    assert [(name, array.tolist(), array.dtype.name) for name, array in found.items()] == [
        ("a", [1, 2], "int64"),
        ("b", [0.5, 1.5], "float32"),
    ]
    assert np.array_equal(nothing, [np.nan, 1], equal_nan=True)


@pytest.mark.parametrize(
    ("headers", "content", "message"),
    [
        (JSON, b'{"outputs": {"z": 1}}', 'the answer to oip-json lacks y; it begins with: {"outputs": {"z": 1}}'),
        (JSON, b'{"outputs": []}', 'the answer to oip-json lacks y; it begins with: {"outputs": []}'),
        (JSON, b"oops", "the answer to oip-json is of no form that we read (unexpected character"),
        (JSON, b"[1]", "the answer to oip-json is of no form that we read (list indices must be integers or slices, not str); "),
        ({"content-type": "application/octet-stream"}, b"abc", "the answer to oip-json is of no form that we read (buffer size "),
        ({"content-type": "application/x-npy"}, b"abc", "the answer to oip-json is of no form that we read ("),
    ],
)
def test_answers_that_cannot_be_read(headers, content, message):
    """An answer in no form of ours, or without an output, is a wrong one; its beginning is shown."""
    with pytest.raises(WrongAnswer) as caught:
        payloads.read_answer("oip-json", headers, content, Y)
    assert str(caught.value).startswith(message)
