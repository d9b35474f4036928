"""A lean HTTP/1.1 client, so that the client is not what limits a load: keep-alive, one request at a time on a connection."""

import asyncio
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import BenchError
from bench.payloads import Body

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER for 0 s: closing sends RST


class ConnectionLost(BenchError):
    """The connection ended before the answer was whole; `received_bytes` of it were there."""

    def __init__(self, received_bytes: int) -> None:
        super().__init__(f"the connection ended with {received_bytes} bytes of the answer received")
        self.received_bytes = received_bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, head (status line and headers) and content of an answer."""

    status: int
    head: bytes
    content: bytes

    def headers(self) -> dict[str, str]:
        """The headers, their names in lower case."""
        lines = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:])
        return {name.lower(): value.strip() for name, _, value in lines}


class Connection(asyncio.Protocol):
    """One connection. Made by `connect`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport  # type: ignore[assignment]
        self._own_port: int = transport.get_extra_info("sockname")[1]
        self.is_open = True

    def ask(self, request: bytes) -> "asyncio.Future[Answer]":
        """Sends a request, as `get` and `post` write it; the future has its answer.

        It fails with ConnectionLost where the connection ends before.
        """
        self._answer = self._loop.create_future()
        if self.is_open:
            self._transport.write(request)
        else:
            self._answer.set_exception(ConnectionLost(0))
        return self._answer

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        data = self._received + data
        end = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, end) if end > 0 else None
        whole_bytes = end + 4 + int(length[1]) if length else len(data) + 1
        if len(data) < whole_bytes:
            self._received = data
            return
        self._received = data[whole_bytes:]
        waiting, self._answer = self._answer, None
        if waiting is not None and not waiting.done():
            waiting.set_result(Answer(int(data[9:12]), data[:end], data[end + 4 : whole_bytes]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (how it ended makes no difference)
        """See asyncio.Protocol."""
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionLost(len(self._received)))

    @property
    def own_port(self) -> int:
        """The port at our end."""
        return self._own_port

    @property
    def unasked_bytes(self) -> int:
        """Bytes that arrived beyond the answers to what was asked."""
        return len(self._received) if self._answer is None else 0

    def close(self) -> None:
        """Leaves, whether or not an answer is due."""
        self._forget()
        self._transport.close()

    def reset(self) -> None:
        """Leaves as a client that dies: with RST."""
        self._forget()
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _forget(self) -> None:
        if self._answer is not None:
            self._answer.cancel()


async def connect(port: int) -> Connection:
    """A new connection to 127.0.0.1.

    Raises:
        OSError: nobody listens there.
    """
    _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return connection


async def ask_once(port: int, request: bytes) -> Answer:
    """The answer to one request, on a connection of its own.

    Raises:
        OSError: nobody listens there.
        ConnectionLost: it was not answered.
    """
    connection = await connect(port)
    try:
        return await connection.ask(request)
    finally:
        connection.close()


def get(path: str) -> bytes:
    """A GET request's bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n".encode()


def post(path: str, body: Body, headers: Mapping[str, str] = {}) -> bytes:
    """A POST request's bytes; `headers` are sent beside the body's own."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**body.headers, **headers}.items())
    return f"POST {path} HTTP/1.1\r\nHost: soak\r\n{lines}Content-Length: {len(body.content)}\r\n\r\n".encode() + body.content
