"""SIGTERM while workers have batches."""

import asyncio
import signal
import time
from dataclasses import dataclass, field

from bench.soak.client import ConnectionLost, connect
from bench.soak.finding import Faults, Finding, Soak
from bench.soak.workers.asking import CONNECTIONS, Asking
from bench.soak.workers.served import BATCH_SIZE, NAME, Served, started

ROUNDS = 5
WORKERS = 2
LOAD_S = 1.0
DRAIN_DELAY_S = 1.0
BATCH_MS = 50

_END_TIMEOUT_S = 30.0
_TIMER_S = 0.005  # by so much may a timer of the server be early


async def workers_ending(soak: Soak) -> Finding:
    """Ends servers under load, and looks at what became of each request, and of each worker."""
    rounds = soak.count(ROUNDS)
    faults, ended = Faults(), []
    for number in range(rounds):
        one = await _one_round(soak, number)
        faults.add_all(f"round {number + 1}: {text}" for text in one.faults.lines())
        ended.append(one)
        soak.say(f"workers-ending: {number + 1} of {rounds}")
    return Finding(
        "SIGTERM while workers are at work",
        f"{CONNECTIONS} connections ask {WORKERS} workers without a pause, batchSize {BATCH_SIZE}, a batch takes {BATCH_MS} ms, "
        f"and go on after SIGTERM (`drain_delay_s` is {DRAIN_DELAY_S:g}) until they are refused. What was sent before the end of "
        "the delay must be answered, no answer may be broken off, and the access log may tell of none that did not come.",
        {
            "servers ended": f"{rounds}",
            "exit codes": ", ".join(sorted({str(one.exit_code) for one in ended})),
            "requests": f"{sum(one.asking.sent for one in ended):,}",
            "right answers": f"{sum(one.asking.right for one in ended):,}",
            "of these, after the signal": f"{sum(one.after_signal for one in ended):,}",
            "never read: sent when the delay was over, closed without a byte": f"{sum(one.never_read for one in ended)}",
            "workers that outlived their server": f"{sum(len(one.left) for one in ended)}",
        },
        faults.lines(),
    )


@dataclass(slots=True)
class _Ending:
    """One round."""

    asking: Asking
    after_signal: int = 0
    never_read: int = 0
    left: list[int] = field(default_factory=list)
    exit_code: int | None = None
    signal_at: float = float("inf")
    faults: Faults = field(default_factory=Faults)

    async def ask_until_refused(self) -> None:
        """Asks, and connects again where the server closes, until nobody listens."""
        while True:
            try:
                connection = await connect(self.asking.port)
            except OSError:
                return
            closes = False
            while not closes:
                sent_at = time.perf_counter()
                try:
                    answer = await self.asking.ask(connection)
                except ConnectionLost as lost:
                    self._lost(sent_at - self.signal_at, lost.received_bytes)
                    break
                self.after_signal += time.perf_counter() > self.signal_at
                closes = answer.headers().get("connection") == "close"
            connection.close()

    async def judge(self, served: Served) -> None:
        """Looks at what the server and its workers left."""
        lines = served.server.log_lines()
        told = sum(line.get("path") == f"/predictions/{NAME}" and line.get("status") == 200 for line in lines)
        self.faults.require(told == self.asking.right, f"the access log tells of {told} answers, {self.asking.right} came")
        self.left, self.exit_code = await served.left_behind(), served.server.process.returncode
        self.faults.require(not self.left, f"workers still run: {self.left}")
        self.faults.require(self.exit_code == 0, f"the exit code is {self.exit_code}")
        self.faults.require(self.after_signal > 0, "nothing was answered after the signal: nothing was shown")
        self.faults.require(not served.deaths(), f"{served.deaths()} workers died")
        self.faults.add_all([*self.asking.faults.lines(), *served.server.unforeseen()])

    def _lost(self, after_s: float, received_bytes: int) -> None:
        if after_s < DRAIN_DELAY_S - _TIMER_S:
            self.faults.add(f"a request was sent {after_s:.3f} s after the signal, and not answered")
        elif received_bytes:
            self.faults.add(f"an answer was broken off after {received_bytes} bytes")
        else:
            self.never_read += 1


async def _one_round(soak: Soak, number: int) -> _Ending:
    flags = ("--drain-delay-s", str(DRAIN_DELAY_S), "--access-log")
    async with started(soak, f"workers-ending-{number}", WORKERS, *flags) as served:
        one = _Ending(Asking(served.port, BATCH_MS))
        async with asyncio.TaskGroup() as clients:
            for _ in range(CONNECTIONS):
                clients.create_task(one.ask_until_refused())
            await asyncio.sleep(LOAD_S)
            one.signal_at = time.perf_counter()
            served.server.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(served.server.process.wait(), _END_TIMEOUT_S)
            except TimeoutError:
                one.faults.add(f"the server still runs {_END_TIMEOUT_S:g} s after SIGTERM")
    await one.judge(served)
    return one
