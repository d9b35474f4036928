"""How raw values are written in each protocol that takes them."""

import base64
import struct
from collections.abc import Mapping
from typing import Any

import orjson

from artifact.operations.raw import RawValue
from bench.body import Body, Raws
from bench.errors import NotAsked

_BOUNDARY = "stateserve-bench"
_MAGIC: Mapping[bytes, str] = {b"\x89PNG": "image/png", b"RIFF": "image/webp", b"\xff\xd8\xff": "image/jpeg"}


def file_alone(raws: Raws) -> Body:
    """One picture's bytes, with its content type."""
    value = _only(raws, bytes, "predictions-image")
    return Body(value, {"Content-Type": _image_type(value)})


def text_alone(raws: Raws) -> Body:
    """One text in UTF-8."""
    return Body(_only(raws, str, "predictions-text").encode(), {"Content-Type": "text/plain; charset=utf-8"})


def multipart(raws: Raws) -> Body:
    """A form with a file for every row (RFC 7578)."""
    parts = []
    for name, values in raws.by_name.items():
        for number, value in enumerate(values):
            data, kind = _file(value)
            disposition = f'form-data; name="{name}"; filename="{number}"'
            head = f"--{_BOUNDARY}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind}\r\n\r\n"
            parts += [head.encode(), data, b"\r\n"]
    return Body(
        b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode()]), {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    )


def values_as_json(raws: Raws) -> Body:
    """`{"inputs": {name: [values]}}`: a picture as `{"b64": …}`, a text as a string, a row as an object."""
    inputs = {name: [_as_json(value) for value in values] for name, values in raws.by_name.items()}
    return Body(orjson.dumps({"inputs": inputs}), {"Content-Type": "application/json"})


def oip_bytes(raws: Raws) -> Body:
    """BYTES tensors of the Open Inference Protocol with its binary extension: each value behind its length in four bytes.

    Two texts are two elements of a row.
    """
    tensors, parts = [], []
    for name, values in raws.by_name.items():
        elements = [element for value in values for element in _elements(value)]
        data = b"".join(struct.pack("<I", len(one)) + one for one in elements)
        shape = [len(values)] if len(elements) == len(values) else [len(values), len(elements) // len(values)]
        stated = {"name": name, "shape": shape, "datatype": "BYTES"}
        tensors.append(stated | {"parameters": {"binary_data_size": len(data)}})
        parts.append(data)
    head = orjson.dumps({"inputs": tensors})
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Body(b"".join([head, *parts]), headers)


def _only(raws: Raws, kind: type, protocol: str) -> Any:
    values = [value for values in raws.by_name.values() for value in values]
    if len(values) != 1 or not isinstance(values[0], kind):
        raise NotAsked(
            f"--protocol {protocol} sends one {'picture' if kind is bytes else 'text'} in a request, and nothing else: "
            "use predictions-values, which has a place for everything"
        )
    return values[0]


def _file(value: RawValue) -> tuple[bytes, str]:
    """A value's bytes, and their content type."""
    if isinstance(value, bytes):
        return value, _image_type(value)
    if isinstance(value, str):
        return value.encode(), "text/plain; charset=utf-8"
    return orjson.dumps(value), "application/json"


def _elements(value: RawValue) -> list[bytes]:
    return [text.encode() for text in value] if isinstance(value, tuple) else [_file(value)[0]]


def _image_type(data: bytes) -> str:
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "application/octet-stream")


def _as_json(value: RawValue) -> Any:
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
