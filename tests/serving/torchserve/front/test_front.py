"""What TorchServe's paths answer on three connectors, with the artifacts of the repository beside them."""

import json
import re
import socket
import uuid

import numpy as np
import pytest

NOT_FOUND = (404, "ResourceNotFoundException", "Requested resource is not found, please refer to API document.")
NOT_ALLOWED = (405, "MethodNotAllowedException", "Requested method is not allowed, please refer to API document.")
NO_NAME = (400, "BadRequestException", "Parameter model_name is required.")
NO_WORKER = (
    503,
    "ServiceUnavailableException",
    (
        'Model "idle" has no worker to serve inference request. Please use scale workers API to add workers. '
        "If this is a sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
    ),
)
HEADERS = {
    "access-control-allow-origin": "https://a.example",
    "access-control-allow-methods": "GET, POST",
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}
"""What every answer carries; the server itself adds its name, the date and the length."""
OF_THE_SERVER = {"server", "date", "content-length", "x-request-id"}
ROW = {"inputs": {"x": [[0, 0, 0, 0]]}}


def model_not_found(name):
    return 404, "ModelNotFoundException", f"Model not found: {name}"


def version_not_found(version):
    return 404, "ModelVersionNotFoundException", f"Model version: {version} does not exist for model: told"


def given(answer):
    """The inputs and headers that the handler was given."""
    assert answer.status_code == 200, answer.text
    return answer.json()["inputs"], answer.json()["headers"]


@pytest.mark.parametrize(
    ("method", "path", "error"),
    [
        ("GET", "/nope", NOT_FOUND),
        ("OPTIONS", "/nope", NOT_FOUND),
        ("GET", "/", NOT_ALLOWED),
        ("POST", "/", NOT_ALLOWED),
        ("GET", "//ping", NOT_FOUND),
        ("GET", "/api-description/x", NOT_FOUND),
        ("POST", "/predictions", NOT_FOUND),
        ("POST", "/predictions/", NOT_FOUND),
        ("POST", "/explanations", NOT_FOUND),
        ("POST", "/predictions/nope", model_not_found("nope")),
        ("POST", "/predictions//told", model_not_found("")),
        ("POST", "/predictions/a+b", model_not_found("a+b")),
        ("POST", "/predictions/%C3%A9", model_not_found("é")),
        ("POST", "/predictions/told/7", version_not_found("7")),
        ("POST", "/predictions/told//x", version_not_found("")),
        ("POST", "/predictions/idle", NO_WORKER),
        ("OPTIONS", "/predictions/nope", model_not_found("nope")),
        ("OPTIONS", "/predictions/told/7", version_not_found("7")),
        ("POST", "/invocations", NO_NAME),
        ("POST", "/invocations?model_name=nope", model_not_found("nope")),
        ("POST", "/invocations/x?model_name=told", NOT_FOUND),
        ("POST", "/models/nope/invoke", model_not_found("nope")),
        ("POST", "/models/told/invoke/x", NOT_FOUND),
        ("GET", "/models", NOT_FOUND),
        ("GET", "/models/told", NOT_FOUND),
        ("GET", "/models/told/1.0", NOT_FOUND),
        ("POST", "/predict", NOT_FOUND),
        ("POST", "/models/predict", NOT_FOUND),
        ("POST", "/nope/predict", model_not_found("nope")),
        ("POST", "/a/b/predict", model_not_found("a")),
        ("POST", "/told/7/predict", version_not_found("7")),
        ("POST", "/told/1.0/predict/x", NOT_FOUND),
        ("POST", "/v1/models/told", NOT_FOUND),
        ("POST", "/v1/models/told:foo", NOT_FOUND),
        ("POST", "/v1/models/a:b:predict", model_not_found("a")),
        ("POST", "/v1/models/told/versions/1.0:predict", NOT_FOUND),
        ("GET", "/token", NOT_FOUND),
    ],
)
def test_errors(asked, method, path, error):
    """An error is pretty JSON with TorchServe's code, type and message, and ends the connection."""
    answer = asked.send(method, path)

    code, kind, message = error
    assert answer.text == json.dumps({"code": code, "type": kind, "message": message}, indent=2, ensure_ascii=False) + "\n"
    assert answer.status_code == code
    retry = {"retry-after": "1"} if code == 503 else {}
    closed = {**HEADERS, **retry, "content-type": "application/json", "connection": "close"}
    assert {name: value for name, value in answer.headers.items() if name not in OF_THE_SERVER} == closed
    assert answer.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("connector", [1, 2])
