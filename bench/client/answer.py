"""HTTP/1.1 answers, read as they come: how many bytes make one is all that is wanted of them (RFC 9112, section 6)."""

import re

MAX_HEAD_BYTES = 64 * 1024
"""A head that does not end within this is no answer."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: [^\r\n]*)?\r\n")
_FRAMING = re.compile(rb"\r\n(content-length|transfer-encoding|connection)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")

_HEAD, _COUNTED, _TO_THE_END, _CHUNK_LINE, _CHUNK, _CHUNK_ENDS, _TRAILER = range(7)
_USUAL_LINE = b"HTTP/1.1 200 OK\r\n"
_LENGTH_NAME, _CONNECTION_NAME = len("content-length"), len("connection")
_WITHOUT_CONTENT = (204, 304)


class MalformedAnswer(Exception):
    """What came is not one HTTP/1.1 answer to one request."""


class Answer:
    """The answer that a connection waits for. Once it is whole, the same object waits for the next.

    `keeps` says of the last one whether the connection stays open after it.
    """

    __slots__ = (
        "_alike_size",
        "_head_end",
        "_held",
        "_left",
        "_length_field",
        "_length_place",
        "_phase",
        "_status",
        "keeps",
    )

    def __init__(self) -> None:
        self._phase, self._left, self._status = _HEAD, 0, 0
        self._held = b""
        self._alike_size = self._head_end = self._length_place = 0
        self._length_field = b""
        self.keeps = True

    def feed(self, buffer: bytearray, size: int) -> int:
        """Takes the first `size` bytes: the status of the answer that they complete, 0 where more must come.

        Raises:
            MalformedAnswer: they are no part of an answer, or go on after its end: nothing else was asked.
        """
        if (
            size == self._alike_size
            and buffer.startswith(_USUAL_LINE)
            and buffer.startswith(self._length_field, self._length_place)
            and buffer.startswith(b"\r\n\r\n", self._head_end)
        ):
            return 200
        if self._phase == _HEAD:
            self._alike_size = 0
            return self._usual(buffer, size) or self._head(buffer, size)
        if self._phase == _COUNTED:
            return self._counted(size)
        if self._phase == _TO_THE_END:
            return 0
        return self._chunked(self._held + buffer[:size])

    def _usual(self, buffer: bytearray, size: int) -> int:
        """200 if that is the answer, it is whole, and only its length says something of its framing; 0 for every other.

        The next as long as this, with the end of its head and its length at the same places, is taken for the same kind without
        being parsed: a field that is new, such as `Connection: close`, would have moved them. That saves a third of our time.
        """
        end = buffer.find(b"\r\n\r\n", 0, size)
        if self._held or end < 0 or not buffer.startswith(_USUAL_LINE):
            return 0
        fields = list(_FRAMING.finditer(buffer, len(_USUAL_LINE) - 2, end))
        if len(fields) != 1 or len(fields[0][1]) != _LENGTH_NAME or fields[0][2] != b"%d" % (size - end - 4):
            return 0
        self._alike_size, self._head_end = size, end
        self._length_field, self._length_place = fields[0][0] + b"\r\n", fields[0].start()
        self.keeps = True
        return 200

    def ended(self) -> int:
        """The connection was closed: the status of an answer that goes to its end; 0 where something is missing."""
        return self._whole() if self._phase == _TO_THE_END else 0

    def _head(self, buffer: bytes | bytearray, size: int) -> int:
        if self._held:
            buffer = self._held + buffer[:size]
            size = len(buffer)
        end = buffer.find(b"\r\n\r\n", 0, size)
        if end < 0:
            return self._hold(buffer[:size])
        line = _STATUS_LINE.match(buffer, 0, end + 2)
        if line is None:
            raise MalformedAnswer
        self._held = b""
        self._status = int(line[2])
        if self._status < 200:  # an interim answer: the real one follows
            rest = buffer[end + 4 : size]
            return self._head(rest, len(rest)) if rest else 0
        self.keeps = line[1] == b"1"
        return self._content(_FRAMING.findall(buffer, line.end() - 2, end), buffer, end + 4, size)

    def _hold(self, part: bytes | bytearray) -> int:
        if len(part) > MAX_HEAD_BYTES or not part.startswith(b"HTTP/1."[: len(part)]):
            raise MalformedAnswer
        self._held = bytes(part)
        return 0

    def _content(self, framing: list[tuple[bytes, bytes]], buffer: bytes | bytearray, start: int, size: int) -> int:
        length, coded, chunked = -1, False, False
        for name, value in framing:
            kind = len(name)  # the three names differ in length
            if kind == _LENGTH_NAME:
                length = _length(value, length)
            elif kind == _CONNECTION_NAME:
                self._connection(value)
            else:
                coded, chunked = True, value.lower().rstrip().endswith(b"chunked")
        if self._status in _WITHOUT_CONTENT:
            length = 0
        elif chunked:
            self._phase = _CHUNK_LINE
            return self._chunked(bytes(buffer[start:size]))
        elif coded or length < 0:
            self._phase, self.keeps = _TO_THE_END, False
            return 0
        self._phase, self._left = _COUNTED, length
        return self._counted(size - start)

    def _connection(self, value: bytes) -> None:
        options = {option.strip() for option in value.lower().split(b",")}
        self.keeps = b"close" not in options and (self.keeps or b"keep-alive" in options)

    def _counted(self, size: int) -> int:
        self._left -= size
        if self._left > 0:
            return 0
        if self._left < 0:
            raise MalformedAnswer
        return self._whole()

    def _chunked(self, data: bytes) -> int:
        """RFC 9112, section 7.1. What of a line or line end has not come whole is held."""
        at, self._held = 0, b""
        while at < len(data):
            if self._phase == _CHUNK:
                taken = min(self._left, len(data) - at)
                at, self._left = at + taken, self._left - taken
                if self._left == 0:
                    self._phase = _CHUNK_ENDS
                continue
            end = data.find(b"\n", at) + 1
            if end == 0:
                return self._hold_line(data[at:])
            if self._line(data[at:end]):
                if end < len(data):
                    raise MalformedAnswer
                return self._whole()
            at = end
        return 0

    def _line(self, line: bytes) -> bool:
        """One line of the chunked coding; true for the last."""
        if self._phase == _TRAILER:
            return line == b"\r\n"
        if self._phase == _CHUNK_ENDS:
            if line != b"\r\n":
                raise MalformedAnswer
            self._phase = _CHUNK_LINE
            return False
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise MalformedAnswer
        self._left = int(size[1], 16)
        self._phase = _CHUNK if self._left else _TRAILER
        return False

    def _hold_line(self, part: bytes) -> int:
        if len(part) > MAX_HEAD_BYTES:
            raise MalformedAnswer
        self._held = part
        return 0

    def _whole(self) -> int:
        self._phase = _HEAD
        return self._status


def _length(value: bytes, before: int) -> int:
    text = value.strip()
    if not text.isdigit() or before not in {-1, int(text)}:
        raise MalformedAnswer
    return int(text)
