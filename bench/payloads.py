"""What a load test sends: arrays in the protocols that servers speak, and the numbers in their answers.

Every way of writing arrays is written once here, so that contenders of one measurement are sent the very same bytes.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from typing import Protocol as Structure
from urllib.parse import quote

import numpy as np
import orjson

from artifact import Signature, TensorSpec
from bench import raw_bodies
from bench.body import Body, Raws
from bench.client.load import Request
from bench.errors import NotAsked, WrongAnswer

Inputs = Mapping[str, np.ndarray]
"""One request's tensors by name."""

DATATYPES: Mapping[str, str] = {
    "bool": "BOOL",
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}
"""Datatypes of the Open Inference Protocol by NumPy's names; BYTES and BF16 have none."""

DTYPES: Mapping[str, np.dtype] = {datatype: np.dtype(name) for name, datatype in DATATYPES.items()}
"""The inverse."""

_HEADER_LENGTH = "Inference-Header-Content-Length"
_JSON, _NPY, _BYTES = "application/json", "application/x-npy", "application/octet-stream"
_FRAMING = {"content-length", "transfer-encoding", "connection", "expect"}
_MISREAD = (ValueError, TypeError, KeyError, IndexError, AttributeError, StopIteration, EOFError, SyntaxError)
"""What reading a foreign server's answer may raise."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One request, whichever server of a measurement it goes to. `rows` is how many it asks for, 1 where that is unknown."""

    path: str
    headers: Mapping[str, str]
    content: bytes
    rows: int
    method: str = "POST"


class Place(Structure):
    """Where requests go; for `raw`, `base_path` is the whole path with its query, the model is empty, and so is its signature."""

    @property
    def base_path(self) -> str:
        """What stands before the protocol's own path: nothing, or `/…` without a slash at its end."""
        ...

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    @property
    def version(self) -> str | None:
        """A version, or a label of one; None for the default."""
        ...

    @property
    def signature(self) -> Signature:
        """What the model takes: whether its first axis counts rows."""
        ...


@dataclass(frozen=True, slots=True)
class Protocol:
    """A way to ask. `path` has `{model}`, and `versioned` `{version}` too.

    `write` makes a body of arrays, `write_raw` one of raw values; without both, the bytes of files are sent as they are.
    `one_input`: it has no place for more.
    """

    title: str
    path: str
    versioned: str
    write: Callable[[Inputs], Body] | None
    one_input: bool = False
    write_raw: Callable[[Raws], Body] | None = None


def oip_json(inputs: Inputs) -> Body:
    """Open Inference Protocol, the numbers as flat JSON."""
    return _json({"inputs": [_tensor(name, array) | {"data": array.ravel()} for name, array in inputs.items()]})


def oip_binary(inputs: Inputs) -> Body:
    """Open Inference Protocol with its binary extension: a JSON header, then the bytes; so is the answer asked for."""
    tensors = [_tensor(name, array) | {"parameters": {"binary_data_size": array.nbytes}} for name, array in inputs.items()]
    head = orjson.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}})
    data = b"".join(array.tobytes() for array in inputs.values())
    return Body(head + data, {"Content-Type": _BYTES, _HEADER_LENGTH: str(len(head))})


def predictions_json(inputs: Inputs) -> Body:
    """`{"inputs": {name: nested lists}}`."""
    return _json({"inputs": dict(inputs)})


def predictions_npy(inputs: Inputs) -> Body:
    """A .npy file; so is the answer asked for."""
    (array,) = inputs.values()
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return Body(file.getvalue(), {"Content-Type": _NPY, "Accept": _NPY})


def raw(inputs: Inputs) -> Body:
    """Nothing but the tensor's bytes; so is the answer asked for."""
    (array,) = inputs.values()
    return Body(array.tobytes(), {"Content-Type": _BYTES, "Accept": _BYTES})


BODIES: Mapping[str, Callable[[Inputs], Body]] = {
    "OIP JSON": oip_json,
    "predictions JSON": predictions_json,
    "OIP binary": oip_binary,
    "raw": raw,
}
"""Title -> how the body is written: those that the measurements of our own server compare."""

_OIP = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
_PREDICTIONS = ("/predictions/{model}", "/predictions/{model}/{version}")

