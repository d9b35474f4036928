"""What a worker prints: metrics for their reader, a traceback as one line of the log with an id, every other line as it is."""

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger("stateserve.model")

STARTED = b"Torch worker started."
"""The line after which a worker can be connected to."""

_METRICS = b"[METRICS]"
_OF_EVERY_WORKER = (
    *(b"Backend received inference at: ", b"s_name_part0=", b"Listening on port: ", b"[PID]", b"Python runtime: "),
    *(b"Connection accepted: ", b"model_name: ", b"Torch TensorRT not enabled", b"OpenVINO is not enabled", b"ONNX enabled"),
)
"""How lines begin that every worker prints at its start, or for every batch: they are worth nothing in the log."""
_MAX_LINE_BYTES = 16 << 10
_MAX_TRACEBACK_BYTES = 64 << 10
_MAX_LINES_PER_S = 1000
_TRACEBACK = b"Traceback (most recent call last):"
_CHAINED = (
    b"During handling of the above exception, another exception occurred:",
    b"The above exception was the direct cause of the following exception:",
)


class Lines:
    """One worker's output, both streams of it. It is always taken, so that the worker never waits to print.

    More than 1000 lines a second are counted and not logged. `traceback_id` is the id of the first traceback, None if there was
    none since it was last set to None.
    """

    def __init__(self, facts: dict[str, Any], metrics: Callable[[str], bool], started: Callable[[], None]) -> None:
        """`facts` stand in every line of the log, `metrics` gets the metrics' lines and says whether it took them.

        `started` is called once, when the worker can be connected to.
        """
        self._facts = facts
        self._metrics = metrics
        self._started: Callable[[], None] | None = started
        self._rest = b""
        self._traceback: list[bytes] = []
        self._traceback_bytes = 0
        self._error = b""
        self._second = 0
        self._in_second = 0
        self._dropped = 0
        self.traceback_id: str | None = None

    def feed(self, data: bytes) -> None:
        """More output."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line)
        if len(self._rest) > _MAX_LINE_BYTES:
            self.flush()
        elif self._error and not self._rest:
            self._tell_traceback()

    def flush(self) -> None:
        """Takes what has no end of line for a line: the worker has ended."""
        rest, self._rest = self._rest, b""
        if rest:
            self._line(rest)
        self._tell_traceback()

    def _line(self, line: bytes) -> None:
        if line.startswith(_OF_EVERY_WORKER):
            return
        if line.startswith(_METRICS) and self._is_metric(line.decode("utf-8", "replace")):
            return
        if not self._belongs_to_traceback(line):
            self._tell_traceback()
            if line.startswith(_TRACEBACK):
                self._traceback.append(line)
            else:
                self._other(line)

    def _is_metric(self, line: str) -> bool:
        try:
            return self._metrics(line)
        except Exception:  # who counts must not end what a worker is read by
            log.exception("a metric cannot be counted: %s", line, extra=self._facts)
            return True

    def _belongs_to_traceback(self, line: bytes) -> bool:
        """Whether the line goes on with the traceback that is being read: its frames, its error, the tracebacks before it."""
        if not self._traceback:
            return False
        if line in _CHAINED:
            self._error = b""
        elif line and not line[:1].isspace() and not line.startswith(_TRACEBACK):
            if self._error:
                return False
            self._error = line
        self._traceback_bytes += len(line)
        if self._traceback_bytes <= _MAX_TRACEBACK_BYTES:
            self._traceback.append(line)
        return True

    def _tell_traceback(self) -> None:
        if not self._traceback:
            return
        text, error = b"\n".join(self._traceback).rstrip(), self._error or b"a traceback that ends without its error"
        self._traceback, self._traceback_bytes, self._error = [], 0, b""
        traceback_id = secrets.token_hex(8)
        self.traceback_id = self.traceback_id or traceback_id
        facts = {**self._facts, "traceback_id": traceback_id, "traceback": text.decode("utf-8", "replace")}
        log.error("%s", error.decode("utf-8", "replace"), extra=facts)

    def _other(self, line: bytes) -> None:
        if self._started is not None and line.rstrip() == STARTED:
            self._started()
            self._started = None
        second = int(time.monotonic())
        if second != self._second:
            self._tell_dropped()
            self._second, self._in_second = second, 0
        self._in_second += 1
        if self._in_second > _MAX_LINES_PER_S:
            self._dropped += 1
        elif line.strip():
            log.info("%s", line.decode("utf-8", "replace").rstrip("\r"), extra=self._facts)

    def _tell_dropped(self) -> None:
        if self._dropped:
            log.warning("%d lines of a worker were dropped: it prints too many", self._dropped, extra=self._facts)
            self._dropped = 0
