"""The scenarios by name, and how one is run."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from bench.soak.ending import ending
from bench.soak.finding import Finding, Soak
from bench.soak.kills import kills
from bench.soak.leaving import leaving
from bench.soak.memory import memory
from bench.soak.mix_up import mix_up
from bench.soak.overload import overload
from bench.soak.swaps import swaps
from bench.soak.workers.alone import worker_alone
from bench.soak.workers.ending import workers_ending
from bench.soak.workers.killed import workers_killed
from bench.soak.workers.memory import workers_memory

SCENARIOS: Mapping[str, Callable[[Soak], Awaitable[Finding]]] = {
    "mix-up": mix_up,
    "swaps": swaps,
    "overload": overload,
    "leaving": leaving,
    "ending": ending,
    "memory": memory,
    "kills": kills,
    "workers-killed": workers_killed,
    "worker-alone": worker_alone,
    "workers-ending": workers_ending,
    "workers-memory": workers_memory,
}
"""What `--only` names."""

_TIMEOUT_S, _QUICK_TIMEOUT_S = 300.0, 60.0
_SEVERAL = 3
"""Times as long with several processes: each version starts some, and each kill."""


async def run(name: str, soak: Soak) -> Finding:
    """Runs one scenario; what breaks it off, such as its time being over, is a fault that it found."""
    try:
        timeout_s = (_QUICK_TIMEOUT_S if soak.quick else _TIMEOUT_S) * (_SEVERAL if soak.processes.are_several else 1)
        async with asyncio.timeout(timeout_s):
            return await SCENARIOS[name](soak)
    except Exception as error:  # noqa: BLE001 - whatever it was: the others are run, and the page tells of it
        return Finding(name, "", {}, [f"it broke off: {_causes(error)}"])


def _causes(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_causes, error.exceptions))
    if isinstance(error, TimeoutError):
        return "its time was over; requests that are never answered look like this"
    return f"{type(error).__name__}: {error}"
