"""A worker's place: it is filled again whenever its worker ends, ever later while none comes up, until that lasts too long."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from serving.torchserve.workers.worker import Worker, WorkerFailed

log = logging.getLogger("stateserve")

BACK_OFF_S = (0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55)
"""TorchServe's waits before the next attempt; the last one repeats."""


@dataclass(frozen=True)
class Duty:
    """What a place is for: `start` gives a worker, which `ready` then puts to work; `gone` is told when there is none any more.

    `facts` stand in the lines of the log.
    """

    start: Callable[[], Awaitable[Worker]]
    ready: Callable[[Worker, float], None]
    gone: Callable[[], None]
    max_retry_timeout_s: float
    facts: Mapping[str, Any]


class Place:
    """One worker, or the next. `first` is done when the first one came up, or fails with why it did not."""

    def __init__(self, number: int, gpu: int, duty: Duty) -> None:
        self.number = number
        self.gpu = gpu
        self.worker: Worker | None = None
        self.started_at = datetime.now(UTC)
        self.first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first.add_done_callback(_seen)
        self._duty = duty
        self._down_since: float | None = None
        self._ending = False
        self._task = asyncio.get_running_loop().create_task(self._keep())
        self._task.add_done_callback(self._finished)

    @property
    def is_healthy(self) -> bool:
        """As TorchServe sees it: it has a worker, starts its first, or lacks one for less than `max_retry_timeout_s`."""
        return self._down_since is None or time.monotonic() - self._down_since < self._duty.max_retry_timeout_s

    @property
    def given_up(self) -> bool:
        """Whether no further worker will be started."""
        return self._task.done()

    async def end(self, grace_s: float) -> None:
        """Ends the worker, after its batch if that is answered within so many seconds, or its start."""
        self._ending = True
        if self.worker is not None:
            await self.worker.end(grace_s)
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self.first.done():
            self.first.cancel()

    async def _keep(self) -> None:
        waits = iter(BACK_OFF_S)
        while True:
            began = time.perf_counter()
            try:
                self.worker = await self._duty.start()
            except WorkerFailed as error:
                self._failed(error)
            else:
                waits, self._down_since = iter(BACK_OFF_S), None
                if not self.first.done():
                    self.first.set_result(None)
                self._duty.ready(self.worker, time.perf_counter() - began)
                await asyncio.wait({self.worker.ended})
                self.worker = None
            if self._ending:
                return
            self._down_since = self._down_since or time.monotonic()
            if not self.is_healthy:
                log.error("no further attempt to start the worker is made", extra=self._duty.facts)
                return
            wait_s = next(waits, BACK_OFF_S[-1])
            log.info("the worker is started again in %d s", wait_s, extra=self._duty.facts)
            await asyncio.sleep(wait_s)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.critical("a worker cannot be kept", exc_info=error, extra=self._duty.facts)
            if not self.first.done():
                self.first.set_exception(error)
        if not self._ending:
            self._duty.gone()

    def _failed(self, error: WorkerFailed) -> None:
        log.error("%s", error, extra={**self._duty.facts, **({"traceback_id": error.traceback_id} if error.traceback_id else {})})
        if not self.first.done():
            self.first.set_exception(error)


def _seen(first: "asyncio.Future[None]") -> None:
    """The error is in the log, whether somebody waits for it or not."""
    if not first.cancelled():
        first.exception()
