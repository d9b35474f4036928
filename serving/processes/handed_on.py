"""Requests that front ends hand on: they are answered by the faces that this process has, as if it had read them itself."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serving.processes.link import Link, Message

log = logging.getLogger("stateserve")


class Face(Protocol):
    """What answers the requests of a listener: granian's callable."""

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        """One request."""
        ...


class HandedHeaders(Mapping[str, str]):
    """Headers as granian has them: asked for in lower case, repeated ones listed each time."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._first = dict(reversed(pairs))

    def __getitem__(self, name: str) -> str:
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def items(self) -> Any:
        """All of them, in order."""
        return list(self._pairs)


@dataclass(frozen=True, slots=True)
class HandedScope:
    """What granian says of a request."""

    method: str
    scheme: str
    http_version: str
    path: str
    query_string: str
    headers: HandedHeaders
    client: str
    server: str
    proto: str = "http"


class HandedProto:
    """What granian's protocol does: gives the body, says when the client leaves, takes the answer."""

    def __init__(self, body: bytes, answer: Callable[[int, list[tuple[str, str]], bytes], None]) -> None:
        self._body = body
        self._answer = answer
        self._left = asyncio.get_running_loop().create_future()

    async def __call__(self) -> bytes:
        """The whole body."""
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body

    async def client_disconnect(self) -> None:
        """Ends when the client has left."""
        await asyncio.shield(self._left)

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Sends the whole answer."""
        self._answer(status, headers, body)

    def leave(self) -> None:
        """The client has left."""
        if not self._left.done():
            self._left.set_result(None)


class HandedOn:
    """The requests of one front end. `is_there_now` is asked about each first: whether the front end can answer it by now."""

    def __init__(self, link: Link, face: Face, is_there_now: Callable[[str, str], Awaitable[bool]]) -> None:
        self._link = link
        self._face = face
        self._is_there_now = is_there_now
        self._open: dict[int, HandedProto] = {}
        self._works: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Ends with the front end; its clients have left then."""
        while (message := await self._link.receive()) is not None:
            if message.head["kind"] == "left":
                if message.head["ask"] in self._open:
                    self._open[message.head["ask"]].leave()
                continue
            work = asyncio.create_task(self._answer(message))
            self._works.add(work)
            work.add_done_callback(self._works.discard)
        for proto in self._open.values():
            proto.leave()

    async def _answer(self, message: Message) -> None:
        head, ask = message.head, message.head["ask"]

        def answer(status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self._link.send({"kind": "answer", "ask": ask, "status": status, "headers": headers}, body)

        proto = self._open[ask] = HandedProto(message.body, answer)
        try:
            if await self._is_there_now(head["method"], head["path"]):
                self._link.send({"kind": "answer", "ask": ask, "again": True})
            else:
                await self._face.__rsgi__(_scope(head), proto)
        except Exception:
            log.exception("%s %s failed", head["method"], head["path"])
            answer(500, [], b"")
        finally:
            del self._open[ask]


def _scope(head: Mapping[str, Any]) -> HandedScope:
    return HandedScope(
        method=head["method"],
        scheme=head["scheme"],
        http_version=head["http_version"],
        path=head["path"],
        query_string=head["query"],
        headers=HandedHeaders([(name, value) for name, value in head["headers"]]),
        client=head["client"],
        server=head["server"],
    )
