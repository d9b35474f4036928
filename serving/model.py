"""One served version whose engine is in this process: a proven artifact, its batcher, and what it may be asked."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from artifact.artifact import served_labels
from artifact.signature import Signature
from serving.calls import Calls
from serving.execution import Execution, Prepared, prepare
from serving.metrics import VersionMetrics
from serving.protocols.asked import Limits
from serving.served import Place, ServedVersion, codecs_of, raw_of
from serving.settings import ModelSettings


class ServedModel(ServedVersion):
    """A version that passed its checks. Made by `load_model`, on the event loop, where all of it lives.

    `artifact` is what runs, `planned` what settings and bench.json said when it was loaded; `labels` are classes' by output.
    """

    def __init__(
        self, place: Place, prepared: Prepared, settings: ModelSettings, limits: Limits, arriving: Callable[[], int]
    ) -> None:
        self.artifact = loaded = prepared.artifact
        self.planned = prepared.planned
        self._calls = Calls(*place, prepared, settings)
        self.max_queue_rows = self._calls.max_queue_rows
        allowed = replace(limits, max_rows=self.max_queue_rows)
        self.labels = served_labels(loaded.path, loaded.manifest)
        codecs = codecs_of(place, loaded.signature, allowed, self.labels)
        raw = raw_of(place, loaded.operations, loaded.signature, allowed, self.labels)
        metrics = VersionMetrics(*place)
        super().__init__(place, codecs, self._calls.batcher(metrics, arriving), metrics, settings, raw)

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.artifact.signature

    @property
    def execution(self) -> Execution:
        """Where calls run, and the measurement that says so."""
        return self._calls.execution

    @property
    def most_rows(self) -> int:
        """Rows of one engine call at most, as proven and set; fewer may be joined, on the event loop or as tuned."""
        return self.execution.plan.max_rows


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
