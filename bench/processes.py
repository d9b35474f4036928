"""Servers as processes of their own: on a free port of 127.0.0.1, asked until they answer, ended by their own id."""

import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import ProcessFailed
from bench.payloads import Body

CONNECTORS = 3
"""How many ports a server opens, one after the other: for inference, management and metrics."""

_START_TIMEOUT_S = 60
_END_TIMEOUT_S = 15
_ANSWER_TIMEOUT_S = 30
_POLL_S = 0.005
_PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers; `start_s` is the time from the start of its process to its first 200."""

    pid: int
    port: int
    start_s: float

    def post(self, path: str, body: Body) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and content of one answer."""
        return _ask(self.port, "POST", path, body.content, body.headers)

    def memory_mb(self) -> float:
        """What the process holds in memory now (VmRSS), in 10^6 bytes."""
        return memory_mb(self.pid)

    def has_library(self, name: str) -> bool:
        """Whether a file whose name has this in it is mapped into the process."""
        return any(name in line.rpartition("/")[2] for line in Path(f"/proc/{self.pid}/maps").read_text().splitlines())


@contextlib.contextmanager
def started(module: str, *arguments: str, folder: Path, ready: str = "/ready") -> Iterator[Running]:
    """Runs `python -m module … --port P` until the block ends; it begins once `ready` answers 200.

    The process runs in `folder`, where no settings lie, and without our variables; its log lies there too.

    Raises:
        ProcessFailed: it ended, or did not answer in time.
    """
    port = free_port()
    command = [sys.executable, "-m", module, *arguments, "--port", str(port)]
    with running(command, port, folder / f"{module}.log", ready) as found:
        yield found


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path, ready: str) -> Iterator[Running]:
    """Runs a server until the block ends, in the folder of its log; it begins once `ready` answers 200 on the port.

    Raises:
        ProcessFailed: it ended, or did not answer in time.
    """
    with log.open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            command, cwd=log.parent, env=server_environment(), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while not _answers(port, ready):
            said = log.read_text().strip()
            if process.poll() is not None:
                raise ProcessFailed(f"{log.stem} ended with code {process.returncode} before it answered {ready}: {said}")
            if time.perf_counter() - began > _START_TIMEOUT_S:
                raise ProcessFailed(f"{log.stem} did not answer {ready} with 200 in {_START_TIMEOUT_S} s: {said}")
            time.sleep(_POLL_S)
        yield Running(process.pid, port, time.perf_counter() - began)
        if process.poll() is not None:
            said = log.read_text().strip()
            raise ProcessFailed(f"{log.stem} ended with code {process.returncode} while it was measured: {said}")
    finally:
        _end(process)


def run_module(module: str, *arguments: str, timeout_s: float) -> str:
    """Runs `python -m module …` to its end, and gives the last line that it prints.

    Raises:
        ProcessFailed: it ended with another code than 0, or not in time.
    """
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=_PROJECT, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as cause:
        raise ProcessFailed(f"{module} did not end in {timeout_s:g} s") from cause
    if done.returncode != 0:
        raise ProcessFailed(f"{module} {' '.join(arguments)} ended with code {done.returncode}: {done.stderr.strip()}")
    return done.stdout.splitlines()[-1]


def server_environment() -> dict[str, str]:
    """Our environment for a server from this project, wherever it is started, without our settings of servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STATESERVE_")}
    return {**kept, "PYTHONPATH": str(_PROJECT)}


def memory_mb(pid: int) -> float:
    """What a process holds in memory now (VmRSS), in 10^6 bytes. Raises ProcessFailed if it has ended."""
    return process_status(pid, "VmRSS") * 1024 / 1e6


def shared_memory_mb(pid: int) -> float:
    """A process's part of what is in memory (Pss: what several share is split among them), in 10^6 bytes; 0 if it has ended."""
    try:
        match = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(match[1]) * 1024 / 1e6 if match else 0.0


def process_status(pid: int, name: str) -> int:
    """A number of /proc/PID/status. Raises ProcessFailed if the process has ended."""
    match = re.search(rf"^{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if match is None:
        raise ProcessFailed(f"/proc/{pid}/status states no {name}: the process has ended")
    return int(match[1])


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens, nor on the two that follow: a server of ours opens three."""
    while True:
        with (
            contextlib.ExitStack() as probes,
            contextlib.suppress(OSError, OverflowError),
        ):  # a neighbour is taken, or none is left
            first = _bound(probes, 0)
            for port in range(first + 1, first + CONNECTORS):
                _bound(probes, port)
            return first


def _bound(probes: contextlib.ExitStack, port: int) -> int:
    probe = probes.enter_context(socket.socket())
    probe.bind(("127.0.0.1", port))
    return probe.getsockname()[1]


def _answers(port: int, path: str) -> bool:
    try:
        return _ask(port, "GET", path, None, {})[0] == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):  # it does not listen yet
        return False


def _ask(
    port: int, method: str, path: str, content: bytes | None, headers: Mapping[str, str]
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_TIMEOUT_S)
    try:
        connection.request(method, path, content, dict(headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
