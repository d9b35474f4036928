"""An error as an HTTP answer: the only place where that is decided.

`{"error"}` below /v2, TorchServe's `{"code", "type", "message"}` elsewhere. What the client did wrong is told in full; what
failed here is told by kind, and in full in the log.
"""

import http
import logging

import orjson
from starlette.exceptions import HTTPException

from artifact.errors import EngineFailed, InvalidInput, OutOfMemory
from serving.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientLeft,
    DeadlinePassed,
    EngineLost,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    ServingError,
    UnsupportedBody,
)
from serving.messages import Answer

log = logging.getLogger("stateserve")

_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (QueueFull, "queue_full"),
    (DeadlinePassed, "deadline"),
    (ClientLeft, "client_left"),
    (ModelNotFound, "not_found"),
    (ModelNotReady, "not_ready"),
    (BodyTooLarge, "body_too_large"),
    (BodyTimeout, "body_timeout"),
    (EngineLost, "engine_lost"),
    (OutOfMemory, "out_of_memory"),
    (EngineFailed, "engine"),
    (InvalidInput, "bad_request"),
)


def reason(error: Exception) -> str:
    """The error's kind for the metrics: one of a few words."""
    for kind, word in _REASONS:
        if isinstance(error, kind):
            return word
    return "bad_request" if status_of(error) < http.HTTPStatus.INTERNAL_SERVER_ERROR else "other"


def status_of(error: Exception) -> int:
    """The HTTP status that tells of the error."""
    if isinstance(error, InvalidInput):
        return getattr(error, "status", 400)
    if isinstance(error, OutOfMemory):
        return 507
    if isinstance(error, HTTPException):
        return error.status_code
    return error.status if isinstance(error, ServingError) else 500


def error_answer(error: Exception, method: str, path: str, request_id: str) -> Answer:
    """What the client is told of an error; the server's own failures are logged with their traceback."""
    status, kind, message = status_of(error), type(error).__name__, str(error)
    headers = [("content-type", "application/json"), ("x-request-id", request_id)]
    if isinstance(error, HTTPException):  # the framework's own: no such route, or not with this method
        kind = http.HTTPStatus(status).phrase.title().replace(" ", "")
        message = f"{method:.32} {path}: {error.detail}"
        headers += [(name.lower(), value) for name, value in (error.headers or {}).items()]
    if isinstance(error, (EngineLost, QueueFull)):
        headers.append(("retry-after", str(error.retry_after_s)))
    if isinstance(error, UnsupportedBody):
        headers.append(("accept-encoding", "gzip, deflate"))
    if isinstance(error, (BodyTimeout, BodyTooLarge)):
        headers.append(("connection", "close"))  # what is left of the body is not read
    if status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s failed", method, path, exc_info=error, extra={"request_id": request_id})
        message = f"{kind}: the server failed; its log says more under request id {request_id}"
    body = {"error": message} if path.startswith("/v2") else {"code": status, "type": kind, "message": message}
    return Answer(status, orjson.dumps(body, default=str), headers)
