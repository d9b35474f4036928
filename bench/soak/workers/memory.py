"""What the server itself holds in memory while its workers answer."""

import asyncio
import time

from bench.soak.finding import Faults, Finding, Soak
from bench.soak.workers.asking import CONNECTIONS, Asking
from bench.soak.workers.served import Served, started

REQUESTS = 50_000
BASE_REQUESTS = 5_000
"""What is held then is what it is compared with."""
GROWTH = 0.05
WORKERS = 2
_LOOKS, _LOOK_AGAIN_S = 20, 0.05


async def workers_memory(soak: Soak) -> Finding:
    """Asks so many times, and reads VmRSS near the start and at the end. The quick form judges no growth."""
    requests, base = soak.count(REQUESTS), soak.count(BASE_REQUESTS)
    faults = Faults()
    async with started(soak, "workers-memory", WORKERS) as served:
        asking = Asking(served.port, pause_ms=0)
        await _ask(asking, base)
        base_mb, files, began = served.server.memory_mb(), await _files(served), time.perf_counter()
        await _ask(asking, requests)
        took_s = time.perf_counter() - began
        last_mb, more_files = served.server.memory_mb(), await _files(served) - files
    failed = asking.sent - asking.right
    faults.require(not failed, f"{failed} requests were not answered right")
    faults.require(more_files <= 0, f"{more_files} files more are open than after {base:,} requests")
    faults.add_all([*asking.faults.lines(), *served.server.unforeseen()])
    growth = last_mb / base_mb - 1
    return Finding(
        "Memory of a server with workers",
        f"{CONNECTIONS} connections ask {WORKERS} workers without a pause; VmRSS is that of the server's own process.",
        {
            "requests": f"{asking.sent:,}",
            "right answers": f"{asking.right:,}",
            "requests/s, each checked": f"{(requests - base) / took_s:,.0f}",
            f"VmRSS after {base:,} requests, MB": f"{base_mb:.1f}",
            f"VmRSS after {requests:,} requests, MB": f"{last_mb:.1f} ({growth:+.1%})",
        },
        faults.lines(),
        [f"VmRSS grew by {growth:.1%}, which is more than {GROWTH:.0%}"] if growth > GROWTH and not soak.quick else [],
    )


async def _files(served: Served) -> int:
    """The files that stay open: connections that their clients have closed are gone a moment later."""
    found = []
    for _ in range(_LOOKS):
        found.append(served.server.open_files())
        await asyncio.sleep(_LOOK_AGAIN_S)
    return min(found)


async def _ask(asking: Asking, most: int) -> None:
    """Asks until so many requests were sent in all; all of them are answered then."""
    async with asyncio.TaskGroup() as clients:
        for _ in range(CONNECTIONS):
            clients.create_task(asking.ask_on(most))
