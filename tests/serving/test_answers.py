"""A real server gives the artifact's own answers, and refuses what the artifact would refuse."""

import asyncio
import json
import socket
import tracemalloc

import httpx
import numpy as np
import orjson
import pytest

import artifact
from artifact.errors import InvalidInput
from artifact.signature import Signature, TensorSpec
from serving.errors import BadRequest
from serving.protocols import predictions


def rows(seed, count):
    return np.random.default_rng(seed).uniform(-4, 4, (count, 4)).astype(np.float32)


def test_health(server):
    """A server whose models passed their golden cases is live, ready, and healthy in TorchServe's words."""
    answers = {
        path: (server.get(path).status_code, server.get(path).json()) for path in ("/ping", "/v2/health/live", "/v2/health/ready")
    }

    assert answers == {
        "/ping": (200, {"status": "Healthy"}),
        "/v2/health/live": (200, {"live": True}),
        "/v2/health/ready": (200, {"ready": True}),
    }


@pytest.mark.parametrize("count", [1, 3, 16])
def test_answers_are_those_of_the_artifact_bit_for_bit(server, mlp_artifact, count):
    """What a client reads is what `artifact.load(...).run` gives, to the last bit."""
    x = rows(count, count)
    answer = server.predict("mlp", {"inputs": {"x": x.tolist()}})

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    body = answer.json()
    assert list(body) == ["model_name", "model_version", "outputs"]
    assert (body["model_name"], body["model_version"], list(body["outputs"])) == ("mlp", "1", ["logits"])
    expected = artifact.load(mlp_artifact).run({"x": x})["logits"]
    assert np.array(body["outputs"]["logits"], np.float32).tobytes() == expected.tobytes()


def test_whole_numbers_are_floats_where_floats_are_meant(server, mlp_artifact):
    """An integer is taken for a float input, as JSON has only one kind of number."""
    answer = server.predict("mlp", {"inputs": {"x": [[1, 2, -3, 4]]}}).json()
    expected = artifact.load(mlp_artifact).run({"x": np.array([[1, 2, -3, 4]], np.float32)})["logits"]

    assert np.array(answer["outputs"]["logits"], np.float32).tobytes() == expected.tobytes()


def test_fifty_clients_at_once(server, mlp_artifact):
    """Each of 50 clients that ask at the same time, again and again, gets the answer to its own question."""
    loaded = artifact.load(mlp_artifact)

    async def client(number, start):
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            await start.wait()
            for turn in range(4):
                x = rows(1000 * number + turn, number % 16 + 1)
                answer = await http.post("/predictions/mlp", json={"inputs": {"x": x.tolist()}})
                assert (
                    np.array(answer.json()["outputs"]["logits"], np.float32).tobytes() == loaded.run({"x": x})["logits"].tobytes()
                )

    async def all_at_once():
        start = asyncio.Event()
        tasks = [asyncio.create_task(client(number, start)) for number in range(50)]
        start.set()
        await asyncio.gather(*tasks)

    asyncio.run(all_at_once())


