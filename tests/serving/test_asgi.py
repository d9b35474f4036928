"""`create_app` is a complete application: under any ASGI server it answers as the command does."""

import asyncio
import gzip
import json
import logging

import httpx
import numpy as np
import orjson
import pytest
from fastapi.testclient import TestClient

from artifact.errors import EngineFailed
from serving.app import create_app
from serving.settings import ModelSettings, Settings

MAX_BODY_BYTES = 100_000
ROW = {"inputs": {"x": [[0, 0, 0, 0]]}}
THREE_ROWS = np.array([[0.1, 0.2, -0.3, 4]] * 3, np.float32)
INPUT = {"name": "x", "shape": [3, 4], "datatype": "FP32"}
BINARY = orjson.dumps({"inputs": [{**INPUT, "parameters": {"binary_data_size": THREE_ROWS.nbytes}}]})

UVICORN = """
import sys, uvicorn
from serving.app import create_app
from serving.settings import Settings

flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
settings = Settings(**{name[2:].replace("-", "_"): value for name, value in flags.items()})
uvicorn.run(create_app(settings), host=settings.host, port=settings.port)
"""

REQUESTS = [
    ("GET", "/ping", {}),
    ("GET", "/v2/health/live", {}),
    ("GET", "/v2/health/ready", {}),
    ("GET", "/v2", {}),
    ("GET", "/v2/models", {}),
    ("GET", "/v2/models/mlp/versions/1/ready", {}),
    ("GET", "/docs", {}),
    ("POST", "/v2/repository/index", {}),
    ("POST", "/predictions/mlp", {"json": {"inputs": {"x": THREE_ROWS.tolist()}}}),
    ("POST", "/predictions/mlp/1", {"json": {"inputs": {"x": THREE_ROWS.tolist()}}}),
    ("POST", "/predictions/counting", {"json": {"inputs": {"rounds": [1000]}}}),
    ("POST", "/predictions/mlp", {"content": THREE_ROWS.tobytes(), "headers": {"content-type": "application/octet-stream"}}),
    ("POST", "/v2/models/mlp/infer", {"json": {"id": "7", "inputs": [{**INPUT, "data": THREE_ROWS.tolist()}]}}),
    (
        "POST",
        "/v2/models/mlp/versions/1/infer",
        {"content": BINARY + THREE_ROWS.tobytes(), "headers": {"inference-header-content-length": str(len(BINARY))}},
    ),
    (
        "POST",
        "/predictions/mlp",
        {"content": gzip.compress(orjson.dumps(ROW)), "headers": {"content-encoding": "gzip", "accept-encoding": "gzip"}},
    ),
    ("POST", "/predictions/mlp", {"json": {"inputs": {"x": [[5, 0, 0, 0]]}}}),
    ("POST", "/predictions/mlp", {"content": b"{"}),
    ("POST", "/predictions/resnet", {"json": {"inputs": {}}}),
    ("POST", "/predictions/a%2Fb", {"json": {"inputs": {}}}),
    ("POST", "/v2/models/mlp/versions/9/infer", {"json": {}}),
    ("POST", "/predictions/mlp", {"content": b" " * (MAX_BODY_BYTES + 1)}),
    ("POST", "/predictions/mlp", {"content": [b" " * MAX_BODY_BYTES, b" "]}),
    ("GET", "/predictions/mlp", {}),
    ("GET", "/nowhere", {}),
    ("GET", "/v2/nowhere", {}),
]


@pytest.fixture(scope="module")
def settings(repository):
    models = {"counting": ModelSettings(execution="thread")}
    return Settings(repository=repository, max_body_bytes=MAX_BODY_BYTES, model_settings=models)


@pytest.fixture(scope="module")
def uvicorn_server(start_server, settings):
    overrides = json.dumps({"counting": {"execution": "thread"}})
    flags = ["--max-body-bytes", str(MAX_BODY_BYTES), "--model-settings", overrides]
    with start_server(settings.repository, *flags, program=("-c", UVICORN)) as running:
        yield running


@pytest.fixture(scope="module", params=["in this process", "under uvicorn"])
def request_elsewhere(request, settings):
    """A function that sends a request to the application under another server than ours."""
    if request.param == "under uvicorn":
        yield request.getfixturevalue("uvicorn_server").request
        return
    with TestClient(create_app(settings)) as client:
        yield client.request


def test_the_same_answers(server, request_elsewhere):
    """Health, metadata, answers of every kind, and refusals are the same under another server, byte for byte."""
    for method, path, options in REQUESTS:
        real, elsewhere = (send(method, path, **fresh(options)) for send in (server.request, request_elsewhere))
        assert (path, elsewhere.status_code, elsewhere.content) == (path, real.status_code, real.content)
        assert described(elsewhere) == described(real)


