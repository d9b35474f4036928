"""A real server process for as long as it is needed."""

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import free_port, server_environment
from tests.fuzz.seen import resident_kib

PROJECT = Path(__file__).parents[2]
START_DEADLINE_S = 30
END_DEADLINE_S = 60


@dataclass(frozen=True)
class Server:
    """The process, where it listens, and what it logged."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def resident_kib(self) -> int:
        """Its memory, as it is now."""
        return resident_kib(self.process.pid)

    def connect(self, timeout_s: float = 10) -> socket.socket:
        """A new connection to it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


@contextlib.contextmanager
def server(repository: Path, log: Path, *flags: str) -> Iterator[Server]:
    """Starts a server, waits until it listens, and ends it. It must still run at the end."""
    port = free_port()
    command = [sys.executable, "-m", "serving", "--repository", str(repository), "--port", str(port), *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=PROJECT, env=server_environment(), stdout=output, stderr=subprocess.STDOUT)
    found = Server(process, port, log)
    try:
        _wait_until_ready(found)
        yield found
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}: {log.read_text()[-4000:]}")
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(END_DEADLINE_S)


def _wait_until_ready(found: Server) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and found.process.poll() is None:
        with contextlib.suppress(OSError), found.connect() as connection:
            connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n\r\n")
            if connection.recv(64).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.02)
    raise AssertionError(f"the server did not start: {found.log.read_text()}")
