"""A child process in a group of its own, so that what it starts ends with it, and whose output is always taken."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

_TERMINATE_S = 2.0
"""How long a process may take to end by itself when it is told to."""
_DRAIN_S = 1.0
"""How long what it has still sent and printed is waited for when it has ended."""


class Output(Protocol):
    """What takes all that a process prints."""

    def feed(self, data: bytes) -> None:
        """More of it."""

    def flush(self) -> None:
        """There is no more."""


class Process:
    """A running child. `exited` and `silent` are done when it has ended, and when all that it printed was taken."""

    def __init__(self, transport: asyncio.SubprocessTransport, events: "_Events") -> None:
        self._transport = transport
        self._is_gone = False
        self.pid = transport.get_pid()
        self.exited = events.exited
        self.silent = events.silent

    @property
    def code(self) -> int | None:
        """The exit code, minus the signal's number where one ended it; None while it runs."""
        return self._transport.get_returncode()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and to all that it has started, unless it is gone: its number may be another's then."""
        if self._is_gone:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all of them have ended
            os.killpg(self.pid, number)

    async def end(self) -> None:
        """SIGTERM, and SIGKILL to what is left 2 s later."""
        if not self.exited.done():
            self.signal(signal.SIGTERM)
            await asyncio.wait({self.exited}, timeout=_TERMINATE_S)
        self.signal(signal.SIGKILL)
        await asyncio.wait({self.exited})

    async def gone(self, *others: "asyncio.Future[None]") -> None:
        """Waits until it has ended, then ends what it has started, and waits up to 1 s for what was printed, and for `others`."""
        await asyncio.wait({self.exited})
        self.signal(signal.SIGKILL)
        self._is_gone = True
        await asyncio.wait({self.silent, *others}, timeout=_DRAIN_S)
        self._transport.close()


async def spawn(command: Sequence[str], environment: Mapping[str, str], directory: Path, output: Output) -> Process:
    """Starts a child in a session of its own, with all that it prints given to `output`.

    Raises:
        OSError: it cannot be started.
    """
    loop = asyncio.get_running_loop()
    starting = loop.create_task(_start(loop, command, environment, directory, output))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A loop that is stopped in the midst of this would lose sight of the child.
        with contextlib.suppress(OSError):
            process = await starting
            process.signal(signal.SIGKILL)
            await process.gone()
        raise


async def _start(
    loop: asyncio.AbstractEventLoop,
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    output: Output,
) -> Process:
    transport, events = await loop.subprocess_exec(
        lambda: _Events(loop, output),
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
        cwd=directory,
        start_new_session=True,
    )
    return Process(transport, events)


class _Events(asyncio.SubprocessProtocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, output: Output) -> None:
        self._output = output
        self.exited: asyncio.Future[None] = loop.create_future()
        self.silent: asyncio.Future[None] = loop.create_future()

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - asyncio's signature
        self._output.feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._output.flush()
        settle(self.silent)

    def process_exited(self) -> None:
        settle(self.exited)


def settle(future: "asyncio.Future[None]") -> None:
    """Makes a future done, if it is not."""
    if not future.done():
        future.set_result(None)