def fresh(options):
    """The options, a body in chunks made anew: it can be sent once."""
    content = options.get("content")
    return {**options, "content": iter(content)} if isinstance(content, list) else options


def described(answer):
    names = ("content-type", "content-encoding", "inference-header-content-length", "allow")
    return {name: answer.headers.get(name) for name in names}


def test_a_request_id_comes_back(repository):
    """With an answer, and with an error."""
    with TestClient(create_app(Settings(repository=repository))) as client:
        for path in ("/predictions/mlp", "/predictions/resnet", "/v2/nowhere"):
            assert client.post(path, json=ROW, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"


def test_nothing_is_loaded_before_the_start(tmp_path):
    """Making the application reads no repository, and needs none: its lifespan does."""
    app = create_app(Settings(repository=tmp_path / "nowhere"))

    assert app.state.running.repository.names() == []


@pytest.mark.parametrize("path", ["/predictions/mlp", "/v2/models/mlp/infer", "/v2/health/ready"])
def test_a_failure_of_ours(repository, caplog, monkeypatch, path):
    """What fails here is told to the client by kind and request id only, and to the log in full."""

    def fail(*_):
        raise AttributeError("secret details")

    method = "GET" if path.endswith("ready") else "POST"
    app = create_app(Settings(repository=repository))
    with caplog.at_level(logging.ERROR, "stateserve"), TestClient(app, raise_server_exceptions=False) as client:
        monkeypatch.setattr(app.state.running.repository, "find", fail)
        monkeypatch.setattr(app.state.running.repository, "readiness", fail)
        answer = client.request(method, path, headers={"x-request-id": "mine"})
    message = "AttributeError: the server failed; its log says more under request id mine"
    expected = {"error": message} if path.startswith("/v2") else {"code": 500, "type": "AttributeError", "message": message}

    assert (answer.status_code, answer.json()) == (500, expected)
    ((record, text),) = ((record, record.getMessage()) for record in caplog.records)
    assert (text, bool(record.exc_info), record.__dict__["request_id"]) == (f"{method} {path} failed", True, "mine")
    assert "secret details" in caplog.text


def test_an_engine_that_fails(repository, caplog, monkeypatch):
    """A failure of the engine on a valid request is the server's: 500 by kind, the rest in the log; the next one is answered."""

    def fail(_):
        raise EngineFailed("ONNX Runtime failed: secret details")

    app = create_app(Settings(repository=repository))
    with caplog.at_level(logging.ERROR, "stateserve"), TestClient(app) as client:
        served = app.state.running.repository.find("mlp")
        with monkeypatch.context() as patch:
            patch.setattr(type(served.artifact.engine), "run", lambda _, inputs: fail(inputs))
            answer = client.post("/predictions/mlp", json=ROW, headers={"x-request-id": "mine"})
        assert client.post("/predictions/mlp", json=ROW).status_code == 200
        failed = client.get("/v2/models/mlp/stats").json()["model_stats"][0]["inference_stats"]["fail"]["count"]

    message = "EngineFailed: the server failed; its log says more under request id mine"
    assert (answer.status_code, answer.json()) == (500, {"code": 500, "type": "EngineFailed", "message": message})
    assert "secret details" in caplog.text
    assert failed == 1


def test_a_client_that_leaves_frees_its_place(uvicorn_server, wait_for):
    """Under another ASGI server too, the rows of a client that leaves while they wait are dropped."""

    def counted(name, **labels):
        return uvicorn_server.metric(name, model="counting", **labels)

    with uvicorn_server.in_flight(1, 0.3):
        with uvicorn_server.in_flight(1, 0.3):
            assert counted("stateserve_queued_rows") == 1
        wait_for(lambda: counted("stateserve_queued_rows") == 0)
        assert counted("stateserve_requests_failed_total", reason="client_left") == 1
        assert counted("stateserve_requests_in_flight") == 1


def test_a_body_that_does_not_come(repository):
    """Under another ASGI server too, a body that takes longer than body_timeout_s is refused with 408."""
    hasty = Settings(repository=repository, body_timeout_s=0.05)

    async def body():
        yield b"{"
        await asyncio.Event().wait()

    async def run():
        app = create_app(hasty)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.post("/predictions/mlp", content=body())

    answer = asyncio.run(run())
    message = "the body did not arrive within 0.05 s (setting body_timeout_s)"
    assert (answer.status_code, answer.json()) == (408, {"code": 408, "type": "BodyTimeout", "message": message})
