"""Ten times as many requests as the engine can answer."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bench.soak import slow
from bench.soak.client import Answer, Connection, ConnectionLost, connect
from bench.soak.finding import Faults, Finding, Soak, percentile, percentiles_ms
from bench.soak.models import shifted
from bench.soak.server import Server, started, write_model

TIMES = 10
DURATION_S, QUICK_DURATION_S = 10.0, 1.0
MEASURED_S, QUICK_MEASURED_S = 3.0, 0.5
MAX_ROWS = 4
QUEUE_ROWS = 64
CALL_S, LEAST_CALL_S = 0.04, 0.02
REFUSED_WITHIN_S = 0.05
CLIENTS = 4 * MAX_ROWS
"""As many as keep the engine busy with full calls, for the measurement of what it can do."""
CONNECTIONS = 600
"""More than there are requests at one moment: a client that waits for a free connection makes no overload."""


async def overload(soak: Soak) -> Finding:
    """Measures what the engine can do, then sends ten times as much, whatever the answers say."""
    repository = soak.repository("overload")
    write_model(repository, slow.NAME, 1, shifted(0, MAX_ROWS))
    each_rows = QUEUE_ROWS // max(1, soak.processes.engines)  # max_queue_rows is for each engine process
    flags = (*soak.processes.flags({slow.NAME: slow.SETTINGS}), "--max-queue-rows", str(each_rows))
    async with started(repository, *flags) as server:
        load = _Load(await slow.turns_for(server, CALL_S), [await connect(server.port) for _ in range(CONNECTIONS)])
        per_s = await load.measure(QUICK_MEASURED_S if soak.quick else MEASURED_S)
        duration_s = QUICK_DURATION_S if soak.quick else DURATION_S
        soak.say(f"overload: {per_s:.0f} requests/s can be answered; sending {TIMES * per_s:.0f} for {duration_s:g} s")
        took_s = await load.arrive(TIMES * per_s, duration_s)
        call_s = await server.counted("execution_seconds_total") / await server.counted("executions_total")
        await load.judge(server)
        for connection in load.idle:
            connection.close()
    load.faults.add_all(server.unforeseen())
    bound_s = 2 * QUEUE_ROWS / per_s
    return Finding(
        "Overload",
        f"A model whose calls take {1e3 * call_s:.0f} ms, for up to {MAX_ROWS} rows; a request has one, and {QUEUE_ROWS} may "
        f"wait. Requests come at random (a Poisson process), at {TIMES} times the rate at which {CLIENTS} clients that wait for "
        "their answers are answered, and none waits for another. Times run from the moment at which a request was due.",
        {
            "answered without overload, requests/s": f"{per_s:.0f}",
            "sent, requests/s": f"{load.sent / duration_s:,.0f}",
            "answered under overload, requests/s": f"{len(load.accepted_s) / took_s:.0f}",
            "accepted: p50 / p99 / max, ms": percentiles_ms(load.accepted_s),
            "bound of their p99 (twice the queue over the rate), ms": f"{1e3 * bound_s:.0f}",
            "refused with 503 and Retry-After": f"{len(load.refused_s):,} of {load.sent:,}",
            "refused: p50 / p99 / max, ms": percentiles_ms(load.refused_s),
            "Retry-After, s": " ".join(sorted(load.retry_after)),
        },
        load.faults.lines(),
        load.missed(bound_s, call_s),
    )


@dataclass(slots=True)
class _Load:
    turns: int
    idle: list[Connection]
    faults: Faults = field(default_factory=Faults)
    accepted_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    retry_after: set[str] = field(default_factory=set)
    sent: int = 0
    not_sent: int = 0
    serials: Iterator[int] = field(default_factory=itertools.count)

    async def measure(self, duration_s: float) -> float:
        """Requests a second that are answered where everybody waits for an answer before the next request."""
        end = time.perf_counter() + duration_s

        async def ask_again(connection: Connection) -> int:
            answered = 0
            while time.perf_counter() < end:
                serial = next(self.serials)
                answer = await connection.ask(slow.request(serial, self.turns))
                self.faults.require(slow.is_right(answer, serial, self.turns), f"without overload: {_told(answer)}")
                answered += 1
            return answered

        return sum(await asyncio.gather(*map(ask_again, self.idle[:CLIENTS]))) / duration_s

    async def arrive(self, per_s: float, duration_s: float) -> float:
        """Sends so many requests a second; returns the seconds until the last of them was answered."""
        generator = np.random.default_rng(0)
        began = due = time.perf_counter()
        async with asyncio.TaskGroup() as asking:
            while due < began + duration_s:
                await asyncio.sleep(due - time.perf_counter())
                while due <= time.perf_counter():
                    if self.idle:
                        asking.create_task(self._ask(self.idle.pop(), due))
                    else:
                        self.not_sent += 1
                    due += generator.exponential(1 / per_s)
        return time.perf_counter() - began

    async def _ask(self, connection: Connection, due: float) -> None:
        serial = next(self.serials)
        self.sent += 1
        try:
            answer = await connection.ask(slow.request(serial, self.turns))
        except ConnectionLost as lost:
            self.faults.add(f"request {serial} was not answered: {lost}")
            return
        took_s = time.perf_counter() - due
        self.idle.append(connection)
        if answer.status == 503:
            retry_after = answer.headers().get("retry-after", "none")
            self.retry_after.add(retry_after)
            self.refused_s.append(took_s)
            self.faults.require(retry_after.isdecimal() and int(retry_after) > 0, f"Retry-After is {retry_after}")
        else:
            self.accepted_s.append(took_s)
            self.faults.require(slow.is_right(answer, serial, self.turns), f"request {serial}: {_told(answer)}")

    async def judge(self, server: Server) -> None:
        """Whether there was overload, the server counted it as the client did, and it answers as before."""
        refused = await server.counted("requests_failed_total", reason="queue_full")
        self.faults.require(len(self.refused_s) > 0, "nothing was refused: this was no overload")
        self.faults.require(len(self.accepted_s) > 0, "nothing was answered")
        self.faults.require(refused == len(self.refused_s), f"{refused:.0f} counted as refused, and not {len(self.refused_s)}")
        self.faults.require(await server.counted("queued_rows") == 0, "rows wait although every request was answered")
        self.faults.require(slow.is_right(await server.ask(slow.request(1, 1)), 1, 1), "it does not answer any more")

    def missed(self, bound_s: float, call_s: float) -> list[str]:
        """The bounds of time that did not hold."""
        missed = Faults()
        missed.require(self.not_sent == 0, f"{self.not_sent} requests were not sent, since all {CONNECTIONS} connections waited")
        missed.require(call_s >= LEAST_CALL_S, f"a call took {1e3 * call_s:.0f} ms, and not at least {1e3 * LEAST_CALL_S:.0f}")
        if self.accepted_s and self.refused_s:
            accepted_s, refused_s = percentile(self.accepted_s, 99), max(self.refused_s)
            missed.require(accepted_s < bound_s, f"the p99 of accepted requests is {1e3 * accepted_s:.0f} ms")
            missed.require(refused_s < REFUSED_WITHIN_S, f"a refusal took {1e3 * refused_s:.0f} ms")
        return missed.lines()


def _told(answer: Answer) -> str:
    return f"{answer.status} {answer.content[:200]!r}"
