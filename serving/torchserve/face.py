"""granian's RSGI on one listener: TorchServe's paths first, then the application beside them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from granian._granian import RSGIHTTPProtocol as HTTPProtocol
from granian._granian import RSGIProtocolClosed as ProtocolClosed
from granian.rsgi import Scope

from serving import logs
from serving.body import Arrivals
from serving.messages import Request
from serving.rsgi import RsgiFace, body_of, told
from serving.settings import Settings
from serving.torchserve.answers import Answer, error_answer
from serving.torchserve.errors import TorchServeError
from serving.torchserve.front import Front, Route


class TorchServeFace:
    """granian's callable. `native` answers what is the application's, where there is one on this listener.

    `draining` asks every client to close its connection after its answer.
    """

    def __init__(self, front: Front, native: RsgiFace | None, settings: Settings) -> None:
        self._front = front
        self._native = native
        self._arrivals = Arrivals(settings.body_timeout_s)
        self._max_body_bytes = settings.max_request_size
        self._access_log = settings.access_log
        self._loop = asyncio.get_running_loop()
        self._draining = False

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._draining = draining
        if self._native is not None:
            self._native.draining = draining

    async def __rsgi__(self, scope: Scope, proto: HTTPProtocol) -> None:
        """One request."""
        front, route = self._front, self._front.route(scope.path)
        if self._native is not None and front.is_native(route):
            if await self._passes(route, scope, proto):
                await self._native.__rsgi__(scope, proto)
            return
        began, request_id, headers = time.perf_counter(), str(uuid4()), scope.headers
        task = self._arrivals.begin(self._loop, began)
        try:
            front.require_tokens(route, headers.get("authorization"))  # before a body of whoever has none is held
            body = await body_of(headers, proto, self._max_body_bytes)
            self._arrivals.end(task)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - every error has its answer
            answer = error_answer(told(error, task, self._arrivals), request_id)
        else:
            request = Request(scope.method, scope.path, scope.query_string, headers, body)
            answer = await front.answer(route, request, request_id, proto.client_disconnect)
        self._finish(answer, request_id, headers)
        if answer.more is None:
            proto.response_bytes(answer.status, answer.headers, answer.body)
        else:
            await _stream(answer, answer.more, proto, request_id)
        if self._access_log:
            logs.access(request_id, scope.method, scope.path, answer.status, time.perf_counter() - began)

    async def _passes(self, route: Route, scope: Scope, proto: HTTPProtocol) -> bool:
        """Whether the application may be asked; if not, the request is answered."""
        try:
            self._front.require_tokens(route, scope.headers.get("authorization"))
        except Exception as error:  # noqa: BLE001 - every error has its answer
            request_id = str(uuid4())
            answer = error_answer(error, request_id)
            self._finish(answer, request_id, scope.headers)
            proto.response_bytes(answer.status, answer.headers, answer.body)
            return False
        return True

    def _finish(self, answer: Answer, request_id: str, headers: Any) -> None:
        closes = self._draining or headers.get("connection") == "close"
        self._front.finish(answer, request_id, closes=closes)


async def _stream(answer: Answer, more: AsyncIterator[bytes], proto: HTTPProtocol, request_id: str) -> None:
    """Sends an answer part by part, as they come; what breaks it off is logged, and nothing more can be told to the client."""
    transport = proto.response_stream(answer.status, answer.headers)
    try:
        await transport.send_bytes(answer.body)
        async for part in more:
            await transport.send_bytes(part)
    except ProtocolClosed:
        logs.log.info("the client left before its stream ended", extra={"request_id": request_id})
    except TorchServeError as error:
        logs.log.warning("a stream broke off: %s", error, extra={"request_id": request_id})
    finally:
        with contextlib.suppress(Exception):
            await more.aclose()  # pyright: ignore[reportAttributeAccessIssue]
