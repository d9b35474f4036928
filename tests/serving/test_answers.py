"""A real server gives the artifact's own answers, and refuses what the artifact would refuse."""

import asyncio

import httpx
import numpy as np
import pytest

import artifact


def rows(seed, count):
    return np.random.default_rng(seed).uniform(-4, 4, (count, 4)).astype(np.float32)


def test_health(server):
    """A server whose models passed their golden cases is live, ready, and healthy in TorchServe's words."""
    expected = {
        "/ping": {"status": "Healthy"},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        "/v2/models/mlp/ready": {"name": "mlp", "ready": True},
        "/v2/models/mlp/versions/1/ready": {"name": "mlp", "ready": True},
    }
    answers = {path: server.get(path) for path in expected}

    assert {path: answer.json() for path, answer in answers.items()} == expected
    assert {answer.status_code for answer in answers.values()} == {200}


def test_a_method_that_is_none(server):
    """Whatever stands in its place, only its beginning is told."""
    answer = server.request("A" * 200, "/nowhere")

    assert (answer.status_code, answer.json()["message"]) == (404, f"{'A' * 32} /nowhere: Not Found")


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
        async with httpx.AsyncClient(base_url=server.url, timeout=60, verify=False) as http:
            await start.wait()
            for turn in range(4):
                x = rows(1000 * number + turn, number % 3 + 1)
                answer = await http.post("/predictions/mlp", json={"inputs": {"x": x.tolist()}})
                logits = np.array(answer.json()["outputs"]["logits"], np.float32)
                assert logits.tobytes() == loaded.run({"x": x})["logits"].tobytes()

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
    "a list": ("mlp", [], 400, "BadRequest", "the body is a list; a JSON object is expected"),
    "no inputs": ("mlp", {}, 400, "BadRequest", FORM),
    "inputs null": ("mlp", {"inputs": None}, 400, "BadRequest", FORM),
    "inputs a number": ("mlp", {"inputs": 0.5}, 400, "BadRequest", FORM),
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
        {"inputs": {"x": [[0, 0, 0, 0]] * 129}},
        400,
        "InvalidInput",
        'input "x": batch is 129; the signature allows 1 to 128',
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
        "InvalidInput",
        'input "x" holds inf; the signature allows -4 to 4',
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
        {"inputs": {"x": [["a" * 20_000, *[0] * 3]]}},
        400,
        "BadRequest",
        f'input "x" holds "{"a" * 79}…, which is not float32',
    ),
    "null": ("mlp", {"inputs": {"x": [[0, 0, 0, None]]}}, 400, "BadRequest", 'input "x" holds null, which is not float32'),
    "an object": (
        "mlp",
        {"inputs": {"x": {"0": 0}}},
        400,
        "BadRequest",
        'input "x" is an object; nested lists are expected',
    ),
    "floats for integers": (
        "counting",
        {"inputs": {"rounds": [1.0]}},
        400,
        "BadRequest",
        'input "rounds" holds 1.0, which is not int64',
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
        'input "rounds" holds 9223372036854775808, which int64 cannot hold',
    ),
    "beyond any integer": (
        "counting",
        {"inputs": {"rounds": [2**64]}},
        400,
        "BadRequest",
        'input "rounds" holds 1.8446744073709552e+19, which is not int64',
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
        "no model is called 'resnet'; there are: classes, counting, mlp, spare",
    ),
    "no such version": (
        "mlp/2",
        {"inputs": {"x": [[0, 0, 0, 0]]}},
        404,
        "ModelNotFound",
        "mlp has no version or label '2'; versions served: 1; labels: none",
    ),
    "a name that leads out of the repository": (
        "..%2Fmlp",
        {"inputs": {"x": [[0, 0, 0, 0]]}},
        404,
        "ModelNotFound",
        "no model is called '..'; there are: classes, counting, mlp, spare",
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


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/predictions/mlp", 405, "MethodNotAllowed"),
        ("PUT", "/predictions/mlp", 405, "MethodNotAllowed"),
        ("POST", "/ping", 405, "MethodNotAllowed"),
        ("GET", "/nowhere", 404, "NotFound"),
        ("POST", "/predictions", 404, "NotFound"),
        ("POST", "/predictions/mlp/1/more", 404, "NotFound"),
        ("GET", "/v3/health/ready", 404, "NotFound"),
    ],
)
def test_routes_that_are_not(server, method, path, status, kind):
    """A wrong path or method has the same error body as everything else, and says the right method."""
    answer = server.request(method, path)
    words = {404: "Not Found", 405: "Method Not Allowed"}[status]

    assert (answer.status_code, answer.json()) == (status, {"code": status, "type": kind, "message": f"{method} {path}: {words}"})
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/nowhere", 404), ("POST", "/v2/health/ready", 405)])
def test_errors_below_v2(server, method, path, status):
    """Below /v2 an error is `{"error": ...}`, as the Open Inference Protocol says."""
    answer = server.request(method, path)

    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_every_way_to_a_version_leads_to_the_same_answer(server):
    """With its number or without, by either protocol, the numbers are the same."""
    x = rows(5, 2)
    body = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": x.tolist()}]}
    infer = [server.request("POST", f"/v2/models/mlp{version}/infer", json=body).json() for version in ("", "/versions/1")]
    predictions = [server.predict(f"mlp{version}", {"inputs": {"x": x.tolist()}}).json() for version in ("", "/1")]

    assert infer[0] == infer[1]
    assert predictions[0] == predictions[1]
    assert [infer[0]["model_version"], predictions[0]["model_version"]] == ["1", "1"]
    assert np.ravel(predictions[0]["outputs"]["logits"]).tolist() == infer[0]["outputs"][0]["data"]


