"""POST /predictions/{model}: JSON in, JSON out.

In: `{"inputs": {name: nested lists}}`. Out: `{"model_name", "model_version", "outputs": {name: nested lists}}`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from artifact.signature import DTYPES, Signature, TensorSpec
from serving.errors import BadRequest


def decode(body: bytes, signature: Signature) -> dict[str, np.ndarray]:
    """The arrays of a request; which inputs there must be, and their shapes, is the signature's own check.

    Raises:
        BadRequest: the body is not JSON of that form, or a value cannot be one of the input's dtype.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise BadRequest(f"the body is not JSON: {cause}") from cause
    if not isinstance(value, dict) or not isinstance(value.get("inputs"), dict):
        raise BadRequest('the body is not of the form {"inputs": {name: nested lists}}')
    specs = {spec.name: spec for spec in signature.inputs}
    names = 2 * (len(value) + len(value["inputs"]))  # every further quote is a string among the values
    if b"true" in body or b"false" in body or body.count(b'"') > names:
        _require_numbers(value["inputs"], specs)
    return {name: _array(specs.get(name), name, data) for name, data in value["inputs"].items()}


def encode(model: str, version: int, outputs: dict[str, np.ndarray]) -> bytes:
    """The answer. NaN and infinities, which JSON has no words for, become null."""
    answer = {
        "model_name": model,
        "model_version": str(version),
        "outputs": {name: _plain(array) for name, array in outputs.items()},
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _require_numbers(inputs: dict[str, Any], specs: Mapping[str, TensorSpec]) -> None:
    """Refuses strings and objects, and booleans where numbers belong, before NumPy sees them.

    It takes a boolean among numbers for 0 or 1 without a word, and pads all strings to the longest.
    """
    for name, data in inputs.items():
        spec = specs.get(name)
        is_boolean = spec is not None and spec.dtype == "bool"
        wrong = next(_leaves_other_than((bool,) if is_boolean else (int, float), data), None)
        if spec is not None and wrong is not None:
            raise BadRequest(f'input "{name}" holds {orjson.dumps(wrong).decode():.40}, which is not {spec.dtype}')


def _leaves_other_than(kinds: tuple[type, ...], data: Any) -> Iterator[Any]:
    if isinstance(data, list):
        for item in data:
            yield from _leaves_other_than(kinds, item)
    elif type(data) not in kinds:
        yield data


def _array(spec: TensorSpec | None, name: str, data: Any) -> np.ndarray:
    if spec is None:
        return np.empty(0)  # the signature names it as unknown
    try:
        array = np.asarray(data)
    except ValueError as cause:
        raise BadRequest(f'input "{name}" is ragged: nested lists of one length per level are expected') from cause
    dtype = DTYPES[spec.dtype]
    if array.size == 0 and array.dtype == np.float64:
        return array.astype(dtype)  # NumPy's dtype for an empty list
    allowed = {"f": "iuf", "b": "b"}.get(dtype.kind, "iu")
    if array.dtype.kind not in allowed:
        raise BadRequest(f'input "{name}" holds values that are not {spec.dtype}')
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if not _kept(array, converted):
        raise BadRequest(f'input "{name}" holds a value that {spec.dtype} cannot hold')
    return converted


def _kept(array: np.ndarray, converted: np.ndarray) -> bool:
    """Whether the conversion lost no value: rounding a float is allowed, an overflow is not."""
    if converted.dtype.kind == "f":
        return bool(np.isfinite(converted).all())
    return bool(np.array_equal(array, converted))


def _plain(array: np.ndarray) -> Any:
    return array.tolist() if array.dtype == np.float16 or array.ndim == 0 else np.ascontiguousarray(array)
