"""Answers as TorchServe writes them: pretty JSON, the header set that every answer carries, and errors."""

import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson

from serving import messages
from serving.errors import BodyTimeout, BodyTooLarge, ServingError
from serving.settings import Settings
from serving.torchserve.errors import InternalServerException, TorchServeError
from serving.torchserve.jobs import STATUSES, Reply

log = logging.getLogger("stateserve")

JSON = ("content-type", "application/json")
_FIXED = (
    ("pragma", "no-cache"),
    ("cache-control", "no-cache; no-store, must-revalidate, private"),
    ("expires", "Thu, 01 Jan 1970 00:00:00 UTC"),
)
_CORS = (
    ("access-control-allow-origin", "cors_allowed_origin"),
    ("access-control-allow-methods", "cors_allowed_methods"),
    ("access-control-allow-headers", "cors_allowed_headers"),
)
_OF_THE_SERVER = frozenset(
    {"content-length", "transfer-encoding", "connection", "x-request-id", *(name for name, _ in (*_FIXED, *_CORS))}
)
"""Headers that a handler cannot set."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_VALUES = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]+")


@dataclass(slots=True)
class Answer(messages.Answer):
    """One answer; `more` are the parts that follow its body, where it is a stream."""

    more: AsyncIterator[bytes] | None = None


def json_body(value: Any) -> bytes:
    """JSON as TorchServe writes it: two spaces deep per level, and a line end."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # text that is no UTF-8
        return orjson.dumps(_written(value), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def json_answer(value: Any, status: int = 200) -> Answer:
    """An answer with a JSON body."""
    return Answer(status, json_body(value), [JSON])


def error_answer(error: BaseException, request_id: str) -> Answer:
    """What the client is told of an error; the server's own failures are logged with their traceback."""
    if isinstance(error, BodyTooLarge):
        return Answer(413)
    told = _told(error)
    if told is None:
        log.error("a request failed", exc_info=error, extra={"request_id": request_id})
        told = 500, "InternalServerException", f"The server failed; its log says more under request id {request_id}."
    status, kind, message = told
    answer = json_answer({"code": status, "type": kind, "message": message}, status)
    if (retry_after_s := getattr(error, "retry_after_s", None)) is not None:
        answer.headers.append(("retry-after", str(retry_after_s)))
    if (traceback_id := getattr(error, "traceback_id", None)) is not None:
        answer.headers.append(("x-traceback-id", traceback_id))
    return answer


def _told(error: BaseException) -> tuple[int, str, str] | None:
    """Status, type and message in TorchServe's words; None for an unforeseen error."""
    if isinstance(error, BodyTimeout):
        return error.status, "RequestTimeoutException", str(error)
    if isinstance(error, TorchServeError):
        return error.status, type(error).__name__, str(error)
    if isinstance(error, ServingError) and error.status < 500:
        return error.status, "BadRequestException", str(error)
    return None


class AnswerHeaders:
    """The headers that every answer carries, and what of a handler's reply becomes an answer."""

    def __init__(self, settings: Settings) -> None:
        cors = [(name, value) for name, key in _CORS if (value := getattr(settings, key)) is not None]
        self._fixed = (*cors, *_FIXED)
        self._json_content_type = settings.json_content_type

    def add(self, answer: messages.Answer, request_id: str, *, closes: bool) -> None:
        """Adds them to an answer; an error's ends its connection, and so does one that `closes`."""
        answer.headers.append(("x-request-id", request_id))
        answer.headers += self._fixed
        answer.headers.append(("connection", "close" if closes or answer.status >= 400 else "keep-alive"))

    def answer(self, reply: Reply) -> Answer:
        """The answer that a handler's reply is. Raises InternalServerException if it cannot be sent."""
        if reply.status not in STATUSES:
            raise InternalServerException(f"The handler's status is {reply.status}, which no answer can have.")
        headers = [*filter(None, map(_sendable, reply.headers))] if reply.headers else []
        content_type = reply.content_type or dict(headers).get("content-type")
        if content_type:
            headers = [pair for pair in headers if pair[0] != "content-type"]
            headers.append(("content-type", _NOT_IN_VALUES.sub(" ", content_type)))
        elif self._json_content_type and reply.more is None and _is_json(reply.body):
            headers.append(JSON)
        return Answer(reply.status, reply.body, headers, reply.more)


def _sendable(header: tuple[str, str]) -> tuple[str, str] | None:
    """A header of a handler's as it can be sent; None where it is the server's, or its name is none."""
    name, value = header
    if name.lower() in _OF_THE_SERVER or not _HEADER_NAME.fullmatch(name):
        return None
    return name.lower(), _NOT_IN_VALUES.sub(" ", value)


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return True


def _written(value: Any) -> Any:
    """The value with text that can be written: what is no UTF-8 becomes question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_written(key): _written(one) for key, one in value.items()}
    return [_written(one) for one in value] if isinstance(value, (list, tuple)) else value
