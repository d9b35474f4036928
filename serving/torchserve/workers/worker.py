"""One worker: TorchServe's own, as a child process that has loaded a model and answers one batch at a time over a Unix socket."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serving.errors import ServingError
from serving.torchserve.errors import InternalServerException
from serving.torchserve.jobs import STATUSES
from serving.torchserve.workers.asked import Asked
from serving.torchserve.workers.lines import Lines
from serving.torchserve.workers.process import Process, settle, spawn
from serving.torchserve.workers.wire import STREAM_NEXT, Answer, BrokenAnswer, Decoder, Load, batch_message, load_message

log = logging.getLogger("stateserve")

_OK = 200
_TOO_LARGE = 413
_OUT_OF_MEMORY = 507
_KILLED = frozenset({-signal.SIGKILL, 128 + signal.SIGKILL})
"""Exit codes of a process that was killed, which the system does for want of memory."""
_LISTENING_S = 120.0
"""How long a worker may take from its start to its socket: it imports torch."""
_EXIT_S = 1.0
"""How long a process may take to end that has closed its socket."""
_POLL_S = 0.001
_JOINED_BYTES = 256 << 10
"""Up to so much, a message's parts are joined: a copy is cheaper than several writes."""


class WorkerFailed(ServingError):
    """A worker did not load its model: `status` is 507 for want of memory, else 500."""

    def __init__(self, message: str, status: int, traceback_id: str | None) -> None:
        super().__init__(message)
        self.status = status  # pyright: ignore[reportAttributeAccessIssue] - each failure has its own
        self.traceback_id = traceback_id


class WorkerMetrics(Protocol):
    """Who is told what workers do."""

    def worker_line(self, line: str) -> bool:
        """A line of a worker that begins with `[METRICS]`; False where it is none."""
        ...

    def worker_loaded(self, worker: str, load_s: float) -> None:
        """A worker, such as `W-9000-m_1.0`, came up in so many seconds."""
        ...

    def worker_thread(self, thread_s: float) -> None:
        """A batch cost the server itself so long."""
        ...

    def inferred(self, model: str, version: str | None, queue_s: float, latency_s: float) -> None:
        """A prediction was answered, after so long in all, and so long in the queue."""
        ...


@dataclass(frozen=True)
class Start:
    """What a worker is started with. `facts` stand in its lines of the log, `metrics` is told what it does."""

    command: Sequence[str]
    environment: Mapping[str, str]
    socket: Path
    load: Load
    startup_timeout_s: float
    response_timeout_s: float
    max_response_bytes: int
    facts: Mapping[str, Any]
    metrics: WorkerMetrics


