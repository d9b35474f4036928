"""The server's log: one JSON object, or one line of text, per event, on stderr, written by a thread so that nobody waits for it.

Everything that reaches the root logger ends here: our own `stateserve`, and granian's, uvicorn's and asyncio's.
"""

import atexit
import contextlib
import itertools
import json
import logging
import os
import queue
import secrets
import select
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import orjson

log = logging.getLogger("stateserve")
_access = logging.getLogger("stateserve.access")

GRANIAN_LOGGING: dict[str, Any] = {"incremental": True, "formatters": {}, "handlers": {}, "loggers": {"_granian": {}}}
"""For granian's `log_dictconfig`: without it, granian closes all handlers, ours too, and gives its own loggers others."""

_WITH_OWN_HANDLERS = ("_granian", "granian.access", "uvicorn", "uvicorn.error", "uvicorn.access")
_MAX_WAITING_BYTES = 4 << 20
_FLUSH_TIMEOUT_S = 2.0
_MAX_REQUEST_ID_CHARACTERS = 128
PROCESS = "process_name"
"""The record's attribute that holds the name of one of several processes."""
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""A record's own attributes: whatever else it has was given by `extra`."""


def configure(log_format: str, *, access_log: bool, process: str | None = None) -> "LogLines":
    """Sends every logger's lines to stderr, as `json` or `text`; `access` writes only with `access_log`.

    Warnings, and what ends a thread or the process, are lines of the log too. What waits is written when the process exits.
    `process` is which one of several this is, as every line then says: "front end 1".
    """
    # Where a process is started without stderr, its number may be that of any other file.
    lines = LogLines(os.open(os.devnull, os.O_WRONLY) if sys.__stderr__ is None else sys.__stderr__.fileno())
    lines.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    lines.process = process
    logging.basicConfig(level=logging.INFO, handlers=[lines], force=True)
    logging.captureWarnings(capture=True)
    for name in _WITH_OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every form that it refuses
    _access.setLevel(logging.INFO if access_log else logging.CRITICAL)
    threading.excepthook = _thread_ended
    sys.excepthook = _process_ended
    atexit.register(lines.flush)
    return lines


def call_process(name: str) -> None:
    """From now on, every line says which of several processes this is."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LogLines):
            handler.process = name


def access(request_id: str, method: str, path: str, status: int, duration_s: float, **more: Any) -> None:
    """One line for one request, if the access log is on; `more` are further fields: model, version, rows."""
    if not _access.isEnabledFor(logging.INFO):
        return
    record = logging.LogRecord(_access.name, logging.INFO, "", 0, "%s %s %s", (method, path, status), None)
    record.__dict__.update(
        request_id=request_id, method=method, path=path, status=status, duration_ms=round(duration_s * 1000, 3), **more
    )
    _access.handle(record)


def request_ids() -> Callable[[], str]:
    """A maker of ids that no other process makes, and that are cheap: a random prefix and a count."""
    prefix, count = secrets.token_hex(6), itertools.count(1)
    return lambda: f"{prefix}-{next(count)}"


def accepted_id(value: str | None) -> str | None:
    """The id that a client gave its request, if it can stand in a header and a log: 1 to 128 printable ASCII characters."""
    if value is not None and 0 < len(value) <= _MAX_REQUEST_ID_CHARACTERS and value.isascii() and value.isprintable():
        return value
    return None


class LogLines(logging.Handler):
    """Lines for a file descriptor, written by a thread of its own: who logs never waits, not even where nobody reads.

    More than 4 MiB never wait to be written: lines beyond are dropped, counted in `dropped_lines`, and their number is told when
    there is room again. `process` is the name of one of several that write to the same file; a pipe takes up to 4096 bytes at
    once, and more may be torn by what another one writes, so that they then write no more than that, in whole lines.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.process: str | None = None
        self.dropped_lines = 0
        self._told_lines = 0
        self._given_bytes = 0  # changed under the handler's lock only
        self._taken_bytes = 0  # changed by the thread only
        self._waiting: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        threading.Thread(target=self._write_all, args=(descriptor,), name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Formats the line, at once so that nothing of the record is held, and hands it to the thread."""
        if self.process is not None:
            record.__dict__.setdefault(PROCESS, self.process)
        try:
            line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        except Exception as error:  # noqa: BLE001 - a record that cannot be formatted must not end who logs it
            line = f"{self.format(_unformatted(record, error))}\n".encode("utf-8", "backslashreplace")
        if self._given_bytes - self._taken_bytes + len(line) > _MAX_WAITING_BYTES:
            self.dropped_lines += 1
            return
        self._tell_dropped()
        self._give(line)

    def flush(self) -> None:
        """Waits until what was logged so far is written, for at most 2 s."""
        self.acquire()
        self._tell_dropped()
        self.release()
        written = threading.Event()
        self._waiting.put(written)
        written.wait(_FLUSH_TIMEOUT_S)

    def close(self) -> None:
        """Writes what waits; the handler can still be used (logging.config closes handlers that loggers still have)."""
        self.flush()
        super().close()

    def _give(self, line: bytes) -> None:
        self._given_bytes += len(line)
        self._waiting.put(line)

    def _tell_dropped(self) -> None:
        if dropped := self.dropped_lines - self._told_lines:
            self._told_lines = self.dropped_lines
            message = "%d log lines were dropped: stderr was not read fast enough"
            record = logging.LogRecord(log.name, logging.WARNING, "", 0, message, (dropped,), None)
            record.__dict__["dropped_lines"] = dropped
            self._give(f"{self.format(record)}\n".encode())

    def _write_all(self, descriptor: int) -> None:
        while True:
            first = self._waiting.get()
            items = [first, *(self._waiting.get_nowait() for _ in range(self._waiting.qsize()))]  # nobody else takes
            lines = [item for item in items if isinstance(item, bytes)]
            with contextlib.suppress(OSError):  # whoever read it has gone: there is nobody to tell
                for data in [b"".join(lines)] if self.process is None else _pieces(lines):
                    _write(descriptor, data)
            self._taken_bytes += sum(map(len, lines))
            for item in items:
                if isinstance(item, threading.Event):
                    item.set()


def _pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The lines, as many together as a pipe takes at once; one that is longer alone."""
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) > select.PIPE_BUF:
            yield piece
            piece = b""
        piece += line
    yield piece


