"""One served version: a proven artifact, its batcher, and what it may be asked."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from artifact import Artifact, manifest
from artifact.signature import Signature
from serving.batcher import LONG_CALL_S, Batcher, BatchLimits, Job, OnLoop
from serving.errors import BadRequest
from serving.execution import Execution, Prepared, prepare
from serving.instance import Instance, ThreadInstance
from serving.joined import JoinedEngine
from serving.metrics import VersionMetrics
from serving.protocols.asked import Asked, Codec, Limits
from serving.protocols.oip import OipCodec
from serving.protocols.predictions import PredictionsCodec
from serving.settings import ModelSettings

log = logging.getLogger("stateserve")

_SOON_S = 1e-6
"""What is left of a deadline that passed while the body was decoded."""
_QUEUE_S = 5.0
_QUEUE_CALLS = 8
_QUEUE_ROWS = (128, 4096)
"""Without a setting, as many rows may wait as five seconds answer, and eight calls at least: within these bounds."""

Place = tuple[str, int]
"""A model's name, and a version's number."""


class ServedModel:
    """A version that passed its checks. Made by `load_model`, on the event loop, where all of it lives.

    `codecs` are the protocols' decoders and encoders, `metrics` what is counted, `in_flight` the requests that entered, `planned`
    what settings and bench.json said when it was loaded.
    """

    def __init__(
        self, place: Place, prepared: Prepared, settings: ModelSettings, limits: Limits, arriving: Callable[[], int]
    ) -> None:
        self.name, self.version = name, version = place
        self.artifact = loaded = prepared.artifact
        self.settings = settings
        self.execution, self.planned = prepared.execution, prepared.planned
        self.metrics = VersionMetrics(name, version)
        self._loop = asyncio.get_running_loop()
        self.max_queue_rows = settings.max_queue_rows or _queue_rows(self.execution)
        self.batcher = Batcher(self._runs(arriving), self._batch_limits(), self.metrics)
        allowed = replace(limits, max_rows=self.max_queue_rows)
        self.codecs: Mapping[str, Codec] = {
            "oip": OipCodec(name, version, loaded.signature, allowed, read_labels(loaded)),
            "predictions": PredictionsCodec(name, version, loaded.signature, allowed),
        }
        self._levels, self._default_priority = settings.priority_levels, settings.default_priority
        self._default_timeout_s = settings.default_timeout_s
        self.in_flight = 0
        self._drained: asyncio.Future[None] | None = None

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.artifact.signature

    @property
    def most_rows(self) -> int:
        """Rows of one engine call at most, as proven and set; fewer may be joined, on the event loop or as tuned."""
        return self.execution.plan.max_rows

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the engine."""
        return self.batcher.queued_rows

    def job(self, asked: Asked, arrived_s: float) -> Job:
        """What was asked, as the batcher takes it; its deadline runs from its arrival, a reading of `time.perf_counter`.

        Raises:
            BadRequest: there is no such level of priority.
        """
        priority = asked.priority or self._default_priority
        if priority > self._levels:
            raise BadRequest(f"priority is {priority}; the model has levels 1 (first) to {self._levels}, and 0 for its default")
        job = Job(asked.inputs, asked.rows, asked.group, self._loop.create_future(), priority - 1)
        timeout_s = asked.timeout_s or self._default_timeout_s
        if timeout_s:
            job.timeout_s = max(timeout_s - (time.perf_counter() - arrived_s), _SOON_S)
        return job

    def leave(self) -> None:
        """The end of a request that entered by adding to `in_flight`: a version that is retired waits for all of them."""
        self.in_flight -= 1
        if not self.in_flight and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def retire(self) -> None:
        """Waits until every request that entered is answered, then ends the threads. No request enters any more."""
        if self._drained is None:
            self._drained = asyncio.get_running_loop().create_future()
            if not self.in_flight:
                self._drained.set_result(None)
            await asyncio.shield(self._drained)
            self.batcher.close()
        else:
            await asyncio.shield(self._drained)

    def _runs(self, arriving: Callable[[], int]) -> OnLoop | list[Instance]:
        if not self.execution.on_loop:
            return [self._thread(number) for number in range(self.execution.instances)]
        return OnLoop(self._joined(), arriving, self._leave_loop if self.settings.execution == "auto" else None)

    def _joined(self) -> JoinedEngine:
        padded = _padding(self.signature, self.settings, self.execution.max_rows)
        return JoinedEngine(self.artifact.engine, self.signature, padded)

    def _thread(self, number: int) -> ThreadInstance:
        return ThreadInstance(self._joined(), f"{self.name}-{self.version}-{number}", self._loop)

    def _leave_loop(self) -> Instance:
        log.warning(
            "%s version %s: a call held the event loop for more than %g ms, although the warm-up was short: from now on its "
            "calls run in a thread. Setting execution=thread for this model does so from the start",
            *(self.name, self.version, LONG_CALL_S * 1e3),
            extra={"model": self.name, "version": self.version},
        )
        self.execution = replace(self.execution, on_loop=False)
        return self._thread(0)

    def _batch_limits(self) -> BatchLimits:
        most = self.execution.max_rows
        preferred = tuple(size for size in reversed(self.settings.preferred_batch_sizes) if size <= most)
        return BatchLimits(
            max_rows=most,
            max_queue_rows=self.max_queue_rows,
            full_rows=preferred[0] if preferred else most,
            preferred=preferred,
            max_delay_s=self.settings.max_delay_ms / 1000,
            priority_levels=self.settings.priority_levels,
        )


async def load_model(
    place: Place, directory: Path, settings: ModelSettings, limits: Limits, arriving: Callable[[], int]
) -> ServedModel:
    """Checks every hash, makes the engine, replays the golden cases, and measures; in a thread, while others are answered.

    `arriving` says how many bodies are being read: see `OnLoop`.

    Raises:
        StateserveError: a check failed.
    """
    prepared = await asyncio.to_thread(prepare, directory, settings)
    return ServedModel(place, prepared, settings, limits, arriving)


def _queue_rows(execution: Execution) -> int:
    rows_per_s = execution.instances * max(rows / seconds for rows, seconds in execution.warm_up.seconds.items())
    least, most = _QUEUE_ROWS
    return max(least, _QUEUE_CALLS * execution.untuned_rows, min(most, int(_QUEUE_S * rows_per_s)))


def _padding(signature: Signature, settings: ModelSettings, most: int) -> Callable[[int], int]:
    """How many rows a call for so many is given: a preferred size where one is near above, and always one that was proven."""
    if signature.batch_dim is None:
        return lambda rows: rows
    dim = signature.dims[signature.batch_dim]
    preferred = [size for size in settings.preferred_batch_sizes if size <= most and dim.allows(size)]
    if not preferred and dim.min == dim.multiple == 1:
        return lambda rows: rows
    allowed = [size for size in range(dim.min, most + 1) if dim.allows(size)]
    padded = {
        rows: next((size for size in preferred if size >= rows), next((size for size in allowed if size >= rows), most))
        for rows in range(1, most + 1)
    }
    return padded.__getitem__


def read_labels(loaded: Artifact) -> dict[str, tuple[str, ...]]:
    """Output name -> its classes' labels, one a line of the file that the output names."""
    labels = {}
    for spec in loaded.signature.outputs:
        if spec.labels is not None:
            data = manifest.read_listed(loaded.path, spec.labels, loaded.manifest.listed[spec.labels])
            labels[spec.name] = tuple(data.decode("utf-8").splitlines())
    return labels
