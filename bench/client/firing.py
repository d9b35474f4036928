"""The load itself: one thread, non-blocking sockets on one epoll, one receive buffer, requests made beforehand.

A turn of the loop takes what the sockets have, ends what has taken too long, opens what was closed, and sends what is due. Why
not asyncio: docs/adr/0012.
"""

import errno
import itertools
import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.client.answer import MalformedAnswer
from bench.client.arrivals import NONE_DUE, Arrivals
from bench.client.connection import IDLE, Connection
from bench.client.exhausted import require_not_exhausted
from bench.client.load import Request
from bench.client.plan import Address, Plan
from bench.client.tally import Tally

TICK_S = 0.02
"""How often deadlines are looked at, closed connections opened again, and `at_tick` called; the longest wait."""

_CONNECT_TIMEOUT_S = 3.0
_OPEN_TIMEOUT_S = 1.0
_BUFFER_BYTES = 256 * 1024
_EVENTS = 256
_FAILURES = 3
_LIVES_S = 1.0

_IN, _IN_OR_OUT = select.EPOLLIN, select.EPOLLIN | select.EPOLLOUT
_GONE = select.EPOLLHUP | select.EPOLLERR
_IN_OR_GONE = _IN | _GONE


@dataclass(frozen=True, slots=True)
class Opened:
    """Connections that are open before a load begins (None: not yet), and the epoll on which it waits for them."""

    epoll: select.epoll
    sockets: Sequence[socket.socket | None]


def opened(address: Address, count: int) -> Opened:
    """Opens so many connections, one after the other, up to the first that the server does not take now.

    The epoll is opened first: `select.select` takes descriptors below 1024 only.

    Raises:
        ProcessFailed: this machine has no descriptor or port left.
    """
    epoll, sockets = select.epoll(), []
    family, *where = address
    while len(sockets) < count:
        one = _socket(family, len(sockets))
        one.settimeout(_OPEN_TIMEOUT_S)
        try:
            one.connect(tuple(where))
        except OSError as error:
            one.close()
            require_not_exhausted(error.errno, len(sockets))
            break
        one.settimeout(0.0)
        sockets.append(one)
    return Opened(epoll, sockets + [None] * (count - len(sockets)))