PROTOCOLS: Mapping[str, Protocol] = {
    "oip-binary": Protocol("Open Inference Protocol, binary", *_OIP, oip_binary),
    "oip-json": Protocol("Open Inference Protocol, JSON", *_OIP, oip_json),
    "predictions-json": Protocol("/predictions, JSON", *_PREDICTIONS, predictions_json),
    "predictions-npy": Protocol("/predictions, .npy", *_PREDICTIONS, predictions_npy, one_input=True),
    "predictions-raw": Protocol("/predictions, the tensor's bytes", *_PREDICTIONS, raw, one_input=True),
    "predictions-image": Protocol("/predictions, image files", *_PREDICTIONS, None, write_raw=raw_bodies.file_alone),
    "predictions-text": Protocol("/predictions, plain text", *_PREDICTIONS, None, write_raw=raw_bodies.text_alone),
    "predictions-multipart": Protocol("/predictions, files in a form", *_PREDICTIONS, None, write_raw=raw_bodies.multipart),
    "predictions-values": Protocol("/predictions, raw values in JSON", *_PREDICTIONS, None, write_raw=raw_bodies.values_as_json),
    "oip-bytes": Protocol("Open Inference Protocol, raw values as BYTES", *_OIP, None, write_raw=raw_bodies.oip_bytes),
    "raw": Protocol("any URL, files as they are", "", "", None),
}
"""What `--protocol` takes; the first is the default."""

RAW_PROTOCOLS = tuple(name for name, protocol in PROTOCOLS.items() if protocol.write_raw is not None)
"""Those for models whose artifact declares operations on their inputs."""


Given = Inputs | Raws | Body
"""What one request asks about: arrays, raw values, or bytes as they are."""


def build(protocol: str, place: Place, inputs: Sequence[Given], headers: Sequence[tuple[str, str]] = ()) -> list[Payload]:
    """One request for each of `inputs`: arrays, raw values, or for `predictions-image` and `raw` bodies as they are.

    `headers` are sent with every one, and take the place of the protocol's own of that name. `raw` without any input is a GET.

    Raises:
        NotAsked: the protocol has no place for so many inputs, or sends files and is given none; or a header may not be set.
    """
    chosen = PROTOCOLS[protocol]
    extra = extra_headers(headers)
    path = _path(chosen, place)
    if protocol == "raw" and not inputs:
        return [Payload(path, extra, b"", 1, "GET")]
    if not inputs:
        raise _no_file(protocol)
    has_rows = place.signature.batch_dim is not None
    bodies = [(_body(protocol, one), _rows(one) if has_rows else 1) for one in inputs]
    return [Payload(path, _merged(body.headers, extra), body.content, rows) for body, rows in bodies]


def request(payload: Payload, host: str, port: int) -> Request:
    """Every byte of a request as it goes over the connection to a server."""
    headers = _merged({"Host": host_text(host, port)}, payload.headers)
    if payload.content or payload.method == "POST":
        headers["Content-Length"] = str(len(payload.content))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{payload.method} {payload.path} HTTP/1.1\r\n{lines}\r\n"
    return Request(head.encode("latin-1") + payload.content, payload.rows)


