"""What must hold for every request with raw values, whatever it is. As `targets.py`, for models that declare operations."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np

from artifact.engines import EngineOptions, load_engine
from artifact.errors import InvalidInput
from artifact.operations import RawLimits
from serving.error_answer import error_answer
from serving.errors import DeadlinePassed, NotAllowed, ServingError
from serving.inference import Route, route
from serving.messages import Request
from serving.protocols.asked import Arrays, Asked, Codec
from serving.protocols.oip import OipCodec
from serving.protocols.predictions import PredictionsCodec
from serving.raw.version import Beside, RawVersion
from tests.fuzz.raw_models import LABELS, MODELS
from tests.fuzz.raw_seeds import KINDS
from tests.fuzz.targets import LIMITS, MOST_MESSAGE_BYTES
from tests.fuzz.wire import Wire

RAW_LIMITS = RawLimits(image_bytes=1 << 17, image_pixels=1 << 18, text_bytes=1 << 14, tokens=1 << 12)
"""Small ones: an input that is taken should not take long."""


class Here(Executor):
    """Runs everything at once, in the thread that asks."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The outcome, which is there already."""
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - told to whoever asked, as every executor does
            done.set_exception(error)
        return done


async def _no_urls(_: Sequence[str]) -> Sequence[bytes]:
    raise NotAllowed("no URL is fetched here")


async def _staying() -> None:
    """A client that never leaves."""
    await asyncio.Event().wait()


_BESIDE = Beside(Here(), 1, _no_urls)


class RawServed:
    """A model's raw version, its decoders and its engine."""

    def __init__(self, name: str) -> None:
        model = MODELS[name]
        self.signature = signature = model.signature
        self.operations, _ = model.made()
        labels = {spec.name: LABELS for spec in signature.outputs if spec.labels}
        limits = replace(LIMITS, raw=RAW_LIMITS)
        self.codecs: Mapping[str, Codec] = {
            "oip": OipCodec(name, 1, signature, limits, labels),
            "predictions": PredictionsCodec(name, 1, signature, limits),
        }
        self.raw = RawVersion((name, 1), self.operations, signature, limits, labels)
        self.engine = load_engine("onnx", model.onnx(signature).SerializeToString(), signature, EngineOptions(threads=1))

    def run(self, asked: Asked) -> Arrays:
        """The engine's outputs, row by row and joined: the operations are asked about here, and not the batcher."""
        rows = [self.engine.run({key: array[row : row + 1] for key, array in asked.inputs.items()}) for row in range(asked.rows)]
        return {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}


class Raw:
    """Requests with raw values: read, prepared, run, answered; what is taken twice is the same, and alone as among others."""

    def __init__(self) -> None:
        self.served = {name: RawServed(name) for name in MODELS}
        self.taken = 0
        self.refused = 0
        self.spent_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._here = Here()
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it tells of every form that is none

    def __call__(self, data: bytes) -> None:
        """`spent_s` is then the processor's time in our own code, the engine's too."""
        wire = Wire.parse(data)
        self.spent_s = 0.0
        asked_for = route(wire.path)
        if asked_for is not None and asked_for.model in self.served:
            self._ask(asked_for, self.served[asked_for.model], wire.request())

    def _ask(self, asked_for: Route, served: RawServed, request: Request) -> None:
        codec = served.codecs[asked_for.protocol]
        began = time.thread_time()
        try:
            asked = self._asked(asked_for, served, request)
        except (ServingError, InvalidInput) as refusal:
            self.spent_s = time.thread_time() - began
            self.refused += 1
            require_told(refusal, request.path)
            return
        outputs = served.run(asked)
        answer = self._wait(served.raw.answer(codec, asked, outputs, self._here))
        self.spent_s = time.thread_time() - began
        self.taken += 1
        served.signature.validate_shapes(asked.inputs, LIMITS.max_rows)
        require_allowed(served, asked.inputs)
        if asked.timeout_s is not None:
            return  # a second time it may be too late
        again = self._asked(asked_for, served, request)
        assert all(array.tobytes() == again.inputs[name].tobytes() for name, array in asked.inputs.items())
        assert answer.status == 200
        if dict(answer.headers)["content-type"] == "application/json" and asked_for.protocol == "predictions":
            require_predictions(json.loads(answer.body), asked.rows)

    def _asked(self, asked_for: Route, served: RawServed, request: Request) -> Asked:
        return self._wait(served.raw.asked(asked_for.protocol, served.codecs[asked_for.protocol], request, _staying, _BESIDE))

    def _wait(self, work: Awaitable[Any]) -> Any:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        """Ends the loop."""
        self._loop.close()


def require_told(error: Exception, path: str) -> None:
    """The error is the client's, and can be told: briefly, and as JSON. A deadline is the client's own, too."""
    answer = error_answer(error, "POST", path, "id")
    assert 400 <= answer.status < 500 or isinstance(error, DeadlinePassed), error
    assert isinstance(json.loads(answer.body), dict)
    assert len(answer.body) <= MOST_MESSAGE_BYTES, f"a message of {len(answer.body)} bytes"


def require_allowed(served: RawServed, inputs: Arrays) -> None:
    """The tensors are of the declared dtypes, and what operations made of them is within the declared ranges."""
    assert inputs.keys() == {spec.name for spec in served.signature.inputs}
    for spec in served.signature.inputs:
        array = inputs[spec.name]
        assert array.dtype == np.dtype(spec.dtype)
        assert array.flags.c_contiguous


def require_predictions(document: Any, rows: int) -> None:
    """One prediction for every row, or the tensors that were asked for."""
    if "predictions" in document:
        assert len(document["predictions"]) == rows
    else:
        assert document["outputs"]


TARGETS: Mapping[str, tuple[Callable[[], Raw], tuple[str, ...]]] = {kind: (Raw, (kind,)) for kind in KINDS}
"""Name -> what is called, and the kinds of seeds that it starts from."""
