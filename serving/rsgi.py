"""The fast face: granian's RSGI. Prediction routes are answered here; every other path is answered elsewhere.

Elsewhere is the FastAPI application, or, in a front end, the process that has it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from granian._granian import RSGIHTTPProtocol as HTTPProtocol
from granian._granian import RSGIProtocolClosed as ProtocolClosed
from granian.rsgi import Scope

from serving import logs
from serving.body import Arrivals, gathered, nothing, require_declared
from serving.error_answer import error_answer
from serving.errors import BadRequest, ClientLeft, ModelNotReady
from serving.inference import Inference, NotHere, Route
from serving.messages import Answer, Headers, Leaving, Request
from serving.settings import Settings
from serving.tracked import AsgiApp

_CLOSE = ("connection", "close")
_TRIES = 10
"""How often a prediction goes to and fro between a front end and who has all versions: versions may take over meanwhile."""


class HttpScope(Protocol):
    """What RSGI says of a request, besides its body: texts as granian gives them."""

    @property
    def http_version(self) -> str:
        """As in `1.1`."""
        ...

    @property
    def method(self) -> str:
        """As in `POST`."""
        ...

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        ...

    @property
    def path(self) -> str:
        """Percent-decoded."""
        ...

    @property
    def query_string(self) -> str:
        """What follows the question mark, as it was sent."""
        ...

    @property
    def headers(self) -> Headers:
        """Names in lower case."""
        ...

    @property
    def client(self) -> str:
        """The client's address and port."""
        ...

    @property
    def server(self) -> str:
        """The server's address and port."""
        ...


Elsewhere = Callable[[HttpScope, bytes, Leaving], Awaitable[Answer]]
"""Answers a request whose body is whole; raises a ServingError where nobody can, NotHere where it is to be asked here again."""


class RsgiFace:
    """granian's callable. `draining` asks every client to close its connection after its answer."""

    def __init__(self, inference: Inference, elsewhere: Elsewhere, settings: Settings, new_id: Callable[[], str]) -> None:
        self._inference = inference
        self._arrivals = inference.arrivals
        self._elsewhere = elsewhere
        self._max_body_bytes = settings.max_body_bytes
        self._access_log = settings.access_log
        self._new_id = new_id
        self._loop = asyncio.get_running_loop()
        self.draining = False

    async def __rsgi__(self, scope: Scope, proto: HTTPProtocol) -> None:
        """One request."""
        route = self._inference.route(scope.path) if scope.method == "POST" else None
        if route is None:
            await self._pass_on(scope, proto)
            return
        inference, headers, began = self._inference, scope.headers, time.perf_counter()
        given_id = headers.get("x-request-id")
        request_id = self._new_id() if given_id is None else logs.accepted_id(given_id) or self._new_id()
        inference.active += 1
        task = self._arrivals.begin(self._loop, began)
        body, is_here = b"", True
        try:
            body = await body_of(headers, proto, self._max_body_bytes)
            self._arrivals.end(task)
            request = Request("POST", scope.path, scope.query_string, headers, body)
            answer = await inference.answer(route, request, request_id, proto.client_disconnect)
        except NotHere:
            answer, is_here = Answer(500), False
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - every error has its answer
            answer = inference.refuse(told(error, task, self._arrivals), "POST", scope.path, request_id)
        finally:
            inference.active -= 1
        if not is_here:
            answer, is_here = await self._found_elsewhere(route, scope, body, request_id, proto)
        if self.draining and _CLOSE not in answer.headers:
            answer.headers.append(_CLOSE)
        proto.response_bytes(answer.status, answer.headers, answer.body)
        if self._access_log and is_here:
            logs.access(request_id, "POST", scope.path, answer.status, time.perf_counter() - began)

    async def _found_elsewhere(
        self, route: Route, scope: Scope, body: bytes, request_id: str, proto: HTTPProtocol
    ) -> tuple[Answer, bool]:
        """The answer to a prediction whose version was not here, and whether it came from here all the same."""
        inference, leaving = self._inference, proto.client_disconnect
        for _ in range(_TRIES):
            try:
                return await self._elsewhere(scope, body, leaving), False
            except NotHere:  # who has all versions says that it is here by now
                pass
            except Exception as error:  # noqa: BLE001 - every error has its answer
                return inference.refuse(error, "POST", scope.path, request_id), True
            with contextlib.suppress(NotHere):
                request = Request("POST", scope.path, scope.query_string, scope.headers, body)
                return await inference.answer(route, request, request_id, leaving), True
        error = ModelNotReady(f"{route.model} is being loaded or unloaded; ask again")
        return inference.refuse(error, "POST", scope.path, request_id), True

    async def _pass_on(self, scope: Scope, proto: HTTPProtocol) -> None:
        """Answers a request that is none for a prediction."""
        began = time.perf_counter()
        task = self._arrivals.begin(self._loop, began)
        try:
            body = await body_of(scope.headers, proto, self._max_body_bytes)
            self._arrivals.end(task)
            answer = await self._elsewhere(scope, body, proto.client_disconnect)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - every error has its answer
            request_id = logs.accepted_id(scope.headers.get("x-request-id")) or self._new_id()
            answer = error_answer(told(error, task, self._arrivals), scope.method, scope.path, request_id)
            logs.access(request_id, scope.method, scope.path, answer.status, time.perf_counter() - began)
        if self.draining and _CLOSE not in answer.headers:
            answer.headers.append(_CLOSE)
        proto.response_bytes(answer.status, answer.headers, answer.body)


