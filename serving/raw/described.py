"""Raw inputs in the OpenAPI document: bodies that can be tried out, their schemas, and what is answered."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from artifact.operations import Operations, RawSpec, RawValue
from serving.protocols.schemas import Schema, any_of, object_of

_FILE: Schema = {"type": "string", "format": "binary"}
_BASE64: Schema = {"type": "string", "contentEncoding": "base64", "description": "base64 of a picture's file, or a data URL"}
_PICTURE: Schema = any_of(
    [
        object_of({"b64": _BASE64}),
        _BASE64,
        object_of({"url": {"type": "string", "description": "as far as the setting input_urls allows it"}}),
    ]
)
_TEXT: Schema = {"type": "string"}
_PAIR: Schema = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}

OUTPUTS: Schema = {
    "name": "outputs",
    "in": "query",
    "required": False,
    "schema": {"enum": ["predictions", "tensors"]},
    "description": "What the answer holds; without it predictions, what the model declares of its outputs.",
}
"""A parameter of requests to models that declare operations on outputs."""

ANY_BODIES: Mapping[str, Schema] = {
    "image/*": {"schema": {"description": "A picture, for models that declare what is done with it.", **_FILE}},
    "text/plain": {"schema": {"description": "A text, for models that declare what is done with it.", **_TEXT}},
    "multipart/form-data": {
        "schema": {"type": "object", "description": "Pictures or texts, a row each.", "additionalProperties": _FILE}
    },
}
"""Bodies for a model of which nothing is known."""


def predictions_request(operations: Operations, max_rows: int) -> Schema:
    """The JSON body of POST /predictions/{model} with raw values: `inputs`, or TorchServe's `instances`."""
    specs = operations.raw_inputs
    several = {spec.name: _some(_value(spec), max_rows) for spec in specs}
    inputs = [{**object_of(several), "additionalProperties": False}]
    instance = object_of({spec.name: _value(spec) for spec in specs})
    if len(specs) == 1:
        inputs.append(_some(_value(specs[0]), max_rows))
        instance = any_of([object_of({"data": _value(specs[0])}), _value(specs[0])])
    return any_of([object_of({"inputs": any_of(inputs)}), object_of({"instances": _list(instance, max_rows)})])


def predictions_example(row: Mapping[str, RawValue]) -> dict[str, Any]:
    """A JSON body for POST /predictions/{model} of one row."""
    return {"inputs": {name: {"b64": _b64(value)} if isinstance(value, bytes) else value for name, value in row.items()}}


def bodies(operations: Operations, row: Mapping[str, RawValue], max_rows: int) -> dict[str, Schema]:
    """The forms other than JSON, which Swagger's page makes a choice of files, or a box of text, of."""
    specs = operations.raw_inputs
    found: dict[str, Schema] = {}
    if len(specs) == 1 and specs[0].kind == "image":
        found |= {mime: {"schema": {"description": "A picture's file.", **_FILE}} for mime in specs[0].details["formats"]}
    if len(specs) == 1 and specs[0].kind == "text":
        found["text/plain"] = {"schema": _TEXT, "example": row[specs[0].name]}
    if all(spec.kind in {"image", "text"} for spec in specs):
        parts = {spec.name: _list(_FILE if spec.kind == "image" else _TEXT, max_rows) for spec in specs}
        found["multipart/form-data"] = {"schema": {"description": "A row for each part.", **object_of(parts)}}
    return found


def predictions_answer(served: Schema, max_rows: int) -> Schema:
    """The JSON answer where operations on outputs are declared; `served` are the members that every answer has."""
    return object_of({**served, "predictions": {"type": "array", "minItems": 1, "maxItems": max_rows, "items": {}}})


def infer_tensor(spec: RawSpec) -> Schema:
    """A raw input as a tensor of the Open Inference Protocol."""
    data = {"image": _BASE64, "row": {"type": "string", "contentMediaType": "application/json"}}.get(spec.kind, _TEXT)
    fields = {
        "name": {"const": spec.name},
        "datatype": {"const": "BYTES"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": 2},
        "data": {"type": "array", "minItems": 1, "items": any_of([data, {"type": "array", "items": data}])},
        "parameters": {"type": "object"},
    }
    return {"title": f"{spec.name} (raw)", **object_of(fields, optional=("parameters",))}


def infer_example(specs: Sequence[RawSpec], row: Mapping[str, RawValue]) -> dict[str, Any]:
    """A JSON body for POST /v2/models/{model}/infer of one row."""
    return {"inputs": [_tensor(spec.name, row[spec.name]) for spec in specs]}


def table_rows(specs: Sequence[RawSpec]) -> list[str]:
    """Of the table that a person reads: what may be sent raw."""
    return [f"| raw | `{spec.name}` | {spec.kind} | | {_told(spec)} |" for spec in specs]


def commands(specs: Sequence[RawSpec], url: str) -> str:
    """How to send a raw value by curl, as Markdown; nothing where there is no short way."""
    place = shlex.quote(url)
    if len(specs) != 1 or specs[0].kind not in {"image", "text"}:
        return ""
    lines = [f"curl -H 'Content-Type: text/plain' --data-binary 'A sentence.' {place}"]
    if specs[0].kind == "image":
        lines = [
            f"curl -H 'Content-Type: image/jpeg' --data-binary @picture.jpg {place}",
            f"curl -F file=@one.jpg -F file=@another.png {place}",
        ]
    return "\n\n```sh\n" + "\n".join(lines) + "\n```"


def _value(spec: RawSpec) -> Schema:
    if spec.kind == "row":
        columns = spec.details["columns"]
        cells = {column["name"]: _cell(column) for column in columns}
        optional = [column["name"] for column in columns if column.get("missing") is not None]
        return {**object_of(cells, optional), "additionalProperties": False}
    return {"image": _PICTURE, "text": _TEXT, "pair": _PAIR}[spec.kind]


def _cell(column: Mapping[str, Any]) -> Schema:
    """A column's value; null is one where the model declares what stands for it."""
    null = column.get("missing") is not None
    if column["kind"] == "category":
        anything = column.get("unknown") == "zeros"
        return {} if anything else {"enum": [*column["values"], *([None] if null else [])]}
    bounds = {word: column[key] for word, key in (("minimum", "min"), ("maximum", "max")) if column.get(key) is not None}
    return {"type": ["number", "null"] if null else "number", **bounds}


def _some(value: Schema, max_rows: int) -> Schema:
    return any_of([value, _list(value, max_rows)])


def _list(value: Schema, max_rows: int) -> Schema:
    return {"type": "array", "minItems": 1, "maxItems": max_rows, "items": value}


def _tensor(name: str, value: RawValue) -> dict[str, Any]:
    if isinstance(value, tuple):
        return {"name": name, "datatype": "BYTES", "shape": [1, 2], "data": list(value)}
    text = _b64(value) if isinstance(value, bytes) else value if isinstance(value, str) else orjson.dumps(value).decode()
    return {"name": name, "datatype": "BYTES", "shape": [1], "data": [text]}


def _told(spec: RawSpec) -> str:
    match spec.kind:
        case "image":
            return f"a JPEG, PNG or WebP file, read as {spec.details['mode']}"
        case "row":
            return "an object of " + ", ".join(f"`{column['name']}` ({column['kind']})" for column in spec.details["columns"])
        case kind:
            return f"{'two texts' if kind == 'pair' else 'a text'}; {spec.details['max_tokens']} tokens count"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
