"""POST /v2/models/{model}[/versions/{version}]/infer: the Open Inference Protocol, with Triton's binary tensors.

A body is JSON, or, with the header `Inference-Header-Content-Length`, so many bytes of JSON and then the tensors' bytes in the
order of the inputs; with that header 0, one tensor alone. The JSON of a binary request is nearly always that of the one before,
so what it says is worked out once, and looked up by its bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import simdjson

from artifact.errors import InvalidInput
from artifact.signature import Signature
from serving.errors import BadRequest
from serving.messages import Answer, Request
from serving.protocols.asked import Arrays, Asked, Limits
from serving.protocols.json_body import (
    QUICK_FAILURES,
    Parsers,
    array_of_data,
    has_no_more_lists,
    is_nested_as,
    json_of_array,
    kind_of,
    lists_of,
    most_lists,
    most_values,
    nesting,
    numbers,
    read_object,
    require_few_values,
)
from serving.protocols.tensors import (
    NUMPY,
    Field,
    Part,
    Recent,
    Shape,
    Shapes,
    array_of_bytes,
    bytes_of_array,
    objects,
    shape_of_bytes,
    shortened,
    timeout_s,
)

HEADER_LENGTH = "inference-header-content-length"
"""The header that tells how many bytes of JSON stand before the tensors."""

_KNOWN_HEADERS = 256
_KNOWN_HEADER_BYTES = 2048
_MOST_DIGITS = 20  # of a number of bytes
_DATA_DEPTH = 3  # of what stands around an input's data: the request, its list of inputs, the input
_OCTETS = ("content-type", "application/octet-stream")
_KINDS = {str: "a string", int: "an integer", bool: "a boolean", list: "a list", dict: "an object"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output of the answer: as binary data or as JSON; as names of its `classes` most likely classes, unless that is 0."""

    name: str
    binary: bool
    classes: int = 0


class Form:
    """The outputs of an answer in order: which are binary, which JSON; and the text around them by their shapes.

    `is_fixed`: nothing but the shapes changes that text.
    """

    def __init__(self, wanted: tuple[Wanted, ...], *, is_fixed: bool) -> None:
        self.wanted = wanted
        self.names = tuple(output.name for output in wanted)
        self.binary = tuple(index for index, output in enumerate(wanted) if output.binary)
        self.json = tuple(index for index, output in enumerate(wanted) if not output.binary)
        self.is_fixed = is_fixed
        self.texts: Recent[tuple[Shape, ...], list[bytes]] = Recent(64)
        self.only = self.names[0] if is_fixed and len(wanted) == 1 and self.binary else None
        self.heads: Recent[Shape, tuple[bytes, str]] = Recent(64)
        """Of the form that most binary clients ask for, one binary output (`only`) and no id: all before its data, by shape."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a request says besides its inputs. `id` is a member of the answer's JSON, or empty."""

    form: Form
    id: bytes = b""
    priority: int = 0
    timeout_us: int = 0


