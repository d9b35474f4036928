"""All workers of one version of a model, and the queue before them: an idle worker is given at once what waits.

Everything happens on the event loop, so there are no locks.
"""

import asyncio
import json
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.messages import Leaving
from serving.torchserve.archives.mar import Mar
from serving.torchserve.errors import InternalServerException, ServiceUnavailableException
from serving.torchserve.jobs import Job, Reply
from serving.torchserve.workers.asked import Asked
from serving.torchserve.workers.host import WorkerHost
from serving.torchserve.workers.parameters import Parameters
from serving.torchserve.workers.place import Duty, Place
from serving.torchserve.workers.process import settle
from serving.torchserve.workers.requirements import install_requirements
from serving.torchserve.workers.wire import Load
from serving.torchserve.workers.worker import Start, Worker, WorkerFailed, start_worker

__all__ = ["Parameters", "WorkerInfo", "Workers"]

log = logging.getLogger("stateserve")

END_GRACE_S = 5.0
"""How long a worker may go on with its batch when it is to end."""
_LOOK_S = 0.1
"""After so long in the queue, it is looked whether a job's client is still there."""


@dataclass(frozen=True)
class WorkerInfo:
    """What is told of a worker; `memory` in bytes, `status` READY or UNLOADING, which it is while it loads, too."""

    id: str
    start_time: str
    status: str
    memory: int
    pid: int
    gpu: bool
    gpu_usage: str = "N/A"


