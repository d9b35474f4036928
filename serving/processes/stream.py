"""A stream of records between two processes: what one turn of the event loop says is one system call."""

import asyncio
import socket
from collections.abc import Callable

_READ_BYTES = 1 << 16


class Stream:
    """One end of a connected Unix stream socket, on the event loop.

    `take` is given all that came and was not taken yet, and says how many bytes of it were whole records. `ended` is called once,
    when the other side has ended and all that it sent was given; after `close` neither is called.
    """

    def __init__(self, sock: socket.socket, take: Callable[[bytes], int], ended: Callable[[], None]) -> None:
        """The socket does not block; it is closed at the end."""
        self._socket = sock
        self._take = take
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._unsent = bytearray()
        self._is_sending = False
        self._is_blocked = False
        self._is_open = True
        self._loop.add_reader(sock, self._readable)

    def send(self, data: bytes) -> None:
        """Sends at the end of this turn, in order, and never waits: what the system does not take yet is kept here."""
        self._unsent += data
        if not self._is_sending:
            self._is_sending = True
            self._loop.call_soon(self._send)

    def close(self) -> None:
        """Ends the connection at once."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._take, self._ended = len, _nothing  # they lead back here: the other side's memory is to go at once

    def _send(self) -> None:
        if not self._is_open:
            return
        try:
            del self._unsent[: self._socket.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the other side has ended; reading tells so, after what it had sent
            self._loop.remove_writer(self._socket)
            return
        if self._unsent and not self._is_blocked:
            self._is_blocked = True
            self._loop.add_writer(self._socket, self._send)
        elif not self._unsent:
            self._is_sending = False
            if self._is_blocked:
                self._is_blocked = False
                self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            ended = self._ended
            self.close()
            ended()
            return
        if self._rest:
            data = self._rest + data
        self._rest = data[self._take(data) :]


def _nothing() -> None:
    pass
