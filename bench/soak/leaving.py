"""Clients that leave before their answer is there."""

import asyncio
import time
from dataclasses import replace

from bench.soak import slow
from bench.soak.client import Connection, connect
from bench.soak.finding import Faults, Finding, Soak
from bench.soak.models import shifted
from bench.soak.server import Server, started, write_model

CLIENTS, QUICK_CLIENTS = 200, 20
BUSY_S, QUICK_BUSY_S = 3.0, 2.0
"""How long the engine is kept busy by the first request; the others come and leave meanwhile."""
MAX_ROWS = 8

_NOTICED_S = 10.0
_LOOK_S = 0.01


async def leaving(soak: Soak) -> Finding:
    """While an engine is busy, clients send whole requests and leave; the engine is never given their rows."""
    repository = soak.repository("leaving")
    write_model(repository, slow.NAME, 1, shifted(0, MAX_ROWS))
    clients, busy_s = (QUICK_CLIENTS, QUICK_BUSY_S) if soak.quick else (CLIENTS, BUSY_S)
    processes = replace(soak.processes, engines=min(1, soak.processes.engines))  # one call keeps all of the model's engines busy
    flags = (*processes.flags({slow.NAME: slow.SETTINGS}), "--max-queue-rows", str(2 * clients))
    faults = Faults()
    async with started(repository, *flags) as server:
        turns = await slow.turns_for(server, busy_s)
        before = await _counts(server)
        busy = await connect(server.port)
        answer = busy.ask(slow.request(0, turns))
        await _until(server, "requests_in_flight", 1)
        leavers = [await connect(server.port) for _ in range(clients)]
        asked = [leaver.ask(slow.request(serial, turns)) for serial, leaver in enumerate(leavers, 1)]
        queued = await _until(server, "queued_rows", clients)
        began = time.perf_counter()
        _leave(leavers)
        left = await _until(server, "queued_rows", 0)
        dropped_s = time.perf_counter() - began
        faults.require(queued == clients, f"{queued:.0f} rows waited, and not {clients}")
        faults.require(left == 0, f"{left:.0f} rows still wait {_NOTICED_S:g} s after their clients left")
        faults.require(not answer.done(), "the engine had ended before the clients left: nothing was shown")
        faults.require(slow.is_right(await answer, 0, turns), "the client that stayed got a wrong answer")
        faults.require(all(one.cancelled() for one in asked), "a client that left was answered before it did")
        after = await _counts(server)
        faults.require(after == (before[0] + 1, before[1] + 1, 0), f"calls, rows, in flight: {before} before, {after} after")
        counted = await server.counted("requests_failed_total", reason="client_left")
        faults.require(counted == clients, f"{counted:.0f} are counted as client_left, and not {clients}")
        faults.require(slow.is_right(await server.ask(slow.request(1, 1)), 1, 1), "it does not answer any more")
        busy.close()
    faults.add_all(server.unforeseen())
    return Finding(
        "Clients that leave",
        f"While one call keeps the engine busy for {busy_s:g} s, other clients send whole requests and leave: half of them close "
        "their connection, half reset it.",
        {
            "clients that left": f"{clients}",
            "of their rows, run by the engine": f"{after[1] - before[1] - 1:.0f}",
            "from their leaving until no row waited, ms": f"{1e3 * dropped_s:.0f}",
        },
        faults.lines(),
    )


def _leave(leavers: list[Connection]) -> None:
    for number, leaver in enumerate(leavers):
        if number % 2:
            leaver.close()
        else:
            leaver.reset()


async def _counts(server: Server) -> tuple[float, float, float]:
    """Engine calls, rows that they ran, and requests in flight."""
    names = ("executions_total", "batch_rows_sum", "requests_in_flight")
    calls, rows, in_flight = [await server.counted(name) for name in names]
    return calls, rows, in_flight


async def _until(server: Server, gauge: str, value: float) -> float:
    """Waits until a gauge shows the value, for a while; returns what it shows then."""
    end = time.perf_counter() + _NOTICED_S
    while True:
        shown = await server.counted(gauge)
        if shown == value or time.perf_counter() > end:
            return shown
        await asyncio.sleep(_LOOK_S)
