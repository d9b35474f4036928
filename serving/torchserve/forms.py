"""From a request's body to a handler's inputs: one per field of a form, else a single one called `body`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus, unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header

from serving.torchserve.errors import BadRequestException
from serving.torchserve.jobs import Input

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS = 1000
"""Fields of one form, at most."""


def body_inputs(content_type: str | None, body: bytes) -> tuple[Input, ...]:
    """The inputs of a body. Of fields of one name the last holds; a form's text fields carry no type, its files their own.

    Raises:
        BadRequestException: the form breaks off, is damaged, has a field without a name, or more than `MAX_FIELDS`.
    """
    mime = "" if content_type is None else content_type.partition(";")[0].strip()
    if mime == "application/json":  # what most requests are
        return (Input("body", mime, body),)
    match mime.lower():
        case "multipart/form-data":
            _, options = parse_options_header(content_type)
            boundary = options.get(b"boundary") or options.get(b"Boundary")
            return (Input("body", mime, body),) if boundary is None else _last_of_each(_multipart(boundary, body))
        case "application/x-www-form-urlencoded":
            return _last_of_each(_url_encoded(body))
    return (Input("body", mime, body),)


def query_inputs(query: str) -> tuple[Input, ...]:
    """The parameters of a query as inputs: of those of one name the last holds.

    Raises:
        BadRequestException: there are more than `MAX_FIELDS`.
    """
    pairs = [pair.partition("=") for pair in query.replace(";", "&").split("&") if pair]
    _require_few(len(pairs))
    named = ((name or value, value if name else "") for name, _, value in pairs)
    return _last_of_each([Input(unquote_plus(name), "", unquote_plus(value).encode()) for name, value in named])


def _last_of_each(inputs: list[Input]) -> tuple[Input, ...]:
    return tuple({one.name: one for one in inputs}.values())


def _require_few(count: int) -> None:
    if count > MAX_FIELDS:
        raise BadRequestException(f"The request has more than {MAX_FIELDS} fields.")


def _url_encoded(body: bytes) -> list[Input]:
    """The fields of `a=1&b=2`. Text after the last `&` that has no `=` is no field."""
    fields = body.rstrip(b"\r\n").split(b"&")
    _require_few(len(fields))
    if b"=" not in fields[-1]:
        fields.pop()
    found = []
    for text in filter(None, fields):
        name, _, value = (unquote_to_bytes(part.replace(b"+", b" ")) for part in text.partition(b"="))
        if not name:
            raise BadRequestException("A field of the form has no name.")
        found.append(Input(name.decode("utf-8", "replace"), "", value))
    return found


@dataclass(slots=True)
class _Part:
    """One part of a multipart body, while it is read."""

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

    def as_input(self) -> Input:
        """The part as an input. Raises BadRequestException if it has no name."""
        disposition = self.headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition.decode("latin-1"))
        name = options.get(b"name")
        if not name:
            raise BadRequestException("A part of the form has no name.")
        content_type = ""
        if b"filename" in options or b"filename*=" in disposition:
            given = self.headers.get(b"content-type", b"").decode("latin-1")
            content_type = given.partition(";")[0].strip() or "application/octet-stream"
        return Input(name.decode("utf-8", "replace"), content_type, b"".join(self.data))


def _multipart(boundary: bytes, body: bytes) -> list[Input]:
    if not body:
        return []
    parts: list[_Part] = []

    def begin() -> None:
        _require_few(len(parts) + 1)
        parts.append(_Part())

    def of_last(take: Callable[[_Part, bytes, int, int], None]) -> Callable[[bytes, int, int], None]:
        return lambda data, start, end: take(parts[-1], data, start, end)

    told: MultipartCallbacks = {
        "on_part_begin": begin,
        "on_header_field": of_last(_Part.header_name),
        "on_header_value": of_last(_Part.header_value),
        "on_header_end": lambda: parts[-1].header_end(),  # noqa: PLW0108 - which is the last changes
        "on_part_data": of_last(_Part.part_data),
    }
    try:
        parser = MultipartParser(boundary, told)
        parser.write(body)
    except FormParserError as cause:
        raise BadRequestException(f"The multipart form cannot be read: {cause}") from cause
    if parser.state != MultipartState.END:
        raise BadRequestException("The multipart form breaks off: its last boundary is missing.")
    return [part.as_input() for part in parts]