class Workers:
    """One version's workers; it begins with none. Not for use from another thread than the event loop's."""

    def __init__(self, mar: Mar, name: str, parameters: Parameters, host: WorkerHost) -> None:
        self._loop = asyncio.get_running_loop()
        self._mar = mar
        self._name = name
        self._parameters = parameters
        self._host = host
        self._facts = {"model": name, "version": mar.version}
        self._python: str | None = None
        self._preparing = asyncio.Lock()
        self._places: list[Place] = []
        self._started_workers = 0
        self._idle: deque[Worker] = deque()
        self._queue: deque[Asked] = deque()
        self._dispatching = False
        self._delay: asyncio.TimerHandle | None = None
        self._delayed = False
        self._looking: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self.min_workers = 0
        self.max_workers = 0

    @property
    def pending(self) -> int:
        """Jobs that wait."""
        return len(self._queue)

    @property
    def remaining(self) -> int:
        """Jobs that may wait in addition."""
        return max(0, self._parameters.job_queue_size - len(self._queue))

    @property
    def is_healthy(self) -> bool:
        """TorchServe's rule: at least `min_workers` run, start, or have not been trying to for too long."""
        return sum(place.is_healthy and not place.given_up for place in self._places) >= self.min_workers

    @property
    def is_ready(self) -> bool:
        """Whether at least `min_workers` have loaded the model."""
        return sum(place.worker is not None for place in self._places) >= self.min_workers

    async def prepare(self) -> None:
        """Installs the archive's requirements, where that is allowed, and once; `scale` does so, too.

        Raises:
            ModelException: they cannot be installed.
        """
        async with self._preparing:
            if self._python is None:
                self._python = await install_requirements(
                    self._mar, self._name, self._host, self._ended, use_venv=self._parameters.use_venv
                )

    async def predict(self, job: Job, leaving: Leaving | None = None, *, version: str | None = None) -> Reply:
        """The handler's reply. `leaving` ends when the client has left; `version` is the one that the request names.

        Raises:
            ServiceUnavailableException: there is no worker, the queue is full, or the job waited longer than it may.
            InternalServerException: the worker failed, with the status and the message that it says.
            ClientLeft: the client left while its job waited.
        """
        asked = Asked(job, leaving)
        if not self._put(asked):
            raise self._refusal("inference", version)
        reply = await self._reply(asked)
        now = time.perf_counter()
        self._host.metrics.inferred(self._name, version, asked.given_at - asked.queued_at, now - asked.queued_at)
        return reply

    async def describe(self, headers: tuple[tuple[str, str], ...] = ()) -> Any:
        """What the handler says of itself: it is asked with the request's headers and `describe`, and no input.

        Raises:
            ServiceUnavailableException, InternalServerException: as `predict` does.
        """
        asked = Asked(Job(str(uuid.uuid4()), (*headers, ("describe", "True")), ()), alone=True)
        if not self._put(asked):
            raise self._refusal("describe", None)
        body = (await self._reply(asked)).body
        try:
            return json.loads(body)
        except ValueError:
            return body.decode("utf-8", "replace")

    async def scale(self, min_workers: int, max_workers: int) -> bool:
        """Starts workers until there are `min_workers`, or ends those beyond `max_workers`; whether as many then run as should.

        Raises:
            ModelException: the archive's requirements cannot be installed.
            InternalServerException: a worker did not come up; those that did stay, and the others are tried again.
        """
        self.min_workers, self.max_workers = min_workers, max_workers
        await self.prepare()
        kept = [place for place in self._places if not place.given_up]
        surplus = [place for place in self._places if place.given_up]
        if len(kept) >= self.min_workers:
            surplus += kept[self.max_workers :]
            del kept[self.max_workers :]
        starting = [place for place in kept if not place.first.done()]
        while not self._ended.done() and len(kept) < self.min_workers:
            kept.append(self._new_place())
            starting.append(kept[-1])
        self._host.workers += len(kept) - len(self._places)
        self._places = kept
        self._refuse_without_places()
        await asyncio.gather(self._up(starting), *(self._end(place, self._parameters.response_timeout_s) for place in surplus))
        return sum(place.worker is not None for place in self._places) >= self.min_workers

    def infos(self) -> list[WorkerInfo]:
        """One record per worker, in the order of their starts."""
        return [_info(place) for place in self._places]

    async def close(self, grace_s: float = END_GRACE_S) -> None:
        """Refuses what waits, and ends every worker, after its batch if that is answered within so many seconds."""
        settle(self._ended)
        self.min_workers, self.max_workers = 0, 0
        places, self._places = self._places, []
        self._host.workers -= len(places)
        self._refuse_without_places()
        await asyncio.gather(*(self._end(place, grace_s) for place in places))

    def _put(self, asked: Asked) -> bool:
        """Whether the job may wait: there are workers, and there is room."""
        most = self._parameters.job_queue_size
        if len(self._queue) >= most:
            self._dispatch()
        if not self._has_places() or len(self._queue) >= most:
            return False
        self._queue.append(asked)
        if self._parameters.client_timeout_ms:
            self._expire_later(asked)
        if asked.leaving is not None and self._looking is None:
            self._looking = self._loop.call_later(_LOOK_S, self._look)
        if self._idle and not self._dispatching:
            # At the end of this turn of the loop: requests that arrived together share a batch.
            self._dispatching = True
            self._loop.call_soon(self._dispatch)
        return True

    async def _reply(self, asked: Asked) -> Reply:
        try:
            return await asked.future
        finally:
            if not asked.given_at:
                self._drop(asked)

    def _drop(self, asked: Asked) -> None:
        """It waits no more."""
        asked.left_queue()
        if asked in self._queue:
            self._queue.remove(asked)

    def _dispatch(self) -> None:
        """Gives idle workers what waits."""
        self._dispatching = False
        while self._queue and self._idle:
            if not self._idle[0].is_idle:  # it died
                self._idle.popleft()
            elif self._is_awaited():
                break
            elif batch := self._batch():
                self._idle.popleft().give(batch)

    def _is_awaited(self) -> bool:
        """Whether more jobs are waited for, as `strict_batch_delay` asks; when that is over, what waits is given."""
        parameters = self._parameters
        full = len(self._queue) >= parameters.batch_size or self._queue[0].alone
        if parameters.strict_batch_delay and not full and not self._delayed:
            if self._delay is None:
                self._delay = self._loop.call_later(parameters.max_batch_delay_ms / 1000, self._delay_over)
            return True
        if self._delay is not None:
            self._delay.cancel()
        self._delay, self._delayed = None, False
        return False

    def _delay_over(self) -> None:
        self._delay, self._delayed = None, bool(self._queue)
        self._dispatch()

    def _batch(self) -> list[Asked]:
        """The jobs that come next; none of them waits any more. Those that were given up are left out."""
        batch: list[Asked] = []
        while self._queue and len(batch) < self._parameters.batch_size:
            if batch and (self._queue[0].alone or batch[0].alone):
                break
            asked = self._queue.popleft()
            asked.left_queue()
            if not asked.future.done():
                batch.append(asked)
        return batch

    def _has_places(self) -> bool:
        return any(not place.given_up for place in self._places)

    def _refuse_without_places(self) -> None:
        if self._has_places():
            return
        while self._queue:
            asked = self._queue.popleft()
            asked.left_queue()
            asked.fail(self._refusal("describe" if asked.alone else "inference", None))

    def _refusal(self, kind: str, version: str | None) -> ServiceUnavailableException:
        which = f'Model "{self._name}"' if version is None else f'Model "{self._name}" Version {version}"'
        says = f"{which} has no worker to serve {kind} request. Please use scale workers API to add workers."
        if kind == "inference":
            says += " If this is a sequence inference, please check if it is closed, or expired;"
            says += " or exceeds maxSequenceJobQueueSize"
        return ServiceUnavailableException(says)

    def _expire_later(self, asked: Asked) -> None:
        timeout_ms = self._parameters.client_timeout_ms
        error = ServiceUnavailableException(
            f'Model "{self._name}" had no idle worker within clientTimeoutInMills, {timeout_ms:g} ms. Please ask again later.'
        )
        asked.expiry = self._loop.call_later(timeout_ms / 1000, asked.fail, error)

    def _look(self) -> None:
        """Watches for clients that leave, of jobs that have waited for a while: most do not, and are spared the watching."""
        before = time.perf_counter() - _LOOK_S
        for asked in self._queue:
            if asked.queued_at <= before:
                asked.watch()
        self._looking = self._loop.call_later(_LOOK_S, self._look) if self._queue else None

    def _new_place(self) -> Place:
        number, turn = self._host.next_id(), self._started_workers
        gpu = self._host.next_gpu(self._parameters, turn)
        self._started_workers += 1
        facts = {**self._facts, "worker": str(number)}

        def ready(worker: Worker, seconds: float) -> None:
            worker.idle = lambda: self._is_idle(worker)
            self._host.metrics.worker_loaded(f"W-{number}-{self._name}_{self._mar.version}", seconds)
            log.info("worker %d has loaded model %s in %.2f s", number, self._name, seconds, extra=facts)
            self._is_idle(worker)

        def start() -> Awaitable[Worker]:
            return start_worker(self._start(number, gpu, facts))

        return Place(number, gpu, Duty(start, ready, self._refuse_without_places, self._parameters.max_retry_timeout_s, facts))

    def _start(self, number: int, gpu: int, facts: dict[str, str]) -> Start:
        parameters, host = self._parameters, self._host
        socket = host.sockets.path / f"w.{number}"
        return Start(
            command=host.worker_command(self._python or host.python, socket),
            environment=host.environment(self._mar, parameters.threads),
            socket=socket,
            load=Load(
                name=self._name,
                directory=str(self._mar.directory),
                batch_size=parameters.batch_size,
                handler=parameters.handler or self._mar.handler,
                gpu=gpu,
                envelope=parameters.envelope,
                limit_max_image_pixels=host.limit_max_image_pixels,
            ),
            startup_timeout_s=parameters.startup_timeout_s,
            response_timeout_s=parameters.response_timeout_s,
            max_response_bytes=host.max_response_bytes,
            facts=facts,
            metrics=host.metrics,
        )

    def _is_idle(self, worker: Worker) -> None:
        self._idle.append(worker)
        if self._queue:
            self._dispatch()

    async def _up(self, places: Sequence[Place]) -> None:
        """Waits until these came up.

        Raises:
            InternalServerException: one did not.
        """
        waited_for = {place.first for place in places}
        if waited_for:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_EXCEPTION)
        for first in waited_for:
            if first.done() and not first.cancelled() and (error := first.exception()) is not None:
                status, traceback_id = (error.status, error.traceback_id) if isinstance(error, WorkerFailed) else (500, None)
                says = f"Failed to start workers for model {self._name} version: {self._mar.version}"
                raise InternalServerException(says, status, traceback_id) from error

    async def _end(self, place: Place, grace_s: float) -> None:
        await place.end(grace_s)
        (self._host.sockets.path / f"w.{place.number}").unlink(missing_ok=True)


def _info(place: Place) -> WorkerInfo:
    pid = -1 if place.worker is None else place.worker.pid
    return WorkerInfo(
        id=str(place.number),
        start_time=place.started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        status="UNLOADING" if place.worker is None else "READY",
        memory=_memory(pid),
        pid=pid,
        gpu=place.gpu >= 0,
    )


def _memory(pid: int) -> int:
    """Resident bytes of a process, 0 where that cannot be known."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
