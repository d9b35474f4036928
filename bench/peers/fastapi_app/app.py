"""The application.

It takes the very bodies that our server takes, and answers in the same form, on paths of its own:

- POST /infer         Open Inference Protocol, JSON in and out
- POST /infer-binary  the same with its binary extension, in and out
- POST /predict       `{"inputs": {name: nested lists}}` in, `{"outputs": {name: nested lists}}` out
- POST /predict-npy   a .npy file in and out, for a model with one input and one output
- POST /predict-raw   the values' bytes in and out, for the same

JSON is read by a pydantic model, everything else by NumPy; names, dtypes and shapes are checked by the artifact's signature.
"""

import asyncio
import contextlib
import io
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from artifact import Artifact
from artifact.errors import InvalidInput
from artifact.signature import DTYPES
from bench.payloads import DATATYPES
from bench.peers.fastapi import PATHS, READY, filling_calls
from bench.peers.fastapi_app.batching import Arrays, Batching
from bench.peers.peer import MAX_DELAY_MS, most_rows
from foundation.environment import cores

Infer = Callable[[Arrays], Awaitable[Arrays]]

_BYTES, _NPY, _JSON = "application/octet-stream", "application/x-npy", "application/json"
_HEADER_LENGTH = "inference-header-content-length"
_MISREAD = (ValueError, KeyError, TypeError, InvalidInput)
_SHORT_CALL_S = 0.001
"""A call of this length or less runs on the event loop: the way to a thread and back costs 0.1 to 0.2 ms of CPU time."""
_CALLS = 20


class PredictBody(BaseModel):
    """The rows of every input, as nested lists."""

    inputs: dict[str, list]


class InferTensor(BaseModel):
    """One tensor of the Open Inference Protocol; its numbers are flat."""

    name: str
    shape: list[int]
    datatype: str
    data: list


class InferBody(BaseModel):
    """A request of the Open Inference Protocol."""

    inputs: list[InferTensor]


class Routes:
    """What the application does with a model that `run` runs."""

    def __init__(self, model: Artifact, run: Infer) -> None:
        self._signature, self._run_model = model.signature, run
        self._dtypes = {spec.name: DTYPES[spec.dtype] for spec in model.signature.inputs}

    def add_to(self, app: FastAPI) -> None:
        """Puts them into the application."""
        app.get(READY)(self.ready)
        app.post(PATHS["oip-binary"])(self.infer_binary)
        app.post(PATHS["oip-json"])(self.infer)
        app.post(PATHS["predictions-json"])(self.predict)
        app.post(PATHS["predictions-npy"])(self.predict_npy)
        app.post(PATHS["predictions-raw"])(self.predict_raw)

    async def ready(self) -> dict[str, bool]:
        """The model ran before the server began to listen."""
        return {"ready": True}

    async def infer(self, body: InferBody) -> Response:
        """Open Inference Protocol in JSON."""
        with _told():
            inputs = {one.name: self._array(one.name, one.data).reshape(one.shape) for one in body.inputs}
        outputs = await self._run(inputs)
        return _json({"outputs": [_described(name, array) | {"data": array.ravel()} for name, array in outputs.items()]})

    async def infer_binary(self, request: Request) -> Response:
        """Open Inference Protocol with the numbers as bytes behind a JSON header."""
        content = await request.body()
        with _told():
            inputs = self._from_binary(content, int(request.headers[_HEADER_LENGTH]))
        outputs = await self._run(inputs)
        sized = [_described(name, one) | {"parameters": {"binary_data_size": one.nbytes}} for name, one in outputs.items()]
        head = orjson.dumps({"outputs": sized})
        data = b"".join([head, *(array.tobytes() for array in outputs.values())])
        return Response(data, media_type=_BYTES, headers={_HEADER_LENGTH: str(len(head))})

    async def predict(self, body: PredictBody) -> Response:
        """Nested lists by the inputs' names."""
        with _told():
            inputs = {name: self._array(name, rows) for name, rows in body.inputs.items()}
        return _json({"outputs": await self._run(inputs)})

    async def predict_npy(self, request: Request) -> Response:
        """A .npy file."""
        content = await request.body()
        with _told():
            array = np.load(io.BytesIO(content), allow_pickle=False)
        file = io.BytesIO()
        np.save(file, await self._run_one(array))
        return Response(file.getvalue(), media_type=_NPY)

    async def predict_raw(self, request: Request) -> Response:
        """The values' bytes."""
        content, spec = await request.body(), self._signature.inputs[0]
        with _told():
            shape = [-1 if isinstance(dim, str) else dim for dim in spec.shape]
            array = np.frombuffer(content, DTYPES[spec.dtype]).reshape(shape)
        output = await self._run_one(array)
        return Response(output.tobytes(), media_type=_BYTES)

    def _array(self, name: str, values: list) -> np.ndarray:
        return np.array(values, self._dtypes[name])

    def _from_binary(self, content: bytes, start: int) -> dict[str, np.ndarray]:
        inputs = {}
        for tensor in json.loads(content[:start])["inputs"]:
            dtype, size = self._dtypes[tensor["name"]], tensor["parameters"]["binary_data_size"]
            array = np.frombuffer(content, dtype, size // dtype.itemsize, start)
            inputs[tensor["name"]] = array.reshape(tensor["shape"])
            start += size
        return inputs

    async def _run(self, inputs: Arrays) -> Arrays:
        with _told():
            self._signature.validate_shapes(inputs)
        return await self._run_model(inputs)

    async def _run_one(self, array: np.ndarray) -> np.ndarray:
        outputs = await self._run({self._signature.inputs[0].name: array})
        return outputs[self._signature.outputs[0].name]


def create_app(model: Artifact, calls: int, *, batching: bool) -> FastAPI:
    """The application. So many calls run at once in threads; 0 is on the event loop. With `batching`, requests are joined."""
    if not batching:
        app = FastAPI()
        Routes(model, one_by_one(model, calls)).add_to(app)
        return app
    joined = Batching(model.engine.run, most_rows(model.signature), MAX_DELAY_MS / 1e3, calls)

    @contextlib.asynccontextmanager
    async def gathering(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(joined.gather())
        yield
        task.cancel()

    app = FastAPI(lifespan=gathering)
    Routes(model, joined.run).add_to(app)
    return app


def calls_at_once(model: Artifact, threads: int | None, instances: int) -> int:
    """How many calls of long ones run at once in threads; 0 where a call is so short that it is made on the event loop."""
    return 0 if _call_s(model) <= _SHORT_CALL_S else filling_calls(threads, instances, cores())


def one_by_one(model: Artifact, calls: int) -> Infer:
    """One call for each request: so many at once in threads; 0 is on the event loop."""
    run, threads = model.engine.run, ThreadPoolExecutor(max(calls, 1))

    async def inline(inputs: Arrays) -> Arrays:
        return run(inputs)

    async def in_a_thread(inputs: Arrays) -> Arrays:
        return await asyncio.get_running_loop().run_in_executor(threads, run, inputs)

    return in_a_thread if calls else inline


def _call_s(model: Artifact) -> float:
    """Seconds of one call with one row, the median."""
    seconds = []
    for _ in range(_CALLS):
        began = time.perf_counter()
        model.engine.run(model.cases[0].inputs)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A body that cannot be read is the client's fault."""
    try:
        yield
    except _MISREAD as cause:
        raise HTTPException(422, f"{type(cause).__name__}: {cause}") from cause


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "shape": array.shape, "datatype": DATATYPES[array.dtype.name]}


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), media_type=_JSON)