ROW = {"inputs": {"x": [[0, 0, 0, 0]]}}


REQUESTS = {
    "an answer": ("POST", "/predictions/mlp", {"json": ROW}, 200),
    "a refusal": ("POST", "/v2/models/resnet/infer", {"json": ROW}, 404),
    "another route": ("GET", "/v2/health/ready", {}, 200),
    "no route": ("GET", "/nowhere", {}, 404),
    "too large": ("POST", "/predictions/mlp", {"content": b" " * 100_001}, 413),
    "too large for another route": ("POST", "/v2/repository/index", {"content": b" " * 100_001}, 413),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_every_request_has_an_id_and_a_line_in_the_access_log(server, wait_for, case):
    """A client's own id comes back, and stands in the log with the method, path, status and duration."""
    method, path, options, status = REQUESTS[case]
    request_id = f"of a client: {case}"
    answer = server.request(method, path, headers={"x-request-id": request_id}, **options)

    assert (answer.status_code, answer.headers["x-request-id"]) == (status, request_id)
    wait_for(lambda: lines_of(server, request_id))
    (line,) = lines_of(server, request_id)
    assert line.pop("time").endswith("Z")
    assert line.pop("duration_ms") > 0
    assert line == {
        "level": "INFO",
        "logger": "stateserve.access",
        "message": f"{method} {path} {status}",
        "request_id": request_id,
        "method": method,
        "path": path,
        "status": status,
    }


def lines_of(server, request_id):
    return [line for line in server.log_lines() if line.get("request_id") == request_id]


@pytest.mark.parametrize("path", ["/predictions/mlp", "/v2/repository/index"])
@pytest.mark.parametrize("sent", [None, "", "x" * 129, "tab\tinside", b"\xe4"], ids=["none", "empty", "long", "tab", "not ASCII"])
def test_a_request_without_an_id_is_given_one(server, path, sent):
    """So is one whose id cannot stand in a header and a log: each has its own."""
    headers = {} if sent is None else {"x-request-id": sent}
    ids = [server.request("POST", path, headers=headers).headers["x-request-id"] for _ in range(2)]

    assert len({*ids, sent}) == 3
    assert all(0 < len(each) <= 64 and each.isascii() and each.isprintable() for each in ids)


def test_every_example_of_the_documentation_is_answered(server):
    """What /docs offers to paste for each model is a request that the server answers."""
    asked = []
    for path, operations in server.get("/openapi.json").json()["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json", {})
        if "example" in content and "{" not in path:
            asked.append(path)
            answer = httpx.post(server.url + path, json=content["example"], timeout=30)
            assert answer.status_code == 200, (path, answer.text)
    assert {"/v2/models/mlp/infer", "/predictions/mlp"} <= set(asked)
