"""What a request says, worked out a second time: slowly, by Python's own JSON and NumPy, and by nothing of `serving.protocols`.

The decoders must take exactly what this takes, and give the same arrays, bit for bit.
"""

import codecs
import io
import json
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifact.signature import DTYPES, Signature, TensorSpec
from serving.messages import Request
from serving.protocols.asked import Arrays, Limits

WIRE = {
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    **{f"{sign.upper()}{bits}": f"{sign}{bits}" for sign in ("int", "uint") for bits in (8, 16, 32, 64)},
}
WIDER = {("FP16", "float32"), ("FP16", "float64"), ("BF16", "float32"), ("BF16", "float64")}
MOST_DIGITS_OF_A_SIZE = 19


class Refused(Exception):
    """The request is not to be taken; the text says why, for whoever compares."""


@dataclass(frozen=True)
class Model:
    """What a decoder is made for."""

    signature: Signature
    limits: Limits

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """The declared inputs by name."""
        return {spec.name: spec for spec in self.signature.inputs}


def require(condition: object, why: str) -> None:
    """Raises Refused unless the condition holds."""
    if not condition:
        raise Refused(why)


def read_oip(model: Model, request: Request) -> Arrays:
    """The arrays of a request of the Open Inference Protocol. Raises Refused."""
    body, length = request.body, request.headers.get("inference-header-content-length")
    _require_timeout(request)
    if length is None:
        document, data = _document(body, model), b""
    else:
        require(re.fullmatch(f"[0-9]{{1,{MOST_DIGITS_OF_A_SIZE}}}", length), "no length")
        require(int(length) <= len(body), "a length beyond the body")
        if int(length) == 0:
            return _checked(model, _one_tensor(model, body, rows=1))
        document, data = _document(body[: int(length)], model), body[int(length) :]
    _require_terms(model, document)
    stated = _stated(model, document)
    arrays: Arrays = {}
    for entry in stated:
        spec = model.inputs[entry["name"]]
        datatype, shape = entry["datatype"], tuple(entry["shape"])
        require(datatype in WIRE or datatype == "BF16", "an unknown datatype")
        require(WIRE.get(datatype) == spec.dtype or (datatype, spec.dtype) in WIDER, "another datatype")
        if "data" in entry:
            require(datatype != "BF16", "BF16 as JSON")
            arrays[spec.name] = _array(_flat(entry["data"], shape), WIRE[datatype], shape).astype(spec.dtype)
        else:
            require(length is not None, "bytes without their header")
            size = entry["parameters"]["binary_data_size"]
            require(size <= len(data), "too few bytes")
            arrays[spec.name], data = _of_bytes(data[:size], datatype, shape, spec), data[size:]
    require(not data, "bytes left over")
    return _checked(model, arrays)


def read_predictions(model: Model, request: Request) -> Arrays:
    """The arrays of a predictions request. Raises Refused."""
    _require_timeout(request)
    content_type = request.headers.get("content-type")
    content_type = "application/json" if content_type is None else content_type.partition(";")[0].strip().lower()
    if content_type in {"application/json", "application/x-www-form-urlencoded"}:
        return _checked(model, _nested_inputs(model, request.body))
    require(content_type in {"application/x-npy", "application/npy", "application/octet-stream"}, "an unknown content type")
    require(len(model.inputs) == 1, "one tensor for several inputs")
    if content_type == "application/octet-stream":
        return _checked(model, _one_tensor(model, request.body, rows=None))
    return _checked(model, _npy(model, request.body))


def _nested_inputs(model: Model, body: bytes) -> Arrays:
    stated = _document(body, model).get("inputs")
    inputs: Any = dict.fromkeys(model.inputs, stated) if isinstance(stated, list) and len(model.inputs) == 1 else stated
    require(isinstance(inputs, dict), "no inputs")
    require(len(inputs) <= model.limits.max_tensors, "too many tensors")
    require(inputs.keys() == model.inputs.keys(), "other inputs")
    arrays = {}
    for name, data in inputs.items():
        shape, level = [], data
        while isinstance(level, list):
            shape.append(len(level))
            level = level[0] if level else None
        dtype = model.inputs[name].dtype
        arrays[name] = _array(_unnested(data, tuple(shape)), dtype, tuple(shape))
    return arrays


