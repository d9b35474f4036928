"""The prediction handlers, written once: a request in, an answer out, whichever server and protocol brought it."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, Protocol

from foundation.environment import cores
from serving.batcher import Job
from serving.body import Arrivals
from serving.error_answer import error_answer, reason
from serving.errors import DeadlinePassed
from serving.messages import Answer, Leaving, Request, parameter
from serving.metrics import PROTOCOLS
from serving.protocols.asked import Arrays
from serving.protocols.compression import compress, decompress
from serving.raw.fetched import fetcher
from serving.raw.version import Beside
from serving.served import Queue, ServedVersion
from serving.settings import Settings

SMALL_BYTES = 128 << 10
"""What is to be parsed or written, up to here, is so on the event loop (JSON: about 0.5 ms), and beyond in one thread beside it.

One: parsing keeps the GIL, and several threads would do no more together, but fight for it, with the event loop too.
"""
_MANY_ROUTES = 1024
_LONGEST_KEPT_PATH = 512


class NotHere(Exception):
    """Another process answers: this one does not know the version. No client sees it."""


class Versions(Protocol):
    """Where requests find their version: the repository, or a front end's routes."""

    def find(self, name: str, version: str | None = None) -> ServedVersion:
        """The version that answers, by number or label; None is the default one.

        Raises:
            ModelNotFound, ModelNotReady: there is none, and why.
            NotHere: another process knows why.
        """
        ...


class Failures(Protocol):
    """Who counts requests that failed before their model was found."""

    def request_failed(self, reason: str) -> None:
        """One more, for one of `REASONS`."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """Where a prediction request goes. `version` is a number or a label; None is the default version."""

    protocol: Literal["oip", "predictions"]
    model: str
    version: str | None
    kind: int = field(init=False)
    """The protocol's place in `PROTOCOLS`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", PROTOCOLS.index(self.protocol))


def route(path: str) -> Route | None:
    """The prediction route of a path (percent-decoded), or None: another handler's path.

    `/v2/models/M[/versions/V]/infer` and `/predictions/M[/V]`.
    """
    match path.split("/"):
        case ["", "v2", "models", model, "infer"]:
            return Route("oip", model, None)
        case ["", "v2", "models", model, "versions", version, "infer"]:
            return Route("oip", model, version)
        case ["", "predictions", model]:
            return Route("predictions", model, None)
        case ["", "predictions", model, version]:
            return Route("predictions", model, version)
    return None


