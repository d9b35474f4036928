"""The four ways to write one float32 tensor into a request, and the numbers of whatever answer comes back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import orjson

_HEADER_LENGTH = "Inference-Header-Content-Length"
_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body and the headers that explain it."""

    content: bytes
    headers: Mapping[str, str]


def oip_json(name: str, array: np.ndarray) -> Body:
    """Open Inference Protocol, the numbers as flat JSON."""
    tensor = {"name": name, "shape": array.shape, "datatype": "FP32", "data": array.ravel()}
    return _json({"inputs": [tensor]})


def oip_binary(name: str, array: np.ndarray) -> Body:
    """Open Inference Protocol with its binary extension: a JSON header, then the bytes; so is the answer asked for."""
    data = array.tobytes()
    tensor = {"name": name, "shape": array.shape, "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    return Body(head + data, {"Content-Type": _BYTES, _HEADER_LENGTH: str(len(head))})


def predictions_json(name: str, array: np.ndarray) -> Body:
    """`{"inputs": {name: nested lists}}`."""
    return _json({"inputs": {name: array}})


def raw(_name: str, array: np.ndarray) -> Body:
    """Nothing but the tensor's bytes; so is the answer asked for."""
    return Body(array.tobytes(), {"Content-Type": _BYTES, "Accept": _BYTES})


BODIES: Mapping[str, Callable[[str, np.ndarray], Body]] = {
    "OIP JSON": oip_json,
    "predictions JSON": predictions_json,
    "OIP binary": oip_binary,
    "raw": raw,
}
"""Title -> how the body is written."""


def read_answer(headers: Mapping[str, str], content: bytes) -> np.ndarray:
    """The first output's numbers, flat, in whichever of the four forms the answer says it has. `headers` has lower-case names."""
    length = headers.get(_HEADER_LENGTH.lower())
    if length is not None:
        return np.frombuffer(content, np.float32, offset=int(length))
    if headers.get("content-type", "").startswith(_BYTES):
        return np.frombuffer(content, np.float32)
    outputs = orjson.loads(content)["outputs"]
    values = outputs[0]["data"] if isinstance(outputs, list) else next(iter(outputs.values()))
    return np.asarray(values, np.float32).ravel()


def _json(value: dict) -> Body:
    return Body(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), {"Content-Type": "application/json"})
