"""What a signature allows, as JSON Schema (2020-12, as OpenAPI 3.1 has it): the bodies of both protocols, and their answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifact.operations import Operations
from artifact.signature import DTYPES, Dim, Signature, TensorSpec
from serving.protocols.tensors import DATATYPES

Schema = dict[str, Any]
Bound = int | float


@dataclass(frozen=True, slots=True)
class Described:
    """One served version, as far as its documentation shows it; one request may have at most `max_rows` rows."""

    name: str
    version: int
    signature: Signature
    max_rows: int
    operations: Operations | None = None

    @property
    def dims(self) -> dict[str, Dim]:
        """The sizes in a request: the signature's, but rows up to `max_rows`, since the server joins and splits them."""
        dims, batch = dict(self.signature.dims), self.signature.batch_dim
        if batch is not None:
            dims[batch] = Dim(min(dims[batch].min, self.max_rows), self.max_rows)
        return dims


def predictions_request(model: Described) -> Schema:
    """The JSON body of POST /predictions/{model}; the lists of an only input can stand without its name."""
    arrays = {spec.name: _nested(spec, model.dims, _element(spec)) for spec in model.signature.inputs}
    only = [array for array in arrays.values() if len(arrays) == 1 and array["type"] == "array"]
    return object_of({"inputs": any_of([{**object_of(arrays), "additionalProperties": False}, *only])})


def predictions_answer(model: Described) -> Schema:
    """The JSON answer to it."""
    arrays = {spec.name: _nested(spec, model.dims, _answered(spec)) for spec in model.signature.outputs}
    return object_of({**served(model), "outputs": object_of(arrays)})


def infer_request(model: Described) -> Schema:
    """The JSON body of POST /v2/models/{model}/infer: tensors in any order, their data nested or flat."""
    inputs = [_tensor(spec, model.dims, _element(spec)) for spec in model.signature.inputs]
    outputs = [spec.name for spec in model.signature.outputs]
    asked = {"name": {"enum": outputs}, "parameters": OUTPUT_PARAMETERS}
    optional = {
        "id": {"type": "string", "description": "Sent back with the answer."},
        "parameters": REQUEST_PARAMETERS,
        "outputs": {
            "type": "array",
            "items": object_of(asked, optional=("parameters",)),
            "description": "Without it, all of them.",
        },
    }
    tensors = {"type": "array", "minItems": len(inputs), "maxItems": len(inputs), "items": any_of(inputs)}
    return object_of({"inputs": tensors, **optional}, optional=tuple(optional))


def infer_answer(model: Described) -> Schema:
    """The JSON answer to it."""
    outputs = [_tensor(spec, model.dims, _answered(spec)) for spec in model.signature.outputs]
    tensors = {"type": "array", "items": any_of([*outputs, CLASSES])}
    return object_of({**served(model), "id": {"type": "string"}, "outputs": tensors}, optional=("id",))


def bounds(spec: TensorSpec) -> tuple[Bound, Bound] | None:
    """An input's smallest and largest value: its range, as far as its dtype reaches. None for booleans, or floats of no range."""
    if spec.dtype == "bool":
        return None
    dtype = DTYPES[spec.dtype]
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return spec.range and (max(spec.range[0], float(limits.min)), min(spec.range[1], float(limits.max)))
    whole = np.iinfo(dtype)
    low, high = spec.range or (whole.min, whole.max)
    return max(math.ceil(low), int(whole.min)), min(math.floor(high), int(whole.max))


def _element(spec: TensorSpec) -> Schema:
    kind = {"b": "boolean", "f": "number"}.get(DTYPES[spec.dtype].kind, "integer")
    limits = bounds(spec)
    return {"type": kind} if limits is None else {"type": kind, "minimum": limits[0], "maximum": limits[1]}


def _answered(spec: TensorSpec) -> Schema:
    """Of an output: NaN and infinities, which JSON has no words for, are null."""
    kind = {"b": "boolean", "f": ["number", "null"]}.get(DTYPES[spec.dtype].kind, "integer")
    return {"type": kind}


def _nested(spec: TensorSpec, dims: Mapping[str, Dim], element: Schema) -> Schema:
    schema = element
    for size in reversed(spec.shape):
        schema = {**_list_of(size, dims), "items": schema}
    return schema


