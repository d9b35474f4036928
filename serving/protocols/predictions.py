"""POST /predictions/{model}: JSON, NumPy's .npy or raw bytes in; JSON, .npy or raw bytes out.

JSON in: `{"inputs": {name: nested lists}}`, or only the nested lists where the model takes one input. JSON out:
`{"model_name", "model_version", "outputs": {name: nested lists}}`. The other forms hold one tensor and nothing else.
"""

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import simdjson

from artifact.errors import InvalidInput
from artifact.signature import Signature
from serving.errors import BadRequest, NotAcceptable, UnsupportedBody
from serving.messages import Answer, Request
from serving.protocols.accepted import accepted
from serving.protocols.asked import Arrays, Asked, Limits
from serving.protocols.json_body import (
    QUICK_FAILURES,
    Parsers,
    array_of_lists,
    has_no_more_lists,
    is_nested_as,
    json_of_array,
    kind_of,
    lists_of,
    most_lists,
    most_values,
    numbers,
    read_object,
    require_few_values,
    shape_of,
)
from serving.protocols.tensors import (
    DATATYPES,
    Field,
    Part,
    Recent,
    Shape,
    Shapes,
    array_of_bytes,
    bytes_of_array,
    shape_of_bytes,
    shortened,
    timeout_s,
)

JSON, NPY, RAW = "application/json", "application/x-npy", "application/octet-stream"

BODIES: Mapping[str, str] = {
    JSON: JSON,
    NPY: NPY,
    "application/npy": NPY,
    RAW: RAW,
    "application/x-www-form-urlencoded": JSON,  # what `curl -d` says if it is told nothing
}
"""The form of a body by its content type; without one it is JSON."""

FORMS = (JSON, NPY, "application/npy", RAW)
"""Content types of an answer, the preferred one first; all but JSON are for one output."""

_DATA_DEPTH = 2  # of what stands around an input's data: the request, and its inputs by name
_FORM = 'the body is not of the form {"inputs": {name: nested lists}}'

_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADER_BYTES = 10_000  # as many as NumPy itself reads
_NPY_DTYPES = {np.dtype(name).str[1:]: name for name in DATATYPES if name != "bytes"}
_NPY_MEMBER = re.compile(
    rb"""\s*['"](?:descr['"]\s*:\s*['"](?P<descr>[^'"\\]{1,32})['"]|fortran_order['"]\s*:\s*(?P<fortran>True|False)|"""
    rb"""shape['"]\s*:\s*\((?P<shape>[\d\s,]*)\))\s*(?:,\s*|(?=\}))"""
)

_NPY_SIZE = re.compile(rb"0+|[1-9][0-9]{0,18}")  # as Python writes integers

Read = tuple[Arrays, int, tuple[int, ...]]  # inputs, rows, group


@dataclass(frozen=True, slots=True)
class NpyPlan:
    """What the header of a .npy file says. Columns first (`is_fortran`): the part has the sizes in reverse."""

    part: Part
    big_endian: np.dtype | None
    is_fortran: bool
    rows: int
    group: tuple[int, ...]


