"""JSON bodies: what they say, and arrays out of their numbers; arrays written as JSON.

There are two ways in. The quick one takes numbers straight from simdjson's tape, and gives up on any body that is not just as
expected; the exact one takes whatever is right, and says what is wrong. Where both take a body, they give the same arrays.
"""

import codecs
import math
import threading
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import orjson
import simdjson

from artifact.signature import Signature
from serving.errors import BadRequest, NotAcceptable
from serving.protocols.tensors import NUMPY, Field, Shape, objects, shortened

QUICK_FAILURES = (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError)
"""What simdjson raises where a body is no JSON, or not as expected."""

_KEPT_PARSER_BYTES = 1 << 20  # a parser keeps memory for several times its largest body
_SHORT_SCAN_BYTES = 1 << 11
_VALUES_AROUND = 10_000
_LONG_BYTES = 1 << 20
_LISTS_AROUND = 4096
_MARKS = np.isin(np.arange(256), list(b'[]{}"'))
_LEAVES = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}, "O": {str}}  # types of values by NumPy's kinds


class Parsers:
    """simdjson's parsers, one for each thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    def parse(self, body: bytes) -> Any:
        """The document, which must be let go, with all its parts, before its thread asks for another.

        Its lists are never to be made into Python's by `as_list`, `as_dict`, `items` or `values`: simdjson counts a list's
        elements up to 2^24 only, and those write all of them into a list of that count.

        Raises:
            ValueError, RuntimeError: it is not JSON, holds an integer beyond 64 bits, or is nested more than 1024 deep.
        """
        if len(body) > _KEPT_PARSER_BYTES:
            return simdjson.Parser().parse(body)
        try:
            return self._local.parser.parse(body)
        except (AttributeError, RuntimeError):  # none yet, or one whose last document is still held by an error's traceback
            self._local.parser = simdjson.Parser()
            return self._local.parser.parse(body)


def numbers(data: Any, field: Field) -> np.ndarray | None:
    """The numbers of a list of simdjson's, nested or not, as one flat array; None where only the exact way can judge them.

    A float beyond the field's dtype becomes infinity where the field has a range: infinity is outside any.

    Raises:
        TypeError, ValueError: it holds something else, or an integer beyond 64 bits.
    """
    kind = field.dtype.kind
    if kind == "f":
        wide = np.frombuffer(data.as_buffer(of_type="d"), np.float64)
        with np.errstate(over="ignore"):
            array = wide.astype(field.dtype)
        return array if field.ranged or bool(np.isfinite(array).all()) else None
    if kind not in "iu":
        return None
    wide = np.frombuffer(data.as_buffer(of_type=kind), f"{kind}8")
    array = wide.astype(field.dtype)
    return array if bool((array == wide).all()) else None


def shape_of(data: Any) -> Shape:
    """The shape of nested lists, Python's or simdjson's, as the first element of each level has it."""
    shape = []
    while isinstance(data, list | simdjson.Array):
        shape.append(len(data))
        data = data[0] if shape[-1] else None
    return tuple(shape)


def is_nested_as(data: Any, shape: Shape) -> bool:
    """Whether simdjson's lists have their shape's length on every level; what the innermost ones hold is not looked at."""
    level = [data]
    for size in shape[:-1]:
        if any(type(item) is not simdjson.Array or len(item) != size for item in level):
            return False
        level = list(chain.from_iterable(level))
    return all(type(item) is simdjson.Array and len(item) == shape[-1] for item in level)


def lists_of(shape: Shape) -> int:
    """How many lists write a nested array of this shape."""
    return sum(math.prod(shape[:depth]) for depth in range(len(shape)))


def has_no_more_lists(body: bytes, seen: int) -> bool:
    """Whether a body in which so many lists were seen has no other one, going by its brackets (a string may hold some)."""
    last = body.rfind(b"[") + 1
    if last < _SHORT_SCAN_BYTES:
        return body.count(b"[", 0, last) == seen
    return np.count_nonzero(np.frombuffer(body, np.uint8) == ord("[")) == seen


def most_lists(signature: Signature, max_rows: int) -> int:
    """How many lists and objects a request may have: those of the largest inputs, and some for all that stands around them.

    A body of nothing but small lists would keep Python's garbage collector busy for seconds.
    """
    return _LISTS_AROUND + sum(map(lists_of, _largest(signature, max_rows)))


def most_values(signature: Signature, max_rows: int) -> int:
    """How many values a request may have: those of the largest inputs, and some for all that stands around them.

    Each costs its parser's memory: a body of nothing but short numbers would take twenty times its own.
    """
    return _VALUES_AROUND + sum(map(math.prod, _largest(signature, max_rows)))


def _largest(signature: Signature, max_rows: int) -> list[Shape]:
    """The inputs' shapes in the largest request."""
    sizes = {name: max_rows if name == signature.batch_dim else dim.max for name, dim in signature.dims.items()}
    return [spec.concrete(sizes) for spec in signature.inputs]


def require_few_values(body: bytes, max_values: int) -> None:
    """Raises BadRequest where a long body has more commas than so many values can have between them."""
    if len(body) > _LONG_BYTES and (values := body.count(b",")) > max_values:
        raise BadRequest(f"the body has about {values} values; for this model at most {max_values} are read")


