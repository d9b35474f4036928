"""POST /predictions/{model} with raw inputs: which rows a body holds.

- `image/*`: one picture. `text/plain`: one text. `multipart/form-data`: a row per file or field; where the model has several raw
  inputs, the n-th part of each name belongs to the n-th row.
- JSON: `{"inputs": {name: value or list of values}}`, `{"inputs": value or list}` where there is one raw input, or TorchServe's
  `{"instances": [{"data": value}, …]}`. A picture is `{"b64": "…"}`, a data URL or the base64 text alone, or `{"url": "…"}` where
  the settings allow it; a text is a string, a pair a list of two, a row an object by column.
"""

import binascii
import codecs
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from artifact.operations import RawSpec, RawValue
from serving.errors import BadRequest, UnsupportedBody
from serving.messages import Request
from serving.multipart import BadForm, TooManyFields, boundary_of, form_parts
from serving.protocols.asked import Limits
from serving.protocols.json_body import kind_of, nesting_and_lists
from serving.protocols.tensors import shortened

JSON_TYPES = frozenset({"application/json", "application/x-www-form-urlencoded"})

_TENSORS = re.compile(rb'\s*+\{\s*+"inputs"\s*+:\s*+(?:\{\s*+"([^"\\]{1,64})"\s*+:\s*+)?[\[\s]*+[-\d]')
"""How the JSON of tensors begins, with the first one's name: such a body needs no look for raw values.

Possessive quantifiers: nothing is tried twice, however many spaces there are.
"""
PICTURES = (b"\xff\xd8", b"\x89PNG", b"RIFF")
"""What the files of pictures begin with, and no JSON does."""
_TYPES = {"image": "image/jpeg, image/png or image/webp", "text": "text/plain"}
"""Content types for one raw value alone, by its kind."""
_SPACE = b" \t\r\n"
_LISTS_AROUND = 4096
"""So many lists and objects may stand around the rows, each of which has one for itself, and one for each value."""
_DATA_URL = re.compile(r"data:[\w.+/;=-]{0,128},")


@dataclass(frozen=True, slots=True)
class Url:
    """A value that is to be fetched first."""

    url: str


RawRow = Mapping[str, RawValue | Url]


def raw_rows(request: Request, specs: Sequence[RawSpec], limits: Limits, most_tensor_lists: int = 0) -> list[RawRow] | None:
    """The rows of a body; None where it holds tensors, or nothing of ours, and the codec of tensors shall judge.

    JSON of tensors has up to `most_tensor_lists` lists.

    Raises:
        BadRequest: the body is not of its form.
        UnsupportedBody: a content type that is for one raw input, or for another kind than the model takes.
    """
    mime = _mime(request)
    if mime in JSON_TYPES:
        if request.body.startswith(PICTURES):  # curl calls every file a form
            return [{_only(specs, "image", "image/*").name: request.body}]
        body = request.body.removeprefix(codecs.BOM_UTF8)
        return None if _begins_with_tensors(body, specs) else _rows_of_json(body, specs, limits, most_tensor_lists)
    if mime.startswith("image/"):
        return [{_only(specs, "image", mime).name: request.body}]
    if mime == "text/plain":
        return [{_only(specs, "text", mime).name: _text(request.body)}]
    if mime == "multipart/form-data":
        return _rows_of_form(request.headers.get("content-type") or "", request.body, specs, limits)
    return None


def may_be_raw(request: Request, specs: Sequence[RawSpec]) -> bool:
    """Whether a body may hold raw values; a quick look at its type and its beginning."""
    mime = _mime(request)
    if mime in JSON_TYPES:
        return not _begins_with_tensors(request.body.removeprefix(codecs.BOM_UTF8), specs)
    return mime.startswith("image/") or mime in {"text/plain", "multipart/form-data"}


def _mime(request: Request) -> str:
    return (request.headers.get("content-type") or "application/json").partition(";")[0].strip().lower()


def _begins_with_tensors(body: bytes, specs: Sequence[RawSpec]) -> bool:
    found = _TENSORS.match(body)
    return found is not None and (found[1] is None or found[1].decode("utf-8", "replace") in _tensors(specs))


def _tensors(specs: Sequence[RawSpec]) -> list[str]:
    return [name for spec in specs for name in spec.makes]


def _only(specs: Sequence[RawSpec], kind: str, mime: str) -> RawSpec:
    if len(specs) == 1 and specs[0].kind == kind:
        return specs[0]
    taken = ", ".join(f"{spec.name} ({spec.kind})" for spec in specs)
    own = f"{_TYPES[specs[0].kind]}, " if len(specs) == 1 and specs[0].kind in _TYPES else ""
    raise UnsupportedBody(
        f"a body of {mime} holds one {kind}; the model takes {taken}: send {own}application/json or multipart/form-data"
    )


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise BadRequest(f"the text is not UTF-8: byte {data[cause.start]} at position {cause.start}") from cause


