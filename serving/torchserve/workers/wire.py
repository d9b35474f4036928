"""The bytes between us and TorchServe's worker, as `ts/protocol/otf_message_handler.py` of its package reads and writes them.

Integers are big-endian int32, a text or a value is its length and its bytes, a list ends with -1. Pure: nothing here waits.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from serving.errors import ServingError
from serving.torchserve.jobs import Job, Reply

STREAM_NEXT = "ts_stream_next"
"""The header by which a reply says that others follow it ("true"), or that none do."""

_INT = struct.Struct("!i")
_INT_BYTES = 4
_END = _INT.pack(-1)
_MAX_HEADERS = 1000
_CACHED_HEADERS = 256
_LONGEST_KEPT_LABELS = 512
_INTERNAL = frozenset({"explain", "describe"})
"""Headers that TorchServe itself gives a handler; they have no HTTP spelling."""


class BrokenAnswer(ServingError):
    """What the worker sent is no answer, or one that is larger than allowed."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker is told to load. `gpu` is -1 where it has none."""

    name: str
    directory: str
    batch_size: int
    handler: str
    gpu: int = -1
    envelope: str = ""
    limit_max_image_pixels: bool = True


@dataclass(slots=True)
class Answer:
    """One message of a worker: to a load (no replies), or to a batch, with one reply per job, in the batch's order."""

    code: int
    message: str
    replies: list[tuple[str, Reply]] = field(default_factory=list)


def load_message(load: Load) -> bytes:
    """The message that loads a model; the worker answers it with code 200, or ends."""
    return b"".join(
        (
            b"L",
            _sized(_bytes(load.name)),
            _sized(os.fsencode(load.directory)),
            _INT.pack(load.batch_size),
            _sized(_bytes(load.handler)),
            _INT.pack(load.gpu),
            _sized(_bytes(load.envelope)),
            bytes([load.limit_max_image_pixels]),
        )
    )


def batch_message(jobs: Sequence[Job]) -> list[bytes]:
    """The message that asks for predictions of several jobs, in parts; the values themselves are not copied."""
    parts = [b"I"]
    for job in jobs:
        name = _bytes(job.request_id)
        parts += (_INT.pack(len(name)), name, _headers(job.headers))
        for one in job.inputs:
            parts += (_labels(one.name, one.content_type), _INT.pack(len(one.value)), one.value)
        parts.append(_END)
    parts.append(_END)
    return parts


def _bytes(text: str) -> bytes:
    """A text as the worker reads it, which dies of what is no UTF-8."""
    return text.encode("utf-8", "replace")


def _sized(value: bytes) -> bytes:
    return _INT.pack(len(value)) + value


@lru_cache(_CACHED_HEADERS)
def _headers(headers: tuple[tuple[str, str], ...]) -> bytes:
    """The list of headers: a client sends the same with each of its requests."""
    return b"".join(_sized(_bytes(_spelled(name))) + _sized(_bytes(value)) for name, value in headers) + _END


def _labels(name: str, content_type: str) -> bytes:
    """An input's name and type: a client sends the same with each of its requests. Long ones are not kept."""
    is_short = len(name) + len(content_type) <= _LONGEST_KEPT_LABELS
    return (_kept_labels if is_short else _kept_labels.__wrapped__)(name, content_type)


@lru_cache(_CACHED_HEADERS)
def _kept_labels(name: str, content_type: str) -> bytes:
    return _sized(_bytes(name)) + _sized(_bytes(content_type))


def _spelled(name: str) -> str:
    """A header's name as clients write it: the server has made it lower case, and handlers look for `X-Foo`."""
    return name if name in _INTERNAL or "_" in name else name.title()


class _Incomplete(Exception):
    """The bytes end before what is read does: at least so many are needed."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class Decoder:
    """A worker's bytes as answers, however they are cut. What was read of an answer is not read again, reply by reply."""

    def __init__(self, max_bytes: int, max_replies: int) -> None:
        """No text or value may be larger than `max_bytes`, no answer may have more replies than the batch had jobs."""
        self._max_bytes = max_bytes
        self._max_replies = max_replies
        self._rest = bytearray()
        self._needed = 0
        self._answer: Answer | None = None

    def feed(self, data: bytes) -> list[Answer]:
        """The answers that these bytes complete.

        Raises:
            BrokenAnswer: they are no answer, or larger than allowed. The decoder is of no further use.
        """
        if not self._rest:
            answers, at, self._needed = self._read(data)
            self._rest = bytearray(memoryview(data)[at:])
            return answers
        self._rest += data
        if len(self._rest) < self._needed:
            return []
        answers, at, needed = self._read(self._rest)
        del self._rest[:at]
        self._needed = needed
        return answers

    def _read(self, data: bytes | bytearray) -> tuple[list[Answer], int, int]:
        """The answers that are whole, how many bytes were read, and how many of the rest it takes to go on."""
        answers: list[Answer] = []
        at = 0
        with memoryview(data) as view:
            try:
                while at < len(view):
                    if self._answer is None:
                        self._answer, at = self._head(view, at)
                    elif view[at : at + _INT_BYTES] == _END:
                        answers.append(self._answer)
                        self._answer = None
                        at += _INT_BYTES
                    else:
                        at = self._reply(self._answer, view, at)
            except _Incomplete as cut:
                return answers, at, cut.needed - at
        return answers, at, 0

    def _head(self, view: memoryview, at: int) -> tuple[Answer, int]:
        code, at = _integer(view, at)
        message, at = self._text(view, at)
        return Answer(code, message), at

    def _reply(self, answer: Answer, view: memoryview, at: int) -> int:
        request_id, at = self._text(view, at)
        content_type, at = self._text(view, at)
        status, at = _integer(view, at)
        phrase, at = self._text(view, at)
        count, at = _integer(view, at)
        if not 0 <= count <= _MAX_HEADERS:
            raise BrokenAnswer(f"the worker's answer has {count} headers; at most {_MAX_HEADERS} are read")
        headers: list[tuple[str, str]] = []
        for _ in range(count):
            name, at = self._text(view, at)
            value, at = self._text(view, at)
            headers.append((name, value))
        body, at = self._value(view, at)
        if len(answer.replies) == self._max_replies:
            raise BrokenAnswer(f"the worker's answer has more than {self._max_replies} replies")
        answer.replies.append((request_id, Reply(body, status, phrase, content_type, headers)))
        return at

    def _text(self, view: memoryview, at: int) -> tuple[str, int]:
        value, at = self._value(view, at)
        return value.decode("utf-8", "replace"), at

    def _value(self, view: memoryview, at: int) -> tuple[bytes, int]:
        length, at = _integer(view, at)
        if not 0 <= length <= self._max_bytes:
            raise BrokenAnswer(f"the worker's answer has a value of {length} bytes; max_response_size is {self._max_bytes}")
        end = at + length
        if end > len(view):
            raise _Incomplete(end)
        return view[at:end].tobytes(), end


def _integer(view: memoryview, at: int) -> tuple[int, int]:
    end = at + _INT_BYTES
    if end > len(view):
        raise _Incomplete(end)
    return _INT.unpack_from(view, at)[0], end