FORM = 'the body is not of the form {"inputs": {name: nested lists}}'
REFUSALS = {
    "not json": ("mlp", b"{", 400, "BadRequest", None),
    "nothing": ("mlp", b"", 400, "BadRequest", None),
    "NaN": ("mlp", b'{"inputs": {"x": [[NaN, 0, 0, 0]]}}', 400, "BadRequest", None),
    "not UTF-8": ("mlp", b'{"inputs": {"\xff": [[0]]}}', 400, "BadRequest", None),
    "nested without end": ("mlp", b'{"inputs": {"x": ' + b"[" * 40_000 + b"]" * 40_000 + b"}}", 400, "BadRequest", None),
    "nested a hundred times": ("mlp", b'{"inputs": {"x": ' + b"[" * 100 + b"]" * 100 + b"}}", 400, "BadRequest", None),
    "a list": ("mlp", [], 400, "BadRequest", FORM),
    "no inputs": ("mlp", {}, 400, "BadRequest", FORM),
    "inputs null": ("mlp", {"inputs": None}, 400, "BadRequest", FORM),
    "inputs a list": ("mlp", {"inputs": [[0, 0, 0, 0]]}, 400, "BadRequest", FORM),
    "no names": ("mlp", {"inputs": {}}, 400, "InvalidInput", "the model takes x; missing: x"),
    "another name": ("mlp", {"inputs": {"y": [[0]]}}, 400, "InvalidInput", "the model takes x; missing: x"),
    "one more name": ("mlp", {"inputs": {"x": [[0, 0, 0, 0]], "y": 1}}, 400, "InvalidInput", "the model takes x; unknown: y"),
    "ragged": (
        "mlp",
        {"inputs": {"x": [[0, 0, 0, 0], [0, 0, 0]]}},
        400,
        "BadRequest",
        'input "x" is ragged: nested lists of one length per level are expected',
    ),
    "ragged in depth": (
        "mlp",
        {"inputs": {"x": [[0, 0, 0, [0]]]}},
        400,
        "BadRequest",
        'input "x" is ragged: nested lists of one length per level are expected',
    ),
    "a row": (
        "mlp",
        {"inputs": {"x": [0, 0, 0, 0]}},
        400,
        "InvalidInput",
        'input "x" has shape [4]; the signature says [batch, 4]',
    ),
    "a number": ("mlp", {"inputs": {"x": 0.5}}, 400, "InvalidInput", 'input "x" has shape []; the signature says [batch, 4]'),
    "five columns": (
        "mlp",
        {"inputs": {"x": [[0, 0, 0, 0, 0]]}},
        400,
        "InvalidInput",
        'input "x" has shape [1, 5]; the signature says [batch, 4]',
    ),
    "an empty list": (
        "mlp",
        {"inputs": {"x": []}},
        400,
        "InvalidInput",
        'input "x" has shape [0]; the signature says [batch, 4]',
    ),
    "an empty row": (
        "mlp",
        {"inputs": {"x": [[]]}},
        400,
        "InvalidInput",
        'input "x" has shape [1, 0]; the signature says [batch, 4]',
    ),
    "too many rows": (
        "mlp",
        {"inputs": {"x": [[0, 0, 0, 0]] * 17}},
        400,
        "InvalidInput",
        'input "x": batch is 17; the signature allows 1 to 16',
    ),
    "out of range": (
        "mlp",
        {"inputs": {"x": [[0, 0, 0, 4.5]]}},
        400,
        "InvalidInput",
        'input "x" holds 4.5; the signature allows -4 to 4',
    ),
    "overflow": (
        "mlp",
        {"inputs": {"x": [[0, 0, 0, 1e39]]}},
        400,
        "BadRequest",
        'input "x" holds a value that float32 cannot hold',
    ),
    "overflow of JSON": ("mlp", b'{"inputs": {"x": [[0, 0, 0, 1e999]]}}', 400, "BadRequest", None),
    "booleans": ("mlp", {"inputs": {"x": [[True] * 4]}}, 400, "BadRequest", 'input "x" holds true, which is not float32'),
    "one boolean": (
        "mlp",
        {"inputs": {"x": [[0.5, True, 0, 0]]}},
        400,
        "BadRequest",
        'input "x" holds true, which is not float32',
    ),
    "text": ("mlp", {"inputs": {"x": [["0", "0", "0", "0"]]}}, 400, "BadRequest", 'input "x" holds "0", which is not float32'),
    "a long text among numbers": (
        "mlp",
        {"inputs": {"x": [["a" * 20_000, *[""] * 20_000]]}},
        400,
        "BadRequest",
        f'input "x" holds "{"a" * 39}, which is not float32',
    ),
    "null": ("mlp", {"inputs": {"x": [[0, 0, 0, None]]}}, 400, "BadRequest", 'input "x" holds values that are not float32'),
    "an object": ("mlp", {"inputs": {"x": {"0": 0}}}, 400, "BadRequest", 'input "x" holds {"0":0}, which is not float32'),
    "floats for integers": (
        "counting",
        {"inputs": {"rounds": [1.0]}},
        400,
        "BadRequest",
        'input "rounds" holds values that are not int64',
    ),
    "a boolean among integers": (
        "counting",
        {"inputs": {"rounds": [True]}},
        400,
        "BadRequest",
        'input "rounds" holds true, which is not int64',
    ),
    "beyond int64": (
        "counting",
        {"inputs": {"rounds": [2**63]}},
        400,
        "BadRequest",
        'input "rounds" holds a value that int64 cannot hold',
    ),
    "beyond any integer": (
        "counting",
        {"inputs": {"rounds": [2**64]}},
        400,
        "BadRequest",
        'input "rounds" holds values that are not int64',
    ),
    "below the range": (
        "counting",
        {"inputs": {"rounds": [-1]}},
        400,
        "InvalidInput",
        'input "rounds" holds -1; the signature allows 0 to 1000000000',
    ),
    "no such model": (
        "resnet",
        {"inputs": {"x": [[0, 0, 0, 0]]}},
        404,
        "ModelNotFound",
        "no model is called 'resnet'; there are: counting, mlp",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(server, name):
    """Every wrong request is told its status, its kind, and what is wrong with it, and harms nobody."""
    model, body, status, kind, message = REFUSALS[name]
    answer = server.predict(model, body)
    error = answer.json()

    assert answer.status_code == status
    assert list(error) == ["code", "type", "message"]
    assert (error["code"], error["type"]) == (status, kind)
    assert error["message"] == message if message else error["message"]
    assert server.get("/ping").status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(server, chunked):
    """A body beyond max_body_bytes is refused, whether it says its length or not."""
    body = orjson.dumps({"inputs": {"x": rows(0, 16).tolist()}}) + b" " * 200_000
    content = iter([body[:90_000], body[90_000:]]) if chunked else body
    answer = httpx.post(f"{server.url}/predictions/mlp", content=content, timeout=30)

    assert ("content-length" in answer.request.headers) is not chunked
    assert (answer.status_code, answer.json()) == (
        413,
        {"code": 413, "type": "BodyTooLarge", "message": "the body has more than 100000 bytes (setting max_body_bytes)"},
    )


def test_a_body_of_the_largest_size(server):
    """max_body_bytes itself is allowed, one byte more is not."""
    body = orjson.dumps({"inputs": {"x": [[0, 0, 0, 0]]}})

    assert server.predict("mlp", body.ljust(100_000)).status_code == 200
    assert server.predict("mlp", body.ljust(100_001)).status_code == 413


def test_a_body_that_says_it_is_too_large_is_not_read(server):
    """A length beyond the limit is refused before the first byte of the body is sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"POST /predictions/mlp HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\n\r\n")
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_leaves_in_the_middle_of_its_body(server):
    """A client that goes away while it sends harms nobody, and is no error of the server's."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"POST /predictions/mlp HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")

    assert server.predict("mlp", {"inputs": {"x": [[0, 0, 0, 0]]}}).status_code == 200
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/predictions/mlp", 405, "MethodNotAllowed"),
        ("PUT", "/predictions/mlp", 405, "MethodNotAllowed"),
        ("POST", "/ping", 405, "MethodNotAllowed"),
        ("GET", "/", 404, "NotFound"),
        ("GET", "/nowhere", 404, "NotFound"),
        ("POST", "/predictions", 404, "NotFound"),
        ("POST", "/predictions/mlp/1/more", 404, "NotFound"),
        ("GET", "/v3/health/ready", 404, "NotFound"),
    ],
)
def test_routes_that_are_not(server, method, path, status, kind):
    """A wrong path or method has the same error body as everything else, and says the right method."""
    answer = httpx.request(method, server.url + path, timeout=30)
    words = {404: "Not Found", 405: "Method Not Allowed"}[status]

    assert (answer.status_code, answer.json()) == (status, {"code": status, "type": kind, "message": f"{method} {path}: {words}"})
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/nowhere", 404), ("POST", "/v2/health/ready", 405)])
def test_errors_below_v2(server, method, path, status):
    """Below /v2 an error is `{"error": ...}`, as the Open Inference Protocol says."""
    answer = httpx.request(method, server.url + path, timeout=30)

    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def signature(dtype, shape=("n",)):
    return Signature((TensorSpec("x", dtype, shape), TensorSpec("flag", "bool", ())), (TensorSpec("y", "float32", ()),))


