"""From a request's body to a handler's inputs: one per field of a form, else a single one called `body`."""

from urllib.parse import unquote_plus, unquote_to_bytes

from serving.multipart import BadForm, boundary_of, form_parts
from serving.torchserve.errors import BadRequestException
from serving.torchserve.jobs import Input

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
            boundary = boundary_of(content_type or "")
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


def _multipart(boundary: bytes, body: bytes) -> list[Input]:
    try:
        return [Input(part.name, part.content_type, part.data) for part in form_parts(boundary, body, MAX_FIELDS)]
    except BadForm as cause:
        raise BadRequestException(str(cause)) from cause