def _rows_of_form(content_type: str, body: bytes, specs: Sequence[RawSpec], limits: Limits) -> list[RawRow]:
    boundary = boundary_of(content_type)
    if boundary is None:
        raise BadRequest("content type multipart/form-data states no boundary")
    try:
        parts = form_parts(boundary, body, limits.max_rows * len(specs))
    except TooManyFields as cause:
        raise BadRequest(
            f"the form has more than {limits.max_rows} rows; for this model no more are read (max_queue_rows)"
        ) from cause
    except BadForm as cause:
        raise BadRequest(str(cause)) from cause
    if len(specs) == 1:  # whatever its name: curl -F file=@cat.jpg
        return _rows({specs[0].name: [_of_bytes(specs[0], part.data) for part in parts]})
    columns: dict[str, list[RawValue | Url]] = {spec.name: [] for spec in specs}
    for part in parts:
        if part.name not in columns:
            raise BadRequest(f'the form has a part "{shortened(part.name)}"; the raw inputs are {", ".join(columns)}')
        columns[part.name].append(_of_bytes(next(spec for spec in specs if spec.name == part.name), part.data))
    return _rows(columns)


def _of_bytes(spec: RawSpec, data: bytes) -> RawValue | Url:
    """A value that came as bytes: a picture's file, a text, or JSON for the others."""
    if spec.kind == "image":
        return data
    text = _text(data)
    if spec.kind == "text":
        return text
    try:
        return _value(spec, orjson.loads(text))
    except orjson.JSONDecodeError as cause:
        raise BadRequest(f'raw input "{spec.name}" is not JSON: {cause}') from cause


def _parsed(body: bytes, most_lists: int, limits: Limits) -> Any:
    """The JSON of a body. What it is made of is looked at first: lists and objects cost far more than their brackets."""
    depth, lists = nesting_and_lists(body)
    if depth > limits.max_json_depth:
        raise BadRequest(
            f"the body is nested {depth} levels deep; at most {limits.max_json_depth} are read (setting max_json_depth)"
        )
    if lists > most_lists:
        raise BadRequest(f"the body has {lists} lists and objects; for this model at most {most_lists} are read")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise BadRequest(f"the body is not JSON: {cause}") from cause


def _rows_of_json(body: bytes, specs: Sequence[RawSpec], limits: Limits, most_tensor_lists: int) -> list[RawRow] | None:
    document = _parsed(body, max(_LISTS_AROUND + limits.max_rows * (len(specs) + 1), most_tensor_lists), limits)
    if isinstance(document, str) or (isinstance(document, list) and document and isinstance(document[0], str)):
        document = {"inputs": document}
    if not isinstance(document, dict):
        return None
    instances: Any = document.get("instances")
    if isinstance(instances, list):
        if _is_raw(instances):
            require_few(len(instances), limits.max_rows)
        return _rows_of_instances(instances, specs)
    inputs = document.get("inputs")
    _require_known(inputs, specs)
    if not _has_raw(inputs, specs):
        return None
    names = [spec.name for spec in specs]
    stated = inputs if isinstance(inputs, dict) and (len(specs) > 1 or set(inputs) <= set(names)) else {names[0]: inputs}
    if unknown := [name for name in stated if name not in names]:
        raise BadRequest(f'unknown: "{shortened(unknown[0])}"; the raw inputs are {", ".join(names)}')
    if missing := [name for name in names if name not in stated]:
        raise BadRequest(f"the raw inputs are {', '.join(names)}; missing: {', '.join(missing)}: inputs is an object of them all")
    return _rows({spec.name: _values(spec, stated[spec.name], limits.max_rows) for spec in specs})


def _require_known(inputs: Any, specs: Sequence[RawSpec]) -> None:
    """Raises BadRequest where inputs by name have neither a raw input nor a tensor among them."""
    if not isinstance(inputs, dict) or not inputs or {"b64", "url"} & set(inputs) or [spec.kind for spec in specs] == ["row"]:
        return
    names, tensors = [spec.name for spec in specs], _tensors(specs)
    if not set(inputs) & {*names, *tensors}:
        unknown = ", ".join(f'"{shortened(name)}"' for name in list(inputs)[:3])
        raise BadRequest(f"unknown: {unknown}; the raw inputs are {', '.join(names)}, the tensors {', '.join(tensors)}")


