"""A server process on a model repository made for one scenario: started, asked about itself, and ended by its own id."""

import asyncio
import contextlib
import json
import re
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import ProcessFailed
from bench.observed.kinds import kind
from bench.observed.processes import tree
from bench.processes import free_port, memory_mb, process_status, server_environment, shared_memory_mb
from bench.soak.client import Answer, ConnectionLost, ask_once, get
from bench.soak.models import SoakModel, files

_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 60
_POLL_S = 0.01
_SERIES = re.compile(r"^(stateserve_\w+)(\{.*\})? (\S+)$", re.MULTILINE)
_ITS_OWN = "stateserve_process_cpu_seconds_total"
_ENDS = ("socket:", "pipe:", "/memfd:", "anon_inode:")
_GROWS = ("_total", "_count", "_sum", "_bucket")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers. `log` is what it writes to stderr."""

    process: Process
    port: int
    repository: Path
    log: Path

    async def ask(self, request: bytes) -> Answer:
        """One answer, on a connection of its own."""
        return await ask_once(self.port, request)

    async def counted(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels; 0 where there is none."""
        page = (await self.ask(get("/metrics"))).content.decode()
        found = ((series[1], dict(_LABEL.findall(series[2] or "")), float(series[3])) for series in _SERIES.finditer(page))
        return sum(value for one, its, value in found if one == f"stateserve_{name}" and labels.items() <= its.items())

    async def counters(self) -> dict[str, float]:
        """Every number of ours on the metrics page that may only grow, by its name and labels; not those of single processes."""
        page = (await self.ask(get("/metrics"))).content.decode()
        found = ((series[1] + (series[2] or ""), float(series[3])) for series in _SERIES.finditer(page))
        return {name: value for name, value in found if name.partition("{")[0].endswith(_GROWS) and not name.startswith(_ITS_OWN)}

    def pids(self, *, of: str | None = None) -> list[int]:
        """The server's processes: the one that was started, first, and those of ours that it started; of one kind, if said."""
        first, *others = tree(self.process.pid)
        if of is not None:
            return [pid for pid in others if kind(pid) == of]
        return [first, *(pid for pid in others if kind(pid) is not None)]

    def memory_mb(self) -> float:
        """What the server holds in memory, in 10^6 bytes: VmRSS of one process; of several Pss, with what they share once."""
        pids = self.pids()
        return memory_mb(pids[0]) if len(pids) == 1 else sum(map(shared_memory_mb, pids))

    def threads(self) -> int:
        """The threads of the server's processes."""
        return sum(process_status(pid, "Threads") for pid in self.pids())

    def open_files(self) -> int:
        """The file descriptors of the process that was started, sockets among them."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def ends_held(self) -> int:
        """The sockets, pipes and shared memory that the server's processes hold; not files, which libraries open as they like."""
        return sum(_ends_held(pid) for pid in self.pids())

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log; a line that is no JSON has the level CRITICAL, as it is not ours (a panic, a failing interpreter)."""
        return [_line(text) for text in self.log.read_text().splitlines()]

    def told(self, end: str) -> int:
        """How many lines of its log end so."""
        return sum(line["message"].endswith(end) for line in self.log_lines())

    def unforeseen(self) -> list[str]:
        """Log lines that no scenario should cause."""
        bad = (line for line in self.log_lines() if line["level"] == "CRITICAL" or "traceback" in line)
        return [f"the server's log says: {line['message']} {line.get('traceback', '')}".rstrip() for line in bad]


@contextlib.asynccontextmanager
async def started(repository: Path, *flags: str, port: int | None = None) -> AsyncIterator[Server]:
    """A server on the repository, until the block ends; it begins once the server is ready. Without a port it has a free one.

    The process runs beside the repository, where no settings lie, and without our variables.

    Raises:
        ProcessFailed: it ended, or was not ready in time.
    """
    port = free_port() if port is None else port
    log = repository.parent / f"{repository.name}-{port}.log"
    command = [sys.executable, "-m", "serving", "--repository", str(repository), "--port", str(port), *flags]
    with log.open("a") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=repository.parent, env=server_environment(), stdout=output, stderr=output
        )
    server = Server(process, port, repository, log)
    try:
        await _begun(server)
        yield server
    finally:
        await _end(process)


def write_model(repository: Path, name: str, version: int, model: SoakModel) -> None:
    """Writes an artifact into the repository, before anybody looks."""
    write_files(repository / name / str(version), files(model))


def write_files(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Writes a new directory of flat files."""
    directory.mkdir(parents=True)
    for name, data in contents.items():
        (directory / name).write_bytes(data)


def _ends_held(pid: int) -> int:
    found = 0
    with contextlib.suppress(OSError):  # the process is just ending
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # it is closed
                found += descriptor.readlink().as_posix().startswith(_ENDS)
    return found


async def until(holds: Callable[[], bool], timeout_s: float) -> float:
    """Waits until the condition holds; the time at which it did. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - the condition is another process's
            await asyncio.sleep(_POLL_S)
    return time.perf_counter()


async def until_ready(server: Server, timeout_s: float) -> None:
    """Waits until the server is ready.

    Raises:
        ProcessFailed: it ended.
        TimeoutError: it is not ready.
    """
    async with asyncio.timeout(timeout_s):
        while not await _is_ready(server):
            if server.process.returncode is not None:
                raise ProcessFailed(f"the server ended with code {server.process.returncode}: {server.log.read_text()}")
            await asyncio.sleep(_POLL_S)


async def _begun(server: Server) -> None:
    try:
        await until_ready(server, _START_TIMEOUT_S)
    except TimeoutError as cause:
        raise ProcessFailed(f"the server was not ready in {_START_TIMEOUT_S} s: {server.log.read_text()}") from cause


async def _is_ready(server: Server) -> bool:
    try:
        return (await server.ask(get("/v2/health/ready"))).status == 200
    except (OSError, ConnectionLost):  # it does not listen yet
        return False


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_END_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _line(text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError:
        return {"level": "CRITICAL", "message": text}