def read_object(body: bytes, max_depth: int, max_lists: int) -> dict[str, Any]:
    """The JSON object that a body is.

    Raises:
        BadRequest: it is not JSON, not an object, nested deeper than `max_depth`, or of more than `max_lists` lists and objects.
    """
    lists = body.count(b"[") + body.count(b"{")
    if lists > max_lists:
        raise BadRequest(f"the body has {lists} lists and objects; for this model at most {max_lists} are read")
    if lists > max_depth and (depth := nesting(body)) > max_depth:
        raise BadRequest(f"the body is nested {depth} levels deep; at most {max_depth} are read (setting max_json_depth)")
    try:
        value = orjson.loads(body.removeprefix(codecs.BOM_UTF8))  # simdjson passes over it, too
    except orjson.JSONDecodeError as cause:
        raise BadRequest(f"the body is not JSON: {cause}") from cause
    if not isinstance(value, dict):
        raise BadRequest(f"the body is {kind_of(value)}; a JSON object is expected")
    return value


def nesting(body: bytes) -> int:
    """How deep the lists and objects of a JSON text are nested, which need not be a good one."""
    return nesting_and_lists(body)[0]


def nesting_and_lists(body: bytes) -> tuple[int, int]:
    """How deep the lists and objects of a JSON text are nested, which need not be a good one, and how many there are."""
    # Outside of strings a backslash is no JSON; within them, only quotes that none precedes count, and `\\` is none.
    marks = np.frombuffer(body.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    marks = marks[_MARKS[marks]]
    in_text = np.add.accumulate(marks == ord('"'), dtype=np.uint8) % 2 == 1
    marks = marks[~in_text] | 0x20  # which makes "[" a "{", and "]" a "}"
    steps = (marks == ord("{")).view(np.int8) - (marks == ord("}")).view(np.int8)
    return int(np.add.accumulate(steps, dtype=np.int32).max(initial=0)), int((steps > 0).sum())


def kind_of(value: object) -> str:
    """What a decoded value is in JSON's words."""
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def array_of_lists(data: Any, field: Field, shape: Shape) -> np.ndarray:
    """An input's array out of nested lists, whose `shape` is that of the first element of each level.

    Raises:
        BadRequest: it is ragged, or holds a value that is not of the field's dtype.
    """
    leaves = _leaves(data, shape)
    if leaves is None:
        raise BadRequest(f'input "{field.name}" is ragged: nested lists of one length per level are expected')
    return _array(leaves, field, field.dtype, field.dtype.name).reshape(shape)


def array_of_data(data: Any, field: Field, shape: Shape, datatype: str) -> np.ndarray:
    """An input's array out of the `data` of the Open Inference Protocol: flat or nested, of values of this datatype.

    Raises:
        BadRequest: it is not of that shape, or holds a value that is not of that datatype.
    """
    if datatype == "BF16":
        raise BadRequest(f'input "{field.name}" is sent as BF16, which has no JSON; send FP32, or binary data')
    is_flat = isinstance(data, list) and not (data and isinstance(data[0], list))
    if is_flat and len(data) != math.prod(shape):
        raise BadRequest(f'input "{field.name}" has {len(data)} values; shape {list(shape)} has {math.prod(shape)}')
    leaves = data if is_flat else _leaves(data, shape)
    if leaves is None or list in set(map(type, leaves)):
        raise BadRequest(f'input "{field.name}" has data that is neither flat nor nested as shape {list(shape)}')
    return _array(leaves, field, NUMPY[datatype], datatype).reshape(shape)


def _leaves(data: Any, shape: Shape) -> list[Any] | None:
    """The values below nested lists of this shape, in order; None where a level has a list of another length, or none."""
    level = [data]
    for size in shape:
        if any(type(item) is not list or len(item) != size for item in level):
            return None
        level = list(chain.from_iterable(level))
    return None if list in set(map(type, level)) else level


def _array(leaves: list[Any], field: Field, dtype: np.dtype, dtype_name: str) -> np.ndarray:
    """The flat array of these values: first of the dtype that they are sent as, then of the field's own."""
    wrong = set(map(type, leaves)) - _LEAVES[dtype.kind]
    if wrong:
        value = next(leaf for leaf in leaves if type(leaf) in wrong)
        text = "an object" if isinstance(value, dict) else shortened(orjson.dumps(value).decode())
        raise BadRequest(f'input "{field.name}" holds {text}, which is not {dtype_name}')
    if dtype.kind == "O":
        return objects([leaf.encode() for leaf in leaves])
    if dtype.kind == "f":
        wide = np.array(leaves, np.float64)
        with np.errstate(over="ignore"):
            array = wide.astype(dtype)
        outside = wide[~np.isfinite(array)].tolist()
    else:
        limits = np.iinfo(dtype) if dtype.kind in "iu" else None
        outside = [] if limits is None else [leaf for leaf in leaves if not limits.min <= leaf <= limits.max]
        array = np.array([] if outside else leaves, dtype)
    if outside:
        raise BadRequest(f'input "{field.name}" holds {outside[0]}, which {dtype_name} cannot hold')
    return array.astype(field.dtype, copy=False)


def json_of_array(name: str, array: np.ndarray) -> bytes:
    """An output as JSON, nested as it is. NaN and the infinities, for which JSON has no words, are null.

    Raises:
        NotAcceptable: it holds bytes that are not UTF-8.
    """
    kind = array.dtype.char
    if kind == "O":
        try:
            return orjson.dumps(_texts(array.tolist()))
        except UnicodeDecodeError as cause:
            raise NotAcceptable(f'output "{name}" holds bytes that are not UTF-8; ask for it as binary data') from cause
    if kind == "e" or not array.ndim:
        return orjson.dumps(array.tolist())
    return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)


def _texts(elements: bytes | Sequence[Any]) -> Any:
    return elements.decode() if isinstance(elements, bytes) else [_texts(element) for element in elements]
