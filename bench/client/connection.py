"""One connection to the server: its socket, what it is sending, and the answer it waits for."""

import contextlib
import math
import time
from socket import socket as Socket  # noqa: N812 - a connection has a socket

from bench.client.answer import Answer
from bench.client.load import Request

IDLE = -1.0
"""`Connection.due_s` where no request is under way."""

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.5


class Connection:
    """A place for one request at a time; its socket may be opened again and again.

    `due_s` is when the request under way was due, `deadline_s` when it, or the connecting, has taken too long; `rest` is what is
    not sent of it, None once all is. `since_s` is when the socket was opened; one that is `proven` brought a whole answer: the
    next may be opened at once.
    """

    __slots__ = (
        "answer",
        "connecting",
        "deadline_s",
        "due_s",
        "pause_s",
        "proven",
        "received",
        "request",
        "rest",
        "retry_s",
        "since_s",
        "socket",
    )

    def __init__(self, opened: Socket | None, request: Request) -> None:
        self.socket: Socket | None = opened
        self.request = request
        self.answer = Answer()
        self.rest: memoryview | None = None
        self.connecting = self.proven = False
        self.due_s, self.deadline_s, self.retry_s, self.pause_s = IDLE, math.inf, 0.0, _FIRST_PAUSE_S
        self.received, self.since_s = 0, time.monotonic()

    @property
    def sent(self) -> int:
        """Bytes of the request under way that were sent."""
        return len(self.request.content) - (0 if self.rest is None else len(self.rest))

    def begin(self, opened: Socket, request: Request, due_s: float, deadline_s: float) -> bool:
        """Sends a request, or as much of it as the socket takes now; true if that was all.

        What goes wrong with the socket is told by the next receiving: an answer may stand before it.
        """
        self.request, self.due_s, self.deadline_s, self.received = request, due_s, deadline_s, 0
        try:
            sent = opened.send(request.content)
        except OSError:
            sent = 0
        self.rest = None if sent == len(request.content) else memoryview(request.content)[sent:]
        return self.rest is None

    def go_on(self, opened: Socket) -> bool:
        """Sends more of the request; true if that was all."""
        if self.rest is not None:
            with contextlib.suppress(OSError):
                self.rest = self.rest[opened.send(self.rest) :] or None
        return self.rest is None

    def close(self, now_s: float) -> None:
        """Closes the socket, and says when the next may be opened: at once after an answer, else later each time."""
        if self.socket is not None:
            self.socket.close()
        if self.proven:
            self.retry_s, self.pause_s = now_s, _FIRST_PAUSE_S
        else:
            self.retry_s, self.pause_s = now_s + self.pause_s, min(2 * self.pause_s, _LONGEST_PAUSE_S)
        self.socket, self.answer, self.rest = None, Answer(), None
        self.connecting = self.proven = False
        self.due_s, self.deadline_s = IDLE, math.inf
