"""Predictions: JSON, .npy and raw bytes, in and out, by content type and by what the client accepts."""

import io
import json

import numpy as np
import pytest

from artifact.errors import InvalidInput
from artifact.signature import Dim, Signature, TensorSpec
from serving.errors import BadRequest, NotAcceptable, UnsupportedBody
from serving.messages import Request
from serving.protocols.asked import Asked, Limits
from serving.protocols.predictions import PredictionsCodec

DIMS = {"batch": Dim(1, 8), "n": Dim(1, 6), "m": Dim(1, 6)}
MLP = Signature(
    (TensorSpec("x", "float32", ("batch", 3)),), (TensorSpec("logits", "float32", ("batch", 4)),), {"batch": DIMS["batch"]}
)
TWO = Signature(
    (TensorSpec("ids", "int64", ("batch", "n")), TensorSpec("mask", "bool", ("batch", "n"))),
    (TensorSpec("y", "float32", ("batch", 2)), TensorSpec("z", "float16", ("batch",))),
    DIMS,
)
X = np.arange(6, dtype=np.float32).reshape(2, 3)
NPY, RAW = "application/x-npy", "application/octet-stream"


def codec(signature=MLP, **limits):
    return PredictionsCodec("net", 3, signature, Limits(**limits))


def one(dtype, shape=("batch", 3)):
    """A model with one input and one output of a dtype."""
    return Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),), DIMS)


def request(body, content_type=None, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    if content_type is not None:
        headers["content-type"] = content_type
    return Request("POST", "/predictions/net", "", headers, body)


def npy(array, version=None):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


@pytest.mark.parametrize(
    "content_type", [None, "application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"]
)
@pytest.mark.parametrize("inputs", [{"x": X.tolist()}, X.tolist()])
def test_json(content_type, inputs):
    """Nested lists by name, or alone for the one input, are read as JSON, also if they come from `curl -d`."""
    protocol = codec()
    body = {"inputs": inputs}
    asked = protocol.decode(request(body, content_type))

    assert protocol._quick(json.dumps(body).encode())
    assert (asked.rows, asked.group, asked.inputs["x"].dtype) == (2, (), np.float32)
    np.testing.assert_array_equal(asked.inputs["x"], X)


def test_json_with_two_inputs():
    """Inputs of several kinds arrive with their own dtypes; requests of other sizes are of another group."""
    asked = codec(TWO).decode(request({"inputs": {"mask": [[True, False]] * 3, "ids": [[2**62, -1]] * 3}}))

    assert (asked.rows, asked.group) == (3, (2,))
    assert {name: (array.dtype.name, array[0].tolist()) for name, array in asked.inputs.items()} == {
        "mask": ("bool", [True, False]),
        "ids": ("int64", [2**62, -1]),
    }


def test_the_answer_in_json():
    """Outputs are nested as they are; NaN and infinities are null."""
    outputs = {"y": np.array([[0.1, np.nan], [np.inf, -1]], np.float32), "z": np.array([0.5, 2], np.float16)}

    answer = codec(TWO).encode(Asked({}, 2, (), "application/json"), outputs)

    assert answer.headers == [("content-type", "application/json")]
    assert answer.body.decode() == (
        '{"model_name":"net","model_version":"3","outputs":{"y":[[0.1,null],[null,-1.0]],"z":[0.5,2.0]}}'
    )


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f2"])
def test_npy_in(dtype, order, version):
    """A .npy file of any version, byte order and memory order is read; float16 is widened. A header is read once."""
    protocol = codec()
    for shift in (0, 1):
        body = npy(np.asarray(X + shift, dtype, order=order), version)
        asked = protocol.decode(request(body, NPY))
        array = asked.inputs["x"]
        assert (asked.rows, array.dtype, array.flags.c_contiguous, array.flags.aligned) == (2, np.float32, True, True)
        np.testing.assert_array_equal(array, X + shift)
    assert len(protocol._npy_plans) == 1


@pytest.mark.parametrize("shift", range(4))
def test_unaligned_npy_for_whoever_copies_it(shift):
    """Where the arrays are copied anyway, the data of a .npy file is a view of the body, wherever its header ends."""
    whole = npy(X, (1, 0))
    header = whole[10:128].rstrip() + b" " * shift + b"\n"
    body = whole[:8] + len(header).to_bytes(2, "little") + header + whole[128:]
    aligned, array = (codec(unaligned=flag).decode(request(body, NPY)).inputs["x"] for flag in (False, True))
    np.testing.assert_array_equal(array, X)
    np.testing.assert_array_equal(aligned, X)
    assert np.shares_memory(array, np.frombuffer(body, np.uint8))
    assert (aligned.flags.aligned, array.flags.aligned) == (True, (10 + len(header)) % 4 == 0)


@pytest.mark.parametrize(("accept", "content_type"), [(NPY, NPY), ("application/npy", "application/npy"), (RAW, RAW)])
def test_one_tensor_out(accept, content_type):
    """Who accepts .npy or raw bytes gets the one output so."""
    protocol = codec()
    asked = protocol.decode(request({"inputs": X.tolist()}, accept=accept))
    y = np.arange(8, dtype=np.float32).reshape(2, 4)
    answer = protocol.encode(asked, {"logits": y})

    assert answer.headers == [("content-type", content_type)]
    assert answer.body == (y.tobytes() if accept == RAW else npy(y))


@pytest.mark.parametrize(
    ("shape", "data", "expected"),
    [(("batch", 3), bytes(24), (2, 3)), ((3,), bytes(12), (3,)), (("n", 3), bytes(24), (2, 3)), (("batch", 2, "n"), None, None)],
)
def test_raw_in(shape, data, expected):
    """Raw bytes are the one input, whose one unknown size is told by their number; two are not."""
    protocol = codec(one("float32", shape))
    if expected is None:
        with pytest.raises(BadRequest) as refusal:
            protocol.decode(request(bytes(16), RAW))
        assert str(refusal.value) == (
            'input "x" has sizes that its bytes do not tell: batch, n; send application/x-npy or application/json'
        )
    else:
        assert protocol.decode(request(data, RAW)).inputs["x"].shape == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        (f"{NPY}, application/json;q=0.9", NPY),
        (f"{NPY};q=0.5, application/json;q=0.9", "application/json"),
        (f"{NPY};q=0.5, application/json;q=0", NPY),
        (f"application/json;q=0, {RAW};q=0.1, {NPY};q=0.001", RAW),
        ("application/json;q=0, */*;q=0.1", NPY),
        (f"{NPY};q=high, */*", "application/json"),
    ],
)
def test_the_form_that_the_client_likes_best(accept, expected):
    """q-values are honoured, the more specific entry holds, and JSON is the first of equals."""
    headers = {} if accept is None else {"accept": accept}

    assert codec().decode(request({"inputs": X.tolist()}, **headers)).reply == expected