class Inference:
    """Answers prediction requests. Lives on the event loop, with one thread for what is large and several for raw inputs.

    `close` ends them.

    `arrivals` are the bodies that the faces read; `active` counts requests that began and are not answered.
    """

    def __init__(self, versions: Versions, failures: Failures, arrivals: Arrivals, settings: Settings) -> None:
        self._versions = versions
        self._failures = failures
        self._thread = _one_thread()
        self._settings = settings
        self._beside = _beside(settings)
        self._compress_min_bytes = settings.compress_min_bytes
        self._max_body_bytes = settings.max_body_bytes
        self.arrivals = arrivals
        self._routes: dict[str, Route | None] = {}
        self.active = 0

    def route(self, path: str) -> Route | None:
        """As the function `route`; remembered, since clients ask for few."""
        try:
            return self._routes[path]
        except KeyError:
            found = route(path)
            if len(path) <= _LONGEST_KEPT_PATH:
                if len(self._routes) >= _MANY_ROUTES:
                    self._routes.clear()
                self._routes[path] = found
            return found

    def close(self) -> None:
        """Ends the threads. Whoever asks after that begins others: an application may be started again."""
        self._thread.shutdown(wait=False)
        self._beside.pool.shutdown(wait=False)
        self._thread, self._beside = _one_thread(), _beside(self._settings)

    def refuse(self, error: Exception, method: str, path: str, request_id: str) -> Answer:
        """The answer to a request that no model was asked about."""
        self._failures.request_failed(reason(error))
        return error_answer(error, method, path, request_id)

    async def answer(  # noqa: C901, PLR0912, PLR0915 - one coroutine, as its text says
        self, asked_for: Route, request: Request, request_id: str, leaving: Leaving
    ) -> Answer:
        """The answer, an error's too; raises nothing but CancelledError, and NotHere where the versions do.

        One coroutine from the routing to the answer: each further one would cost every request about half a microsecond.
        """
        served: ServedVersion | None = None
        began = time.perf_counter()
        try:
            served = self._versions.find(asked_for.model, asked_for.version)
            served.in_flight += 1
            try:
                codec, batcher = served.codecs[asked_for.protocol], served.batcher
                encoding = request.headers.get("content-encoding")
                if encoding is not None:
                    request.body = await asyncio.to_thread(decompress, request.body, encoding, self._max_body_bytes)
                raw, protocol = served.raw, asked_for.protocol
                is_raw = raw is not None and raw.may_be_raw(protocol, request)
                if raw is not None and is_raw:
                    asked = await raw.asked(protocol, codec, request, leaving, self._beside)
                elif len(request.body) <= SMALL_BYTES or codec.parsed_bytes(request) <= SMALL_BYTES:
                    asked = codec.decode(request)
                else:
                    asked = await asyncio.get_running_loop().run_in_executor(self._thread, codec.decode, request)
                if raw is not None and not is_raw and protocol == "predictions":
                    raw.choose_reply(codec, request, asked)
                decoded = time.perf_counter()
                if asked.timeout_s and decoded - began > asked.timeout_s:
                    raise DeadlinePassed("the deadline passed before the request could wait for the engine")
                done = batcher.run_alone(asked.inputs, asked.rows) if self.active == 1 and not asked.priority else None
                if done is None:
                    job = served.job(asked, began)
                    outputs = await (_outcome(batcher, job) if batcher.on_loop else _unless_left(batcher, job, leaving))
                    done = outputs, job.started_at, job.ended_at
                outputs, begun, ended = done
                if raw is not None:
                    answer = await raw.answer(codec, asked, outputs, self._thread)
                elif _is_small(outputs):
                    answer = codec.encode(asked, outputs)
                else:
                    answer = await asyncio.get_running_loop().run_in_executor(self._thread, codec.encode, asked, outputs)
                if len(answer.body) >= self._compress_min_bytes:
                    await self._compress(answer, request.headers.get("accept-encoding"))
                served.metrics.answered((asked_for.kind, asked.rows, began, decoded, begun, ended, time.perf_counter()))
            finally:
                served.leave()
        except NotHere:
            raise
        except Exception as error:  # noqa: BLE001 - every error has its answer
            if served is None:
                self._failures.request_failed(reason(error))
            else:
                served.metrics.failed(reason(error), time.perf_counter() - began)
            return error_answer(error, request.method, request.path, request_id)
        answer.headers.append(("x-request-id", request_id))
        if request.query and parameter(request.query, "timing") in {"1", "true"}:
            answer.headers.append(("server-timing", _server_timing(began, decoded, begun, ended)))
        return answer

    async def _compress(self, answer: Answer, accept_encoding: str | None) -> None:
        if accept_encoding is None:
            return
        body, encoding = await asyncio.to_thread(compress, answer.body, accept_encoding, self._compress_min_bytes)
        if encoding is not None:
            answer.body = body
            answer.headers += [("content-encoding", encoding), ("vary", "accept-encoding")]


def _beside(settings: Settings) -> Beside:
    """Threads for raw inputs; they are started when they are first needed."""
    threads = settings.decode_threads or cores()
    return Beside(ThreadPoolExecutor(threads, "decode"), threads, fetcher(settings))


def _one_thread() -> ThreadPoolExecutor:
    """It is started when it is first needed."""
    return ThreadPoolExecutor(1, "bodies")


def _server_timing(began: float, decoded: float, begun: float, ended: float) -> str:
    """The stages of an answered request, in milliseconds, as browsers show them: https://www.w3.org/TR/server-timing/."""
    stages = {"decode": decoded - began, "queue": begun - decoded, "infer": ended - begun, "encode": time.perf_counter() - ended}
    return ", ".join(f"{stage};dur={max(seconds, 0) * 1e3:.3f}" for stage, seconds in stages.items())


def _is_small(outputs: Arrays) -> bool:
    for array in outputs.values():  # noqa: SIM110 - a generator costs three times as much, and every request pays for it
        if array.nbytes > SMALL_BYTES:
            return False
    return True


def _outcome(batcher: Queue, job: Job) -> asyncio.Future[Arrays]:
    batcher.put(job)
    return job.future


async def _unless_left(batcher: Queue, job: Job, leaving: Leaving) -> Arrays:
    """The job's outputs; its rows that still wait are dropped when the client leaves, or this is cancelled."""

    async def watch() -> None:
        await leaving()
        batcher.leave(job)

    batcher.put(job)
    watching = asyncio.ensure_future(watch())
    try:
        return await job.future
    finally:
        watching.cancel()
        batcher.leave(job)
