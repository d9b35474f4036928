"""Child processes: started with links to us, asked and told by messages, and their end noticed."""

import asyncio
import contextlib
import itertools
import os
import signal
import site
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import ServingError
from serving.processes.link import Link, Message

ANSWER_S = 60.0
"""How long a process may take to answer what is no work: one that does not is ended, and replaced."""
_LAST_WORDS_S = 1.0
"""How long what a process had sent is waited for when it has ended."""

Json = Mapping[str, Any]


class ProcessEnded(ServingError):
    """The process ended, and will not answer any more."""


class ProcessFailed(ServingError):
    """The process could not do what it was asked; `kind` is the name of the error's class there."""

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Child:
    """A process that we started, with one link or two to it. `ended` is done when it has, and all that it sent was taken.

    `on_message` is given what is no answer to a question of ours.
    """

    def __init__(
        self, name: str, process: Process, links: Sequence[Link], on_message: Callable[["Child", Message], None]
    ) -> None:
        self.name = name
        self.pid = process.pid
        self.links = links
        self.trouble = ""
        self._killed_because = ""
        self.started_at = time.monotonic()
        self._process = process
        self._on_message = on_message
        self._numbers = itertools.count(1)
        self._asked: dict[int | str, asyncio.Future[Message]] = {}
        self._reading = asyncio.create_task(self._read())
        self.ended = asyncio.create_task(self._end())

    @property
    def lives(self) -> bool:
        """Whether it can be asked anything."""
        return not self.ended.done() and self._process.returncode is None

    @property
    def lived_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started_at

    def tell(self, head: Json, *, fds: Sequence[int] = ()) -> None:
        """Sends a message."""
        self.links[0].send(head, fds=fds)

    async def ask(
        self, head: Json, *, fds: Sequence[int] = (), answers: Sequence[str] = (), timeout_s: float | None = ANSWER_S
    ) -> Json:
        """The answer to a message; `answers` are its kinds where it does not have our number. Without one in time, it is ended.

        Raises:
            ProcessEnded: it ended before.
            ProcessFailed: it says that it failed.
        """
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        keys: Sequence[int | str] = answers or (next(self._numbers),)
        if not self.links[0].is_open:
            raise ProcessEnded(f"{self.name} has ended")
        self._asked.update(dict.fromkeys(keys, future))
        self.tell(head if answers else {**head, "ask": keys[0]}, fds=fds)
        try:
            async with asyncio.timeout(timeout_s):
                answer = (await future).head
        except TimeoutError as cause:
            self.kill(f"did not answer for {timeout_s:g} s, and was ended")
            raise ProcessEnded(f"{self.name} {self._killed_because}") from cause
        finally:
            for key in keys:
                self._asked.pop(key, None)
        if answer["kind"] == "failed":
            raise ProcessFailed(str(answer["error"]), str(answer.get("type", "")))
        return answer

    def kill(self, why: str = "") -> None:
        """Ends it at once, if it lives; `why` is the end of a sentence that begins with its name."""
        self._killed_because = self._killed_because or why
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def stop(self, timeout_s: float) -> None:
        """Asks it to end, and ends it where it has not after so long."""
        self.tell({"kind": "stop"})
        await asyncio.wait({self.ended}, timeout=timeout_s)
        await self.end()

    async def end(self) -> None:
        """Ends it at once, if it lives, and returns when it has ended."""
        if not self.ended.done():
            self.kill()
            await asyncio.wait({self.ended})

    def how_it_ended(self) -> str:
        """The end of a sentence that begins with its name."""
        code = self._process.returncode
        if code is None:
            return "ended"
        if self._killed_because:
            return self._killed_because
        if code < 0:
            return f"was ended by {_signal_name(-code)}"
        return f"ended with exit code {code}{f': {self.trouble}' if self.trouble else ''}"

    async def _read(self) -> None:
        while (message := await self.links[0].receive()) is not None:
            kind, number = message.head["kind"], message.head.get("ask")
            if kind == "trouble":
                self.trouble = str(message.head.get("error", ""))
            future = self._asked.get(kind if number is None else number)
            if future is not None and not future.done():
                future.set_result(message)
            if future is None or kind == "totals":
                self._on_message(self, message)

    async def _end(self) -> int:
        """Its exit code, minus the signal's number where one ended it. A process that closed its link is ended."""
        exiting = asyncio.ensure_future(self._process.wait())
        await asyncio.wait({exiting, self._reading}, return_when=asyncio.FIRST_COMPLETED)
        if not exiting.done():
            await asyncio.wait({exiting}, timeout=_LAST_WORDS_S)
            self.kill()
        code = await exiting
        await asyncio.wait({self._reading}, timeout=_LAST_WORDS_S)
        self._reading.cancel()
        for link in self.links:
            link.close()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ProcessEnded(f"{self.name} {self.how_it_ended()}"))
        return code


async def start(module: str, name: str, on_message: Callable[[Child, Message], None], links: int = 1) -> Child:
    """Starts `python -m module FD …` with so many links to it.

    It is in a session of its own: a terminal's Ctrl-C is for us to hear.

    Raises:
        OSError: it cannot be started.
    """
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
        pairs = [socket.socketpair() for _ in range(links)]
        for own, other in pairs:
            ours.enter_context(own)
            theirs.enter_context(other)
        fds = [other.fileno() for _, other in pairs]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *map(str, fds)),
            stdin=DEVNULL,
            pass_fds=fds,
            env=_environment(),
            start_new_session=True,
        )
        ours.pop_all()
        return Child(name, process, [Link(own) for own, _ in pairs], on_message)


def _environment() -> dict[str, str]:
    """Ours; a module of a child is found where ours are, and not in the folder in which we happen to be."""
    root = str(Path(__file__).parents[2])
    path = [] if root in site.getsitepackages() else [root]
    path += [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {**os.environ, "PYTHONSAFEPATH": "1", **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