def _list_of(size: int | str, dims: Mapping[str, Dim]) -> Schema:
    if isinstance(size, int):
        return {"type": "array", "minItems": size, "maxItems": size}
    dim = dims[size]
    return {"type": "array", "description": f"{size}: {dim}", "minItems": dim.min, "maxItems": dim.max}


def _tensor(spec: TensorSpec, dims: Mapping[str, Dim], element: Schema) -> Schema:
    least = math.prod(size if isinstance(size, int) else dims[size].min for size in spec.shape)
    most = math.prod(size if isinstance(size, int) else dims[size].max for size in spec.shape)
    data = [_nested(spec, dims, element)]
    if len(spec.shape) != 1:  # else nested is flat
        data.append({"type": "array", "description": "flat, row-major", "minItems": least, "maxItems": most, "items": element})
    fields = {
        "name": {"const": spec.name},
        "datatype": {"const": DATATYPES[spec.dtype]},
        "shape": _shape(spec.shape, dims),
        "data": any_of(data),
        "parameters": {"type": "object"},
    }
    return {"title": spec.name, **object_of(fields, optional=("parameters",))}


def _shape(shape: Sequence[int | str], dims: Mapping[str, Dim]) -> Schema:
    sizes = [{"const": size} if isinstance(size, int) else _size(dims[size]) for size in shape]
    prefix = {"prefixItems": sizes} if sizes else {}
    return {"type": "array", **prefix, "minItems": len(sizes), "maxItems": len(sizes), "items": {"type": "integer"}}


def _size(dim: Dim) -> Schema:
    multiple = {} if dim.multiple == 1 else {"multipleOf": dim.multiple}
    return {"type": "integer", "minimum": dim.min, "maximum": dim.max, **multiple}


def served(model: Described) -> Schema:
    """The members of every answer."""
    return {"model_name": {"const": model.name}, "model_version": {"const": str(model.version)}}


def object_of(fields: Schema, optional: Sequence[str] = ()) -> Schema:
    """An object of these members, all required but the optional ones."""
    return {"type": "object", "required": [name for name in fields if name not in optional], "properties": fields}


def any_of(schemas: list[Schema]) -> Schema:
    """One of these."""
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


REQUEST_PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "priority": {"type": "integer", "minimum": 0, "description": "1 goes first; 0 is the model's default."},
        "timeout": {"type": "integer", "minimum": 0, "description": "The request's own deadline, in microseconds."},
        "binary_data_output": {"type": "boolean", "description": "Whether outputs come as bytes where they do not say."},
    },
}
"""Of a whole request."""

OUTPUT_PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "binary_data": {"type": "boolean", "description": "Whether this output comes as bytes."},
        "classification": {"type": "integer", "minimum": 1, "description": "The so many largest, as value:index:label."},
    },
}
"""Of one output that is asked for."""

CLASSES: Schema = {
    "title": "classification",
    **object_of(
        {
            "name": {"type": "string"},
            "datatype": {"const": "BYTES"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array"},
        }
    ),
}
"""An output of which classes were asked."""

ANY_TENSOR: Schema = object_of(
    {
        "name": {"type": "string"},
        "datatype": {"enum": list(DATATYPES.values())},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
    optional=("data", "parameters"),
)

_ID: Schema = {"id": {"type": "string"}}
_TENSORS: Schema = {"type": "array", "items": ANY_TENSOR}
_ARRAYS: Schema = {"type": "object", "description": "name: nested lists"}
_NAMED: Schema = {"model_name": {"type": "string"}, "model_version": {"type": "string"}}

ANY_MODEL: Mapping[str, Schema] = {
    "InferRequest": object_of(
        {
            "inputs": _TENSORS,
            **_ID,
            "parameters": REQUEST_PARAMETERS,
            "outputs": {
                "type": "array",
                "items": object_of({"name": {"type": "string"}, "parameters": OUTPUT_PARAMETERS}, ("parameters",)),
            },
        },
        optional=("id", "parameters", "outputs"),
    ),
    "InferAnswer": object_of({**_NAMED, **_ID, "outputs": _TENSORS}, optional=("id",)),
    "PredictionsRequest": object_of(
        {"inputs": {"type": ["object", "array"], "description": "name: nested lists, or raw values"}}
    ),
    "PredictionsAnswer": object_of(
        {**_NAMED, "outputs": _ARRAYS, "predictions": {"type": "array", "description": "what the model declares, for each row"}},
        optional=("outputs", "predictions"),
    ),
}
"""The same bodies for a model of which nothing is known, by their names among the document's components."""