def _write(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # whoever we share the descriptor with made it non-blocking
            select.select([], [descriptor], [])


class JsonFormatter(logging.Formatter):
    """One JSON object: time (RFC 3339, UTC, milliseconds), level, logger, message, what `extra` holds, and a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        fields = _fields(self, record)
        try:
            return orjson.dumps(fields, default=str, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # text that is no UTF-8, an integer of more than 64 bits
            return json.dumps(fields, default=str)


class TextFormatter(logging.Formatter):
    """One line for people: time, level, logger, message, `extra` as key=value; the lines of a traceback follow, indented.

    Control characters are escaped, so that nobody's text looks like a line of ours.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, or several where there is a traceback."""
        fields = _fields(self, record)
        time, level, logger, message = (fields.pop(name) for name in ("time", "level", "logger", "message"))
        details = [f"\n    {_escaped(line)}" for name in ("traceback", "stack") for line in fields.pop(name, "").splitlines()]
        extra = [f" {name}={_escaped(str(value))}" for name, value in fields.items()]
        return "".join([f"{time} {level:<8} {logger}: {_escaped(message)}", *extra, *details])


def _escaped(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    own = {"time": f"{time}Z", "level": record.levelname, "logger": record.name, "message": record.getMessage()}
    if record.exc_info and record.exc_info[0] is not None:
        own["traceback"] = formatter.formatException(record.exc_info)
    if record.stack_info:
        own["stack"] = record.stack_info
    extra = {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
    if (process := extra.pop(PROCESS, None)) is not None:
        own["process"] = process
    return {**own, **{f"{name}_" if name in own else name: value for name, value in extra.items()}}


def _unformatted(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """What is logged in place of a record that cannot be formatted."""
    message = f"a line from {record.pathname}:{record.lineno} cannot be written: {type(error).__name__}: {error}"
    return logging.LogRecord(record.name, logging.ERROR, record.pathname, record.lineno, "%s", (message,), None)


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = ended.thread.name if ended.thread else "unknown"
        log.critical("thread %s ended with an error", name, exc_info=ended.exc_value)


def _process_ended(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, Exception):
        log.critical("the process ended with an error", exc_info=(kind, error, traceback))
    else:
        sys.__excepthook__(kind, error, traceback)  # Ctrl-C
