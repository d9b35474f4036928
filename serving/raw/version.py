"""The raw requests of one served version: bodies become rows, rows become tensors beside the engine, outputs become an answer.

All work on a row runs in the pool of `decode_threads`, so that it overlaps with the engine: decoders and tokenizers let other
threads run meanwhile.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import orjson

from artifact.operations import Operations, RawValue
from artifact.operations.errors import BadRaw
from artifact.signature import Signature
from serving.errors import BadRequest, ClientLeft, DeadlinePassed, NotAcceptable, QueueFull
from serving.messages import Answer, Leaving, Request, parameter
from serving.protocols.asked import Arrays, Asked, Codec, Limits
from serving.protocols.json_body import most_lists
from serving.protocols.predictions import JSON, PredictionsCodec
from serving.protocols.tensors import Shapes, shortened, timeout_s
from serving.raw.bodies import RawRow, Url, may_be_raw, raw_rows, require_few
from serving.raw.bounds import Bounds, of_row
from serving.raw.oip import RawOip
from serving.raw.rows import Rows

_Made = TypeVar("_Made")

PREDICTIONS = "predictions"
"""In `Asked.reply`: the answer holds what operations on outputs make."""
_SMALL_BYTES = 16 << 10
"""Outputs up to here become an answer on the event loop: that takes about as long as handing them to a thread (50 µs)."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What works beside the event loop: a pool of so many threads; `fetch` gets the bytes of URLs that are allowed, in order."""

    pool: Executor
    threads: int
    fetch: Callable[[Sequence[str]], Awaitable[Sequence[bytes]]]


@dataclass(frozen=True, slots=True)
class _Read:
    """A request as read: `rows` are still to be made tensors of; where there are none, `asked` has them."""

    asked: Asked
    rows: Sequence[RawRow]