@pytest.mark.parametrize("path", ["/nope", "/ping", "/predictions/told", "/docs", "/v2", "/v2/health/ready"])
def test_the_other_connectors(asked, connector, path):
    """Management and metrics answer nothing that is asked of inference."""
    answer = asked.get(path, connector)

    assert (answer.status_code, answer.json()["type"]) == (404, "ResourceNotFoundException")
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", ["/ping", "/ping/", "/ping?x=1", "/ping/x", "/%70ing"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PATCH"])
def test_ping(asked, method, path):
    """It is answered whatever the method, and however the path is written, as long as its first word is ping."""
    answer = asked.send(method, path)

    assert (answer.status_code, answer.text) == (200, '{\n  "status": "Healthy"\n}\n')
    kept = {**HEADERS, "content-type": "application/json", "connection": "keep-alive"}
    assert {name: value for name, value in answer.headers.items() if name not in OF_THE_SERVER} == kept


def test_request_ids(asked):
    """The server makes them; a client's is the handler's to see."""
    answer = asked.get("/predictions/told", headers={"X-Request-Id": "mine"})

    assert str(uuid.UUID(answer.headers["x-request-id"], version=4)) == answer.headers["x-request-id"]
    assert given(answer)[1]["x-request-id"] == "mine"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "BREW"])
@pytest.mark.parametrize("path", ["/predictions/told", "/predictions/told/", "/predictions/told/1.0", "/predictions/told/1.0//"])
def test_predictions(asked, method, path):
    """Any method will do, and slashes at the end; the handler learns that no explanation is asked for."""
    inputs, headers = given(asked.send(method, path, content=b"1", headers={"Content-Type": "text/plain"}))

    assert inputs == {"body": ["str", "1"]}
    assert (headers["explain"], headers["url_path"], headers["content-length"]) == ("False", "", "1")


def test_what_follows_a_version(asked):
    """It is the handler's header url_path, percent-decoded."""
    _, headers = given(asked.get("/predictions/told/1.0/a/b%2Fc//d/", headers={"url_path": "not this", "explain": "nor this"}))

    assert (headers["url_path"], headers["explain"]) == ("a/b/c//d", "False")


@pytest.mark.parametrize(
    ("path", "explain", "url_path"),
    [
        ("/explanations/told", "True", ""),
        ("/explanations/told/1.0/a", "True", "a"),
        ("/v1/models/told:predict", "False", None),
        ("/v1/models/told:predict/", "False", None),
        ("/v1/models/told:explain", "True", None),
        ("/v2/models/told/infer", "False", None),
        ("/v2/models/told/explain", "True", None),
        ("/invocations?model_name=told", None, None),
        ("/models/told/invoke", None, None),
        ("/told/predict", None, None),
        ("/told/1.0/predict", None, None),
    ],
)
def test_other_paths_of_predictions(asked, path, explain, url_path):
    """Each tells its handler what it is: KServe's have no path of their own, SageMaker's and the oldest say nothing."""
    inputs, headers = given(asked.send("POST", path, json=[1]))

    assert inputs["body"] == ["list", [1]]
    assert (headers.get("explain"), headers.get("url_path")) == (explain, url_path)


def test_query_parameters(asked):
    """They are inputs of the oldest paths and SageMaker's, the body's beside them; of predictions they are not."""
    form = {"content": b"a=3&b=4", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}

    assert given(asked.send("POST", "/told/predict?a=1&a=2&body=q", **form))[0] == {
        "a": ["bytearray", "3"],
        "body": ["bytearray", "q"],
        "b": ["bytearray", "4"],
    }
    assert given(asked.get("/invocations?model_name=told&a=te%20st+x"))[0] == {
        "model_name": ["bytearray", "told"],
        "a": ["bytearray", "te st x"],
        "body": ["bytearray", ""],
    }
    assert given(asked.get("/predictions/told?a=1"))[0] == {"body": ["bytearray", ""]}
    assert given(asked.get("/v1/models/told:predict?a=1"))[0] == {"body": ["bytearray", ""]}


def test_a_form(asked):
    """Its fields are the inputs; SageMaker's path takes the model's name from it."""
    files = {"image": ("x.png", b"\x89PNG", "image/png"), "told": ("t", b"[1]", "application/json")}

    inputs, _ = given(asked.send("POST", "/predictions/told", data={"a": "1"}, files=files))
    assert inputs == {"a": ["bytearray", "1"], "image": ["bytearray", "\x89PNG"], "told": ["list", [1]]}
    inputs, _ = given(asked.send("POST", "/invocations", data={"model_name": "told"}, files={"a": b"1"}))
    assert inputs == {"model_name": ["bytearray", "told"], "a": ["bytearray", "1"]}
    large = asked.send("POST", "/predictions/told", files={"a": b"1" * 19_000})
    assert given(large)[0] == {"a": ["bytearray", "1" * 19_000]}


