"""The rows of one request become tensors: by several threads, a slice of time each, and not beyond what a request may take."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

from serving.protocols.asked import Arrays
from serving.raw.bodies import RawRow

SLICE_S = 0.01
"""After so long a thread that has more rows to do lets other requests go first."""


class Rows:
    """Rows at work, each made by `prepare` from its place and its value; no row is begun after one failed.

    `most` is how many threads work on them at the same time.
    """

    def __init__(self, rows: Sequence[RawRow], prepare: Callable[[int, RawRow], Arrays], most: int) -> None:
        self._left = deque(enumerate(rows))
        self._made: list[Arrays] = [{}] * len(rows)
        self._prepare = prepare
        self._lanes = min(most, len(rows))
        self._failed: dict[int, Exception] = {}
        self._ended = False

    async def made(self, pool: Executor) -> list[Arrays]:
        """The tensors of every row, in their order.

        Raises:
            Exception: the first row's that failed. Whoever cancels this lets the rows go that have not begun.
        """
        lanes = [asyncio.ensure_future(self._lane(pool)) for _ in range(self._lanes)]
        try:
            await asyncio.gather(*lanes)
        finally:
            self._ended = True
            for lane in lanes:
                lane.cancel()
        if self._failed:
            raise self._failed[min(self._failed)]
        return self._made

    async def _lane(self, pool: Executor) -> None:
        loop = asyncio.get_running_loop()
        while self._left and not self._ended:
            await loop.run_in_executor(pool, self._some)

    def _some(self) -> None:
        """Rows, one after the other, until the slice of time is over; in a thread."""
        ends = time.perf_counter() + SLICE_S
        while not self._ended:
            try:
                index, row = self._left.popleft()
            except IndexError:
                return
            try:
                self._made[index] = self._prepare(index, row)
            except Exception as error:  # noqa: BLE001 - told to the request
                self._failed[index] = error
                self._ended = True
            if time.perf_counter() > ends:
                return
