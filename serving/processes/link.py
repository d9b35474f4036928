"""Messages between two of our processes: JSON, bytes and descriptors in order, over a Unix stream socket. No pickle."""

import array
import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

log = logging.getLogger("stateserve")

_HEAD = struct.Struct("<IQB")
"""Bytes of JSON, bytes behind it, descriptors."""
_READ_BYTES = 1 << 18
_MOST_DESCRIPTORS = 64


@dataclass(slots=True)
class Message:
    """What the other side sent. `fds` belong to whoever took the message."""

    head: dict[str, Any]
    body: bytes = b""
    fds: list[int] = field(default_factory=list)


class Link:
    """One end of a connection, on the event loop. The other end is a process of ours, which is trusted."""

    def __init__(self, sock: socket.socket) -> None:
        """Takes the socket, and closes it at the end."""
        sock.setblocking(False)  # noqa: FBT003 - the socket's own interface
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._to_send: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._read = bytearray()
        self._fds: deque[int] = deque()
        self._messages: deque[Message] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._is_open = True
        self._is_closing = False
        self._loop.add_reader(sock, self._readable)

    @property
    def is_open(self) -> bool:
        """Whether the other side may still send and hear; what was received before its end can still be taken."""
        return self._is_open

    def send(self, head: Mapping[str, Any], body: bytes | memoryview = b"", fds: Sequence[int] = ()) -> None:
        """Sends a message, in order, without waiting; to a side that has ended, nothing is sent. `fds` stay the caller's."""
        if not self._is_open:
            return
        text = orjson.dumps(head, option=orjson.OPT_NON_STR_KEYS)
        first = _HEAD.pack(len(text), len(body), len(fds)) + text
        own = [os.dup(fd) for fd in fds]
        was_empty = not self._to_send
        self._to_send.append((memoryview(first), own))
        if body:
            self._to_send.append((memoryview(body), ()))
        if was_empty:
            self._writable()

    async def receive(self) -> Message | None:
        """The next message; None when the other side has ended and all that it sent was taken."""
        while not self._messages:
            if not self._is_open:
                return None
            self._waiting = self._loop.create_future()
            await self._waiting
        return self._messages.popleft()

    def close(self) -> None:
        """Ends the connection when what was sent is with the system; what then comes in is lost."""
        self._is_closing = True
        if not self._to_send:
            self._end()

    def _readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(_READ_BYTES, socket.CMSG_SPACE(4 * _MOST_DESCRIPTORS))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary, flags = b"", [], 0
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._fds.extend(numbers)
        if flags & socket.MSG_CTRUNC:  # what was sent cannot be done without it
            log.error("a descriptor was lost on its way to this process, which has as many open as it may (ulimit -n)")
            data = b""
        if not data:
            self._end()
            return
        self._read += data
        self._take_messages()

    def _take_messages(self) -> None:
        at = 0
        while len(self._read) - at >= _HEAD.size:
            text_bytes, body_bytes, fds = _HEAD.unpack_from(self._read, at)
            start = at + _HEAD.size
            end = start + text_bytes + body_bytes
            if len(self._read) < end:
                break
            with memoryview(self._read) as view:
                head = orjson.loads(view[start : start + text_bytes])
                body = bytes(view[start + text_bytes : end])
            self._messages.append(Message(head, body, [self._fds.popleft() for _ in range(fds)]))
            at = end
        if at:
            del self._read[:at]
            self._wake()

    def _writable(self) -> None:
        try:
            while self._to_send:
                data, fds = self._to_send[0]
                sent = socket.send_fds(self._socket, [data], list(fds)) if fds else self._socket.send(data)
                for fd in fds:
                    os.close(fd)
                if sent == len(data):
                    self._to_send.popleft()
                else:
                    self._to_send[0] = data[sent:], ()
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._writable)
            return
        except OSError:  # the other side has ended; reading tells so, after what it had sent
            self._drop_unsent()
        self._loop.remove_writer(self._socket)
        if self._is_closing:
            self._end()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _end(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._drop_unsent()
        _close(self._fds)
        self._fds.clear()
        self._socket.close()
        self._wake()

    def _drop_unsent(self) -> None:
        for _, fds in self._to_send:
            _close(fds)
        self._to_send.clear()


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