@pytest.mark.parametrize(
    ("signature", "accept", "message"),
    [
        (
            MLP,
            "text/html",
            (
                "the answer can be application/json, application/x-npy or application/octet-stream; "
                'the request accepts "text/html"'
            ),
        ),
        (
            TWO,
            NPY,
            'the answer can be application/json only, since it has 2 outputs; the request accepts "application/x-npy"',
        ),
        (
            TWO,
            "*/*, application/json;q=0",
            ('the answer can be application/json only, since it has 2 outputs; the request accepts "*/*, application/json;q=0"'),
        ),
    ],
)
def test_forms_that_cannot_be(signature, accept, message):
    """What the answer cannot be is said before the model runs."""
    with pytest.raises(NotAcceptable) as refusal:
        codec(signature).decode(request({"inputs": {}}, accept=accept))

    assert str(refusal.value) == message


FORM = 'the body is not of the form {"inputs": {name: nested lists}}'
RAGGED = 'input "x" is ragged: nested lists of one length per level are expected'
REFUSALS = {
    "a list": ([], "the body is a list; a JSON object is expected"),
    "no inputs": ({}, FORM),
    "inputs null": ({"inputs": None}, FORM),
    "no names": ({"inputs": {}}, "the model takes x; missing: x"),
    "another name": ({"inputs": {"y": [[0]]}}, "the model takes x; missing: x"),
    "one more name": ({"inputs": {"x": [[0, 0, 0]], "y": 1}}, "the model takes x; unknown: y"),
    "ragged": ({"inputs": {"x": [[0, 0, 0], [0, 0]]}}, RAGGED),
    "ragged, as many values": ({"inputs": {"x": [[0, 0, 0], [0, 0], [0, 0, 0, 0]]}}, RAGGED),
    "ragged in depth": ({"inputs": {"x": [[0, 0, [0]]]}}, RAGGED),
    "ragged in depth, first": (
        {"inputs": {"x": [[[0], 0, 0]]}},
        'input "x" has shape [1, 3, 1]; the signature says [batch, 3]',
    ),
    "numbers among lists": ({"inputs": {"x": [[0, 0, 0], 0]}}, RAGGED),
    "text of the same length": ({"inputs": {"x": [[0, 0, 0], "abc"]}}, RAGGED),
    "a row": ({"inputs": {"x": [0, 0, 0]}}, 'input "x" has shape [3]; the signature says [batch, 3]'),
    "a number": ({"inputs": {"x": 0.5}}, 'input "x" has shape []; the signature says [batch, 3]'),
    "four columns": ({"inputs": {"x": [[0] * 4]}}, 'input "x" has shape [1, 4]; the signature says [batch, 3]'),
    "an empty list": ({"inputs": {"x": []}}, 'input "x" has shape [0]; the signature says [batch, 3]'),
    "an empty row": ({"inputs": {"x": [[]]}}, 'input "x" has shape [1, 0]; the signature says [batch, 3]'),
    "too many rows": ({"inputs": {"x": [[0] * 3] * 5}}, 'input "x": batch is 5; the signature allows 1 to 4'),
    "overflow": ({"inputs": {"x": [[0, 0, 1e39]]}}, 'input "x" holds 1e+39, which float32 cannot hold'),
    "booleans": ({"inputs": {"x": [[0.5, True, 0]]}}, 'input "x" holds true, which is not float32'),
    "text": ({"inputs": {"x": [["0", 0, 0]]}}, 'input "x" holds "0", which is not float32'),
    "null": ({"inputs": {"x": [[0, 0, None]]}}, 'input "x" holds null, which is not float32'),
    "an object": ({"inputs": {"x": {"0": 0}}}, 'input "x" is an object; nested lists are expected'),
    "an object inside": ({"inputs": {"x": [[0, 0, {}]]}}, 'input "x" holds an object, which is not float32'),
    "too many inputs": (
        {"inputs": dict.fromkeys("abc", 0)},
        "the request has 3 inputs; at most 2 are read (setting max_tensors)",
    ),
    "many lists": (
        b'{"inputs": [' + b"[]," * 5_000 + b"[]]}",
        "the body has 5003 lists and objects; for this model at most 4101 are read",
    ),
    "deep": (
        b'{"inputs": ' + b"[" * 3_000 + b"]" * 3_000 + b"}",
        "the body is nested 3001 levels deep; at most 64 are read (setting max_json_depth)",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_json_that_is_refused(case):
    """JSON that is not right is refused with the input's name, and the next request is answered."""
    body, message = REFUSALS[case]
    protocol = codec(max_rows=4, max_tensors=2)
    with pytest.raises((BadRequest, InvalidInput)) as refusal:
        protocol.decode(request(body))

    assert str(refusal.value) == message
    assert protocol._quick(json.dumps({"inputs": X.tolist()}).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"inputs": {"x": [[NaN, 0, 0]]}}', b'{"inputs": [[1e999, 0, 0]]}'])
def test_bodies_that_are_no_json(body):
    """What is no JSON is said to be none: NaN, and numbers beyond float64, too."""
    with pytest.raises(BadRequest, match=r"^the body is not JSON: "):
        codec().decode(request(body))


def test_a_name_that_stands_twice():
    """Of two members of one name the last one holds, as in Python's own reader, whichever way a body takes."""
    body = b'{"inputs": {"x": [[9, 9, 9]], "x": [[1, 2, 3]]}}'

    assert codec().decode(request(body)).inputs["x"].tolist() == [[1, 2, 3]]


def header(text, version=1):
    """A .npy file with this header."""
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


PLAIN = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }"
NPY_REFUSALS = {
    "nothing": (b"", r"the body is no .npy file: it does not begin with \x93NUMPY, a version and the size of its header"),
    "a version to come": (header(PLAIN, 4) + bytes(12), "the .npy file has version 4.0; 1.0, 2.0 and 3.0 are read"),
    "a header beyond the body": (
        header(PLAIN)[:-1],
        "the .npy file states a header of 59 bytes; 58 are there, and at most 10000 are read",
    ),
    "an endless header": (
        header(PLAIN + b" " * 10_000) + bytes(12),
        "the .npy file states a header of 10059 bytes; 10071 are there, and at most 10000 are read",
    ),
    "bytes missing": (npy(X)[:-1], "the .npy file has 23 bytes of data; its header states 24"),
    "bytes left": (npy(X) + b"\n", "the .npy file has 25 bytes of data; its header states 24"),
    "objects": (
        npy(np.array([[None] * 3])),
        'the .npy file holds "|O", which are not numbers that we read (objects never are)',
    ),
    "another dtype": (npy(X.astype("f8")), 'input "x" is sent as float64; the model takes float32'),
    "complex": (
        npy(X.astype("c8")),
        'the .npy file holds "<c8", which are not numbers that we read (objects never are)',
    ),
    "another shape": (npy(X.T), 'input "x" has shape [3, 2]; the signature says [batch, 3]'),
    "huge sizes": (
        header(PLAIN.replace(b"(1, 3)", b"(4611686018427387904, 3)")),
        'input "x" has shape [4611686018427387904, 3]; the signature says [batch, 3]',
    ),
    "a record": (
        npy(np.zeros(1, [("a", "f4")])),
        (
            "the .npy file has a header that is not one of plain numbers: "
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }"
        ),
    ),
    "an expression": (
        header(PLAIN.replace(b"(1, 3)", b"(1, 1+2)")),
        (
            "the .npy file has a header that is not one of plain numbers: "
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1+2), }"
        ),
    ),
    "no shape": (
        header(b"{'descr': '<f4', 'fortran_order': False}"),
        "the .npy file has a header that is not one of plain numbers: {'descr': '<f4', 'fortran_order': False}",
    ),
}