class Worker:
    """A worker that has loaded its model. `ended` is done when it is gone, and every job of its batch is told.

    Whoever has it is told by `idle` when it has answered a batch. Not for use from another thread than the event loop's.
    """

    def __init__(self, process: Process, connection: "_Connection", lines: Lines, start: Start) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._connection = connection
        self._lines = lines
        self._start = start
        self._batch: Sequence[Asked] = ()
        self._timer: asyncio.TimerHandle | None = None
        self._failure: Answer | None = None
        self._given_up = False
        self._own_s = 0.0
        self.pid = process.pid
        self.idle: Callable[[], None] = lambda: None
        connection.answered, connection.broke = self._answered, self._broke
        self.ended = self._loop.create_task(self._until_gone())

    @property
    def is_idle(self) -> bool:
        """Whether a batch can be given to it."""
        return not (self._batch or self._given_up or self._connection.closed.done() or self._process.exited.done())

    def give(self, batch: Sequence[Asked]) -> None:
        """Gives it one batch, of at least one job. It is idle."""
        now = time.perf_counter()
        for asked in batch:
            asked.given_at = now
        self._batch = batch
        self._lines.traceback_id = None
        parts = batch_message([asked.job for asked in batch])
        if sum(map(len, parts)) <= _JOINED_BYTES:
            self._connection.transport.write(b"".join(parts))
        else:
            self._connection.transport.writelines(parts)
        self._expect()
        self._own_s = time.perf_counter() - now

    async def end(self, grace_s: float) -> None:
        """Ends it, after its batch if that is answered within so many seconds: SIGTERM, then SIGKILL."""
        if self._batch:
            answered: asyncio.Future[None] = self._loop.create_future()
            self.idle = lambda: settle(answered)
            await asyncio.wait({answered, self.ended}, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        self._given_up = True
        await self._process.end()
        await asyncio.wait({self.ended})

    def _expect(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(self._start.response_timeout_s, self._too_late)

    def _answered(self, answer: Answer) -> None:
        if not self._batch or self._failure is not None:
            self._broke("the worker's answer was not asked for")
            return
        if answer.code != _OK:
            # What it printed of the failure stands in the pipe already, and is read within one round of the loop.
            self._failure = answer
            self._loop.call_later(_POLL_S, self._loop.call_later, _POLL_S, self._failed)
            return
        if [request_id for request_id, _ in answer.replies] != [asked.job.request_id for asked in self._batch]:
            self._broke("the worker's answer is not one to its batch")
            return
        began, streams = time.perf_counter(), False
        for asked, (_, reply) in zip(self._batch, answer.replies, strict=True):
            more = (STREAM_NEXT, "true") in reply.headers
            streams = streams or more
            asked.part(reply, more=more)
        if streams:
            self._expect()
        else:
            self._start.metrics.worker_thread(self._own_s + time.perf_counter() - began)
            self._answered_all()

    def _failed(self) -> None:
        """Tells the batch how it failed, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            for asked in self._batch:
                asked.fail(InternalServerException(failure.message, _status(failure.code), self._lines.traceback_id))
            self._answered_all()

    def _answered_all(self) -> None:
        self._batch = ()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_idle:
            self.idle()

    def _too_late(self) -> None:
        self._broke(f"a worker did not answer within {self._start.response_timeout_s:g} s")

    def _broke(self, why: str) -> None:
        log.error("%s, and is killed", why, extra=self._facts)
        self._given_up = True
        self._process.signal(signal.SIGKILL)

    @property
    def _facts(self) -> dict[str, Any]:
        return {**self._start.facts, "pid": self.pid}

    async def _until_gone(self) -> None:
        """Waits for its end, whoever causes it; what it had answered is read, and who has no answer is told."""
        closed, exited = self._connection.closed, self._process.exited
        await asyncio.wait({closed, exited}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({exited}, timeout=_EXIT_S)
        self._process.signal(signal.SIGKILL)
        await self._process.gone(closed)
        self._connection.transport.abort()
        self._failed()
        if self._timer is not None:
            self._timer.cancel()
        code, batch, self._batch = self._process.code, self._batch, ()
        if batch or not self._given_up:
            log.error("a worker died, with exit code %s and %d requests", code, len(batch), extra=self._facts)
        status = _OUT_OF_MEMORY if code in _KILLED and not self._given_up else 500
        for asked in batch:
            asked.fail(InternalServerException("Worker died.", status, self._lines.traceback_id))


class _Connection(asyncio.Protocol):
    """The socket of a worker: bytes as answers."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop, decoder: Decoder) -> None:
        self._decoder = decoder
        self.closed: asyncio.Future[None] = loop.create_future()
        self.loaded: asyncio.Future[Answer] = loop.create_future()
        self.answered: Callable[[Answer], None] = self._load_answered
        self.broke: Callable[[str], None] = lambda _: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # pyright: ignore[reportAttributeAccessIssue] - a socket's can write

    def data_received(self, data: bytes) -> None:
        try:
            answers = self._decoder.feed(data)
        except BrokenAnswer as error:
            self.broke(str(error))
            self.transport.abort()
            return
        for answer in answers:
            self.answered(answer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        settle(self.closed)

    def _load_answered(self, answer: Answer) -> None:
        if not self.loaded.done():
            self.loaded.set_result(answer)


async def start_worker(start: Start) -> Worker:
    """Starts a worker and lets it load its model; one that does not is gone when this ends, as is one that nobody waits for.

    Raises:
        WorkerFailed: it did not start, or did not load its model, within its time.
    """
    listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lines = Lines(dict(start.facts), start.metrics.worker_line, lambda: settle(listening))
    try:
        process = await spawn(start.command, start.environment, Path(start.load.directory), lines)
    except OSError as cause:
        raise WorkerFailed(f"a worker cannot be started: {cause}", 500, None) from cause
    try:
        return await _loaded(process, listening, lines, start)
    except BaseException:
        process.signal(signal.SIGKILL)
        await process.gone()
        raise


async def _loaded(process: Process, listening: "asyncio.Future[None]", lines: Lines, start: Start) -> Worker:
    loop = asyncio.get_running_loop()
    await _first({listening, process.exited}, _LISTENING_S)
    if not listening.done():
        late = "" if process.exited.done() else f" within {_LISTENING_S:g} s"
        raise await _failure(process, lines, f"it did not listen{late}")
    decoder = Decoder(start.max_response_bytes, start.load.batch_size)
    try:
        _, connection = await loop.create_unix_connection(lambda: _Connection(loop, decoder), str(start.socket))
    except OSError as cause:
        raise await _failure(process, lines, f"it cannot be connected to: {cause}") from cause
    try:
        connection.transport.write(load_message(start.load))
        await _first({connection.loaded, connection.closed, process.exited}, start.startup_timeout_s)
        if connection.loaded.done() and connection.loaded.result().code == _OK:
            return Worker(process, connection, lines, start)
    except BaseException:
        connection.transport.abort()
        raise
    closed = connection.closed.done() or process.exited.done()
    connection.transport.abort()
    if connection.loaded.done():
        answer = connection.loaded.result()
        raise await _failure(process, lines, answer.message, _status(answer.code))
    if closed:
        raise await _failure(process, lines, "it did not load its model")
    why = f"a worker did not come up: it did not load its model within {start.startup_timeout_s:g} s"
    raise WorkerFailed(why, 500, lines.traceback_id)


def _status(code: int) -> int:
    """The status that tells of a worker's failure: handlers choose their codes, and some are none that an answer can have."""
    if code == _TOO_LARGE:
        return _OUT_OF_MEMORY
    return code if code in STATUSES else 500


async def _first(futures: "set[asyncio.Future[Any]]", timeout_s: float) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


async def _failure(process: Process, lines: Lines, why: str, status: int = 500) -> WorkerFailed:
    """What is told of a worker that did not come up: why, or how it ended, and the id of the traceback that it printed."""
    await asyncio.wait({process.exited}, timeout=_EXIT_S)
    if process.exited.done():
        await process.gone()
        why = f"{why}; it ended with exit code {process.code}"
        status = _OUT_OF_MEMORY if process.code in _KILLED else status
    return WorkerFailed(f"a worker did not come up: {why}", status, lines.traceback_id)
