"""Every request's id, also under other servers than ours: made or accepted, known to the handlers, returned, and logged."""

import string
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from serving import logs

Message = MutableMapping[str, Any]
AsgiApp = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

ID = "stateserve.request_id"
"""Where the id stands in the ASGI scope."""
_HEADER = b"x-request-id"


class Tracked:
    """ASGI middleware around the application."""

    def __init__(self, app: AsgiApp, new_id: Callable[[], str]) -> None:
        self._app = app
        self._new_id = new_id

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[..., Awaitable[None]]
    ) -> None:
        """One request; other scopes (lifespan) pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not scope["query_string"].isascii():  # no URL, but some servers pass it on, and Starlette fails to decode it
            scope["query_string"] = quote(scope["query_string"], safe=string.printable).encode()
        began = time.perf_counter()
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == _HEADER), None)
        request_id = scope[ID] = logs.accepted_id(given) or self._new_id()
        status = 500

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not any(name == _HEADER for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (_HEADER, request_id.encode("latin-1"))]
            await send(message)

        try:
            await self._app(scope, receive, with_id)
        finally:
            logs.access(request_id, scope["method"], scope["path"], status, time.perf_counter() - began)