class PredictionsCodec:
    """The protocol for one version of a model."""

    def __init__(self, name: str, version: int, signature: Signature, limits: Limits) -> None:
        self._inputs = {spec.name: Field.of(spec) for spec in signature.inputs}
        self._outputs = tuple(spec.name for spec in signature.outputs)
        self._limits = limits
        self._shapes = Shapes(signature, limits.max_rows)
        self._most_lists = most_lists(signature, limits.max_rows)
        self._most_values = most_values(signature, limits.max_rows)
        self._parsers = Parsers()
        self._forms: Recent[str, str] = Recent(64)
        self._replies: Recent[str, str] = Recent(64)
        self._raw_plans: Recent[int, tuple[Field, Shape, int, tuple[int, ...]]] = Recent(256)
        self._npy_plans: Recent[bytes, NpyPlan] = Recent(256)
        self._npy_headers: Recent[Shape, bytes] = Recent(64)
        self._start = b'{"model_name":%s,"model_version":"%d","outputs":{' % (orjson.dumps(name), version)
        self._keys = tuple(
            b"%s%s:" % (b"," if index else b"", orjson.dumps(output)) for index, output in enumerate(self._outputs)
        )

    def decode(self, request: Request) -> Asked:
        """What the request asks.

        Raises:
            UnsupportedBody: its content type is not one of `BODIES`.
            NotAcceptable: it accepts no form that the answer can have.
            BadRequest: the body is not of its form, or holds values that are not of the dtypes that the model takes.
            InvalidInput: its inputs are not those that the model takes, or not of their shapes.
        """
        headers, body = request.headers, request.body
        content_type, accept, timeout_ms = headers.get("content-type"), headers.get("accept"), headers.get("x-timeout-ms")
        form = JSON if content_type is None else self._forms.get(content_type) or self._form(content_type)
        reply = JSON if accept is None else self._replies.get(accept) or self._reply(accept)
        if form == JSON:
            require_few_values(body, self._most_values)
            inputs, rows, group = self._quick(body) or self._exact(body)
        else:
            inputs, rows, group = self._npy(body) if form == NPY else self._raw(body)
        if timeout_ms is None:
            return Asked(inputs, rows, group, reply)
        return Asked(inputs, rows, group, reply, timeout_s=timeout_s(timeout_ms))

    def parsed_bytes(self, request: Request) -> int:
        """See `Codec.parsed_bytes`."""
        content_type = request.headers.get("content-type")
        return len(request.body) if content_type is None or self._forms.get(content_type, JSON) == JSON else 0

    def encode(self, asked: Asked, outputs: Arrays) -> Answer:
        """The answer, in the form that the request accepts."""
        headers = [("content-type", asked.reply)]
        if asked.reply == JSON:
            pieces = [self._start]
            for name, key in zip(self._outputs, self._keys, strict=True):
                pieces += (key, json_of_array(name, outputs[name]))
            pieces.append(b"}}")
            return Answer(200, b"".join(pieces), headers)
        array = outputs[self._outputs[0]]
        if asked.reply == RAW:
            return Answer(200, bytes_of_array(array), headers)
        header = self._npy_headers.get(array.shape) or self._npy_headers.keep(array.shape, _npy_header(array))
        return Answer(200, header + bytes_of_array(array), headers)

    def reply_of(self, request: Request) -> str:
        """The content type of the answer to a request. Raises NotAcceptable as `decode` does."""
        accept = request.headers.get("accept")
        return JSON if accept is None else self._replies.get(accept) or self._reply(accept)

    def _form(self, content_type: str) -> str:
        form = BODIES.get(content_type.partition(";")[0].strip().lower())
        if form is None:
            known = f"{JSON}, {NPY}, {RAW}"
            raise UnsupportedBody(f'content type "{shortened(content_type)}" is not one that we read: {known}')
        return self._forms.keep(content_type, form)

    def _reply(self, accept: str) -> str:
        """The content type that the client likes best of those that the answer can have."""
        weights = accepted(accept) or {"*/*": 1.0}
        others = weights.get("application/*", weights.get("*/*", 0.0))
        possible = FORMS if len(self._outputs) == 1 else FORMS[:1]
        best = max(possible, key=lambda form: weights.get(form, others))  # the first of equals
        if not weights.get(best, others):
            several = f"{JSON} only, since it has {len(self._outputs)} outputs"
            forms = f"{JSON}, {NPY} or {RAW}" if len(self._outputs) == 1 else several
            raise NotAcceptable(f'the answer can be {forms}; the request accepts "{shortened(accept)}"')
        return self._replies.keep(accept, best)

    def _quick(self, body: bytes) -> Read | None:
        """The usual JSON body; None for any other, and for every one that is refused.

        Nothing of simdjson's document outlives this call, no error that holds it either: its parser is used again.
        """
        try:
            document = self._parsers.parse(body)
            stated = document["inputs"]
            if type(stated) is simdjson.Array:
                ((name, _),) = self._inputs.items()
                inputs = {name: stated}
            else:
                inputs = {name: stated[name] for name in stated}
            if len(document) != 1 or (len(inputs) != len(stated) and type(stated) is simdjson.Object):
                return None
            shapes = {name: shape_of(data) for name, data in inputs.items()}
            rows, group = self._shapes.check(shapes)
            arrays = {name: self._quick_array(inputs[name], self._inputs[name], shape) for name, shape in shapes.items()}
            if not has_no_more_lists(body, sum(map(lists_of, shapes.values()))):
                return None
        except (*QUICK_FAILURES, InvalidInput):
            return None
        return arrays, rows, group

    def _quick_array(self, data: Any, field: Field, shape: Shape) -> np.ndarray:
        """The array of nested lists; ValueError where the exact way must look."""
        array = numbers(data, field)
        if array is None or _DATA_DEPTH + len(shape) > self._limits.max_json_depth or not is_nested_as(data, shape):
            raise ValueError(field)
        return array.reshape(shape)

    def _exact(self, body: bytes) -> Read:
        """Any JSON body, or what is wrong with it."""
        inputs = read_object(body, self._limits.max_json_depth, self._most_lists).get("inputs")
        if isinstance(inputs, list) and len(self._inputs) == 1:
            inputs = dict.fromkeys(self._inputs, inputs)
        if not isinstance(inputs, dict):
            raise BadRequest(_FORM)
        if len(inputs) > self._limits.max_tensors:
            most = self._limits.max_tensors
            raise BadRequest(f"the request has {len(inputs)} inputs; at most {most} are read (setting max_tensors)")
        none = next((name for name, data in inputs.items() if not isinstance(data, list | int | float)), None)
        if none in self._inputs and self._inputs[none].shape:
            raise BadRequest(f'input "{none}" is {kind_of(inputs[none])}; nested lists are expected')
        shapes = {name: shape_of(data) for name, data in inputs.items()}
        rows, group = self._shapes.check(shapes)
        return {name: array_of_lists(inputs[name], self._inputs[name], shape) for name, shape in shapes.items()}, rows, group

    def _only_input(self, form: str) -> Field:
        if len(self._inputs) > 1:
            names = ", ".join(self._inputs)
            raise UnsupportedBody(f"the model takes {names}; {form} holds one input only: send {JSON}")
        (field,) = self._inputs.values()
        return field

    def _npy(self, body: bytes) -> Read:
        field, start = self._only_input(NPY), _npy_start(body)
        plan = self._npy_plans.get(body[:start]) or self._npy_plan(field, body[:start])
        part = plan.part
        if len(body) != part.end:
            raise BadRequest(f"the .npy file has {len(body) - start} bytes of data; its header states {part.end - start}")
        if plan.big_endian is not None:
            body = body[:start] + np.frombuffer(body, plan.big_endian, offset=start).byteswap().tobytes()
        array = part.array(body)
        return {field.name: np.ascontiguousarray(array.T) if plan.is_fortran else array}, plan.rows, plan.group

    def _npy_plan(self, field: Field, header: bytes) -> NpyPlan:
        descr, is_fortran, shape = _npy_members(header)
        dtype = _NPY_DTYPES.get(descr[1:])
        if dtype is None or descr[0] not in "<>|=":
            raise BadRequest(f'the .npy file holds "{shortened(descr)}", which are not numbers that we read (objects never are)')
        if not field.takes(DATATYPES[dtype]):
            raise BadRequest(f'input "{field.name}" is sent as {dtype}; the model takes {field.dtype.name}')
        rows, group = self._shapes.check({field.name: shape})
        wire = np.dtype(dtype)
        end = len(header) + wire.itemsize * math.prod(shape)
        sizes = shape[::-1] if is_fortran else shape
        part = Part.of(field, DATATYPES[dtype], sizes, slice(len(header), end), unaligned=self._limits.unaligned)
        plan = NpyPlan(part, wire if descr[0] == ">" else None, is_fortran and len(shape) > 1, rows, group)
        return self._npy_plans.keep(header, plan)

    def _raw(self, body: bytes) -> Read:
        field, shape, rows, group = self._raw_plans.get(len(body)) or self._raw_plan(len(body))
        if field.dtype.kind in "fiu":  # every byte is a value's: nothing needs a look
            return {field.name: np.ndarray(shape, field.dtype, body)}, rows, group
        return {field.name: array_of_bytes(field, field.datatype, body, shape)}, rows, group

    def _raw_plan(self, size_bytes: int) -> tuple[Field, Shape, int, tuple[int, ...]]:
        """The input, its shape, rows and group, for bodies of one size."""
        field = self._only_input(RAW)
        shape = shape_of_bytes(field, field.shape, size_bytes, f"{NPY} or {JSON}")
        needed = math.prod(shape) * field.dtype.itemsize
        if size_bytes != needed:
            raise BadRequest(f'input "{field.name}" has {size_bytes} bytes; shape {list(shape)} of {field.datatype} has {needed}')
        return self._raw_plans.keep(size_bytes, (field, shape, *self._shapes.check({field.name: shape})))


