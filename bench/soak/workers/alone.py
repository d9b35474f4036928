"""A model's only worker is killed under load, and then its server."""

import asyncio
import os
import signal
import time

from bench.soak.client import connect
from bench.soak.finding import Faults, Finding, Soak, percentiles_ms
from bench.soak.workers.asking import CONNECTIONS, Asking, begun
from bench.soak.workers.killed import judge, kill, slow_back_offs
from bench.soak.workers.served import BATCH_SIZE, Served, started, until

KILLS, QUICK_KILLS = 5, 1
QUEUE_SIZE = 100
"""`job_queue_size`, by TorchServe's default."""

_LOAD_S = 0.5
_TURNS_S = 30.0


async def alone(soak: Soak) -> Finding:
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
        refused_before = asking.refused
        await asyncio.sleep(_LOAD_S)
        crowd = await _crowd(served, asking)
        await asking.end([*clients, *crowd])
        died_with = await _kill_server(served)
    faults.require(not refused_before, f"{refused_before} requests were refused although the queue had room")
    beyond = CONNECTIONS + QUEUE_SIZE - QUEUE_SIZE
    faults.require(asking.refused == beyond, f"{asking.refused} requests were refused, and not the {beyond} beyond the queue's room")
    judge(faults, served, asking, kills + 1)
    faults.require(not died_with, f"workers outlived the server: {sorted(died_with)}")
    return Finding()