def _npy(model: Model, body: bytes) -> Arrays:
    """By NumPy's own reader; only such headers as a writer of .npy files makes."""
    (spec,) = model.signature.inputs
    file = io.BytesIO(body)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that Python 2 wrote
            version = np.lib.format.read_magic(file)
            require(version in {(1, 0), (2, 0), (3, 0)}, "another version")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, found = read(file)
    except Exception as cause:
        raise Refused(f"NumPy: {cause}") from cause
    data = file.read()
    require(all(size >= 0 for size in shape), "negative sizes")
    require(not found.hasobject and found.names is None and found.subdtype is None, "no numbers")
    require(len(data) == math.prod(shape) * found.itemsize, "another number of bytes")
    try:
        array = np.frombuffer(data, found).reshape(shape, order="F" if columns_first else "C")
    except ValueError as cause:
        raise Refused(f"NumPy: {cause}") from cause
    dtype = found.newbyteorder("=")
    require(dtype.name in DTYPES or dtype.name in WIRE.values(), "no numbers")
    is_wider = dtype.kind == "f" and (f"FP{dtype.itemsize * 8}", spec.dtype) in WIDER
    require(dtype.name == spec.dtype or is_wider, "another dtype")
    if dtype.kind == "b":
        require(array.view(np.uint8).max(initial=0) <= 1, "no booleans")
    return {spec.name: np.ascontiguousarray(array.astype(spec.dtype)).reshape(array.shape)}