def _has_raw(inputs: Any, specs: Sequence[RawSpec]) -> bool:
    """Whether inputs hold a raw value: a string or an object where tensors have numbers."""
    if not isinstance(inputs, dict) or (len(specs) == 1 and specs[0].kind == "row" and specs[0].name not in inputs):
        return _is_raw(inputs)
    named = [inputs[spec.name] for spec in specs if spec.name in inputs]
    if named and not set(inputs) & set(_tensors(specs)):  # raw names alone: what is below them must be raw
        return True
    return any(_is_raw(value) for value in named) or (not named and bool({"b64", "url"} & set(inputs)))


def _is_raw(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, (str, dict))


def _rows_of_instances(instances: list[Any], specs: Sequence[RawSpec]) -> list[RawRow] | None:
    if not _is_raw(instances):
        return None
    if len(specs) == 1:
        return [{specs[0].name: _value(specs[0], _data_of(one, specs[0]))} for one in instances]
    columns: dict[str, list[RawValue | Url]] = {spec.name: [] for spec in specs}
    for index, one in enumerate(instances):
        for spec in specs:
            if not isinstance(one, dict) or spec.name not in one:
                raise BadRequest(f"instances[{index}] has no {spec.name}; the raw inputs are {', '.join(columns)}")
            columns[spec.name].append(_value(spec, one[spec.name]))
    return _rows(columns)


def _data_of(one: Any, spec: RawSpec) -> Any:
    """What an instance holds: below the input's name, below `data` or `body` as TorchServe has it, or the instance itself."""
    if isinstance(one, dict):
        for key in (spec.name, "data", "body"):
            if set(one) == {key}:
                return one[key]
    return one


def require_few(rows: int, most: int) -> None:
    """Raises BadRequest where a request has more rows than the model's queue holds."""
    if rows > most:
        raise BadRequest(f"the request has {rows} rows; for this model at most {most} are read (max_queue_rows)")


def _rows(columns: Mapping[str, Sequence[RawValue | Url]]) -> list[RawRow]:
    counts = {name: len(values) for name, values in columns.items()}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        shown = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise BadRequest(f"the request has {shown}; as many of each are expected, and one at least")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _values(spec: RawSpec, stated: Any, most: int) -> list[RawValue | Url]:
    """A single value, or a list of them: a pair alone is a list of two strings."""
    is_list = isinstance(stated, list) and not (spec.kind == "pair" and len(stated) == 2 and isinstance(stated[0], str))
    values = stated if is_list else [stated]
    require_few(len(values), most)
    return [_value(spec, one) for one in values]


def _value(spec: RawSpec, stated: Any) -> RawValue | Url:
    if spec.kind == "image":
        return _picture(spec, stated)
    if spec.kind == "text" and isinstance(stated, str):
        return stated
    if spec.kind == "pair" and isinstance(stated, list) and len(stated) == 2 and all(isinstance(part, str) for part in stated):
        return stated[0], stated[1]
    if spec.kind == "row" and isinstance(stated, dict):
        return stated
    wanted = {"text": "a string", "pair": "a list of two strings", "row": "an object by column"}[spec.kind]
    raise BadRequest(f'raw input "{spec.name}" is {kind_of(stated)}; {wanted} is expected')


def _picture(spec: RawSpec, stated: Any) -> bytes | Url:
    if isinstance(stated, dict) and len(stated) == 1:
        (key, value), *_ = stated.items()
        if key == "url" and isinstance(value, str):
            return Url(value)
        if key == "b64" and isinstance(value, str):
            return decoded(spec.name, value)
        found = f'"{shortened(str(key))}": {kind_of(value)}'
        raise BadRequest(f'raw input "{spec.name}" is an object of {found}; a picture is {{"b64": "base64 of its file"}}')
    if isinstance(stated, str):
        return decoded(spec.name, stated)
    raise BadRequest(f'raw input "{spec.name}" is {kind_of(stated)}; a picture is {{"b64": "base64 of its file"}}')


def decoded(name: str, text: str | bytes) -> bytes:
    """The bytes of base64, of a data URL too; it may stand in lines. Raises BadRequest where it is neither."""
    if isinstance(text, str) and text.startswith("data:"):
        text = _DATA_URL.sub("", text, count=1)
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    with contextlib.suppress(binascii.Error):
        return binascii.a2b_base64(data, strict_mode=True)
    try:
        return binascii.a2b_base64(data.translate(None, _SPACE), strict_mode=True)
    except binascii.Error as cause:
        raise BadRequest(f'raw input "{name}" is not base64: {cause}') from cause
