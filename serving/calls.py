"""How the calls of a version are put together: its batcher, with the engine on the loop or in threads, limits and padding."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from serving.batcher import LONG_CALL_S, Batcher, BatchLimits, Executed, OnLoop
from serving.execution import Execution, Prepared
from serving.instance import Instance, ThreadInstance
from serving.joined import JoinedEngine, Padding
from serving.settings import ModelSettings

log = logging.getLogger("stateserve")

_QUEUE_S = 5.0
_QUEUE_CALLS = 8
_QUEUE_ROWS = (128, 4096)
"""Without a setting, as many rows may wait as five seconds answer, and eight calls at least: within these bounds."""


class Calls:
    """The calls of one prepared version, in this process. `execution` changes where calls leave the event loop."""

    def __init__(self, name: str, version: int, prepared: Prepared, settings: ModelSettings) -> None:
        self.name, self.version = name, version
        self.execution = prepared.execution
        self.max_queue_rows = settings.max_queue_rows or queue_rows(prepared.execution)
        self._most = self.execution.max_rows
        self._artifact = prepared.artifact
        self._settings = settings
        self._padding = Padding(self._artifact.signature, settings.preferred_batch_sizes, self.execution.max_rows)

    def batcher(self, metrics: Executed, arriving: Callable[[], int]) -> Batcher:
        """The batcher, with its threads; to be called on the event loop, once. `arriving`: see `OnLoop`."""
        execution = self.execution
        if execution.on_loop:
            runs = OnLoop(self.joined(), arriving, self._leave_loop if self._settings.execution != "loop" else None)
        else:
            runs = [self._thread(number) for number in range(execution.instances)]
        return Batcher(runs, self._limits(), metrics, cut=self._cut)

    def joined(self) -> JoinedEngine:
        """The engine with buffers of its own, for one call at a time."""
        return JoinedEngine(self._artifact.engine, self._artifact.signature, self._padding)

    def _limits(self) -> BatchLimits:
        most, settings = self.execution.max_rows, self._settings
        preferred = tuple(size for size in reversed(settings.preferred_batch_sizes) if size <= most)
        return BatchLimits(
            max_rows=most,
            max_queue_rows=self.max_queue_rows,
            full_rows=preferred[0] if preferred else most,
            preferred=preferred,
            max_delay_s=settings.max_delay_ms / 1000,
            priority_levels=settings.priority_levels,
        )

    def _thread(self, number: int) -> ThreadInstance:
        return ThreadInstance(self.joined(), f"{self.name}-{self.version}-{number}", asyncio.get_running_loop())

    def _leave_loop(self) -> Instance:
        log.warning(
            "%s version %s: a call held the event loop for more than %g ms, although the warm-up was short: from now on its "
            "calls run in a thread. Setting execution=thread for this model does so from the start",
            *(self.name, self.version, LONG_CALL_S * 1e3),
            extra={"model": self.name, "version": self.version},
        )
        self.execution = replace(self.execution, on_loop=False)
        return self._thread(0)

    def _cut(self, most: int) -> int:
        rows = self._padding.cut(most)
        if rows < self._most:
            log.warning(
                "%s version %s: %s has no memory for calls of %d rows: from now on a call has %d at most",
                *(self.name, self.version, self.execution.device, self._most, rows),
                extra={"model": self.name, "version": self.version},
            )
            self._most = rows
        return rows


def queue_rows(execution: Execution) -> int:
    """Rows that may wait for one process' engine, where no setting says so."""
    rows_per_s = execution.instances * max(rows / seconds for rows, seconds in execution.warm_up.seconds.items())
    least, most = _QUEUE_ROWS
    return max(least, _QUEUE_CALLS * execution.untuned_rows, min(most, int(_QUEUE_S * rows_per_s)))
