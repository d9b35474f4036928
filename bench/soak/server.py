"""A server process on a model repository made for one scenario: started, asked about itself, and ended by its own id."""

import asyncio
import contextlib
import json
import re
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import ProcessFailed
from bench.processes import free_port, memory_mb, process_status, server_environment
from bench.soak.client import Answer, ConnectionLost, ask_once, get
from bench.soak.models import SoakModel, files

_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 60
_POLL_S = 0.01
_SERIES = re.compile(r"^(stateserve_\w+)(\{.*\})? (\S+)$", re.MULTILINE)
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

    def memory_mb(self) -> float:
        """What the process holds in memory (VmRSS), in 10^6 bytes."""
        return memory_mb(self.process.pid)

    def threads(self) -> int:
        """The threads of the process."""
        return process_status(self.process.pid, "Threads")

    def open_files(self) -> int:
        """The file descriptors of the process, sockets among them."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log; a line that is no JSON has the level CRITICAL, as it is not ours (a panic, a failing interpreter)."""
        return [_line(text) for text in self.log.read_text().splitlines()]

    def unforeseen(self) -> list[str]:
        """Log lines that no scenario should cause."""
        bad = (line for line in self.log_lines() if line["level"] == "CRITICAL" or "traceback" in line)
        return [f"the server's log says: {line['message']} {line.get('traceback', '')}".rstrip() for line in bad]


@contextlib.asynccontextmanager
async def started(repository: Path, *flags: str) -> AsyncIterator[Server]:
    """A server on the repository, until the block ends; it begins once the server is ready.

    The process runs beside the repository, where no settings lie, and without our variables.

    Raises:
        ProcessFailed: it ended, or was not ready in time.
    """
    port = free_port()
    log = repository.parent / f"{repository.name}-{port}.log"
    command = [sys.executable, "-m", "serving", "--repository", str(repository), "--port", str(port), *flags]
    with log.open("w") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=repository.parent, env=server_environment(), stdout=output, stderr=output
        )
    server = Server(process, port, repository, log)
    try:
        await _until_ready(server)
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


async def _until_ready(server: Server) -> None:
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await _is_ready(server):
                if server.process.returncode is not None:
                    raise ProcessFailed(f"the server ended with code {server.process.returncode}: {server.log.read_text()}")
                await asyncio.sleep(_POLL_S)
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