def extra_headers(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """A user's own headers, to be sent with every request; of two with the same name, the last one.

    Raises:
        NotAsked: one may not be set, or holds characters that no header can hold.
    """
    extra: dict[str, str] = {}
    for name, value in headers:
        if name.lower() in _FRAMING:
            raise NotAsked(f"--header {name} says how a request is sent, which is the load generator's own affair: leave it out")
        if not value.isprintable() or not (name + value).isascii():
            raise NotAsked(f"--header {name} holds characters that are not printable ASCII: {value!r}")
        extra = _merged(extra, {name: value})
    return extra


def host_text(host: str, port: int) -> str:
    """A host and its port as they stand in a URL and in the header `Host`."""
    named = f"[{host}]" if ":" in host else host
    return named if port == 80 else f"{named}:{port}"


def read_answer(
    protocol: str, headers: Mapping[str, str], content: bytes, outputs: Sequence[TensorSpec]
) -> dict[str, np.ndarray]:
    """The outputs' numbers by name, flat, in whichever form the answer says it has. `headers` has lower-case names.

    Raises:
        WrongAnswer: it cannot be read, or an output is missing.
    """
    start = f"it begins with: {content[:200].decode(errors='replace')}"
    try:
        found = _read(headers, content, outputs)
    except _MISREAD as cause:
        raise WrongAnswer(f"the answer to {protocol} is of no form that we read ({cause}); {start}") from cause
    missing = [spec.name for spec in outputs if spec.name not in found]
    if missing:
        raise WrongAnswer(f"the answer to {protocol} lacks {', '.join(missing)}; {start}")
    return {spec.name: found[spec.name] for spec in outputs}


def first_output(headers: Mapping[str, str], content: bytes) -> np.ndarray:
    """The numbers of the one float32 output, flat, where it is known that there is one: as `read_answer`, at less cost."""
    length = headers.get(_HEADER_LENGTH.lower())
    if length is not None:
        return np.frombuffer(content, np.float32, offset=int(length))
    if headers.get("content-type", "").startswith(_BYTES):
        return np.frombuffer(content, np.float32)
    outputs = orjson.loads(content)["outputs"]
    values = outputs[0]["data"] if isinstance(outputs, list) else next(iter(outputs.values()))
    return np.asarray(values, np.float32).ravel()


def _path(protocol: Protocol, place: Place) -> str:
    names = {"model": quote(place.model, safe=""), "version": quote(place.version or "", safe="")}
    return place.base_path + (protocol.path if place.version is None else protocol.versioned).format(**names)


def _body(protocol: str, one: Given) -> Body:
    chosen = PROTOCOLS[protocol]
    if isinstance(one, Body):
        if chosen.write is not None:
            raise NotAsked(f"--protocol {protocol} sends tensors, not files as they are: give --input as json, npy or npz")
        return one
    if isinstance(one, Raws):
        if chosen.write_raw is None:
            raise NotAsked(f"--protocol {protocol} sends tensors, not raw values: {', '.join(RAW_PROTOCOLS)} send those")
        return chosen.write_raw(one)
    if chosen.write is None:
        raise _no_file(protocol)
    if chosen.one_input and len(one) != 1:
        raise NotAsked(f"--protocol {protocol} has a place for one input, the model takes {', '.join(one)}: use oip-binary")
    unsendable = next((f"{name} ({array.dtype})" for name, array in one.items() if array.dtype.name not in DATATYPES), None)
    if unsendable is not None:
        raise NotAsked(f"input {unsendable} has no datatype in the Open Inference Protocol: these have: {', '.join(DATATYPES)}")
    return chosen.write({name: _little_endian(array) for name, array in one.items()})


def _no_file(protocol: str) -> NotAsked:
    return NotAsked(f"--protocol {protocol} sends files as they are, and there is none: give --input FILE, or a folder")


def _rows(one: Given) -> int:
    """Rows along the first axis, which is the batch; a file as it is counts for one."""
    if isinstance(one, Raws):
        return one.rows
    return 1 if isinstance(one, Body) else next(iter(one.values())).shape[0]


def _little_endian(array: np.ndarray) -> np.ndarray:
    """As the protocols have it: little-endian, row by row."""
    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def _merged(headers: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """Both, the second's instead of the first's where they have the same name."""
    names = {name.lower() for name in over}
    return {name: value for name, value in headers.items() if name.lower() not in names} | dict(over)


def _tensor(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "shape": array.shape, "datatype": DATATYPES[array.dtype.name]}


def _json(value: dict) -> Body:
    return Body(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), {"Content-Type": _JSON})


def _read(headers: Mapping[str, str], content: bytes, outputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    length = headers.get(_HEADER_LENGTH.lower())
    if length is not None:
        return _read_tensors(orjson.loads(content[: int(length)])["outputs"], content[int(length) :])
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _BYTES:
        (spec,) = outputs
        return {spec.name: np.frombuffer(content, spec.dtype)}
    if kind in {_NPY, "application/npy"}:
        (spec,) = outputs
        return {spec.name: np.load(io.BytesIO(content), allow_pickle=False).ravel()}
    found = orjson.loads(content)["outputs"]
    if isinstance(found, list):
        return _read_tensors(found, b"")
    return {spec.name: np.asarray(found[spec.name], spec.dtype).ravel() for spec in outputs if spec.name in found}


def _read_tensors(tensors: Sequence[Mapping[str, Any]], data: bytes) -> dict[str, np.ndarray]:
    """The outputs of an answer of the Open Inference Protocol; those without numbers of ours (BYTES, BF16) are passed over."""
    found, at = {}, 0
    for tensor in tensors:
        size = tensor.get("parameters", {}).get("binary_data_size")
        dtype = DTYPES.get(tensor["datatype"])
        if dtype is not None:
            count = math.prod(tensor["shape"])
            whole = tensor["data"] if size is None else np.frombuffer(data, dtype, count, at)
            found[tensor["name"]] = np.asarray(whole, dtype).ravel()
        at += size or 0
    return found
