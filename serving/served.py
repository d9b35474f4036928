"""What a request needs of a served version, wherever its engine runs: codecs, a queue, counts, and who is still in it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from artifact.operations import Operations, RawLimits
from artifact.signature import Signature
from serving.batcher import Job
from serving.errors import BadRequest
from serving.metrics import VersionMetrics
from serving.protocols.asked import Arrays, Asked, Codec, Limits
from serving.protocols.oip import OipCodec
from serving.protocols.predictions import PredictionsCodec
from serving.raw.version import RawVersion
from serving.settings import ModelSettings, Settings

_SOON_S = 1e-6
"""What is left of a deadline that passed while the body was decoded."""

Place = tuple[str, int]
"""A model's name, and a version's number."""


class Queue(Protocol):
    """Where jobs wait for an engine: a `Batcher`, or `Channels` to engine processes. All of it on the event loop."""

    @property
    def on_loop(self) -> bool:
        """Whether calls run on this event loop: then there is no watching for clients that leave meanwhile."""
        ...

    @property
    def queued_rows(self) -> int:
        """Rows that wait."""
        ...

    def run_alone(self, inputs: Arrays, rows: int) -> tuple[Arrays, float, float] | None:
        """Runs the only request there is at once; None says that it has to be `put`."""
        ...

    def put(self, job: Job) -> None:
        """Queues a job, whose future gives the outputs or the error.

        Raises:
            QueueFull: more rows wait than may.
            EngineLost: no engine is there.
        """
        ...

    def leave(self, job: Job) -> None:
        """The client left: what of the job still waits is dropped."""
        ...

    def close(self) -> None:
        """Lets the engines go. Nothing waits and nothing runs any more."""
        ...


def limits_of(settings: Settings) -> Limits:
    """What requests may hold, as the settings say."""
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        max_tensors=settings.max_tensors,
        max_json_depth=settings.max_json_depth,
        raw=RawLimits(
            image_bytes=settings.max_body_bytes,
            image_pixels=settings.max_image_pixels,
            image_frames=settings.max_image_frames,
            text_bytes=settings.max_text_bytes,
            tokens=settings.max_tokens,
        ),
    )


def codecs_of(place: Place, signature: Signature, limits: Limits, labels: Mapping[str, Sequence[str]]) -> Mapping[str, Codec]:
    """The protocols' decoders and encoders for one version, by the protocols' names."""
    name, version = place
    return {
        "oip": OipCodec(name, version, signature, limits, labels),
        "predictions": PredictionsCodec(name, version, signature, limits),
    }


def raw_of(
    place: Place, operations: Operations | None, signature: Signature, limits: Limits, labels: Mapping[str, Sequence[str]]
) -> RawVersion | None:
    """What the declared operations of a version do; None where there are none."""
    return None if operations is None else RawVersion(place, operations, signature, limits, labels)


class ServedVersion:
    """A version that answers. Lives on the event loop.

    `codecs` are the protocols' decoders and encoders, `batcher` where its rows wait, `metrics` what is counted, `raw` what its
    declared operations do, if it has any, `in_flight` the requests that entered.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the parts that a version is put together from
        self,
        place: Place,
        codecs: Mapping[str, Codec],
        batcher: Queue,
        metrics: VersionMetrics,
        settings: ModelSettings,
        raw: RawVersion | None = None,
    ) -> None:
        self.name, self.version = place
        self.codecs = codecs
        self.batcher = batcher
        self.metrics = metrics
        self.settings = settings
        self.raw = raw
        if raw is not None:
            raw.default_timeout_s = settings.default_timeout_s
        self.in_flight = 0
        self._loop = asyncio.get_running_loop()
        self._levels, self._default_priority = settings.priority_levels, settings.default_priority
        self._default_timeout_s = settings.default_timeout_s
        self._drained: asyncio.Future[None] | None = None

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
            self._drained = self._loop.create_future()
            if not self.in_flight:
                self._drained.set_result(None)
            await asyncio.shield(self._drained)
            self.batcher.close()
        else:
            await asyncio.shield(self._drained)