@dataclass(frozen=True, slots=True)
class Stated:
    """One input as the JSON states it: with its data, or with the number of its bytes behind the JSON."""

    name: str
    shape: Shape
    datatype: str
    data: Any
    data_bytes: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What the JSON of a binary request says, which holds for every body that begins with it. `arrays`: data in the JSON."""

    terms: Terms
    parts: tuple[Part, ...]
    arrays: Arrays
    body_bytes: int
    rows: int
    group: tuple[int, ...]


class OipCodec:
    """The protocol for one version of a model. `labels` name the classes of outputs."""

    def __init__(
        self, name: str, version: int, signature: Signature, limits: Limits, labels: Mapping[str, Sequence[str]]
    ) -> None:
        self._inputs = {spec.name: Field.of(spec) for spec in signature.inputs}
        self._outputs = {spec.name: Field.of(spec) for spec in signature.outputs}
        self._batch_dim = signature.batch_dim
        self._limits = limits
        self._labels = labels
        self._shapes = Shapes(signature, limits.max_rows)
        self._most_lists = most_lists(signature, limits.max_rows)
        self._most_values = most_values(signature, limits.max_rows)
        self._parsers = Parsers()
        self._plans: Recent[bytes, Plan] = Recent(_KNOWN_HEADERS)
        self._forms: Recent[tuple[Wanted, ...], Form] = Recent(_KNOWN_HEADERS)
        self._known_terms: Recent[tuple[tuple[str, Any], ...], tuple[Terms, int]] = Recent(_KNOWN_HEADERS)
        self._start = b'{"model_name":%s,"model_version":"%d",' % (orjson.dumps(name), version)
        self._json_terms, self._binary_terms = (
            Terms(self._form(tuple(Wanted(output, binary) for output in self._outputs))) for binary in (False, True)
        )

    def decode(self, request: Request) -> Asked:
        """What the request asks.

        Raises:
            BadRequest: it is not one of the protocol, or holds values that are not of the dtypes that the model takes.
            InvalidInput: its inputs are not those that the model takes, or not of their shapes.
        """
        body, length, timeout_ms = request.body, request.headers.get(HEADER_LENGTH), request.headers.get("x-timeout-ms")
        if length is None:
            require_few_values(body, self._most_values)
            return self._quick(body, timeout_ms) or self._exact(body, timeout_ms)
        header_bytes = _header_bytes(length, len(body))
        if not header_bytes:
            return self._raw(body, timeout_ms)
        header = body[:header_bytes]
        plan = self._plans.get(header) or self._planned(header)
        if len(body) != plan.body_bytes:
            sent, stated = len(body) - header_bytes, plan.body_bytes - header_bytes
            raise BadRequest(f"the body has {sent} bytes behind its JSON, which states {stated}")
        inputs = plan.arrays.copy()
        for part in plan.parts:
            inputs[part.field.name] = part.array(body)
        return _asked(inputs, plan.rows, plan.group, plan.terms, timeout_ms)

    def encode(self, asked: Asked, outputs: Arrays) -> Answer:
        """The answer, with the outputs and in the form that the request named.

        Raises:
            NotAcceptable: an output holds bytes that JSON cannot carry.
        """
        terms: Terms = asked.reply
        form = terms.form
        if form.only is not None and not terms.id:
            array = outputs[form.only]
            head, length = form.heads.get(array.shape) or self._head(form, array)
            return Answer(200, head + array.tobytes(), [_OCTETS, (HEADER_LENGTH, length)])
        arrays = [outputs[name] for name in form.names]
        if not form.is_fixed:
            arrays = [self._classes(output, array) for output, array in zip(form.wanted, arrays, strict=True)]
        data = [bytes_of_array(arrays[index]) for index in form.binary]
        shapes = tuple([array.shape for array in arrays])
        texts = form.texts.get(shapes)
        if texts is None:
            texts = self._texts(form, arrays, data)
            if form.is_fixed:
                form.texts.keep(shapes, texts)
        pieces = [self._start, terms.id, texts[0]]
        for index, text in zip(form.json, texts[1:], strict=True):
            pieces += (json_of_array(form.names[index], arrays[index].reshape(-1)), text)
        if not form.binary:
            return Answer(200, b"".join(pieces), [("content-type", "application/json")])
        length = str(sum(map(len, pieces)))
        return Answer(200, b"".join(pieces + data), [_OCTETS, (HEADER_LENGTH, length)])

    def _head(self, form: Form, array: np.ndarray) -> tuple[bytes, str]:
        head = self._start + b"".join(self._texts(form, [array], [array.tobytes()]))
        return form.heads.keep(array.shape, (head, str(len(head))))

    def parsed_bytes(self, request: Request) -> int:
        """See `Codec.parsed_bytes`."""
        length, body_bytes = request.headers.get(HEADER_LENGTH), len(request.body)
        return body_bytes if length is None or not _is_size(length) else min(int(length), body_bytes)

    def _quick(self, body: bytes, timeout_ms: str | None) -> Asked | None:
        """The usual JSON request; None for any other, and for every one that is refused.

        Nothing of simdjson's document outlives this call, no error that holds it either: its parser is used again.
        """
        try:
            document = self._parsers.parse(body)
            terms, lists = self._quick_terms(document)
            inputs: Arrays = {}
            shapes: dict[str, Shape] = {}
            stated = document["inputs"]
            for tensor in stated:
                name = tensor["name"]
                inputs[name], lists_here = self._quick_array(tensor, self._inputs[name])
                shapes[name] = inputs[name].shape
                lists += lists_here
            if len(inputs) != len(stated) or len(inputs) > self._limits.max_tensors or not has_no_more_lists(body, lists + 1):
                return None
            rows, group = self._shapes.check(shapes)
            return _asked(inputs, rows, group, terms, timeout_ms)
        except (*QUICK_FAILURES, BadRequest, InvalidInput):
            return None

    def _quick_array(self, tensor: Any, field: Field) -> tuple[np.ndarray, int]:
        """The array of one input, and how many lists its shape and data are; ValueError where the exact way must look."""
        data, shape = tensor["data"], tuple(memoryview(tensor["shape"].as_buffer(of_type="i")).cast("q").tolist())
        if len(tensor) != 4 or tensor["datatype"] != field.datatype or len(shape) != len(field.shape):
            raise ValueError(field)
        array = numbers(data, field)
        is_nested = type(data[0]) is simdjson.Array
        if is_nested and (_DATA_DEPTH + len(shape) > self._limits.max_json_depth or not is_nested_as(data, shape)):
            raise ValueError(field)
        if array is None or (array := array.reshape(shape)).shape != shape:  # NumPy would work out a size of -1
            raise ValueError(field)
        return array, 1 + (lists_of(shape) if is_nested else 1)

    def _quick_terms(self, document: Any) -> tuple[Terms, int]:
        """The terms of a document of simdjson's, and how many lists they hold; ValueError where the exact way must look."""
        others = len(document) - 1
        if not others:
            return self._json_terms, 0
        stated = {key: _text(document[key]) for key in document if key != "inputs"}
        if len(stated) != others:
            raise ValueError("a name stands twice")
        id_ = stated.pop("id", "")
        key = tuple(stated.items())
        terms, lists = self._known_terms.get(key) or self._terms_of_texts(key)
        return _with_id(terms, id_), lists

    def _terms_of_texts(self, members: tuple[tuple[str, Any], ...]) -> tuple[Terms, int]:
        """As `_quick_terms`, of members whose lists and objects are JSON texts; kept where others may have the same."""
        texts = [text for _, text in members if isinstance(text, bytes)]
        if any(nesting(text) >= self._limits.max_json_depth for text in texts):
            raise ValueError("nested too deep")
        terms = self._terms({key: orjson.loads(text) if isinstance(text, bytes) else text for key, text in members})
        lists = sum(text.count(b"[") for text in texts)
        is_of_use = sum(map(len, texts)) <= _KNOWN_HEADER_BYTES and len(texts) == len(members)
        return self._known_terms.keep(members, (terms, lists)) if is_of_use else (terms, lists)

    def _exact(self, body: bytes, timeout_ms: str | None) -> Asked:
        """Any JSON request, or what is wrong with it."""
        document = read_object(body, self._limits.max_json_depth, self._most_lists)
        terms, inputs = self._terms(document), self._stated(document)
        behind = next((tensor.name for tensor in inputs if tensor.data_bytes is not None), None)
        if behind is not None:
            raise BadRequest(
                f'input "{behind}" has binary_data_size, but the request has no header Inference-Header-Content-Length'
            )
        rows, group = self._shapes.check({tensor.name: tensor.shape for tensor in inputs})
        return _asked({tensor.name: self._from_json(tensor) for tensor in inputs}, rows, group, terms, timeout_ms)

    def _planned(self, header: bytes) -> Plan:
        """The plan for requests whose JSON this is; it is kept where others may have the same."""
        document = read_object(header, self._limits.max_json_depth, self._most_lists)
        terms, inputs = self._terms(document), self._stated(document)
        rows, group = self._shapes.check({tensor.name: tensor.shape for tensor in inputs})
        arrays, parts, start = {}, [], len(header)
        for tensor in inputs:
            field = self._inputs[tensor.name]
            if tensor.data_bytes is None:
                arrays[field.name] = self._from_json(tensor)
                continue
            self._require_datatype(tensor)
            end = start + tensor.data_bytes
            parts.append(Part.of(field, tensor.datatype, tensor.shape, slice(start, end), unaligned=self._limits.unaligned))
            start = end
        plan = Plan(terms, tuple(parts), arrays, start, rows, group)
        is_of_use = not terms.id and not arrays and len(header) <= _KNOWN_HEADER_BYTES
        return self._plans.keep(header, plan) if is_of_use else plan

    def _raw(self, body: bytes, timeout_ms: str | None) -> Asked:
        """One tensor and nothing else: one row, whose one unknown size, if there is one, follows from the number of bytes."""
        if len(self._inputs) > 1:
            raise BadRequest(f"the model takes {', '.join(self._inputs)}; a request without JSON can hold one input only")
        (field,) = self._inputs.values()
        sizes = [1 if dim == self._batch_dim else dim for dim in field.shape]
        if field.datatype == "BYTES":
            array = objects([body], (1,) * len(sizes))
        else:
            shape = shape_of_bytes(field, sizes, len(body), "its shape in JSON before them")
            array = array_of_bytes(field, field.datatype, body, shape)
        rows, group = self._shapes.check({field.name: array.shape})
        return _asked({field.name: array}, rows, group, self._binary_terms, timeout_ms)

    def _from_json(self, tensor: Stated) -> np.ndarray:
        self._require_datatype(tensor)
        return array_of_data(tensor.data, self._inputs[tensor.name], tensor.shape, tensor.datatype)

    def _require_datatype(self, tensor: Stated) -> None:
        field = self._inputs[tensor.name]
        if tensor.datatype not in NUMPY:
            known = ", ".join(NUMPY)
            raise BadRequest(f'input "{field.name}" has datatype "{shortened(tensor.datatype)}", which is none of {known}')
        if not field.takes(tensor.datatype):
            raise BadRequest(f'input "{field.name}" is sent as {tensor.datatype}; the model takes {field.datatype}')

    def _terms(self, document: Mapping[str, Any]) -> Terms:
        """What the request says besides its inputs. Members and parameters that we do not know are passed over."""
        parameters = _optional(document, "parameters", dict, {}, "the request")
        is_binary = _optional(parameters, "binary_data_output", bool, default=False, where="parameters")
        priority = _count(parameters, "priority", "parameters")
        timeout_us = _count(parameters, "timeout", "parameters")
        terms = self._binary_terms if is_binary else self._json_terms
        if outputs := _optional(document, "outputs", list, [], "the request"):
            terms = Terms(self._form(self._wanted(outputs, is_binary=is_binary)))
        if priority or timeout_us:
            terms = Terms(terms.form, b"", priority, timeout_us)
        return _with_id(terms, document.get("id"))

    def _wanted(self, outputs: Sequence[Any], *, is_binary: bool) -> tuple[Wanted, ...]:
        wanted: dict[str, Wanted] = {}
        for index, output in enumerate(outputs):
            where = f"outputs[{index}]"
            if not isinstance(output, dict):
                raise BadRequest(f"{where} is {kind_of(output)}; an object is expected")
            name = _required(output, "name", str, where)
            if name not in self._outputs:
                raise BadRequest(f"the model gives {', '.join(self._outputs)}; unknown: {shortened(name)}")
            if name in wanted:
                raise BadRequest(f'output "{name}" is asked for twice')
            where = f'output "{name}"'
            parameters = _optional(output, "parameters", dict, {}, where)
            if "shared_memory_region" in parameters:
                raise BadRequest(f"{where} is to be put into shared memory, which is not offered")
            classes = _count(parameters, "classification", where)
            if classes and (not self._outputs[name].shape or self._outputs[name].datatype == "BYTES"):
                raise BadRequest(f"{where} has no classes: classification needs numbers along a dimension")
            wanted[name] = Wanted(name, _optional(parameters, "binary_data", bool, default=is_binary, where=where), classes)
        return tuple(wanted.values())

    def _form(self, wanted: tuple[Wanted, ...]) -> Form:
        is_fixed = not any(output.classes or self._outputs[output.name].datatype == "BYTES" for output in wanted)
        return self._forms.get(wanted) or self._forms.keep(wanted, Form(wanted, is_fixed=is_fixed))

    def _stated(self, document: Mapping[str, Any]) -> list[Stated]:
        """The inputs as the JSON states them, each at most once."""
        inputs = _required(document, "inputs", list, "the request")
        if len(inputs) > self._limits.max_tensors:
            most = self._limits.max_tensors
            raise BadRequest(f"the request has {len(inputs)} inputs; at most {most} are read (setting max_tensors)")
        stated: dict[str, Stated] = {}
        for index, entry in enumerate(inputs):
            if not isinstance(entry, dict):
                raise BadRequest(f"inputs[{index}] is {kind_of(entry)}; an object is expected")
            tensor = _stated_input(entry, f"inputs[{index}]")
            if tensor.name in stated:
                raise BadRequest(f'input "{shortened(tensor.name)}" is there twice')
            stated[tensor.name] = tensor
        return list(stated.values())

    def _classes(self, output: Wanted, array: np.ndarray) -> np.ndarray:
        """The k largest values of the last axis, as `value:index:label`; of equal ones the first comes first, NaN last."""
        if not output.classes:
            return array
        values = np.where(np.isnan(array), -np.inf, array) if array.dtype.kind == "f" else array
        # Sorted backwards and read backwards, so that a stable sort leaves equal values in their order.
        order = array.shape[-1] - 1 - np.argsort(values[..., ::-1], axis=-1, kind="stable")[..., ::-1]
        order = order[..., : output.classes]
        labels = self._labels.get(output.name, ())
        number = "{:f}" if array.dtype.kind == "f" else "{:d}"
        pairs = zip(np.take_along_axis(array, order, -1).ravel().tolist(), order.ravel().tolist(), strict=True)
        named = [(value, str(index), *labels[index : index + 1]) for value, index in pairs]
        return objects([":".join((number.format(value), *words)).encode() for value, *words in named], order.shape)

    def _texts(self, form: Form, arrays: Sequence[np.ndarray], data: Sequence[bytes]) -> list[bytes]:
        """What stands before, between and behind the outputs whose data is in the JSON; `data`: that of the binary outputs."""
        sizes = iter(data)
        text, texts = '"outputs":[', []
        for index, (output, array) in enumerate(zip(form.wanted, arrays, strict=True)):
            datatype = "BYTES" if output.classes else self._outputs[output.name].datatype
            name, shape = orjson.dumps(output.name).decode(), orjson.dumps(array.shape).decode()
            text += f'{"," if index else ""}{{"name":{name},"datatype":"{datatype}","shape":{shape},'
            if output.binary:
                text += f'"parameters":{{"binary_data_size":{len(next(sizes))}}}}}'
            else:
                texts.append(f'{text}"data":'.encode())
                text = "}"
        return [*texts, f"{text}]}}".encode()]


