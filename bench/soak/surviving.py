"""Clients that ask on while processes of the server are killed, and what each of their requests came to."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import orjson

from bench.payloads import first_output, oip_binary, oip_json
from bench.soak.client import Answer, Connection, ConnectionLost, connect, post
from bench.soak.finding import Faults
from bench.soak.models import COLUMNS, INPUT, shifted

CONNECTIONS = 16
"""For each model."""
MODELS = {"loop": {"execution": "loop"}, "thread": {"execution": "thread", "threads": 1}}
"""The models, which differ in where they run: `thread` in engine processes where there are any."""
TURNS = {"loop": 0, "thread": 3000}
"""How long a call takes, as `shifted` has it."""

_BODIES = (oip_binary, oip_json)
_SERIALS = 1_000_000
_HANGS_S = 30.0
_CONNECTS_S = 60.0
_PAUSE_S = 0.01


@dataclass(slots=True)
class Asking:
    """What clients asked, and what they were answered. `broken` are the ports, at our end, of connections that broke.

    `unread` counts those that broke before anything was answered on them: a process that dies may still listen for a moment. A
    request may break off where the process that has its connection is killed, and get 503 where the one that computes is: it is
    for whoever kills to say which of them may.
    """

    port: int
    sent: int = 0
    right: int = 0
    lost: int = 0
    silence_s: float = 0.0
    unread: int = 0
    broken: list[int] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    over: bool = False
    _latest_at: float = 0.0
    _serials: Iterator[int] = field(default_factory=itertools.count)

    def clients(self) -> "list[asyncio.Task[None]]":
        """Clients at work, until it is over."""
        return [asyncio.create_task(self._ask_on(name)) for name in MODELS for _ in range(CONNECTIONS)]

    async def end(self, clients: "list[asyncio.Task[None]]") -> None:
        """Lets the clients end when what they asked is answered; what is not answered then never will be."""
        self.over = True
        _, hanging = await asyncio.wait(clients, timeout=_HANGS_S + _CONNECTS_S)
        for client in hanging:
            client.cancel()
        self.faults.require(not hanging, f"{len(hanging)} clients still wait")
        for client in clients:
            if client.done() and not client.cancelled() and (error := client.exception()) is not None:
                self.faults.add(f"a client ended with {type(error).__name__}: {error}")

    def silent_from_now(self) -> None:
        """The longest time without a right answer counts from now."""
        self.silence_s, self._latest_at = 0.0, time.perf_counter()

    async def _ask_on(self, name: str) -> None:
        """Asks again and again; connects again where a connection breaks, for a while even where nobody listens."""
        while not self.over:
            connection = await self._connected()
            if connection is None:
                return
            is_first = True
            try:
                while not self.over and await self._ask(connection, name):
                    is_first = False
            except ConnectionLost:
                if is_first:
                    self.unread += 1
                else:
                    self.broken.append(connection.own_port)
            connection.close()

    async def _connected(self) -> Connection | None:
        end = time.perf_counter() + _CONNECTS_S
        while not self.over:
            try:
                return await connect(self.port)
            except OSError as error:
                if time.perf_counter() > end:
                    self.faults.add(f"nobody could connect for {_CONNECTS_S:g} s: {error}")
                    return None
                await asyncio.sleep(_PAUSE_S)
        return None

    async def _ask(self, connection: Connection, name: str) -> bool:
        """One request; whether the connection can have another. Raises ConnectionLost."""
        serial = next(self._serials)
        x = np.full((1 + serial % 3, COLUMNS), serial % _SERIALS, np.float32)
        x[:, 1] = TURNS[name]
        self.sent += 1
        asked = connection.ask(post(f"/v2/models/{name}/infer", _BODIES[serial % len(_BODIES)]({INPUT: x})))
        try:
            async with asyncio.timeout(_HANGS_S):
                answer = await asked
        except TimeoutError:
            self.faults.add(f"request {serial} to {name} has no answer after {_HANGS_S:g} s")
            return False
        self._judge(answer, serial, name, x)
        return answer.headers().get("connection") != "close"

    def _judge(self, answer: Answer, serial: int, name: str, x: np.ndarray) -> None:
        if answer.status == 200:
            found = first_output(answer.headers(), answer.content)
            if np.array_equal(found, shifted_answer(x)):
                self._right()
            else:
                self.faults.add(f"request {serial} to {name} is answered {found.tolist()} to {x.tolist()}")
        elif _says_lost(answer):
            self.lost += 1
        else:
            self.faults.add(f"request {serial} to {name}: {answer.status} {answer.content[:300]!r}")

    def _right(self) -> None:
        self.right += 1
        now = time.perf_counter()
        if self._latest_at:
            self.silence_s = max(self.silence_s, now - self._latest_at)
        self._latest_at = now


def shifted_answer(x: np.ndarray) -> np.ndarray:
    """What version 1 of both models answers."""
    return x.ravel() + 1


MODEL = shifted(1)
"""Version 1 of both models."""


def _says_lost(answer: Answer) -> bool:
    """Whether it is 503 with Retry-After, and says that the engine's process is gone, and to ask again."""
    if answer.status != 503 or not answer.headers().get("retry-after", "").isdecimal():
        return False
    try:
        return "ask again" in orjson.loads(answer.content)["error"]
    except (ValueError, KeyError, TypeError):
        return False
