"""`create_app` is a complete application: under any ASGI server it answers as the command does."""

import asyncio
import dataclasses
import logging

import httpx
import pytest

from artifact.errors import EngineFailed
from serving.app import create_app
from serving.settings import Settings


def ask(settings, *requests, raise_app_exceptions=True, change=None):
    """The answers of the application in this process, its lifespan run as a server would."""

    async def run():
        app = create_app(settings)
        async with app.router.lifespan_context(app):
            if change is not None:
                change(app)
            transport = httpx.ASGITransport(app, raise_app_exceptions=raise_app_exceptions)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
                return [await http.request(method, path, **options) for method, path, options in requests]

    return asyncio.run(run())


def test_the_same_answers(server, repository):
    """Health, an answer, and refusals are the same under another server, byte for byte."""
    requests = [
        ("GET", "/ping", {}),
        ("GET", "/v2/health/live", {}),
        ("GET", "/v2/health/ready", {}),
        ("POST", "/predictions/mlp", {"json": {"inputs": {"x": [[0.1, 0.2, -0.3, 4]] * 3}}}),
        ("POST", "/predictions/mlp", {"json": {"inputs": {"x": [[5, 0, 0, 0]]}}}),
        ("POST", "/predictions/mlp", {"content": b"{"}),
        ("POST", "/predictions/resnet", {"json": {"inputs": {}}}),
        ("POST", "/predictions/mlp", {"content": b" " * 100_001}),
        ("GET", "/predictions/mlp", {}),
        ("GET", "/nowhere", {}),
        ("GET", "/v2/nowhere", {}),
    ]
    here = ask(Settings(repository=repository, max_body_bytes=100_000), *requests)

    for (method, path, options), answer in zip(requests, here, strict=True):
        real = httpx.request(method, server.url + path, timeout=30, **options)
        assert (answer.status_code, answer.content) == (real.status_code, real.content)
        assert answer.headers["content-type"] == real.headers["content-type"] == "application/json"


def test_nothing_is_loaded_before_the_start(tmp_path):
    """Making the application reads no repository: its lifespan does."""
    app = create_app(Settings(repository=tmp_path))

    assert not hasattr(app.state, "repository")


@pytest.mark.parametrize("path", ["/predictions/mlp", "/v2/health/ready"])
def test_a_failure_of_ours(repository, caplog, path):
    """What fails here is told to the client by kind only, and to the log in full."""

    def break_it(app):
        app.state.repository = None

    method = "POST" if path.startswith("/predictions") else "GET"
    with caplog.at_level(logging.ERROR, "stateserve"):
        (answer,) = ask(Settings(repository=repository), (method, path, {}), raise_app_exceptions=False, change=break_it)
    message = "AttributeError: the server failed; its log says more"
    expected = {"error": message} if path.startswith("/v2") else {"code": 500, "type": "AttributeError", "message": message}

    assert (answer.status_code, answer.json()) == (500, expected)
    assert [(record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [(f"{method} {path} failed", True)]


def test_an_engine_that_fails(repository, caplog):
    """A failure of the engine on a valid request is the server's: 500 by kind, the rest in the log."""

    class Broken:
        name = "onnx"

        def run(self, _):
            raise EngineFailed("ONNX Runtime failed: secret details")

    def break_it(app):
        models = app.state.repository.models
        models["mlp"] = dataclasses.replace(models["mlp"], loaded=dataclasses.replace(models["mlp"].loaded, engine=Broken()))

    body = {"json": {"inputs": {"x": [[0, 0, 0, 0]]}}}
    with caplog.at_level(logging.ERROR, "stateserve"):
        (answer,) = ask(Settings(repository=repository), ("POST", "/predictions/mlp", body), change=break_it)

    assert (answer.status_code, answer.json()) == (
        500,
        {"code": 500, "type": "EngineFailed", "message": "EngineFailed: the server failed; its log says more"},
    )
    assert "secret details" in caplog.text