def _one_tensor(model: Model, body: bytes, rows: int | None) -> Arrays:
    require(len(model.inputs) == 1, "one tensor for several inputs")
    (spec,) = model.signature.inputs
    sizes = [rows if dim == model.signature.batch_dim and rows is not None else dim for dim in spec.shape]
    unknown = [dim for dim in sizes if isinstance(dim, str)]
    require(len(unknown) <= 1, "several unknown sizes")
    unit = math.prod(dim for dim in sizes if isinstance(dim, int)) * DTYPES[spec.dtype].itemsize
    shape = tuple(len(body) // unit if isinstance(dim, str) else dim for dim in sizes)
    return {spec.name: _of_bytes(body, next(wire for wire, dtype in WIRE.items() if dtype == spec.dtype), shape, spec)}


def _of_bytes(data: bytes, datatype: str, shape: tuple[int, ...], spec: TensorSpec) -> np.ndarray:
    item = 2 if datatype == "BF16" else np.dtype(WIRE[datatype]).itemsize
    require(len(data) == math.prod(shape) * item, "another number of bytes")
    if datatype == "BOOL":
        require(set(data) <= {0, 1}, "no booleans")
    if datatype == "BF16":  # a bfloat16 is a float32's upper half
        data = b"".join(b"\0\0" + data[at : at + 2] for at in range(0, len(data), 2))
    found = np.frombuffer(data, np.dtype("float32" if datatype == "BF16" else WIRE[datatype]).newbyteorder("<"))
    return found.astype(spec.dtype).reshape(shape)


def _document(body: bytes, model: Model) -> dict[str, Any]:
    """A JSON object, by Python's own parser, where it is as strict as RFC 8259 lets one be."""
    require(_depth(body) <= model.limits.max_json_depth, "too deep")
    try:
        value = json.loads(
            body.removeprefix(codecs.BOM_UTF8).decode("utf-8"), parse_constant=_refused, parse_float=_finite, parse_int=_whole
        )
    except (ValueError, RecursionError) as cause:
        raise Refused(f"JSON: {cause}") from cause
    require(isinstance(value, dict), "no object")
    _require_pairs(body)
    return value


def _require_pairs(body: bytes) -> None:
    """Escapes of surrogates come in pairs, also in what a later member of the same name replaces."""
    without = re.sub(rb"\\\\", b"", body)
    without = re.sub(rb"(?i)\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", b"", without)
    require(not re.search(rb"(?i)\\ud[89a-f][0-9a-f]{2}", without), "half of a surrogate pair")


def _refused(text: str) -> None:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def _whole(text: str) -> int | float:
    """An integer of 64 bits; what is beyond is a float."""
    value = int(text) if len(text) < 400 else float(text)
    if not -(2**63) <= value < 2**64:
        try:
            return _finite(text)
        except OverflowError as cause:
            raise ValueError(text) from cause
    return value


def _depth(body: bytes) -> int:
    """Of all that is written, also of a member that a later one of the same name replaces."""
    depth = deepest = 0
    for mark in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', body, re.DOTALL):
        depth += (mark in b"[{") - (mark in b"]}")
        deepest = max(deepest, depth)
    return deepest


def _require_timeout(request: Request) -> None:
    text = request.headers.get("x-timeout-ms")
    if text is not None:
        require(re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", text) and float(text) / 1000 > 0, "no timeout")


def _member(owner: dict[str, Any], key: str, kind: type, *, needed: bool = False) -> Any:
    """A member of its kind; null is as good as nothing where it may be absent."""
    value: Any = owner.get(key)
    if value is None and not needed:
        return kind()
    require(type(value) is kind, f"{key} is no {kind}")
    require(not isinstance(value, int) or value >= 0, f"{key} is negative")
    return value


def _require_terms(model: Model, document: dict[str, Any]) -> None:
    """What stands beside the inputs is of its kinds."""
    _member(document, "id", str)
    parameters = _member(document, "parameters", dict)
    _member(parameters, "binary_data_output", bool)
    _member(parameters, "priority", int)
    _member(parameters, "timeout", int)
    specs = {spec.name: spec for spec in model.signature.outputs}
    seen = set()
    for output in _member(document, "outputs", list):
        require(isinstance(output, dict), "an output that is no object")
        name = _member(output, "name", str, needed=True)
        require(name in specs and name not in seen, "another output")
        seen.add(name)
        asked = _member(output, "parameters", dict)
        require("shared_memory_region" not in asked, "shared memory")
        _member(asked, "binary_data", bool)
        require(not _member(asked, "classification", int) or specs[name].shape, "classes of a scalar")


def _stated(model: Model, document: dict[str, Any]) -> list[dict[str, Any]]:
    inputs = _member(document, "inputs", list, needed=True)
    require(len(inputs) <= model.limits.max_tensors, "too many tensors")
    for entry in inputs:
        require(isinstance(entry, dict), "an input that is no object")
        _member(entry, "name", str, needed=True)
        _member(entry, "datatype", str, needed=True)
        shape = _member(entry, "shape", list, needed=True)
        require(all(type(size) is int and 0 <= size < 2**63 for size in shape), "no shape")
        parameters = _member(entry, "parameters", dict)
        require("shared_memory_region" not in parameters, "shared memory")
        _member(parameters, "binary_data_size", int)
        require(("data" in entry) != (parameters.get("binary_data_size") is not None), "data, or bytes")
    names = [entry["name"] for entry in inputs]
    require(len(set(names)) == len(names) and set(names) == model.inputs.keys(), "other inputs")
    for entry in inputs:
        require(len(entry["shape"]) == len(model.inputs[entry["name"]].shape), "another number of dimensions")
        require(math.prod(entry["shape"]) <= 2**32, "a huge shape")
    return inputs


def _flat(data: Any, shape: tuple[int, ...]) -> list[Any]:
    """Values that are flat, or nested just as the shape."""
    if isinstance(data, list) and not (data and isinstance(data[0], list)):
        require(len(data) == math.prod(shape), "another number of values")
        return data
    return _unnested(data, shape)


def _unnested(data: Any, shape: tuple[int, ...]) -> list[Any]:
    level = [data]
    for size in shape:
        require(all(isinstance(one, list) and len(one) == size for one in level), "ragged")
        level = [item for one in level for item in one]
    return level


def _array(values: list[Any], dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """One value after another, each looked at by itself."""
    kinds = {"b": (bool,), "f": (int, float)}.get(np.dtype(dtype).kind, (int,))
    require(all(type(value) in kinds for value in values), "values of another kind")
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        require(all(limits.min <= value <= limits.max for value in values), "integers out of range")
    with np.errstate(over="ignore"):
        array = np.array(
            [np.dtype(dtype).type(value) for value in map(_as_float if np.dtype(dtype).kind == "f" else _same, values)], dtype
        )
    require(dtype == "bool" or np.isfinite(array).all(), "floats out of range")
    return array.reshape(shape)


def _as_float(value: float) -> float:
    return float(value)


def _same(value: Any) -> Any:
    return value


def _checked(model: Model, arrays: Arrays) -> Arrays:
    """The signature's sizes and ranges, once more in plain Python."""
    require(arrays.keys() == model.inputs.keys(), "other inputs")
    sizes: dict[str, int] = {}
    for name, spec in model.inputs.items():
        array = arrays[name]
        require(array.ndim == len(spec.shape), "another number of dimensions")
        for dim, size in zip(spec.shape, array.shape, strict=True):
            if isinstance(dim, int):
                require(dim == size, "another size")
                continue
            require(sizes.setdefault(dim, size) == size, "two sizes of one dimension")
            declared = model.signature.dims[dim]
            if dim == model.signature.batch_dim:
                require(1 <= size <= model.limits.max_rows, "rows")
                require(min(declared.min, model.limits.max_rows) <= size, "too few rows")
            else:
                require(declared.min <= size <= declared.max and size % declared.multiple == 0, "a size out of range")
        if spec.range is not None:
            low, high = (_nearest(bound, spec.dtype) for bound in spec.range)
            require(all(low <= value <= high for value in array.reshape(-1).tolist()), "values out of range")
    return arrays


def _nearest(bound: float, dtype: str) -> float:
    if np.dtype(dtype).kind != "f":
        return bound
    limits = np.finfo(dtype)
    return float(np.dtype(dtype).type(min(max(bound, float(limits.min)), float(limits.max))))