def _asked(inputs: Arrays, rows: int, group: tuple[int, ...], terms: Terms, timeout_ms: str | None) -> Asked:
    if timeout_ms is None and not terms.timeout_us:
        return Asked(inputs, rows, group, terms, terms.priority)
    return Asked(inputs, rows, group, terms, terms.priority, timeout_s(timeout_ms, terms.timeout_us))


def _with_id(terms: Terms, id_: object) -> Terms:
    if id_ is None or id_ == "":
        return terms
    if not isinstance(id_, str):
        raise BadRequest(f"the request: id is {kind_of(id_)}; a string is expected")
    return Terms(terms.form, b'"id":%s,' % orjson.dumps(id_), terms.priority, terms.timeout_us)


def _text(value: Any) -> Any:
    """A list or object of simdjson's as JSON text (bytes, whatever the package's stubs say), any other value as it is."""
    return value.mini if isinstance(value, simdjson.Array | simdjson.Object) else value


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _MOST_DIGITS


def _header_bytes(stated: str, body_bytes: int) -> int:
    """How many bytes of JSON the header states; 0 for none."""
    if _is_size(stated) and (size := int(stated)) <= body_bytes:
        return size
    raise BadRequest(
        f'header Inference-Header-Content-Length is "{shortened(stated)}"; a number from 0 to the {body_bytes} bytes of the body '
        "is expected"
    )


