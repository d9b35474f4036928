"""Clients that ask without a pause, each request with a number of its own that must come back."""

import asyncio
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import orjson

from bench.payloads import Body
from bench.soak.client import Answer, Connection, ConnectionLost, connect, post
from bench.soak.finding import Faults
from bench.soak.workers.served import NAME

CONNECTIONS = 32
PAUSE_MS = 5
"""How long a batch takes at least: so long that a worker that is killed nearly always has one."""

_HANGS_S = 30.0
"""A request that has waited so long when no more are sent is never answered."""
_DIED = frozenset({500, 507})
"""How TorchServe answers those whose worker died: 507 where it was killed, as the system does for want of memory."""
_DIED_SAYS = "Worker died."
_REFUSED_SAYS = (
    f'Model "{NAME}" has no worker to serve inference request. Please use scale workers API to add workers. If this is a '
    "sequence inference, please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
)


@dataclass(slots=True)
class Asking:
    """What clients asked and were answered. `first_at` is when each worker's first answer came, by its process."""

    port: int
    pause_ms: int = PAUSE_MS
    sent: int = 0
    right: int = 0
    died: int = 0
    refused: int = 0
    longest_silence_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)
    first_at: dict[int, float] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    over: bool = False
    _latest_at: float = 0.0
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def ask_on(self, most: float = math.inf) -> None:
        """Asks again and again, until it is over, or until all have sent so many; connects again where an answer says so."""
        connection = await connect(self.port)
        while not self.over and self.sent < most:
            if not await self._goes_on(connection):
                connection.close()
                connection = await connect(self.port)
        connection.close()

    async def ask_once(self) -> None:
        """Asks on a connection for that alone. Raises ConnectionLost."""
        connection = await connect(self.port)
        await self.ask(connection)
        connection.close()

    async def ask(self, connection: Connection) -> Answer:
        """Asks once, and counts the answer. Raises ConnectionLost."""
        self.sent += 1
        number, began = next(self._numbers), time.perf_counter()
        answer = await connection.ask(post(f"/predictions/{NAME}", Body(b"%d %d" % (number, self.pause_ms), {})))
        now = time.perf_counter()
        self.waits_s.append(now - began)
        if answer.status == 200:
            self._judge(number, answer, now)
        elif answer.status in _DIED and _message(answer) == _DIED_SAYS:
            self.died += 1
        elif answer.status == 503 and _message(answer) == _REFUSED_SAYS:
            self.refused += 1
        else:
            self.faults.add(f"request {number}: {answer.status} {answer.content[:300]!r}")
        return answer

    async def end(self, clients: "list[asyncio.Task[None]]") -> None:
        """Lets the clients end when what they asked is answered; what is not answered then never will be."""
        self.over = True
        _, hanging = await asyncio.wait(clients, timeout=_HANGS_S)
        for client in hanging:
            client.cancel()
            self.faults.add(f"a request is not answered {_HANGS_S:g} s after all others")
        for client in clients:
            if client.done() and (error := client.exception()) is not None:
                self.faults.add(f"a client ended with {type(error).__name__}: {error}")

    async def _goes_on(self, connection: Connection) -> bool:
        """One request; whether the connection can have another."""
        try:
            answer = await self.ask(connection)
        except ConnectionLost as lost:
            self.faults.add(f"a request was not answered: {lost}")
            return False
        return answer.headers().get("connection") != "close"

    def _judge(self, number: int, answer: Answer, now: float) -> None:
        echoed, _, pid = answer.content.partition(b" ")
        if echoed != b"%d" % number:
            self.faults.add(f"request {number} was answered {answer.content[:100]!r}")
            return
        self.right += 1
        self.first_at.setdefault(int(pid), now)
        if self._latest_at:
            self.longest_silence_s = max(self.longest_silence_s, now - self._latest_at)
        self._latest_at = now


def begun(asking: Asking, connections: int = CONNECTIONS) -> "list[asyncio.Task[None]]":
    """So many clients at work."""
    return [asyncio.create_task(asking.ask_on()) for _ in range(connections)]


def _message(answer: Answer) -> str | None:
    try:
        return orjson.loads(answer.content)["message"]
    except (ValueError, KeyError, TypeError):
        return None