def test_a_damaged_form(asked):
    """It is the client's fault."""
    answer = asked.send("POST", "/predictions/told", content=b"--B", headers={"Content-Type": "multipart/form-data; boundary=BB"})

    assert (answer.status_code, answer.json()["type"]) == (400, "BadRequestException")


def test_a_handlers_answer(asked):
    """Its status, headers and type are the answer's, which has no type where it sets none; some headers are not its to set."""
    plain = asked.told({"answer": "text"})
    assert (plain.status_code, plain.text, "content-type" in plain.headers) == (200, "text", False)
    assert plain.headers["connection"] == "keep-alive"

    own = asked.told(
        {
            "status": 404,
            "type": "text/x; y=z",
            "headers": {
                "X-Mine": "1",
                "Pragma": "mine",
                "Content-Length": "7",
                "x-request-id": "mine",
                "a b": "c",
                "x-b": "d\r\ne: f",
            },
        }
    )
    assert (own.status_code, own.text) == (404, "done")
    assert own.headers.get_list("content-type") == ["text/x; y=z"]
    assert (own.headers["x-mine"], own.headers["x-b"], own.headers["connection"]) == ("1", "d e: f", "close")
    assert (own.headers.get_list("pragma"), own.headers.get_list("content-length")) == (["no-cache"], ["4"])
    assert not {"a b", "e"} & set(own.headers)
    assert own.headers["x-request-id"] != "mine"


@pytest.mark.parametrize("status", [99, 1000, 100, -1])
def test_a_status_that_is_none(asked, status):
    """A handler's status that no answer can have is an error, and harms nobody else."""
    answer = asked.told({"status": status})

    assert answer.status_code == 500
    assert answer.json()["message"] == f"The handler's status is {status}, which no answer can have."
    assert asked.told({}).status_code == 200


def test_a_handler_that_fails(asked):
    """The client learns nothing but the id under which the log has the traceback."""
    answer = asked.told({"fails": "for once"})

    assert (answer.status_code, answer.json()["message"]) == (503, "Prediction failed")
    assert re.fullmatch(r"[-0-9a-f]{8,36}", answer.headers["x-traceback-id"])


def test_a_stream(asked):
    """Parts come as chunks, after the first answer's headers."""
    answer = asked.told({"parts": ["a ", "b "], "answer": "c"})

    assert (answer.status_code, answer.text) == (200, "a b c")
    assert (answer.headers["transfer-encoding"], answer.headers["ts_stream_next"]) == ("chunked", "true")
    assert answer.headers["pragma"] == "no-cache"