def _stated_input(entry: Mapping[str, Any], where: str) -> Stated:
    name = _required(entry, "name", str, where)
    where = f'input "{shortened(name)}"'
    shape = _required(entry, "shape", list, where)
    wrong = [size for size in shape if type(size) is not int or size < 0]
    if wrong:
        raise BadRequest(f"{where}: shape holds {shortened(wrong[0])}; sizes are integers of 0 or more")
    datatype = _required(entry, "datatype", str, where)
    parameters = _optional(entry, "parameters", dict, {}, where)
    if "shared_memory_region" in parameters:
        raise BadRequest(f"{where} is in shared memory, which is not offered; send its data")
    is_binary = parameters.get("binary_data_size") is not None
    data_bytes = _count(parameters, "binary_data_size", where) if is_binary else None
    if ("data" in entry) == (data_bytes is not None):
        found = "both data and binary_data_size" if "data" in entry else "neither data nor binary_data_size"
        raise BadRequest(f"{where} has {found}; one of them is expected")
    return Stated(name, tuple(shape), datatype, entry.get("data"), data_bytes)


def _required(owner: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = owner.get(key)
    if type(value) is not kind:
        found = kind_of(value) if key in owner else "missing"
        raise BadRequest(f"{where}: {key} is {found}; {_KINDS[kind]} is expected")
    return value


def _optional(owner: Mapping[str, Any], key: str, kind: type, default: Any, where: str) -> Any:
    return default if owner.get(key) is None else _required(owner, key, kind, where)  # null is as good as nothing


def _count(owner: Mapping[str, Any], key: str, where: str) -> int:
    """A parameter that is an integer of 0 or more, 0 where it is not there."""
    value = _optional(owner, key, int, 0, where)
    if value < 0:
        raise BadRequest(f"{where}: {key} is {value}; an integer of 0 or more is expected")
    return value