def to_asgi(app: AsgiApp) -> Elsewhere:
    """An ASGI application as what answers elsewhere."""

    async def answer_of(scope: HttpScope, body: bytes, leaving: Leaving) -> Answer:
        messages = iter(({"type": "http.request", "body": body, "more_body": False},))
        answer = Answer(500)
        parts: list[bytes] = []

        async def receive() -> dict[str, Any]:
            message = next(messages, None)
            if message is None:
                await leaving()
                return {"type": "http.disconnect"}
            return message

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            else:
                parts.append(message.get("body", b""))

        with contextlib.suppress(Exception):  # it is answered and logged; Starlette raises it once more, for a server
            await app(asgi_scope(scope), receive, send)
        answer.body = b"".join(parts)
        return answer

    return answer_of


def body_of(headers: Any, proto: HTTPProtocol, limit: int) -> Awaitable[bytes]:
    """The body, which is never held beyond `limit` bytes.

    Raises:
        BodyTooLarge, BadRequest: it says that it is larger, or no length that we read.
    """
    if require_declared(headers.get("content-length"), limit):
        return proto()
    return gathered(_chunks(proto) if "transfer-encoding" in headers else nothing(), limit)


def told(error: BaseException, task: asyncio.Task[Any], arrivals: Arrivals) -> Exception:
    """What ended the reading of a body, or the request, in our words. Raises what is not ours to answer."""
    ended_by = arrivals.ended_by(error, task)
    if isinstance(ended_by, ProtocolClosed):
        return ClientLeft("the client left before its body was whole")
    if not isinstance(ended_by, Exception):
        raise ended_by
    return ended_by


async def _chunks(proto: HTTPProtocol) -> AsyncIterator[bytes]:
    """The chunks of a chunked body.

    Raises:
        BadRequest: it breaks off. granian says so by nothing but a second empty chunk at the end; a trailer looks the same.
    """
    empty = 0
    async for chunk in proto:
        empty += not chunk
        yield chunk
    if empty > 1:
        raise BadRequest("the body breaks off: its chunks are damaged, cut off, or followed by a trailer, which is not read")


def asgi_scope(scope: HttpScope) -> dict[str, Any]:
    """An HTTP scope of RSGI as ASGI's."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": scope.http_version,
        "method": scope.method,
        "scheme": scope.scheme,
        "path": scope.path,
        "raw_path": scope.path.encode(),
        "query_string": scope.query_string.encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in scope.headers.items()],
        "client": _address(scope.client),
        "server": _address(scope.server),
    }


def _address(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if port.isdecimal() else None