def decode(dtype, values):
    return predictions.decode(json.dumps({"inputs": {"x": values, "flag": True}}).encode(), signature(dtype))["x"]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", [0.1, 1, -3.4e38]),
        ("float16", [0.1, 65504]),
        ("float64", [0.1, 1e300, 2**63]),
        ("int64", [-(2**63), 2**63 - 1]),
        ("uint8", [0, 255]),
        ("bool", [True, False]),
    ],
)
def test_values_that_a_dtype_holds(dtype, values):
    """JSON's values become the input's dtype, a boolean in another input notwithstanding."""
    array = decode(dtype, values)

    assert array.dtype == dtype
    assert array.tolist() == np.array(values, dtype).tolist()


@pytest.mark.parametrize(
    ("dtype", "values", "words"),
    [
        ("float16", [65520], "holds a value that float16 cannot hold"),
        ("float32", [3.5e38], "holds a value that float32 cannot hold"),
        ("uint8", [256], "holds a value that uint8 cannot hold"),
        ("uint8", [-1], "holds a value that uint8 cannot hold"),
        ("int8", [200], "holds a value that int8 cannot hold"),
        ("int64", [2**63], "holds a value that int64 cannot hold"),
        ("int64", [1.5], "holds values that are not int64"),
        ("int64", [1, True], "holds true, which is not int64"),
        ("float32", [[0.5, 1], [0, False]], "holds false, which is not float32"),
        ("bool", [0, 1], "holds 0, which is not bool"),
        ("bool", [True, 0], "holds 0, which is not bool"),
        ("bool", [0.0], "holds 0.0, which is not bool"),
    ],
)
def test_values_that_a_dtype_does_not_hold(dtype, values, words):
    """What would have to be wrapped, cut or guessed is refused, and booleans are not numbers."""
    with pytest.raises(BadRequest) as caught:
        decode(dtype, values)

    assert str(caught.value) == f'input "x" {words}'


