"""A client that sends what it is told, byte by byte, and says what came back."""

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace

from tests.torchserve.shapes import Answer, Ask

_CLOSE_S = 0.5
_PIECE = 1 << 16


class NoAnswer(Exception):
    """The server closed the connection, or did not answer in time."""


def send(ask: Ask, connect: Callable[[], socket.socket]) -> Answer:
    """Asks on a connection of its own; after an answer that says so, waits for the server to close it."""
    try:
        connection = connect()
    except ConnectionRefusedError:
        return Answer(None, "refused")
    with connection:
        connection.settimeout(ask.wait_s)
        try:
            _send_all(connection, ask)
            return _Reader(connection, ask.method, time.monotonic() + ask.wait_s).answer()
        except (NoAnswer, OSError):
            return Answer(None)


def encode(ask: Ask) -> bytes:
    """The request as it is sent."""
    headers = list(ask.headers)
    names = {name.lower() for name, _ in headers}
    if "host" not in names:
        headers.insert(0, ("Host", "torchserve.test"))
    if ask.chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    elif ask.body is not None and "content-length" not in names:
        headers.append(("Content-Length", str(len(ask.body))))
    lines = [f"{ask.method} {ask.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    head = "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n"
    body = ask.body or b""
    if ask.chunked:
        middle = len(body) // 2
        pieces = [piece for piece in (body[:middle], body[middle:]) if piece]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return head + body


def _send_all(connection: socket.socket, ask: Ask) -> None:
    """A server may answer, and close, before it has read all."""
    try:
        connection.sendall(encode(ask))
    except (BrokenPipeError, ConnectionResetError):
        return


class _Reader:
    """Reads one answer."""

    def __init__(self, connection: socket.socket, method: str, deadline: float) -> None:
        self._connection = connection
        self._method = method
        self._deadline = deadline
        self._data = b""

    def answer(self) -> Answer:
        first, *lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        _, status, *phrase = first.split(" ", 2)
        if status == "100":
            return replace(self.answer(), continued=True)
        headers = tuple((name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
        lower = {name.lower(): value for name, value in headers}
        body = self._body(int(status), lower)
        closed = lower.get("connection", "").lower() == "close" and self._is_closed()
        return Answer(int(status), phrase[0] if phrase else "", headers, body, closed)

    def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if self._method == "HEAD" or status in {204, 304}:
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks()
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        return self._rest()

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n").partition(b";")[0], 16):
            body += self._exactly(size)
            self._until(b"\r\n")
        self._until(b"\r\n")
        return body

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._data:
            self._more()
        found, _, self._data = self._data.partition(mark)
        return found

    def _exactly(self, count: int) -> bytes:
        while len(self._data) < count:
            self._more()
        found, self._data = self._data[:count], self._data[count:]
        return found

    def _rest(self) -> bytes:
        try:
            while True:
                self._more()
        except NoAnswer:
            return self._data

    def _more(self) -> None:
        self._connection.settimeout(max(self._deadline - time.monotonic(), 0.001))
        try:
            piece = self._connection.recv(_PIECE)
        except TimeoutError as cause:
            raise NoAnswer from cause
        if not piece:
            raise NoAnswer
        self._data += piece

    def _is_closed(self) -> bool:
        """Whether the server ends the connection after its answer."""
        self._connection.settimeout(_CLOSE_S)
        try:
            while self._connection.recv(_PIECE):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True


def tcp(port: int, *, tls: bool = False) -> Callable[[], socket.socket]:
    """A function that connects to a port of this machine; certificates are not asked who made them."""

    def connect() -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", port), timeout=60)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not tls:
            return plain
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(plain, server_hostname="localhost")

    return connect


def unix(path: str) -> Callable[[], socket.socket]:
    """A function that connects to a socket of the file system."""

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(path)
        return connection

    return connect


def usual_phrase(status: int | None) -> str:
    """The phrase that every server says with a status."""
    return http.client.responses.get(status or 0, "")
