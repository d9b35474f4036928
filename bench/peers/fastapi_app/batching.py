"""The batching that people write for FastAPI: a queue, gathered until it is full or some time is over; one call, split."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request's inputs, its rows, and where its outputs are waited for."""

    inputs: Arrays
    rows: int
    answer: asyncio.Future[Arrays]

    @property
    def joins_with(self) -> tuple[tuple[int, ...], ...]:
        """Requests with the same can be joined: the inputs' shapes without their rows."""
        return tuple(array.shape[1:] for array in self.inputs.values())


class Batching:
    """Joins the requests that wait, for `calls` calls at once; `gather` has to run. Every input and output has its rows first."""

    def __init__(self, call: Callable[[Arrays], Arrays], max_rows: int, max_delay_s: float, calls: int = 1) -> None:
        self._call, self._max_rows, self._max_delay_s = call, max_rows, max_delay_s
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._left_over: Waiting | None = None
        self._threads, self._free = ThreadPoolExecutor(calls), asyncio.Semaphore(calls)

    async def run(self, inputs: Arrays) -> Arrays:
        """The outputs of one request, out of a joined call."""
        answer: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(Waiting(inputs, len(next(iter(inputs.values()))), answer))
        return await answer

    async def gather(self) -> None:
        """Gathers batches and runs them, `calls` at once, until it is cancelled."""
        async with asyncio.TaskGroup() as running:
            while True:
                await self._free.acquire()  # before it gathers: what comes while all calls run is one batch
                running.create_task(self._run(await self._next_batch()))

    async def _run(self, batch: list[Waiting]) -> None:
        groups: dict[object, list[Waiting]] = {}
        for one in batch:
            groups.setdefault(one.joins_with, []).append(one)
        for group in groups.values():
            await self._run_joined(group)
        self._free.release()

    async def _next_batch(self) -> list[Waiting]:
        """At least one request; then more, until they have `max_rows`, or `max_delay_s` have passed since the first."""
        batch = [self._left_over or await self._queue.get()]
        self._left_over = None
        rows, loop = batch[0].rows, asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(loop.time() + self._max_delay_s):
                while rows < self._max_rows:
                    one = await self._queue.get()
                    rows += one.rows
                    if rows > self._max_rows:
                        self._left_over = one
                        break
                    batch.append(one)
        except TimeoutError:
            pass
        return batch

    async def _run_joined(self, batch: list[Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._threads, self._call, _joined([one.inputs for one in batch]))
        except Exception as error:  # noqa: BLE001 - every request of the batch is told
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        start = 0
        for one in batch:
            if not one.answer.done():  # its client may have left
                one.answer.set_result({name: array[start : start + one.rows] for name, array in outputs.items()})
            start += one.rows


def _joined(requests: Iterable[Arrays]) -> Arrays:
    requests = list(requests)
    if len(requests) == 1:
        return requests[0]
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}
