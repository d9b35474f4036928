"""Workers that are killed under load."""

import asyncio
import os
import signal
import time
from dataclasses import dataclass

from bench.soak.finding import Faults, Finding, Soak, percentile, percentiles_ms
from bench.soak.workers.asking import CONNECTIONS, PAUSE_MS, Asking, begun
from bench.soak.workers.served import BATCH_SIZE, Served, started, until

KILLS, QUICK_KILLS = 20, 2
WORKERS = 2
FIRST_STEP_S = 1.0
"""TorchServe's first wait before it starts a worker again."""

_LOAD_S = 0.5  # between two kills
_BACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Death:
    """One kill: how long until the next process was there, and from there until it answered."""

    back_off_s: float
    start_s: float


async def workers_killed(soak: Soak) -> Finding:
    """Kills one of two workers, again and again, while clients ask, and looks at what became of each request."""
    kills = soak.count(KILLS, QUICK_KILLS)
    faults, deaths = Faults(), []
    async with started(soak, "killed", WORKERS) as served:
        asking = Asking(served.port)
        clients = begun(asking)
        for number in range(kills):
            await asyncio.sleep(_LOAD_S)
            workers = await served.ready_workers()
            deaths.append(await kill(served, asking, workers[number % WORKERS]))
            soak.say(f"workers-killed: {number + 1} of {kills}")
        await asyncio.sleep(_LOAD_S)
        await asking.end(clients)
        workers, children = await served.ready_workers(), served.children()
    faults.require(set(workers) == children and len(workers) == WORKERS, f"{workers} are said to run at the end, {children} do")
    judge(faults, served, asking, kills)
    faults.require(not asking.refused, f"{asking.refused} requests were refused")
    left = await served.left_behind()
    faults.require(not left, f"after the server's SIGTERM, workers still run: {left}")
    first_loads_s, loads_s = served.loads_s()[:WORKERS], served.loads_s()[WORKERS:]
    return Finding(
        "Workers that are killed",
        f"A `.mar` with an echo handler is served by {WORKERS} of TorchServe's own workers, batchSize {BATCH_SIZE}, a batch "
        f"takes {PAUSE_MS} ms or more. {CONNECTIONS} connections ask without a pause, each request with a number that must come "
        "back, while one worker after the other is killed (SIGKILL), the next when the one before is replaced and answers. What "
        "a killed worker had gets 507 or 500 `Worker died.`, nothing else may fail, and nothing may hang.",
        {
            "workers killed": f"{kills}",
            "requests": f"{asking.sent:,}",
            "right answers": f"{asking.right:,}",
            "`Worker died.`": f"{asking.died}",
            "anything else": f"{asking.faults.count}",
            "longest time without an answer to any client, ms": f"{1e3 * asking.longest_silence_s:.0f}",
            "a request's wait for its answer, p50 / p99 / max, ms": percentiles_ms(asking.waits_s),
            "from the kill to the next process (the back-off), p50 / p99 / max, ms": percentiles_ms(
                [death.back_off_s for death in deaths]
            ),
            "from there to its first answer (its start: it imports torch), p50 / max, s": _median_and_most(
                [death.start_s for death in deaths]
            ),
            "of that, until its model was loaded, says the log, p50 / max, s": _median_and_most(loads_s),
            "the same of the first workers, which start together, without load, p50 / max, s": _median_and_most(first_loads_s),
        },
        [*asking.faults.lines(), *faults.lines()],
        slow_back_offs(deaths),
    )


async def kill(served: Served, asking: Asking, victim: int) -> Death:
    """Kills a worker, and waits until the next one answers."""
    before = served.children()
    killed_at = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    started_at = await until(lambda: bool(served.children() - before), _BACK_S)
    (successor,) = served.children() - before
    await until(lambda: successor in asking.first_at, _BACK_S)
    return Death(started_at - killed_at, asking.first_at[successor] - started_at)


def judge(faults: Faults, served: Served, asking: Asking, kills: int) -> None:
    """Looks at what must hold wherever workers are killed."""
    faults.require(served.deaths() == kills, f"the log tells of {served.deaths()} workers that died, and not of {kills}")
    faults.require(asking.died <= kills * BATCH_SIZE, f"{asking.died} requests got `Worker died.`, of {kills} batches")
    faults.require(bool(asking.died), "no worker had a batch when it was killed: nothing was shown")
    faults.add_all(served.server.unforeseen())


def slow_back_offs(deaths: list[Death]) -> list[str]:
    """The bound that was missed, if it was."""
    longest_s = max(death.back_off_s for death in deaths)
    if longest_s < FIRST_STEP_S:
        return []
    return [f"a worker was started again {longest_s:.2f} s after it was killed, which is not less than {FIRST_STEP_S:g} s"]


def _median_and_most(seconds: list[float]) -> str:
    return f"{percentile(seconds, 50):.1f} / {max(seconds):.1f}"