def _npy_start(body: bytes) -> int:
    """Where the data of a .npy file begins."""
    if not body.startswith(_NPY_MAGIC) or len(body) < 12:
        raise BadRequest(r"the body is no .npy file: it does not begin with \x93NUMPY, a version and the size of its header")
    if body[6] not in {1, 2, 3} or body[7]:
        raise BadRequest(f"the .npy file has version {body[6]}.{body[7]}; 1.0, 2.0 and 3.0 are read")
    start, size_bytes = (10, 2) if body[6] == 1 else (12, 4)
    size = int.from_bytes(body[8 : 8 + size_bytes], "little")
    if size > min(_NPY_HEADER_BYTES, len(body) - start):
        there, most = len(body) - start, _NPY_HEADER_BYTES
        raise BadRequest(f"the .npy file states a header of {size} bytes; {there} are there, and at most {most} are read")
    return start + size


def _npy_members(header: bytes) -> tuple[str, bool, Shape]:
    """Element type, whether columns come first, and shape, as the Python dictionary in the header of a .npy file has them."""
    stated = header[10 if header[6] == 1 else 12 :]
    text = stated.strip()
    found: dict[str, bytes] = {}
    at = 1
    while (member := _NPY_MEMBER.match(text, at)) is not None:
        found.update((key, value) for key, value in member.groupdict().items() if value is not None)
        at = member.end()
    shape = found.get("shape", b"").strip()
    sizes = [size.strip() for size in shape.removesuffix(b",").split(b",")] if shape else []
    is_tuple = len(sizes) != 1 or shape.endswith(b",")
    is_whole = text[:1] == b"{" and text[at:] == b"}" and len(found) == 3 and b"\v" not in stated  # no space in Python's text
    if not is_whole or not is_tuple or not all(_NPY_SIZE.fullmatch(size) for size in sizes):
        raise BadRequest(f"the .npy file has a header that is not one of plain numbers: {shortened(text.decode('latin-1'))}")
    return found["descr"].decode("latin-1"), found["fortran"] == b"True", tuple(map(int, sizes))


def _npy_header(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    members = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, members)
    return file.getvalue()