def exchange(port, request):
    """What the server sends until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


CHUNK = b"1000\r\n" + b"1" * 4096 + b"\r\n"


@pytest.mark.parametrize("path", [b"/predictions/told", b"/ping", b"/nope"])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Content-Length: 20001\r\n", b"1" * 20001),
        (b"Content-Length: 20001\r\nExpect: 100-continue\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n", CHUNK * 5),
    ],
    ids=["whole", "expected", "chunked"],
)
def test_a_body_that_is_too_large(asked, path, head, body):
    """Its answer has no body; it comes before the body is read, or as soon as it is too large."""
    with socket.create_connection(("127.0.0.1", asked.port), timeout=60) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + body)
        answer = connection.recv(65536).decode()

    status, *headers = answer.partition("\r\n\r\n")[0].split("\r\n")
    assert status == "HTTP/1.1 413 Payload Too Large"
    assert {"content-length: 0", "connection: close"} <= {line.lower() for line in headers}
    assert answer.endswith("\r\n\r\n")


def test_a_body_that_is_just_small_enough(asked):
    """max_request_size is the largest that is read."""
    assert given(asked.send("POST", "/predictions/told", content=b"1" * 20000))[0] == {"body": ["bytearray", "1" * 20000]}


def test_a_chunked_body(asked):
    """Its handler is told its length, and not how it came."""
    inputs, headers = given(asked.send("POST", "/predictions/told", content=iter([b"ab", b"c"])))

    assert (inputs, headers["content-length"]) == ({"body": ["bytearray", "abc"]}, "3")
    assert "transfer-encoding" not in headers


def test_a_client_that_closes(asked):
    """It is told close, once."""
    answer = exchange(asked.port, b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert [line.lower() for line in answer.split("\r\n") if line.lower().startswith("connection")] == ["connection: close"]


def operations(document):
    return {
        (path, method): operation["operationId"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


PREDICTIONS = {
    ("/", "options"): "apiDescription",
    ("/ping", "get"): "ping",
    ("/v1/models/{model_name}:predict", "post"): "predictions",
    ("/v2/models/{model_name}/infer", "post"): "predictions",
    ("/predictions/{model_name}", "post"): "predictions",
    ("/predictions/{model_name}/{model_version}", "post"): "version_predictions",
    ("/api-description", "get"): "api-description",
    ("/metrics", "get"): "metrics",
}
OF_A_MODEL = {
    ("/models/{model_name}", "get"): "describeModel",
    ("/models/{model_name}", "put"): "setAutoScale",
    ("/models/{model_name}", "delete"): "unregisterModel",
    ("/models/{model_name}/{model_version}", "get"): "version_describeModel",
    ("/models/{model_name}/{model_version}", "put"): "version_setAutoScale",
    ("/models/{model_name}/{model_version}", "delete"): "version_unregisterModel",
    ("/models/{model_name}/{model_version}/set-default", "put"): "setDefault",
}
MANAGEMENT = {
    ("/", "options"): "apiDescription",
    ("/models", "get"): "listModels",
    ("/models", "post"): "registerModel",
    **OF_A_MODEL,
    ("/api-description", "get"): "api-description",
    ("/metrics", "get"): "metrics",
}
METRICS = {("/metrics", "get"): "metrics"}


@pytest.mark.parametrize(("connector", "found"), [(0, PREDICTIONS), (1, MANAGEMENT), (2, METRICS)])
def test_a_connectors_document(asked, connector, found):
    """Each connector describes itself in OpenAPI, with TorchServe's paths and operation ids."""
    answer = asked.send("OPTIONS", "/", connector)

    assert answer.json()["openapi"] == "3.0.1"
    assert operations(answer.json()) == found
    for method, path in (("GET", "/api-description"), ("PUT", "/api-description/")):
        assert asked.send(method, path, connector).content == answer.content


@pytest.mark.parametrize(
    ("path", "connector", "found"),
    [
        (
            "/predictions/told",
            0,
            {
                ("/prediction/told", "post"): "told",
                ("/v1/models/{model_name}:predict", "post"): "told",
                ("/v2/models/{model_name}/infer", "post"): "told",
            },
        ),
        ("/models/told", 1, OF_A_MODEL),
        ("/models/told/1.0", 1, OF_A_MODEL),
    ],
)
def test_a_models_document(asked, path, connector, found):
    """OPTIONS describes one model."""
    assert operations(asked.send("OPTIONS", path, connector).json()) == found


def test_documents_are_openapi(asked):
    """What describes the connectors is valid."""
    from openapi_spec_validator import validate

    for connector in (0, 1):
        document = asked.send("OPTIONS", "/", connector).json()
        for methods in document["paths"].values():
            for operation in methods.values():
                operation["operationId"] += str(id(operation))  # TorchServe's are not unique
        validate(document)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/metrics/x"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_metrics(asked, method, path):
    """The metrics connector answers whatever begins with its path; in the mode `log` only our own families."""
    answer = asked.send(method, path, 2)

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "stateserve_mar_request_seconds_count" in answer.text
    assert "Requests2XX" not in answer.text
    one = asked.send(method, f"{path}?name%5B%5D=stateserve_loaded&name[]=process_open_fds", 2).text
    assert {line.partition("{")[0].split()[0] for line in one.splitlines() if line[0] != "#"} <= {
        "stateserve_loaded",
        "process_open_fds",
    }


def test_artifacts_beside_archives(asked):
    """A model of the repository answers on TorchServe's port as it always does; its errors are its own."""
    answer = asked.send("POST", "/predictions/mlp", json=ROW)
    assert answer.json()["model_name"] == "mlp"
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": np.zeros(4).tolist()}
    assert asked.send("POST", "/v2/models/mlp/infer", json={"inputs": [tensor]}).json()["outputs"]
    assert asked.get("/v2/models").json() == {"models": ["mlp"]}
    assert asked.get("/docs").status_code == asked.get("/openapi.json").status_code == asked.get("/metrics").status_code == 200
    assert asked.send("POST", "/v2/models/nope/infer", json={}).json() == {"error": "no model is called 'nope'; there are: mlp"}


def test_ready(asked):
    """It is strict: every artifact passed its checks, and every archive has its workers."""
    for path in ("/ready", "/v2/health/ready"):
        answer = asked.get(path)
        assert (answer.status_code, answer.json()) == (200, {"ready": True})
