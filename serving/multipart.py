"""The parts of a multipart body (RFC 7578): names, content types, bytes; the parser is python-multipart's."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


class BadForm(ValueError):
    """The body is no whole multipart form. Whoever reads it says so in his protocol's words."""


class TooManyFields(BadForm):
    """The form has more parts than whoever reads it takes."""


@dataclass(frozen=True, slots=True)
class FormPart:
    """One part: `content_type` is empty for a plain field, and its own for a file."""

    name: str
    content_type: str
    data: bytes


def boundary_of(content_type: str) -> bytes | None:
    """The boundary that a content type states, if it does."""
    _, options = parse_options_header(content_type)
    return options.get(b"boundary") or options.get(b"Boundary")


def form_parts(boundary: bytes, body: bytes, most: int) -> list[FormPart]:
    """The parts in order, `most` at most.

    Raises:
        BadForm: the form breaks off, is damaged, or has a part without a name.
        TooManyFields: it has more parts.
    """
    if not body:
        return []
    parts: list[_Reading] = []

    def begin() -> None:
        if len(parts) == most:
            raise TooManyFields(f"The request has more than {most} fields.")
        parts.append(_Reading())

    def of_last(take: Callable[[_Reading, bytes, int, int], None]) -> Callable[[bytes, int, int], None]:
        return lambda data, start, end: take(parts[-1], data, start, end)

    told: MultipartCallbacks = {
        "on_part_begin": begin,
        "on_header_field": of_last(_Reading.header_name),
        "on_header_value": of_last(_Reading.header_value),
        "on_header_end": lambda: parts[-1].header_end(),  # noqa: PLW0108 - which is the last changes
        "on_part_data": of_last(_Reading.part_data),
    }
    try:
        parser = MultipartParser(boundary, told)
        parser.write(body)
    except FormParserError as cause:
        raise BadForm(f"The multipart form cannot be read: {cause}") from cause
    if parser.state != MultipartState.END:
        raise BadForm("The multipart form breaks off: its last boundary is missing.")
    return [part.whole() for part in parts]


@dataclass(slots=True)
class _Reading:
    """One part, while it is read."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: bytes = b""
    value: bytes = b""
    data: list[bytes] = field(default_factory=list)

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def header_end(self) -> None:
        self.headers[self.name.lower()] = self.value
        self.name, self.value = b"", b""

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self.data.append(data[start:end])

    def whole(self) -> FormPart:
        """The part, read. Raises BadForm if it has no name."""
        disposition = self.headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition.decode("latin-1"))
        name = options.get(b"name")
        if not name:
            raise BadForm("A part of the form has no name.")
        content_type = ""
        if b"filename" in options or b"filename*=" in disposition:
            given = self.headers.get(b"content-type", b"").decode("latin-1")
            content_type = given.partition(";")[0].strip() or "application/octet-stream"
        return FormPart(name.decode("utf-8", "replace"), content_type, b"".join(self.data))
