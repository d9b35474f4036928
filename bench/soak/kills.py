"""Processes of the server that are killed under load: front ends, engine processes, control."""

import asyncio
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.observed.kinds import ENGINE, FRONT_END
from bench.processes import free_port
from bench.soak.finding import Faults, Finding, Soak, percentiles_ms
from bench.soak.processes import Processes
from bench.soak.server import Server, started, until, until_ready, write_model
from bench.soak.surviving import CONNECTIONS, MODEL, MODELS, Asking
from bench.soak.workers.served import is_running

KILLS, QUICK_KILLS = 20, 2
"""Of each kind of process."""
LEAST = Processes(2, 2)
"""Of a server of one process, none can be killed: then this one is."""
BACK_S = 20.0
"""A process that was killed must be back by then."""
GONE_S = 5.0
"""When control was killed, all others must have ended by then."""
GROWTH = 0.05

_LOAD_S, _QUICK_LOAD_S = 0.5, 0.2
"""Of load before a kill."""
_SETTLES_S = 10.0
_PORTS = 3
_MORE_ENDS = 4
"""A process makes some sockets when they are first needed; one kill that leaves one behind, leaves as many as there are kills."""
_IS_BACK = {FRONT_END: "listens again", ENGINE: "took its place"}
"""How the log tells that one of a kind is at work in place of another."""


async def kills(soak: Soak) -> Finding:
    """Kills processes of every kind, again and again, and looks at what became of each request, and of the server."""
    processes = soak.processes if soak.processes.engines and soak.processes.frontends > 1 else LEAST
    repository = soak.repository("kills")
    for name in MODELS:
        write_model(repository, name, 1, MODEL)
    count = soak.count(KILLS, QUICK_KILLS)
    killing = _Killing(soak, processes, count, _QUICK_LOAD_S if soak.quick else _LOAD_S)
    async with started(repository, *processes.flags(MODELS)) as server:
        engines = await killing.kill_all_of(server, ENGINE, processes.engines)
        ends = await killing.kill_all_of(server, FRONT_END, processes.frontends)
    killing.faults.add_all(server.unforeseen())
    controls = await killing.kill_controls(repository)
    return Finding(
        "Processes that are killed",
        f"A server of {processes}. {CONNECTIONS} connections ask each of two models without a pause (`loop` in every front end, "
        "`thread` in engine processes), and each answer's numbers are compared, while processes get SIGKILL: engine processes in "
        "turn, then front ends in turn, the next when the last is back, and in the end all of the kind at once; then control, "
        "with a server of its own each time. A killed engine process' requests may get 503 with the reason and Retry-After, and "
        "no connection may break; a killed front end's connections break, and no other's. Nothing else may fail or hang, no "
        "counter may go back, and whatever of the dead was open must be closed.",
        {**engines.figures(ENGINE), **ends.figures(FRONT_END), **controls.figures()},
        [*engines.faults.lines(), *ends.faults.lines(), *controls.faults.lines(), *killing.faults.lines()],
        [] if soak.quick else [*engines.missed(ENGINE), *ends.missed(FRONT_END)],
    )


@dataclass(slots=True)
class _Killed:
    """What the kills of one kind came to."""

    count: int = 0
    asking: Asking = field(default_factory=lambda: Asking(0))
    counted: float = 0.0
    backs_s: list[float] = field(default_factory=list)
    silences_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)

    def figures(self, kind: str) -> dict[str, str]:
        """As the page has them."""
        asking = self.asking
        return {
            f"{kind}: killed": f"{self.count}",
            f"{kind}: requests meanwhile": f"{asking.sent:,}",
            f"{kind}: right answers": f"{asking.right:,}",
            f"{kind}: 503, the engine's process ended": f"{asking.lost}",
            f"{kind}: connections that broke": f"{len(asking.broken)}",
            f"{kind}: connections that nobody had read from yet, and that broke": f"{asking.unread}",
            f"{kind}: answered, says the server": f"{self.counted:,.0f}",
            f"{kind}: from the kill until one is back, p50 / p99 / max, ms": percentiles_ms(self.backs_s),
            f"{kind}: longest time without a right answer to any client, p50 / p99 / max, ms": percentiles_ms(self.silences_s),
            f"{kind}: Pss of all processes after the first kill / the last, MB": _first_and_last(self.memory_mb),
        }

    def missed(self, kind: str) -> list[str]:
        """The bound of memory, where it did not hold."""
        growth = self.memory_mb[-1] / self.memory_mb[0] - 1
        return [f"{kind}: memory grew by {growth:.1%}, which is more than {GROWTH:.0%}"] if growth > GROWTH else []


@dataclass(slots=True)
class _KilledControls:
    """What the kills of control came to."""

    count: int = 0
    sent: int = 0
    right: int = 0
    gone_s: list[float] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)

    def figures(self) -> dict[str, str]:
        """As the page has them."""
        return {
            "control: killed": f"{self.count}",
            "control: requests meanwhile": f"{self.sent:,}",
            "control: right answers": f"{self.right:,}",
            "control: from the kill until no process is left, p50 / p99 / max, ms": percentiles_ms(self.gone_s),
        }