class RawVersion:
    """What a version with operations does before and after its engine. Lives on the event loop."""

    def __init__(
        self,
        place: tuple[str, int],
        operations: Operations,
        signature: Signature,
        limits: Limits,
        labels: Mapping[str, Sequence[str]],
    ) -> None:
        self.operations = operations
        self.default_timeout_s: float | None = None
        """Of requests that state no time themselves."""
        self._specs = operations.raw_inputs
        self._limits = limits
        self._bounds = Bounds.of(signature, self._specs, limits)
        self._shapes = Shapes(signature, limits.max_rows)
        self._most_tensor_lists = most_lists(signature, limits.max_rows)
        self._oip = RawOip(place, signature, self._specs, limits, labels) if self._specs else None
        self._start = b'{"model_name":%s,"model_version":"%d","predictions":' % (orjson.dumps(place[0]), place[1])
        self._rows = 0

    def may_be_raw(self, protocol: Literal["oip", "predictions"], request: Request) -> bool:
        """Whether a request may hold raw values. Others are read as for any model, and not behind pictures."""
        if protocol == "oip":
            return self._oip is not None and self._oip.is_raw(request)
        return bool(self._specs) and may_be_raw(request, self._specs)

    def choose_reply(self, codec: Codec, request: Request, asked: Asked) -> None:
        """Has a predictions request of tensors answered by what operations make of the outputs, where that is due.

        Raises:
            BadRequest, NotAcceptable: it asks for what is not there.
        """
        if self._reply(codec, request) == PREDICTIONS:
            asked.reply = PREDICTIONS

    async def asked(
        self, protocol: Literal["oip", "predictions"], codec: Codec, request: Request, leaving: Leaving, beside: Beside
    ) -> Asked:
        """What a request asks, its raw rows as tensors.

        Raises:
            ServingError, InvalidInput: it is not one that the protocol, the operations or the model takes.
            QueueFull: more rows are at work than may wait.
            DeadlinePassed: the request's own deadline passed before all of its rows were begun.
            ClientLeft: the client left; what had not begun is dropped.
        """
        stated_ms = request.headers.get("x-timeout-ms")
        try:
            async with asyncio.timeout(self.default_timeout_s if stated_ms is None else timeout_s(stated_ms)):
                return await self._made(protocol, codec, request, leaving, beside)
        except TimeoutError as cause:
            raise DeadlinePassed("the request's time passed before its rows were tensors") from cause

    async def _made(self, protocol: str, codec: Codec, request: Request, leaving: Leaving, beside: Beside) -> Asked:
        arrived_s = time.perf_counter()
        self._enter(1)
        rows = 1
        try:
            read = await self._begun(protocol, codec, request, leaving, beside)
            asked, count = read.asked, len(read.rows)
            if not count:
                return asked
            self._enter(count - 1)
            rows = count
            inputs = await _unless_left(self._tensors(read, arrived_s, beside), leaving)
        finally:
            self._rows -= rows
        return self._filled(asked, inputs)

    def _enter(self, count: int) -> None:
        """Counts rows that are to be worked on. Raises QueueFull; a request alone may have as many as one may have."""
        most = self._limits.max_rows
        if count and self._rows + count > most and self._rows > 1:
            waiting = f"{self._rows} rows wait to be made tensors and {count} more would be over max_queue_rows ({most})"
            raise QueueFull(f"{waiting}; ask again later", 1)
        self._rows += count

    async def _begun(self, protocol: str, codec: Codec, request: Request, leaving: Leaving, beside: Beside) -> _Read:
        """The request, read in the pool; while no thread is free, it is dropped if its client leaves."""
        reading = asyncio.get_running_loop().run_in_executor(beside.pool, self._read, protocol, codec, request)
        return await (reading if self._rows <= beside.threads else _unless_left(reading, leaving))

    def _read(self, protocol: str, codec: Codec, request: Request) -> _Read:
        """The request and its rows; a row that is alone, and here, is made tensors of at once: no thread waits for another."""
        read = self._read_oip(codec, request) if protocol == "oip" else self._read_predictions(codec, request)
        if _has_urls(read.rows):
            require_few(len(read.rows), self._limits.max_rows)
            return read
        self._bounds.require(read.rows)
        if len(read.rows) != 1:
            return read
        self._filled(read.asked, self.operations.join([self._prepared(read.rows[0])]))
        return _Read(read.asked, ())

    def _filled(self, asked: Asked, inputs: Arrays) -> Asked:
        """The request with its tensors. Raises InvalidInput where a shape is not as declared."""
        asked.inputs = inputs
        asked.rows, asked.group = self._shapes.check({name: array.shape for name, array in inputs.items()})
        return asked

    def _read_oip(self, codec: Codec, request: Request) -> _Read:
        found = None if self._oip is None else self._oip.decode(request)
        return _Read(codec.decode(request), ()) if found is None else _Read(*found)

    def _read_predictions(self, codec: Codec, request: Request) -> _Read:
        reply = self._reply(codec, request)
        rows = raw_rows(request, self._specs, self._limits, self._most_tensor_lists) if self._specs else None
        if rows is None:
            asked = codec.decode(request)
            asked.reply = PREDICTIONS if reply == PREDICTIONS else asked.reply
            return _Read(asked, ())
        timeout_ms = request.headers.get("x-timeout-ms")
        asked = Asked({}, len(rows), (), reply, timeout_s=None if timeout_ms is None else timeout_s(timeout_ms))
        return _Read(asked, rows)

    def _reply(self, codec: Codec, request: Request) -> Any:
        """What operations make of the outputs, unless there are none, or tensors are asked for: `?outputs=tensors`, not JSON."""
        wanted = parameter(request.query, "outputs")
        if wanted not in {None, "tensors", "predictions"}:
            raise BadRequest(f'outputs is "{shortened(wanted or "")}"; tensors or predictions are expected')
        if wanted == "predictions" and not self.operations.predicts:
            raise BadRequest("the model declares no postprocess: its answer holds tensors")
        form = codec.reply_of(request) if isinstance(codec, PredictionsCodec) else JSON
        if wanted == "predictions" and form != JSON:
            raise NotAcceptable(f"the client accepts {form} alone, and predictions are {JSON}")
        return PREDICTIONS if self.operations.predicts and form == JSON and wanted != "tensors" else form

    async def _tensors(self, read: _Read, arrived_s: float, beside: Beside) -> Arrays:
        """The rows as one batch."""
        loop, rows = asyncio.get_running_loop(), read.rows
        if _has_urls(rows):
            rows = await _with_pictures(rows, beside)
            await loop.run_in_executor(beside.pool, self._bounds.require, rows)
        limits = replace(self._limits.raw, budget=self._bounds.pixels)
        count, ends_s = len(rows), None if read.asked.timeout_s is None else arrived_s + read.asked.timeout_s

        def prepare(index: int, row: RawRow) -> Arrays:
            if ends_s is not None and time.perf_counter() > ends_s:
                raise DeadlinePassed(f"the request's time passed when {index} of its {count} rows were made tensors")
            try:
                made = self.operations.prepare(row, limits)  # type: ignore[arg-type] # URLs are fetched by now
            except BadRaw as cause:
                raise (of_row(cause, index) if count > 1 else cause) from cause
            self._bounds.require_small(count, sum(array.nbytes for array in made.values()))
            return made

        made = await Rows(rows, prepare, beside.threads).made(beside.pool)
        return await loop.run_in_executor(beside.pool, self.operations.join, made)

    def _prepared(self, row: RawRow) -> Arrays:
        return self.operations.prepare(row, self._limits.raw)  # type: ignore[arg-type] # URLs are fetched by now

    async def answer(self, codec: Codec, asked: Asked, outputs: Arrays, pool: Executor) -> Answer:
        """The answer; made in the pool where it is large: softmax over many classes is no work for the event loop."""
        work = self._predictions if asked.reply == PREDICTIONS else codec.encode
        if sum(array.nbytes for array in outputs.values()) <= _SMALL_BYTES:
            return work(asked, outputs)
        return await asyncio.get_running_loop().run_in_executor(pool, work, asked, outputs)

    def _predictions(self, _asked: Asked, outputs: Arrays) -> Answer:
        body = orjson.dumps(self.operations.finish(outputs))
        return Answer(200, b"%s%s}" % (self._start, body), [("content-type", JSON)])


def _has_urls(rows: Sequence[RawRow]) -> bool:
    return any(isinstance(value, Url) for row in rows for value in row.values())


async def _with_pictures(rows: Sequence[RawRow], beside: Beside) -> list[Mapping[str, RawValue]]:
    """The rows with the pictures in the place of their URLs."""
    urls = [value.url for row in rows for value in row.values() if isinstance(value, Url)]
    pictures = iter(await beside.fetch(urls))
    return [{name: next(pictures) if isinstance(value, Url) else value for name, value in row.items()} for row in rows]


async def _unless_left(work: Awaitable[_Made], leaving: Leaving) -> _Made:
    """What the work gives; it is cancelled when the client leaves, or this is cancelled. Raises ClientLeft."""
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(leaving())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft("the client left before its rows were made tensors")
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