class Firing:
    """A load while it runs: `run` does it. `stopped` ends it at the next turn; `last_failure` is how the server failed last."""

    def __init__(self, plan: Plan, requests: Sequence[Request], opened: Opened, arrivals: Arrivals, tally: Tally) -> None:
        self._address, self._timeout_s = plan.address, plan.timeout_s
        self._requests = itertools.cycle(requests)
        self._arrivals, self._tally = arrivals, tally
        self._buffer = bytearray(_BUFFER_BYTES)
        self._epoll = opened.epoll
        self._connections = [Connection(one, requests[0]) for one in opened.sockets]
        self._open = {one.socket.fileno(): one for one in self._connections if one.socket is not None}
        self._idle = deque(self._open.values())
        for descriptor in self._open:
            self._epoll.register(descriptor, _IN)
        self._listeners: dict[int, Callable[[], None]] = {}
        self._failures, self._failing_since_s = 0, 0.0
        self.last_failure = ""
        self.stopped = False

    def failing_s(self, now_s: float) -> float:
        """For how long the server has refused and closed every connection, without one answer; 0 as long as it has not.

        A connection that lives shows that the server is only slow, or that nothing was asked of it.
        """
        lives = any(not one.connecting and now_s - one.since_s > _LIVES_S for one in self._open.values())
        return now_s - self._failing_since_s if self._failures >= _FAILURES and not lives else 0.0

    def listen(self, descriptor: int, heard: Callable[[], None]) -> None:
        """Calls `heard` whenever something can be read there, also its end."""
        self._listeners[descriptor] = heard
        self._epoll.register(descriptor, _IN)

    def run(self, at_tick: Callable[[float], None]) -> None:
        """Sends what is due until nothing will be, and until every request has its answer or has failed; or until `stopped`.

        Raises:
            ProcessFailed: a connection was to be opened again, and this machine has no descriptor or port left.
        """
        now_s = time.monotonic()
        next_tick_s = now_s
        while not self.stopped:
            if self._idle:
                self._send_due(now_s)
            if now_s >= next_tick_s:
                next_tick_s = now_s + TICK_S
                self._tend(now_s)
                at_tick(now_s)
                if self._arrivals.over(now_s) and all(one.due_s == IDLE for one in self._connections):
                    break
            self._take(self._wait(now_s, next_tick_s))
            now_s = time.monotonic()
        self._leave(now_s)

    def _wait(self, now_s: float, next_tick_s: float) -> list[tuple[int, int]]:
        """What the sockets have, once they have something or something is to be done.

        A request is awaited to the microsecond: epoll's own time-out is rounded up to a millisecond.
        """
        if self._idle and (due_s := self._arrivals.next_s()) < next_tick_s:
            select.select([self._epoll.fileno()], [], [], max(0.0, due_s - now_s))
            return self._epoll.poll(0, _EVENTS)
        return self._epoll.poll(max(0.0, next_tick_s - now_s), _EVENTS)

    def _take(self, found: list[tuple[int, int]]) -> None:
        for descriptor, events in found:
            connection = self._open.get(descriptor)
            if connection is None or connection.socket is None:
                self._listeners[descriptor]()
            elif events == _IN:
                self._receive(connection, connection.socket)
            elif connection.connecting:
                self._connected(connection, connection.socket)
            else:
                if events & select.EPOLLOUT and not events & _GONE and connection.go_on(connection.socket):
                    self._epoll.modify(descriptor, _IN)
                if events & _IN_OR_GONE:
                    self._receive(connection, connection.socket)

    def _send_due(self, now_s: float) -> None:
        while self._idle and (due_s := self._arrivals.take(now_s)) != NONE_DUE:
            self._begin(self._idle.popleft(), due_s)

    def _begin(self, connection: Connection, due_s: float) -> None:
        opened = connection.socket
        if opened is not None and not connection.begin(opened, next(self._requests), due_s, due_s + self._timeout_s):
            self._epoll.modify(opened.fileno(), _IN_OR_OUT)

    def _receive(self, connection: Connection, opened: socket.socket) -> None:
        try:
            size = opened.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:  # closed by force
            size = 0
        now_s = time.monotonic()
        if connection.due_s == IDLE:  # nobody asked: the server leaves, perhaps with a word
            self._close(connection, now_s)
            return
        connection.received += size
        try:
            status = connection.answer.feed(self._buffer, size) if size else connection.answer.ended()
        except MalformedAnswer:
            self._fail(connection, now_s, "malformed answer")
            return
        if status:
            self._answered(connection, status, now_s)
        elif not size:
            self._fail(connection, now_s, "connection closed", of_server=True)

    def _answered(self, connection: Connection, status: int, now_s: float) -> None:
        request, rest = connection.request, connection.rest
        sent = len(request.content) if rest is None else connection.sent
        self._tally.answered(connection.due_s, now_s, status, request.rows, sent, connection.received)
        self._failures = 0
        connection.proven, connection.due_s = True, IDLE
        if rest is None and connection.answer.keeps:
            self._ready(connection, now_s)
        else:
            self._close(connection, now_s)

    def _ready(self, connection: Connection, now_s: float) -> None:
        """Takes what is due, if it is this connection's turn: the one that is idle longest is first."""
        if self._idle or (due_s := self._arrivals.take(now_s)) == NONE_DUE:
            connection.deadline_s = math.inf
            self._idle.append(connection)
        else:
            if due_s < now_s:  # in a closed loop it is due now
                self._tally.waited(due_s)
            self._begin(connection, due_s)

    def _fail(self, connection: Connection, now_s: float, kind: str, *, of_server: bool = False) -> None:
        """Ends the request under way; where a connection could not be opened, the one that waits longest for one."""
        if connection.due_s != IDLE:
            self._tally.failed(connection.due_s, now_s, kind, connection.sent, connection.received)
        elif (due_s := self._arrivals.take(now_s)) != NONE_DUE:
            self._fail_waiting(due_s, now_s, kind)
        if of_server:
            self._failing_since_s = self._failing_since_s if self._failures else now_s
            self._failures += 1
            self.last_failure = kind
        self._close(connection, now_s)

    def _fail_waiting(self, due_s: float, now_s: float, kind: str) -> None:
        """Ends a request that found no connection."""
        if due_s < now_s:
            self._tally.waited(due_s)
        self._tally.failed(due_s, now_s, kind)

    def _close(self, connection: Connection, now_s: float) -> None:
        if connection.socket is not None:
            self._open.pop(connection.socket.fileno(), None)
        if connection in self._idle:
            self._idle.remove(connection)
        connection.close(now_s)
        self._reopen(connection, now_s)

    def _reopen(self, connection: Connection, now_s: float) -> None:
        """Begins to connect, if it is time for it and requests are still to come."""
        if connection.retry_s > now_s or self._arrivals.over(now_s):
            return
        family, *where = self._address
        connection.socket = opened = _socket(family, len(self._open))
        opened.settimeout(0.0)
        code = opened.connect_ex(tuple(where))
        if code in {0, errno.EINPROGRESS}:
            connection.connecting, connection.since_s = True, now_s
            connection.deadline_s = now_s + min(_CONNECT_TIMEOUT_S, self._timeout_s)
            self._open[opened.fileno()] = connection
            self._epoll.register(opened.fileno(), select.EPOLLOUT)
        else:
            require_not_exhausted(code, len(self._open))
            self._fail(connection, now_s, _refusal(code), of_server=True)

    def _connected(self, connection: Connection, opened: socket.socket) -> None:
        now_s = time.monotonic()
        code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(connection, now_s, _refusal(code), of_server=True)
            return
        connection.connecting = False
        self._epoll.modify(opened.fileno(), _IN)
        self._ready(connection, now_s)

    def _tend(self, now_s: float) -> None:
        """What no socket tells: time that has run out."""
        for connection in self._connections:
            if connection.socket is None:
                self._reopen(connection, now_s)
            elif connection.deadline_s <= now_s:
                kind = "connect timeout" if connection.connecting else "timeout"
                self._fail(connection, now_s, kind, of_server=connection.connecting)
        while self._arrivals.next_s() + self._timeout_s <= now_s:
            self._fail_waiting(self._arrivals.take(now_s), now_s, "timeout")

    def _leave(self, now_s: float) -> None:
        """Closes everything; what waits for an answer, or to be sent, will have none."""
        for connection in self._connections:
            if connection.due_s != IDLE:
                self._tally.failed(connection.due_s, now_s, "unanswered", connection.sent, connection.received)
            if connection.socket is not None:
                connection.socket.close()
        while self._arrivals.next_s() <= now_s:
            self._fail_waiting(self._arrivals.take(now_s), now_s, "unanswered")
        self._epoll.close()


def _socket(family: int, opened: int) -> socket.socket:
    try:
        made = socket.socket(family, socket.SOCK_STREAM)
    except OSError as cause:
        require_not_exhausted(cause.errno, opened)
        raise
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _refusal(code: int) -> str:
    return "connect refused" if code == errno.ECONNREFUSED else f"connect failed: {os.strerror(code)}"