@pytest.mark.parametrize("case", NPY_REFUSALS)
def test_npy_files_that_are_refused(case):
    """A .npy file that is damaged, or holds something else than the model takes, is refused; nothing in it is ever run."""
    body, message = NPY_REFUSALS[case]
    with pytest.raises((BadRequest, InvalidInput)) as refusal:
        codec().decode(request(body, NPY))

    assert str(refusal.value) == message


def test_npy_headers_of_other_writers():
    """Other orders, quotes and spaces in the header are read."""
    text = b'{"shape":(1,3),"descr":"<f4" ,\n"fortran_order" : False}'

    assert codec().decode(request(header(text) + X[0].tobytes(), "application/npy")).inputs["x"].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("signature", "content_type", "body", "error", "message"),
    [
        (
            MLP,
            "image/png",
            b"",
            UnsupportedBody,
            'content type "image/png" is not one that we read: application/json, application/x-npy, application/octet-stream',
        ),
        (
            TWO,
            NPY,
            b"",
            UnsupportedBody,
            "the model takes ids, mask; application/x-npy holds one input only: send application/json",
        ),
        (MLP, RAW, bytes(10), BadRequest, 'input "x" has 10 bytes; shape [batch, 3] of FP32 has a multiple of 12'),
        (MLP, RAW, b"", InvalidInput, 'input "x": batch is 0; the signature allows 1 to 1024'),
        (one("float32", (3,)), RAW, bytes(10), BadRequest, 'input "x" has 10 bytes; shape [3] of FP32 has 12'),
    ],
)
def test_bodies_that_do_not_fit(signature, content_type, body, error, message):
    """A content type that is not read, or a body that the model's inputs cannot be, is refused with what can."""
    with pytest.raises(error) as refusal:
        codec(signature).decode(request(body, content_type))

    assert str(refusal.value) == message


def test_the_timeout_is_a_header():
    """The header x-timeout-ms holds here, too."""
    assert codec().decode(request({"inputs": X.tolist()}, **{"x-timeout-ms": "20"})).timeout_s == 0.02


def test_a_long_body_of_more_values_than_the_model_takes():
    """Numbers cost their parser's memory: more of them than the largest request has are refused before they are parsed."""
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch",)),), {"batch": Dim(1, 8)}
    )
    codec = PredictionsCodec("m", 1, signature, Limits(max_rows=100))
    body = b'{"inputs": {"x": [[' + b"0.1," * 300_000 + b"0.1]]}}"
    with pytest.raises(BadRequest, match=r"^the body has about 300000 values; for this model at most 10400 are read$"):
        codec.decode(Request("POST", "/predictions/m", "", {}, body))
