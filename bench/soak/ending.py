"""SIGTERM while requests are under way."""

import asyncio
import itertools
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bench.payloads import first_output, oip_binary
from bench.soak import slow
from bench.soak.client import Answer, Connection, ConnectionLost, connect, post
from bench.soak.finding import Faults, Finding, Soak
from bench.soak.models import COLUMNS, INPUT, doubled, shifted
from bench.soak.server import Server, started, write_model

ROUNDS = 10
CONNECTIONS = 32
"""Half of them ask the slow model, half the quick one."""
LOAD_S, QUICK_LOAD_S = 1.0, 0.3
"""Of load before the signal."""
DRAIN_DELAY_S = 1.0
CALL_S = 0.05
MAX_ROWS = 4

_QUICK = "quick"
_SETTINGS = {slow.NAME: slow.SETTINGS, _QUICK: {"execution": "loop"}}
_END_TIMEOUT_S = 30.0
_TIMER_S = 0.005  # by so much may a timer of the server be early


async def ending(soak: Soak) -> Finding:
    """Ends servers under load, again and again, and looks at what became of each request."""
    rounds = soak.count(ROUNDS)
    total, faults = _Ending(), Faults()
    for number in range(rounds):
        one = await _one_round(soak, number)
        faults.add_all(f"round {number + 1}: {text}" for text in one.faults.lines())
        total.add(one)
        soak.say(f"ending: {number + 1} of {rounds}")
    return Finding(
        "SIGTERM under load",
        f"{CONNECTIONS} connections ask without a pause, half of them a model whose calls take {1e3 * CALL_S:.0f} ms, and go on "
        f"after SIGTERM (`drain_delay_s` is {DRAIN_DELAY_S:g}) until they are refused: where an answer says `connection: close`, "
        "they connect again. What was sent before the end of the delay must be answered; no answer may be broken off, or be "
        "missing although the access log tells of it. What is sent at the very moment in which the listener closes may find "
        "nobody to read it.",
        {
            "servers ended": f"{rounds}",
            "exit codes": ", ".join(sorted({str(code) for code in total.exit_codes})),
            "requests": f"{total.sent:,}",
            "right answers": f"{total.right:,}",
            "of these, after the signal": f"{total.after_signal:,}",
            "of these, when nobody could connect any more": f"{total.after_listening:,}",
            "never read: sent when the delay was over, closed without a byte": f"{len(total.lost)}",
            "clients refused in the end": f"{total.refused}",
        },
        faults.lines(),
    )


@dataclass(frozen=True, slots=True)
class _Lost:
    """A request without an answer: when it was sent, and how much of an answer there was."""

    request_id: str
    sent_at: float
    received_bytes: int


@dataclass(slots=True)
class _Ending:
    """One round, or the sum of all."""

    turns: int = 0
    sent: int = 0
    right: int = 0
    after_signal: int = 0
    after_listening: int = 0
    refused: int = 0
    lost: list[_Lost] = field(default_factory=list)
    exit_codes: list[int | None] = field(default_factory=list)
    signal_at: float = float("inf")
    refused_at: float = float("inf")
    faults: Faults = field(default_factory=Faults)
    serials: Iterator[int] = field(default_factory=itertools.count)

    def add(self, one: "_Ending") -> None:
        """Adds a round's counts."""
        for name in ("sent", "right", "after_signal", "after_listening", "refused", "lost", "exit_codes"):
            setattr(self, name, getattr(self, name) + getattr(one, name))

    async def ask_until_refused(self, port: int, *, quick: bool) -> None:
        """Asks, and connects again where the server closes, until nobody listens."""
        while True:
            try:
                connection = await connect(port)
            except OSError:
                self.refused += 1
                self.refused_at = min(self.refused_at, time.perf_counter())
                return
            while await self._ask(connection, quick=quick):
                pass
            connection.close()

    async def _ask(self, connection: Connection, *, quick: bool) -> bool:
        """One request; whether the connection can have another."""
        serial = next(self.serials)
        request_id, x = f"soak-{serial}", np.full((1, COLUMNS), serial, np.float32)
        headers = {"X-Request-Id": request_id}
        self.sent += 1
        if quick:
            asked = connection.ask(post(f"/v2/models/{_QUICK}/infer", oip_binary({INPUT: x}), headers))
        else:
            asked = connection.ask(slow.request(serial, self.turns, headers))
        sent_at = time.perf_counter()
        try:
            answer = await asked
        except ConnectionLost as lost:
            self.lost.append(_Lost(request_id, sent_at, lost.received_bytes))
            return False
        now = time.perf_counter()
        if slow.is_right(answer, serial, self.turns) if not quick else _is_doubled(answer, x):
            self.right += 1
            self.after_signal += now > self.signal_at
            self.after_listening += now > self.refused_at
        else:
            self.faults.add(f"{request_id}: {answer.status} {answer.content[:200]!r}")
        return answer.headers().get("connection") != "close"

    def judge(self, server: Server) -> None:
        """Looks at every request that has no answer."""
        answered = {line.get("request_id") for line in server.log_lines()}
        for lost in self.lost:
            after_s = lost.sent_at - self.signal_at
            if after_s < DRAIN_DELAY_S - _TIMER_S:
                self.faults.add(f"{lost.request_id} was sent {after_s:.3f} s after the signal, and not answered")
            elif lost.received_bytes:
                self.faults.add(f"{lost.request_id} was broken off after {lost.received_bytes} bytes of its answer")
            elif lost.request_id in answered:
                self.faults.add(f"{lost.request_id} was answered, says the access log, and the answer never came")
        code = server.process.returncode
        self.exit_codes.append(code)
        self.faults.require(code == 0, f"the exit code is {code}")
        listened_s = self.refused_at - self.signal_at
        self.faults.require(listened_s > DRAIN_DELAY_S - _TIMER_S, f"{listened_s:.3f} s after the signal nobody could connect")
        self.faults.add_all(server.unforeseen())


async def _one_round(soak: Soak, number: int) -> _Ending:
    repository = soak.repository(f"ending-{number}")
    write_model(repository, slow.NAME, 1, shifted(0, MAX_ROWS))
    write_model(repository, _QUICK, 1, doubled())
    flags = (*soak.processes.flags(_SETTINGS), "--drain-delay-s", str(DRAIN_DELAY_S), "--access-log")
    async with started(repository, *flags) as server:
        one = _Ending(await slow.turns_for(server, CALL_S))
        async with asyncio.TaskGroup() as asking:
            for client in range(CONNECTIONS):
                asking.create_task(one.ask_until_refused(server.port, quick=client % 2 == 0))
            await asyncio.sleep(QUICK_LOAD_S if soak.quick else LOAD_S)
            one.signal_at = time.perf_counter()
            server.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(server.process.wait(), _END_TIMEOUT_S)
            except TimeoutError:
                one.faults.add(f"the server still runs {_END_TIMEOUT_S:g} s after SIGTERM")
    one.judge(server)
    return one


def _is_doubled(answer: Answer, x: np.ndarray) -> bool:
    return answer.status == 200 and np.array_equal(first_output(answer.headers(), answer.content), 2 * x.ravel() + 1)