@pytest.mark.parametrize(
    "item", [b'""', b"{}", b"[]", b"null", b"true", b'{"a":"b"}'], ids=["text", "object", "list", "null", "boolean", "nested"]
)
@pytest.mark.parametrize("first", [b'"' + b"a" * 20_000 + b'"', b"0.5"], ids=["text", "number"])
def test_what_is_no_number_costs_no_memory(first, item):
    """NumPy would pad every string of a list to the longest: a body of 170 kB made 4 GB of that."""
    body = b'{"inputs":{"x":[' + b",".join([first] + [item] * 50_000) + b'],"flag":true}}'
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match=r'^input "x" '):
            predictions.decode(body, signature("float32"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 50_000_000


def test_texts_in_an_input_that_nobody_asked_for():
    """The signature refuses the name; its values are never made an array."""
    body = b'{"inputs":{"x":[0.5],"flag":true,"more":["' + b"a" * 20_000 + b'"' + b',""' * 50_000 + b"]}}"
    tracemalloc.start()
    try:
        decoded = predictions.decode(body, signature("float32"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 50_000_000
    with pytest.raises(InvalidInput, match=r"^the model takes x, flag; unknown: more$"):
        signature("float32").validate(decoded)


def test_answers_of_every_dtype():
    """Every dtype has its JSON; a scalar is a number, and what JSON has no words for is null."""
    outputs = {
        "half": np.array([[0.5, np.nan]], np.float16),
        "single": np.array([0.1, np.inf], np.float32),
        "scalar": np.array(2.5, np.float32),
        "flags": np.array([True, False]),
        "ids": np.array([2**53 + 1]),
        "view": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }

    assert orjson.loads(predictions.encode("net", 3, outputs)) == {
        "model_name": "net",
        "model_version": "3",
        "outputs": {
            "half": [[0.5, None]],
            "single": [0.1, None],
            "scalar": 2.5,
            "flags": [True, False],
            "ids": [2**53 + 1],
            "view": [[0, 3], [1, 4], [2, 5]],
        },
    }
