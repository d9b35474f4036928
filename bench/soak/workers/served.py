"""A server on a model store with one archive, `echo`, packed by TorchServe's own packer; and its workers, as processes."""

import asyncio
import contextlib
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from bench.errors import ProcessFailed
from bench.soak import server
from bench.soak.client import ask_once, get
from bench.soak.finding import Soak
from bench.soak.server import Server

NAME = "echo"
BATCH_SIZE = 8
POLL_S = 0.01

_HANDLER = Path(__file__).parents[2] / "mar" / "echo_handler.py"
_PACK_TIMEOUT_S = 60.0
_GONE_S = 10.0
_QUEUED_S = 10.0
_LOADED = re.compile(rf"^worker \d+ has loaded model {NAME} in ([\d.]+) s$")


@dataclass(frozen=True, slots=True)
class Served:
    """A server whose model store has `echo`. `seen` are all workers that it ever had, as far as somebody looked."""

    server: Server
    seen: set[int] = field(default_factory=set)

    @property
    def port(self) -> int:
        """Where predictions are asked for."""
        return self.server.port

    def children(self) -> set[int]:
        """The processes that the server has started and that run: its workers, those that start included."""
        parent = self.server.process.pid
        running = {pid for pid in _processes() if (status := _status(pid)).parent == parent and status.runs}
        self.seen.update(running)
        return running

    async def ready_workers(self) -> list[int]:
        """The processes of the workers that have loaded the model, as the management API describes them, in its order."""
        described = await self._described()
        return [worker["pid"] for worker in described["workers"] if worker["status"] == "READY"]

    async def waiting(self) -> int:
        """How many requests wait in the model's queue."""
        return (await self._described())["jobQueueStatus"]["pendingRequests"]

    async def until_waiting(self, count: int) -> None:
        """Returns when so many requests wait. Raises TimeoutError."""
        async with asyncio.timeout(_QUEUED_S):
            while await self.waiting() != count:  # noqa: ASYNC110 - it can only be asked
                await asyncio.sleep(POLL_S)

    def loads_s(self) -> list[float]:
        """How long each worker took from its start until it had loaded the model, as the log says."""
        lines = (_LOADED.match(line["message"]) for line in self.server.log_lines())
        return [float(line[1]) for line in lines if line is not None]

    def deaths(self) -> int:
        """How many workers died, as the log says."""
        return sum(line["message"].startswith("a worker died, ") for line in self.server.log_lines())

    async def left_behind(self) -> list[int]:
        """Workers that still run a while after the server has ended: none, if all is well."""
        with contextlib.suppress(TimeoutError):
            await until(lambda: not any(map(is_running, self.seen)), _GONE_S)
        return sorted(filter(is_running, self.seen))

    async def killed(self) -> list[int]:
        """Ends the server with SIGKILL; what is left behind of its workers."""
        self.children()
        self.server.process.kill()
        await self.server.process.wait()
        return await self.left_behind()

    async def _described(self) -> dict[str, Any]:
        answer = await ask_once(self.port + 1, get(f"/models/{NAME}"))
        if answer.status != 200:
            raise ProcessFailed(f"the management API answers {answer.status}: {answer.content[:300]!r}")
        return orjson.loads(answer.content)[0]


@contextlib.asynccontextmanager
async def started(soak: Soak, name: str, workers: int, *flags: str) -> AsyncIterator[Served]:
    """A server whose model has so many workers, until the block ends; it begins once all of them have loaded it.

    Raises:
        ProcessFailed: the archive cannot be packed, or the server was not ready in time.
    """
    store = soak.repository(f"{name}-store")
    await _pack(store, workers)
    ways = ("--model-store", str(store), "--models", f"{NAME}.mar", "--disable-token-authorization")
    async with server.started(soak.repository(name), *ways, *flags) as found:
        served = Served(found)
        served.children()
        yield served


async def until(holds: Callable[[], bool], timeout_s: float) -> float:
    """Waits until the condition holds; the time at which it did. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - the condition is another process's
            await asyncio.sleep(POLL_S)
    return time.perf_counter()


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    return _status(pid).runs


class _Status(NamedTuple):
    runs: bool
    parent: int


def _processes() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _status(pid: int) -> _Status:
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return _Status(runs=False, parent=0)
    return _Status(state not in {"Z", "X"}, int(parent))


async def _pack(store: Path, workers: int) -> None:
    config = store / "model-config.yaml"
    config.write_text(f"minWorkers: {workers}\nmaxWorkers: {workers}\nbatchSize: {BATCH_SIZE}\n")
    flags = ["--model-name", NAME, "--version", "1.0", "--handler", str(_HANDLER), "--config-file", str(config)]
    packer = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("torch-model-archiver"),
        *flags,
        *("--export-path", str(store)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(packer.communicate(), _PACK_TIMEOUT_S)
    if packer.returncode != 0:
        raise ProcessFailed(f"torch-model-archiver ended with code {packer.returncode}: {said.decode(errors='replace')}")
