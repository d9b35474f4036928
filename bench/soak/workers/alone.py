"""A model's only worker is killed under load, and then its server."""

import asyncio
import contextlib
import os
import signal

from bench.soak.client import ConnectionLost
from bench.soak.finding import Faults, Finding, Soak, percentiles_ms
from bench.soak.workers.asking import CONNECTIONS, Asking, begun
from bench.soak.workers.killed import Death, judge, kill, slow_back_offs
from bench.soak.workers.served import Served, started, until

KILLS, QUICK_KILLS = 5, 1
QUEUE_SIZE = 100
"""`job_queue_size`, by TorchServe's default: all connections' requests fit."""

_LOAD_S = 0.5
_START_S = 30.0
_LONG_MS = 20_000


async def worker_alone(soak: Soak) -> Finding:
    """Kills the only worker, again and again; what waits meanwhile is answered by the next, and what does not fit is refused."""
    kills = soak.count(KILLS, QUICK_KILLS)
    faults, deaths = Faults(), []
    async with started(soak, "alone", 1, "--job-queue-size", str(QUEUE_SIZE)) as served:
        asking = Asking(served.port)
        clients = begun(asking)
        for number in range(kills):
            await asyncio.sleep(_LOAD_S)
            deaths.append(await kill(served, asking, (await served.ready_workers())[0]))
            soak.say(f"worker-alone: {number + 1} of {kills}")
        faults.require(not asking.refused, f"{asking.refused} requests were refused, although the queue had room")
        await asyncio.sleep(_LOAD_S)
        deaths.append(await _crowded(served, asking))
        await asking.end(clients)
        judge(faults, served, asking, kills + 1)
        left = await _killed_while_a_worker_starts(served)
    faults.require(asking.refused == CONNECTIONS, f"{asking.refused} requests were refused, where {CONNECTIONS} were too many")
    async with started(soak, "alone-busy", 1) as served:
        left += await _killed_while_a_worker_works(served)
    faults.require(not left, f"after the server's SIGKILL, workers still run: {left}")
    return Finding(
        "The only worker is killed",
        f"As above, with one worker: until the next one has loaded the model, requests wait in the queue of {QUEUE_SIZE}, and "
        f"are answered by it. At the last kill, {QUEUE_SIZE} more ask once while {CONNECTIONS} wait: {CONNECTIONS} of them find "
        "no room, and get 503. In the end the server is killed, with a worker that starts, and with one that has a batch: none "
        "may outlive it.",
        {
            "workers killed under load": f"{kills + 1}",
            "requests": f"{asking.sent:,}",
            "right answers": f"{asking.right:,}",
            "`Worker died.`": f"{asking.died}",
            "503, beyond the queue": f"{asking.refused}",
            "anything else": f"{asking.faults.count}",
            "longest time without an answer to any client, ms": f"{1e3 * asking.longest_silence_s:.0f}",
            "from the kill to the next process (the back-off), p50 / p99 / max, ms": percentiles_ms(
                [death.back_off_s for death in deaths]
            ),
            "from there to its first answer, p50 / p99 / max, ms": percentiles_ms([death.start_s for death in deaths]),
            "workers that outlived their server": f"{len(left)}",
        },
        [*asking.faults.lines(), *faults.lines()],
        slow_back_offs(deaths),
    )


async def _crowded(served: Served, asking: Asking) -> Death:
    """Kills the worker, and asks more than can wait until the next one is there."""
    async with asyncio.TaskGroup() as tasks:
        dying = tasks.create_task(kill(served, asking, (await served.ready_workers())[0]))
        await served.until_waiting(CONNECTIONS)
        for _ in range(QUEUE_SIZE):
            tasks.create_task(asking.ask_once())
    return dying.result()


async def _killed_while_a_worker_starts(served: Served) -> list[int]:
    before = served.children()
    os.kill((await served.ready_workers())[0], signal.SIGKILL)
    await until(lambda: bool(served.children() - before), _START_S)
    return await served.killed()


async def _killed_while_a_worker_works(served: Served) -> list[int]:
    busy = Asking(served.port, _LONG_MS)
    asked = asyncio.create_task(busy.ask_once())
    await until(lambda: busy.sent > 0, _START_S)
    await served.until_waiting(0)
    left = await served.killed()
    with contextlib.suppress(ConnectionLost):
        await asked
    return left
