"""How a body is taken in: never more than is allowed, and not for longer."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, cast

from serving.errors import BadRequest, BodyTimeout, BodyTooLarge

_SWEEPS = 4
"""A body that trickles in is cut off between one time limit and a quarter more: the sweep looks so often."""


class Arrivals:
    """The bodies that are arriving, each read by the task that began it, and each for at most `timeout_s`.

    One timer looks after all of them: a timer for each would cost every request its time.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._too_late: set[asyncio.Task[Any]] = set()
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._reading)

    def begin(self, loop: asyncio.AbstractEventLoop, now: float) -> asyncio.Task[Any]:
        """The current task reads from now on; it is cancelled if it does not `end` in time. `now` is of `time.perf_counter`."""
        task = cast("asyncio.Task[Any]", asyncio.current_task(loop))
        self._reading[task] = now
        if self._sweep is None:
            self._sweep_later(loop)
        return task

    def end(self, task: asyncio.Task[Any]) -> None:
        """The task's body is whole."""
        del self._reading[task]

    def ended_by(self, error: BaseException, task: asyncio.Task[Any]) -> BaseException:
        """What ended the task: BodyTimeout where it was cancelled for its slow body, else the error itself."""
        self._reading.pop(task, None)
        if task not in self._too_late:
            return error
        self._too_late.discard(task)
        task.uncancel()
        return BodyTimeout(f"the body did not arrive within {self._timeout_s:g} s (setting body_timeout_s)")

    def _sweep_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = loop.call_later(self._timeout_s / _SWEEPS, self._cut_off, loop)

    def _cut_off(self, loop: asyncio.AbstractEventLoop) -> None:
        begun_before = time.perf_counter() - self._timeout_s
        for task, began in self._reading.items():
            if began > begun_before:  # they are in the order of their begin
                break
            if task not in self._too_late:
                self._too_late.add(task)
                task.cancel()
        self._sweep = None
        if self._reading:
            self._sweep_later(loop)


def require_declared(content_length: str | None, limit: int) -> bool:
    """Whether the body's length is declared, and allowed; False where it is not declared (a chunked body, or none).

    Raises:
        BodyTooLarge: it says that it is larger; nothing of it needs to be read.
        BadRequest: it is no number.
    """
    if content_length is None:
        return False
    if not (content_length.isascii() and content_length.isdecimal()):
        raise BadRequest(f"content-length is {content_length!r:.40}, which is no number of bytes")
    if int(content_length) > limit:
        raise too_large(limit)
    return True


async def gathered(chunks: AsyncIterable[bytes], limit: int) -> bytes:
    """The chunks as one body, which is never held beyond the limit. Raises BodyTooLarge."""
    found, size = [], 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        found.append(chunk)
    return b"".join(found)


async def nothing() -> AsyncIterator[bytes]:
    """The chunks of a request without a body."""
    return
    yield b""


def too_large(limit: int) -> BodyTooLarge:
    """The error of a body that is larger than the limit, in bytes."""
    return BodyTooLarge(f"the body has more than {limit} bytes (setting max_body_bytes)")
