"""What a front end does not answer itself: it hands the request to control, and its client the answer."""

import asyncio
import itertools
from typing import Any

from serving.errors import ModelNotReady
from serving.inference import NotHere
from serving.messages import Answer, Leaving
from serving.processes.link import Link, Message
from serving.rsgi import HttpScope


class HandingOn:
    """Requests on their way to control. `run` takes its answers."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._asks = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}

    async def __call__(self, scope: HttpScope, body: bytes, leaving: Leaving) -> Answer:
        """Control's answer; it is told when the client leaves before.

        Raises:
            ModelNotReady: control has ended.
            NotHere: it is a prediction that can be answered here by now.
        """
        if not self._link.is_open:
            raise _ended()
        ask = next(self._asks)
        answered = self._waiting[ask] = self._loop.create_future()
        self._link.send(_head(ask, scope), body)
        watching = self._loop.create_task(self._watch(ask, leaving))
        try:
            message = await answered
        finally:
            watching.cancel()
            del self._waiting[ask]
        if message.head.get("again"):
            raise NotHere
        return Answer(message.head["status"], message.body, [(name, value) for name, value in message.head["headers"]])

    async def run(self) -> None:
        """Ends when control ends: what waits for an answer then gets none."""
        while (message := await self._link.receive()) is not None:
            answered = self._waiting.get(message.head["ask"])
            if answered is not None and not answered.done():
                answered.set_result(message)
        for answered in self._waiting.values():
            if not answered.done():
                answered.set_exception(_ended())

    async def _watch(self, ask: int, leaving: Leaving) -> None:
        await leaving()
        self._link.send({"kind": "left", "ask": ask})


def _ended() -> ModelNotReady:
    return ModelNotReady("the server's control process has ended; ask again")


def _head(ask: int, scope: HttpScope) -> dict[str, Any]:
    return {
        "kind": "request",
        "ask": ask,
        "method": scope.method,
        "scheme": scope.scheme,
        "http_version": scope.http_version,
        "path": scope.path,
        "query": scope.query_string,
        "headers": [[name, value] for name, value in scope.headers.items()],
        "client": scope.client,
        "server": scope.server,
    }
