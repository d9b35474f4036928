"""The batcher: joins requests in time, counts rows, and gives an idle engine at once what is there.

Everything happens on the event loop, so there are no locks: `put` queues a job, `_dispatch` hands joined rows to the engine, and
`_finish` gives every job its outcome. There is no timer unless `max_delay_ms` asks for one: while an engine runs, requests
gather, and the next call takes what has gathered.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from artifact.errors import OutOfMemory
from serving.errors import ClientLeft, DeadlinePassed, QueueFull
from serving.instance import Instance
from serving.joined import JoinedEngine, Outcome
from serving.protocols.asked import Arrays

_NEWS = 0.1
"""How much one call's rows per second count in their running mean, which Retry-After is computed from."""
_SHORTEST_S = 1e-6


_TURNS = 1
"""Turns of the loop that a call on it waits for the bodies that are arriving: docs/adr/0009."""

_MANY_GIVEN_UP = 256
"""Jobs that were given up while they waited are swept out of the queue when there are so many."""

LONG_CALL_S = 0.05
"""A call that held the event loop for so long is the last there: what was measured at loading does not hold for it."""


class Executed(Protocol):
    """Who is told of every engine call."""

    def executed(self, rows: int, infer_s: float) -> None:
        """A call for so many rows took so many seconds."""
        ...


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How a batcher may join: rows of one call, rows that may wait, seconds to wait for a fuller call, levels of priority.

    `preferred` are sizes that a call is cut to where as many rows wait, the largest first; a call of `full_rows` waits for no
    more.
    """

    max_rows: int
    max_queue_rows: int
    full_rows: int
    preferred: tuple[int, ...] = ()
    max_delay_s: float = 0.0
    priority_levels: int = 1


@dataclass(frozen=True, slots=True)
class OnLoop:
    """Calls on the event loop: the engine, how many bodies are being read, and what takes over after a long call, if anything."""

    engine: JoinedEngine
    arriving: Callable[[], int]
    instead: Callable[[], Instance] | None = None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Job:
    """A request's rows on their way. `future` gives the outputs; the engine was at work from `started_at` to `ended_at`.

    `on_call` is called with 1 when the engine is given rows, with -1 when that call has ended and its outcome was noted: more
    than once where a job is divided. `sent` is where the rows are, if that is another process.
    """

    inputs: Arrays
    rows: int
    group: Any
    future: asyncio.Future[Arrays]
    level: int = 0
    queued_at: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    waiting: bool = False
    timeout_s: float = 0.0
    parts: "tuple[Job, ...]" = ()
    on_call: Callable[[int], None] | None = None
    sent: Any = None


class Batcher:
    """One served version's queue and instances. Not for use from another thread than the event loop's."""

    def __init__(
        self,
        runs: OnLoop | Sequence[Instance],
        limits: BatchLimits,
        metrics: Executed,
        clock: Callable[[], float] = time.perf_counter,
        cut: Callable[[int], int] | None = None,
    ) -> None:
        """`runs` says where calls run: on the loop, or on instances.

        `cut` is told, where a call had no memory, how many rows a call may have from now on, and gives how many it really may:
        not fewer than the model takes.
        """
        self._loop = asyncio.get_running_loop()
        self._here = runs if isinstance(runs, OnLoop) else None
        self._instances = () if isinstance(runs, OnLoop) else tuple(runs)
        self._idle = list(self._instances)
        self._limits = limits
        self._metrics = metrics
        self._clock = clock
        self._cut = cut
        self._levels: tuple[deque[Job], ...] = tuple(deque() for _ in range(limits.priority_levels))
        self._dispatching = False
        self._turns = 0
        self._delay: asyncio.TimerHandle | None = None
        self._rows_per_s = 0.0
        self._last_was_alone = True
        self._given_up = 0
        self.queued_rows = 0
        """Rows that wait."""

    @property
    def on_loop(self) -> bool:
        """Whether calls run on the event loop."""
        return self._here is not None

    def run_alone(self, inputs: Arrays, rows: int) -> tuple[Arrays, float, float] | None:
        """Runs the only request there is at once, on the loop: its outputs, and when the engine began and ended.

        None says that it has to be `put`: calls do not run on the loop, others wait, or the last call joined several, so that
        others are about to come.

        Raises:
            InvalidInput, EngineFailed, OutOfMemory: as the job's future would.
        """
        here, limits = self._here, self._limits
        if here is None or not self._last_was_alone or self.queued_rows or rows > limits.max_rows or limits.max_delay_s:
            return None
        began = self._clock()
        try:
            outputs = here.engine.run_one(inputs, rows)
        except OutOfMemory:
            self._join_fewer(rows)
            raise
        ended = self._clock()
        self._executed(rows, ended - began)
        return outputs, began, ended

    def put(self, job: Job) -> None:
        """Queues a job, whose future gives its outputs or the error that is its own.

        Those are InvalidInput, EngineFailed, OutOfMemory, DeadlinePassed and ClientLeft. A job that still waits after its
        `timeout_s` fails then; one that runs by then is answered.

        Raises:
            QueueFull: more rows wait than may.
        """
        if self.queued_rows + job.rows > self._limits.max_queue_rows:
            raise self._full(job.rows)
        if job.timeout_s:
            self._expire_later(job)
        job.queued_at = self._clock()
        if job.rows > self._limits.max_rows:
            self._divide(job)
            for part in job.parts:
                self._append(part)
        else:
            self._append(job)
        if self._idle or self._here is not None:
            self._dispatch_soon()

    def leave(self, job: Job) -> None:
        """The client left: what of the job still waits is dropped."""
        self._give_up(job, ClientLeft("the client left before its answer was there"))

    def close(self) -> None:
        """Lets the engines go. Nothing waits and nothing runs any more: the served version has seen to that."""
        for instance in self._instances:
            instance.close()
        self._here = self._cut = None  # they lead back to the served version, whose engine could not go at once

    def _expire_later(self, job: Job) -> None:
        error = DeadlinePassed("the deadline passed while the request waited")
        timer = self._loop.call_later(job.timeout_s, self._give_up, job, error)
        job.future.add_done_callback(lambda _: timer.cancel())  # else it would keep the job, with its arrays, until then

    def _append(self, job: Job) -> None:
        job.waiting = True
        self.queued_rows += job.rows
        self._levels[job.level].append(job)

    def _divide(self, job: Job) -> None:
        """Makes parts of a job that is larger than a call may be; the job's future is theirs, joined."""
        most = self._limits.max_rows
        job.parts = tuple(
            Job(
                {name: array[start : start + most] for name, array in job.inputs.items()},
                min(most, job.rows - start),
                job.group,
                self._loop.create_future(),
                job.level,
                job.queued_at,
                on_call=job.on_call,
            )
            for start in range(0, job.rows, most)
        )
        left = len(job.parts)

        def one_done(part: asyncio.Future[Arrays]) -> None:
            nonlocal left
            left -= 1
            error = None if part.cancelled() else part.exception()
            if error is not None and not job.future.done():
                self._give_up(job, error)
            elif left == 0 and not job.future.done():
                job.started_at = min(part.started_at for part in job.parts)
                job.ended_at = max(part.ended_at for part in job.parts)
                answers = [part.future.result() for part in job.parts]
                job.future.set_result({name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]})

        for part in job.parts:
            part.future.add_done_callback(one_done)

    def _give_up(self, job: Job, error: BaseException) -> None:
        """Drops what waits of a job, and fails it; a job that runs whole is not touched."""
        if not job.waiting and not job.parts:
            return
        self._drop(job)
        if self._given_up >= _MANY_GIVEN_UP:  # else they would stay below a level that is always full
            self._given_up = 0
            self._levels = tuple(deque(one for one in level if one.waiting) for level in self._levels)
        if not job.future.done():
            job.future.set_exception(error)

    def _drop(self, job: Job) -> None:
        if job.waiting:
            job.waiting = False
            self.queued_rows -= job.rows
            job.inputs = {}
            self._given_up += 1
        for part in job.parts:
            self._drop(part)
            part.future.cancel()

    def _full(self, rows: int) -> QueueFull:
        limit = self._limits.max_queue_rows
        retry_after_s = math.ceil(self.queued_rows / self._rows_per_s) if self._rows_per_s else 1
        return QueueFull(
            f"{self.queued_rows} rows wait and {rows} more would be over max_queue_rows ({limit}); ask again later",
            max(1, retry_after_s),
        )

    def _dispatch_soon(self) -> None:
        """Once per turn of the loop, so that a call on the loop joins all that arrived in that turn."""
        if not self._dispatching:
            self._dispatching = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        here = self._here
        if here is not None and self._turns < _TURNS and here.arriving():
            self._turns += 1
            self._loop.call_soon(self._dispatch)
            return
        self._turns = 0
        self._dispatching = False
        if self._delay is not None:
            self._delay.cancel()
            self._delay = None
        while self.queued_rows and (self._idle or here is not None):
            wait_s = self._wait_s()
            if wait_s > 0:
                self._delay = self._loop.call_later(wait_s, self._dispatch_soon)
                return
            if here is None:
                self._start(self._idle.pop(), self._take())
                continue
            self._run_here(here, self._take())
            if self.queued_rows:  # the loop gets a turn between two calls
                self._dispatch_soon()
            return

    def _wait_s(self) -> float:
        """Seconds that may still be waited for a fuller call; 0 unless a delay is set."""
        if not self._limits.max_delay_s or self.queued_rows >= self._limits.full_rows:
            return 0.0
        oldest = min(job.queued_at for level in self._levels for job in level if job.waiting)
        return oldest + self._limits.max_delay_s - self._clock()

    def _take(self) -> list[Job]:
        """The next call's jobs: highest level first, then oldest first, of one group, as many rows as one call may have."""
        batch: list[Job] = []
        rows = 0
        most = next((size for size in self._limits.preferred if size <= self.queued_rows), self._limits.max_rows)
        for level in self._levels:
            skipped: list[Job] = []
            while level and rows < most:
                job = level.popleft()
                if not job.waiting:  # its client left, or its deadline passed
                    continue
                if batch and job.group != batch[0].group:
                    skipped.append(job)
                elif batch and rows + job.rows > most:
                    skipped.append(job)
                    break
                else:
                    batch.append(job)
                    rows += job.rows
            level.extendleft(reversed(skipped))
        return batch

    def _run_here(self, here: OnLoop, batch: list[Job]) -> None:
        began = self._clock()
        self._begin(batch, began)
        self._last_was_alone = len(batch) == 1
        outcomes = here.engine.run([job.inputs for job in batch], [job.rows for job in batch])
        self._note_memory(batch, outcomes)
        self._finish(batch, outcomes, self._clock() - began)

    def _start(self, instance: Instance, batch: list[Job]) -> None:
        self._begin(batch, self._clock())

        def done(outcomes: list[Outcome], seconds: float) -> None:
            self._note_memory(batch, outcomes)
            self._idle.append(instance)
            self._dispatch()  # first: the engine works while the answers are written
            self._finish(batch, outcomes, seconds)

        instance.start([job.inputs for job in batch], [job.rows for job in batch], done)

    def _begin(self, batch: list[Job], now: float) -> None:
        for job in batch:
            job.started_at = now
            if job.on_call is not None:
                job.on_call(1)
            if job.waiting:
                job.waiting = False
                self.queued_rows -= job.rows

    def _note_memory(self, batch: list[Job], outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, OutOfMemory):
                self._join_fewer(sum(job.rows for job in batch))
                return

    def _join_fewer(self, rows: int) -> None:
        """Halves the rows of a call, after one for `rows` had no memory; what waits and is larger is divided."""
        limits = self._limits
        if self._cut is None or rows > limits.max_rows:  # the latter began before the last halving
            return
        most = self._cut(max(1, limits.max_rows // 2))
        if most >= limits.max_rows:
            return
        preferred = tuple(size for size in limits.preferred if size <= most)
        self._limits = replace(limits, max_rows=most, full_rows=preferred[0] if preferred else most, preferred=preferred)
        self._given_up = 0
        self._levels = tuple(deque(one for job in level if job.waiting for one in self._fitting(job)) for level in self._levels)

    def _fitting(self, job: Job) -> Sequence[Job]:
        """A job that waits; its parts, where it is larger than a call may be by now."""
        if job.rows <= self._limits.max_rows:
            return (job,)
        job.waiting = False
        self._divide(job)
        for part in job.parts:
            part.waiting = True
        return job.parts

    def _finish(self, batch: list[Job], outcomes: list[Outcome], seconds: float) -> None:
        rows = 0
        for job, outcome in zip(batch, outcomes, strict=True):
            rows += job.rows
            job.ended_at = job.started_at + seconds
            if job.future.done():  # its client left meanwhile
                pass
            elif isinstance(outcome, Exception):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
            if job.on_call is not None:
                job.on_call(-1)
        self._executed(rows, seconds)

    def _executed(self, rows: int, seconds: float) -> None:
        """Notes a call, and takes calls away from the loop after one that was too long for it."""
        self._metrics.executed(rows, seconds)
        rate = max(1, len(self._instances)) * rows / max(seconds, _SHORTEST_S)
        self._rows_per_s = self._rows_per_s + _NEWS * (rate - self._rows_per_s) if self._rows_per_s else rate
        if self._here is not None and seconds > LONG_CALL_S and self._here.instead is not None:
            self._instances = (self._here.instead(),)
            self._idle, self._here = list(self._instances), None
