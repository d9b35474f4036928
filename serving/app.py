"""The FastAPI application: routes, lifespan, and the only place where an error becomes an HTTP status."""

import contextlib
import http
import logging
from collections.abc import AsyncIterator
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from artifact.errors import InvalidInput
from foundation.errors import StateserveError
from serving.errors import BadRequest, BodyTooLarge, ServingError
from serving.model import ServedModel
from serving.protocols import predictions
from serving.repository import Repository, load_repository
from serving.settings import Settings

log = logging.getLogger("stateserve")


def create_app(settings: Settings) -> FastAPI:
    """The application for one repository, whose models are loaded when it starts; it runs under any ASGI server."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.repository = await run_in_threadpool(load_repository, settings.repository, settings.threads)
        yield

    app = FastAPI(title="Stateserve", version=version("stateserve"), lifespan=lifespan)
    app.state.settings = settings
    app.add_api_route("/ping", ping, methods=["GET"], summary="Health, as TorchServe says it")
    app.add_api_route("/v2/health/live", live, methods=["GET"], summary="Whether the process answers")
    app.add_api_route("/v2/health/ready", ready, methods=["GET"], summary="Whether every model passed its golden cases")
    app.add_api_route("/predictions/{model}", predict, methods=["POST"], summary="Ask a model")
    for kind in (StateserveError, HTTPException, Exception):
        app.add_exception_handler(kind, on_error)
    return app


async def ping(request: Request) -> JSONResponse:
    """TorchServe's health: 200 Healthy, or 500 Unhealthy."""
    healthy = _repository(request).ready
    return JSONResponse({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 500)


async def live() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> JSONResponse:
    """200 if there is a model and every one passed its checks; else 503, with the reasons."""
    repository = _repository(request)
    if repository.ready:
        return JSONResponse({"ready": True})
    reasons = {model.name: model.reason for model in repository.not_ready()}
    error = "; ".join(str(reason) for reason in reasons.values()) or f"no model below {repository.root.name}"
    return JSONResponse({"ready": False, "error": error, "models": reasons}, 503)


async def predict(model: str, request: Request) -> Response:
    """Answers `{"inputs": {name: nested lists}}` with `{"model_name", "model_version", "outputs": {name: nested lists}}`."""
    body = await _body(request)
    served = _repository(request).model(model)
    return Response(await run_in_threadpool(_answer, served, body), media_type="application/json")


def _answer(served: ServedModel, body: bytes) -> bytes:
    """In a thread: a large body takes long to decode, and the event loop has others to listen to."""
    inputs = predictions.decode(body, served.ready().signature)
    return predictions.encode(served.name, served.version, served.predict(inputs))


async def on_error(request: Request, error: Exception) -> JSONResponse:
    """`{"error"}` below /v2, TorchServe's `{"code", "type", "message"}` elsewhere.

    What the client did wrong is told in full; what failed here is told by kind, and in full in the log.
    """
    status, kind, headers = _status(error), type(error).__name__, None
    message = str(error)
    if isinstance(error, HTTPException):  # the framework's own: no such route, or not with this method
        kind, headers = http.HTTPStatus(status).phrase.title().replace(" ", ""), error.headers
        message = f"{request.method} {request.url.path}: {error.detail}"
    if status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        message = f"{kind}: the server failed; its log says more"
    if request.url.path.startswith("/v2"):
        return JSONResponse({"error": message}, status, headers)
    return JSONResponse({"code": status, "type": kind, "message": message}, status, headers)


def _status(error: Exception) -> int:
    if isinstance(error, InvalidInput):
        return 400
    if isinstance(error, HTTPException):
        return error.status_code
    return error.status if isinstance(error, ServingError) else 500


def _repository(request: Request) -> Repository:
    return request.app.state.repository


async def _body(request: Request) -> bytes:
    """The body, which is never held beyond `max_body_bytes`, and not read at all where it says that it is larger."""
    limit = request.app.state.settings.max_body_bytes
    too_large = BodyTooLarge(f"the body has more than {limit} bytes (setting max_body_bytes)")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            chunks.append(chunk)
    except ClientDisconnect as cause:
        raise BadRequest("the client left before its body was whole") from cause
    return b"".join(chunks)
