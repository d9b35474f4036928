"""A job that waits for its worker's reply, and the parts of a reply that is a stream."""

import asyncio
import time
from collections import deque

from serving.errors import ClientLeft, ServingError
from serving.messages import Leaving
from serving.torchserve.errors import TorchServeError
from serving.torchserve.jobs import Job, Reply

_MAX_WAITING_BYTES = 16 << 20
"""So much of a stream may wait until it is handed to the HTTP server, or one part that is larger.

granian takes what it is handed at once, and holds what a slow client has not read, until `answer_timeout_s` cuts that one off.
"""


class Asked:
    """A job that was asked for. `future` gives its reply; `alone`: it shares no batch."""

    __slots__ = ("alone", "expiry", "future", "given_at", "job", "leaving", "queued_at", "stream", "watching")

    def __init__(self, job: Job, leaving: Leaving | None = None, *, alone: bool = False) -> None:
        self.job = job
        self.leaving = leaving
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.alone = alone
        self.queued_at = time.perf_counter()
        self.given_at = 0.0
        self.stream: Stream | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self.watching: asyncio.Task[None] | None = None

    def part(self, reply: Reply, *, more: bool) -> None:
        """A reply of the worker, the first or a further one; `more` follow."""
        if self.stream is not None:
            self.stream.put(reply.body, more=more)
        elif not self.future.done():
            if more:
                reply.more = self.stream = Stream()
            self.future.set_result(reply)

    def fail(self, error: ServingError) -> None:
        """There is no reply, or no further part of it."""
        if self.stream is not None:
            self.stream.fail(error)
        elif not self.future.done():
            self.future.set_exception(error)

    def watch(self) -> None:
        """Gives the job up when its client leaves."""
        if self.leaving is not None and self.watching is None:
            self.watching = asyncio.get_running_loop().create_task(self._watch(self.leaving))

    async def _watch(self, leaving: Leaving) -> None:
        await leaving()
        self.fail(ClientLeft("the client left before its answer was there"))

    def left_queue(self) -> None:
        """It waits no more: nobody needs to look whether its time is up, or its client there."""
        if self.expiry is not None:
            self.expiry.cancel()
        if self.watching is not None:
            self.watching.cancel()


class Stream:
    """The parts of a reply that follow its first. Whoever wants no more of them closes it; the worker is not held up."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._error: ServingError | None = None
        self._waiting: asyncio.Future[None] | None = None

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> bytes:
        """The next part. Raises InternalServerException where the stream breaks off."""
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        part = self._parts.popleft()
        self._bytes -= len(part)
        return part

    async def aclose(self) -> None:
        """Drops what waits, and what will come."""
        self._ended = True
        self._parts.clear()
        self._wake()

    def put(self, part: bytes, *, more: bool) -> None:
        """One part; the last, if there are no `more`."""
        if self._ended:
            return
        if self._bytes and self._bytes + len(part) > _MAX_WAITING_BYTES:
            self._parts.clear()
            self.fail(TorchServeError(f"more than {_MAX_WAITING_BYTES >> 20} MiB of the answer waited for the client"))
            return
        if part:
            self._parts.append(part)
            self._bytes += len(part)
        self._ended = not more
        self._wake()

    def fail(self, error: ServingError) -> None:
        """The parts that wait are the last; after them, the error is raised."""
        if not self._ended:
            self._ended, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