@dataclass(slots=True)
class _Killing:
    soak: Soak
    processes: Processes
    count: int
    load_s: float
    faults: Faults = field(default_factory=Faults)

    async def kill_all_of(self, server: Server, kind: str, there: int) -> _Killed:
        """Kills processes of one kind in turn, and in the end all at once; `there` are to be there."""
        before = await server.counted("requests_answered_total"), await server.counted("requests_failed_total")
        killed = _Killed(asking=Asking(server.port))
        clients = killed.asking.clients()
        await asyncio.sleep(self.load_s)
        held = server.ends_held()
        for number in range(self.count):
            victims = sorted(server.pids(of=kind))
            killed.faults.require(len(victims) == there, f"before kill {number + 1} of a {kind}, {len(victims)} are there")
            is_last = number == self.count - 1
            await self._kill(server, killed, kind, victims if is_last else [victims[number % len(victims)]])
            await self._settles(server, killed, held)
            self.soak.say(f"kills: {kind} {number + 1} of {self.count}")
        await killed.asking.end(clients)
        killed.faults.add_all(killed.asking.faults.lines())
        await self._compare_counts(server, killed, kind, before)
        return killed

    async def _kill(self, server: Server, killed: _Killed, kind: str, victims: list[int]) -> None:
        """Kills some of a kind, and waits until as many others are at work."""
        asking, counters = killed.asking, await server.counters()
        there, told = len(server.pids(of=kind)), server.told(_IS_BACK[kind])
        theirs = set().union(*map(_clients_of, victims)) if kind == FRONT_END else set()
        broken_before, unread_before, lost_before = len(asking.broken), asking.unread, asking.lost
        asking.silent_from_now()
        began = time.perf_counter()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        try:
            back_at = await until(lambda: server.told(_IS_BACK[kind]) - told >= len(victims), BACK_S)
            killed.backs_s.append(back_at - began)
            await until_ready(server, BACK_S)
        except TimeoutError:
            killed.faults.add(f"{BACK_S:g} s after {len(victims)} of {there} were killed, not every {kind} is back and ready")
        await asyncio.sleep(self.load_s)
        killed.count += len(victims)
        killed.silences_s.append(asking.silence_s)
        broken, unread = set(asking.broken[broken_before:]), asking.unread - unread_before
        killed.faults.require(not unread or kind == FRONT_END, f"{unread} connections broke although no front end was killed")
        killed.faults.require(broken <= theirs, f"{len(broken - theirs)} connections broke that no {kind} that was killed had")
        lost = asking.lost - lost_before if kind == FRONT_END else 0
        killed.faults.require(not lost, f"{lost} requests got 503 although a {kind} was killed")
        _compare(killed.faults, counters, await server.counters())

    async def _settles(self, server: Server, killed: _Killed, held: int) -> None:
        """Waits until all that the dead had is closed."""
        try:
            await until(lambda: held <= server.ends_held() <= held + _MORE_ENDS, _SETTLES_S)
        except TimeoutError:
            killed.faults.add(
                f"after kill {killed.count}, {server.ends_held()} sockets, pipes and arenas are open, and not {held} as before"
            )
        killed.memory_mb.append(server.memory_mb())

    async def _compare_counts(self, server: Server, killed: _Killed, kind: str, before: tuple[float, float]) -> None:
        """Whether the server counted what clients saw: exactly, but for what a killed front end did not tell any more."""
        asking, faults = killed.asking, killed.faults
        killed.counted = await server.counted("requests_answered_total") - before[0]
        failed = await server.counted("requests_failed_total") - before[1]
        if kind == ENGINE:
            faults.require(killed.counted == asking.right, f"{killed.counted:.0f} are counted as answered, not {asking.right}")
            faults.require(failed == asking.lost, f"{failed:.0f} are counted as failed, not {asking.lost}")
        most = asking.right + len(asking.broken) + asking.unread
        faults.require(killed.counted <= most, f"{killed.counted:.0f} are counted as answered, of {most} that can have been")
        for gauge in ("requests_in_flight", "queued_rows"):
            value = await server.counted(gauge)
            faults.require(value == 0, f"{gauge} is {value:.0f} when all is answered")

    async def kill_controls(self, repository: Path) -> _KilledControls:
        """Kills control, each time of a new server on the same ports."""
        found, port = _KilledControls(), free_port()
        for number in range(self.count):
            async with started(repository, *self.processes.flags(MODELS), port=port) as server:
                await self._kill_control(server, found)
            self.soak.say(f"kills: control {number + 1} of {self.count}")
        return found

    async def _kill_control(self, server: Server, found: _KilledControls) -> None:
        asking = Asking(server.port)
        clients = asking.clients()
        await asyncio.sleep(self.load_s)
        processes, began = server.pids(), time.perf_counter()
        server.process.kill()
        await server.process.wait()
        try:
            found.gone_s.append(await until(lambda: not any(map(is_running, processes)), GONE_S) - began)
        except TimeoutError:
            left = list(filter(is_running, processes))
            found.faults.add(f"{GONE_S:g} s after control was killed, {len(left)} of {len(processes)} processes still run")
        await asking.end(clients)
        found.count, found.sent, found.right = found.count + 1, found.sent + asking.sent, found.right + asking.right
        found.faults.require(not asking.lost, f"{asking.lost} requests got 503 although control was killed")
        found.faults.add_all(asking.faults.lines())
        try:
            await until(lambda: not _taken(server.port), GONE_S)
        except TimeoutError:
            found.faults.add(f"ports {_taken(server.port)} are not free {GONE_S:g} s after control was killed")


def _compare(faults: Faults, before: dict[str, float], after: dict[str, float]) -> None:
    """Counts a fault for every counter that went back."""
    for name, value in before.items():
        faults.require(after.get(name, 0.0) >= value, f"{name} went back from {value:.0f} to {after.get(name, 0.0):.0f}")


def _clients_of(pid: int) -> set[Any]:
    """The ports at the other end of a process' connections."""
    return {tuple(one.raddr)[1] for one in psutil.Process(pid).net_connections("tcp") if one.raddr}


def _taken(first: int) -> list[int]:
    """Ports of a server on which somebody still listens."""
    found = []
    for port in range(first, first + _PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                found.append(port)
    return found


def _first_and_last(values: list[float]) -> str:
    return f"{values[0]:.0f} / {values[-1]:.0f}"
