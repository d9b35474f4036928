"""Stands in for orjson inside a .mar: what the codec of /predictions uses of it, in Python and NumPy.

It takes and gives the same values. Two things differ: what is said of a text that is no JSON, and that a number beyond float64
becomes infinity, which no codec takes either.
"""

import json
import math
from json import JSONDecodeError
from typing import Any

import numpy as np

__all__ = ["OPT_SERIALIZE_NUMPY", "JSONDecodeError", "dumps", "loads"]

OPT_SERIALIZE_NUMPY = 1 << 4

_NO_NUMBERS = {"nan": "null", "inf": "null", "-inf": "null"}


def loads(text: bytes) -> Any:
    """The value of a JSON text in UTF-8; an integer beyond 64 bits is a float.

    Raises:
        JSONDecodeError: it is no JSON.
    """
    try:
        value = json.loads(text.decode(), parse_int=_integer, parse_constant=_refuse)
        if b"\\ud" in text.lower():
            _json(value).encode()  # fails where an escape is one half of a character
    except JSONDecodeError:
        raise
    except (ValueError, RecursionError) as cause:
        raise JSONDecodeError(str(cause), "", 0) from cause
    return value


def dumps(value: Any, option: int = 0) -> bytes:
    """The value as JSON in UTF-8, without spaces; NaN and the infinities are null. OPT_SERIALIZE_NUMPY takes arrays."""
    if isinstance(value, np.ndarray) and option & OPT_SERIALIZE_NUMPY:
        return _nested(value).encode()
    try:
        return _json(value).encode()
    except ValueError:
        return _json(_without_nan(value)).encode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _integer(digits: str) -> int | float:
    if len(digits) < 19:
        return int(digits)
    value = int(digits) if len(digits) < 22 else float(digits)
    return value if -(1 << 63) <= value < 1 << 64 else float(value)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _without_nan(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _nested(array: np.ndarray) -> str:
    """An array as nested lists. A float32 is written with the fewest digits that tell it from other float32 numbers."""
    if array.dtype != np.float32 or not array.size:
        return dumps(array.tolist()).decode()
    texts = array.ravel().astype(np.str_).tolist()
    if not np.isfinite(array).all():
        texts = [_NO_NUMBERS.get(text, text) for text in texts]
    for size in reversed(array.shape):
        texts = [f"[{','.join(texts[at : at + size])}]" for at in range(0, len(texts), size)]
    return texts[0]
