"""The raw requests of one served version: bodies become rows, rows become tensors beside the engine, outputs become an answer.

All work on a row runs in the pool of `decode_threads`, so that it overlaps with the engine: decoders and tokenizers let other
threads run meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

import orjson

from artifact.operations import Operations, RawValue
from artifact.operations.errors import BadRaw
from artifact.signature import Signature
from serving.errors import BadRequest
from serving.messages import Answer, Request, parameter
from serving.protocols.asked import Arrays, Asked, Codec, Limits
from serving.protocols.predictions import JSON, PredictionsCodec
from serving.protocols.tensors import Shapes, timeout_s
from serving.raw.bodies import RawRow, Url, raw_rows
from serving.raw.oip import RawOip

Fetch = Callable[[str], Awaitable[bytes]]


PREDICTIONS = "predictions"
"""In `Asked.reply`: the answer holds what operations on outputs make."""


class RawVersion:
    """What a version with operations does before and after its engine. `fetch` gets the bytes of a URL that is allowed."""

    def __init__(
        self,
        place: tuple[str, int],
        operations: Operations,
        signature: Signature,
        limits: Limits,
        labels: Mapping[str, Sequence[str]],
    ) -> None:
        self.operations = operations
        self._specs = operations.raw_inputs
        self._limits = limits
        self._shapes = Shapes(signature, limits.max_rows)
        self._oip = RawOip(place, signature, self._specs, limits, labels) if self._specs else None
        self._start = b'{"model_name":%s,"model_version":"%d","predictions":' % (orjson.dumps(place[0]), place[1])

    async def asked(
        self, protocol: Literal["oip", "predictions"], codec: Codec, request: Request, pool: Executor, fetch: Fetch
    ) -> Asked:
        """What a request asks, its raw rows as tensors.

        Raises:
            ServingError, InvalidInput: it is not one that the protocol, the operations or the model takes.
        """
        loop = asyncio.get_running_loop()
        asked, rows = await loop.run_in_executor(pool, self._read, protocol, codec, request)
        if rows is None:
            return asked
        if any(isinstance(value, Url) for row in rows for value in row.values()):
            rows = [await self._fetched(row, fetch) for row in rows]
        if len(rows) == 1:
            made = [await loop.run_in_executor(pool, self._prepared, rows[0], None)]
        else:
            made = await asyncio.gather(
                *(loop.run_in_executor(pool, self._prepared, row, index) for index, row in enumerate(rows))
            )
        if len(made) > 1:
            inputs = await loop.run_in_executor(pool, self.operations.join, made)
        else:
            inputs = self.operations.join(made)
        asked.inputs = {**asked.inputs, **inputs}
        asked.rows, asked.group = self._shapes.check({name: array.shape for name, array in asked.inputs.items()})
        return asked

    def _read(self, protocol: str, codec: Codec, request: Request) -> tuple[Asked, list[RawRow] | None]:
        """The request, and its rows; None where it holds tensors, which are in it then."""
        if protocol == "oip":
            found = None if self._oip is None else self._oip.decode(request)
            return (codec.decode(request), None) if found is None else found
        reply = self._reply(codec, request)
        rows = raw_rows(request, self._specs, self._limits) if self._specs else None
        if rows is None:
            asked = codec.decode(request)
            asked.reply = PREDICTIONS if reply == PREDICTIONS else asked.reply
            return asked, None
        if len(rows) > self._limits.max_rows:
            raise BadRequest(f"the request has {len(rows)} rows; for this model at most {self._limits.max_rows} are read")
        timeout_ms = request.headers.get("x-timeout-ms")
        asked = Asked({}, len(rows), (), reply, timeout_s=None if timeout_ms is None else timeout_s(timeout_ms))
        return asked, rows

    def _reply(self, codec: Codec, request: Request) -> Any:
        """What operations make of the outputs, unless there are none, or tensors are asked for: `?outputs=tensors`, not JSON."""
        wanted = parameter(request.query, "outputs")
        if wanted not in {None, "tensors", "predictions"}:
            raise BadRequest(f'outputs is "{wanted}"; tensors or predictions are expected')
        if wanted == "predictions" and not self.operations.predicts:
            raise BadRequest("the model declares no postprocess: its answer holds tensors")
        form = codec.reply_of(request) if isinstance(codec, PredictionsCodec) else JSON
        return PREDICTIONS if self.operations.predicts and form == JSON and wanted != "tensors" else form

    def _prepared(self, row: RawRow, index: int | None) -> Arrays:
        try:
            return self.operations.prepare(row, self._limits.raw)  # type: ignore[arg-type] # URLs are fetched by now
        except BadRaw as cause:
            if index is None:
                raise
            raise type(cause)(f"row {index}: {cause}") from cause

    async def _fetched(self, row: RawRow, fetch: Fetch) -> Mapping[str, RawValue]:
        return {name: await fetch(value.url) if isinstance(value, Url) else value for name, value in row.items()}

    async def answer(self, codec: Codec, asked: Asked, outputs: Arrays, pool: Executor) -> Answer:
        """The answer, made in the pool: softmax over many classes is no work for the event loop."""
        work = self._predictions if asked.reply == PREDICTIONS else codec.encode
        return await asyncio.get_running_loop().run_in_executor(pool, work, asked, outputs)

    def _predictions(self, _asked: Asked, outputs: Arrays) -> Answer:
        body = orjson.dumps(self.operations.finish(outputs))
        return Answer(200, b"%s%s}" % (self._start, body), [("content-type", JSON)])
