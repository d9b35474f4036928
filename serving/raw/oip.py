"""The Open Inference Protocol with raw inputs: a BYTES tensor for each, of one element a row (a pair's has two).

What Triton's and OpenVINO's clients send. Everything of the protocol is as for tensors: the same codec reads the request, of a
signature whose raw inputs are BYTES. An element is a picture's file, a text in UTF-8, or a row as a JSON object; in JSON, where
bytes have no place, a picture is base64.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

from artifact.errors import InvalidInput
from artifact.operations import RawSpec, RawValue
from artifact.signature import BATCH, Dim, Signature, TensorSpec
from serving.errors import BadRequest
from serving.messages import Request
from serving.protocols.asked import Asked, Limits
from serving.protocols.oip import HEADER_LENGTH, OipCodec
from serving.raw.bodies import PICTURES, RawRow, decoded

_BYTES = re.compile(rb'"datatype"\s*+:\s*+"BYTES"')
_LENGTH = struct.Struct("<I")
"""Before each element of a BYTES tensor in binary."""


class RawOip:
    """Reads requests whose raw inputs are BYTES tensors, for one version of a model."""

    def __init__(
        self,
        place: tuple[str, int],
        signature: Signature,
        specs: Sequence[RawSpec],
        limits: Limits,
        labels: Mapping[str, Sequence[str]],
    ) -> None:
        self._specs = specs
        self._codecs = [
            OipCodec(*place, _of_bytes(signature, specs, is_flat=is_flat), limits, labels) for is_flat in (False, True)
        ]

    def decode(self, request: Request) -> tuple[Asked, list[RawRow]] | None:
        """What the request asks, its `inputs` as elements still, and its raw rows; None where it holds tensors.

        Raises:
            BadRequest, InvalidInput: as the codec does; or an element is none of its kind.
        """
        if not self.is_raw(request):
            return None
        asked = self._asked(request)
        columns = [self._column(spec, asked.inputs[spec.name]) for spec in self._specs]
        names = [spec.name for spec in self._specs]
        return asked, [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]

    def is_raw(self, request: Request) -> bool:
        """Whether a tensor of BYTES is in the request, or a picture alone; a quick look."""
        if request.headers.get(HEADER_LENGTH) == "0":
            return len(self._specs) == 1 and self._specs[0].kind == "image" and request.body.startswith(PICTURES)
        return _BYTES.search(request.body, 0, self._codecs[0].parsed_bytes(request)) is not None

    def _asked(self, request: Request) -> Asked:
        """A shape of [rows, 1] is as good as [rows]: clients of several servers differ in it."""
        nested, flat = self._codecs
        if [spec.kind for spec in self._specs] == ["image"]:
            request = _with_size(request, flat.parsed_bytes(request))
        try:
            return flat.decode(request)
        except InvalidInput as cause:
            try:
                return nested.decode(request)
            except InvalidInput:
                raise cause from None

    def _column(self, spec: RawSpec, array: np.ndarray) -> list[RawValue]:
        if spec.kind == "pair":
            return [(_text(spec, first), _text(spec, second)) for first, second in array.reshape(-1, 2)]
        return [self._value(spec, element) for element in array.reshape(-1)]

    def _value(self, spec: RawSpec, element: bytes) -> RawValue:
        if spec.kind == "image":
            return element if element.startswith(PICTURES) else _of_base64(spec, element)
        text = _text(spec, element)
        if spec.kind == "text":
            return text
        try:
            row = orjson.loads(text)
        except orjson.JSONDecodeError as cause:
            raise BadRequest(f'raw input "{spec.name}": a row is not JSON: {cause}') from cause
        if not isinstance(row, dict):
            raise BadRequest(f'raw input "{spec.name}": a row is a JSON object by column')
        return row


def _of_bytes(signature: Signature, specs: Sequence[RawSpec], *, is_flat: bool) -> Signature:
    """The signature with a BYTES tensor for every raw input."""

    def shape(spec: RawSpec) -> tuple[Any, ...]:
        return (BATCH, 2) if spec.kind == "pair" else (BATCH,) if is_flat else (BATCH, 1)

    raw = tuple(TensorSpec(spec.name, "bytes", shape(spec)) for spec in specs)
    dims = {BATCH: Dim(1, 1), **signature.dims}
    return replace(signature, inputs=raw, dims=dims)


def _with_size(request: Request, header_bytes: int) -> Request:
    """The request with the size and the length that OpenVINO's clients leave out of one picture behind the JSON."""
    head, picture = request.body[:header_bytes], request.body[header_bytes:]
    if not head or not picture.startswith(PICTURES):
        return request
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError:
        return request
    match document:
        case {"inputs": [{"datatype": "BYTES"} as stated]} if not stated.keys() & {"data", "parameters"}:
            stated["parameters"] = {"binary_data_size": _LENGTH.size + len(picture)}
            head = orjson.dumps(document)
            headers = {**dict(request.headers.items()), HEADER_LENGTH: str(len(head))}
            return replace(request, headers=headers, body=head + _LENGTH.pack(len(picture)) + picture)
    return request


def _of_base64(spec: RawSpec, element: bytes) -> bytes:
    try:
        return decoded(spec.name, element)
    except BadRequest as cause:
        raise BadRequest(f'raw input "{spec.name}" is neither a JPEG, PNG or WebP file nor base64 of one') from cause


def _text(spec: RawSpec, element: bytes) -> str:
    try:
        return element.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise BadRequest(f'raw input "{spec.name}" holds text that is not UTF-8: byte {element[cause.start]}') from cause
