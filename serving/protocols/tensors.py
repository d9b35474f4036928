"""Tensors as the protocols write them: names of element types, little-endian bytes, and shapes that the signature allows.

Our engines run on little-endian hosts only, so bytes of the wire are bytes of memory.
"""

import contextlib
import math
import re
import struct
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from artifact.errors import InvalidInput
from artifact.signature import Signature, TensorSpec
from serving.errors import BadRequest

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Shape = tuple[int, ...]

DATATYPES: Mapping[str, str] = {
    "bool": "BOOL",
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "bytes": "BYTES",
}
"""Datatypes of the Open Inference Protocol by our dtypes (`bytes` is that of class names; no signature declares it)."""

NUMPY: Mapping[str, np.dtype] = {
    datatype: np.dtype(object if dtype == "bytes" else dtype) for dtype, datatype in DATATYPES.items()
} | {"BF16": np.dtype(np.uint16)}
"""NumPy's dtype for each datatype; NumPy has no bfloat16, so BF16's is that of its bits."""

WIDENED: Mapping[str, frozenset[str]] = {"FP16": frozenset({"FP32", "FP64"}), "BF16": frozenset({"FP32", "FP64"})}
"""Datatypes that are taken where another is declared, since that one holds each of their values."""

_MILLISECONDS = re.compile(r"\d{1,15}(?:\.\d{1,9})?\Z", re.ASCII)

SHOWN = 80  # characters of a client's own text that a message repeats


class Recent(dict[Key, Value]):
    """What was worked out lately, to be looked up instead: emptied when it is full. Threads may share it."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity

    def keep(self, key: Key, value: Value) -> Value:
        """Remembers a value, and returns it."""
        if len(self) >= self._capacity:
            self.clear()
        self[key] = value
        return value


@dataclass(frozen=True, slots=True)
class Field:
    """One input or output as the protocols see it."""

    name: str
    dtype: np.dtype
    datatype: str
    shape: tuple[int | str, ...]
    ranged: bool

    @classmethod
    def of(cls, spec: TensorSpec) -> "Field":
        """The field of a declared tensor."""
        datatype = DATATYPES[spec.dtype]
        return cls(spec.name, NUMPY[datatype], datatype, spec.shape, spec.range is not None)

    def takes(self, datatype: str) -> bool:
        """Whether values of this datatype are taken: the declared one, or one whose every value it holds."""
        return datatype == self.datatype or self.datatype in WIDENED.get(datatype, ())


class Shapes:
    """The shapes that a signature allows, with at most `max_rows` rows; each set of shapes is checked once."""

    def __init__(self, signature: Signature, max_rows: int) -> None:
        self._specs = {spec.name: spec for spec in signature.inputs}
        # Shapes are checked on stand-ins of one byte, of any dtype: the codecs compare datatypes, and know more of them.
        self._signature = replace(signature, inputs=tuple(replace(spec, dtype="bool") for spec in signature.inputs))
        self._batch_dim = signature.batch_dim
        self._max_rows = max_rows
        named = [dim for spec in signature.inputs for dim in spec.shape if isinstance(dim, str) and dim != self._batch_dim]
        self._named = tuple(dict.fromkeys(named))
        self._known: Recent[tuple, tuple[int, tuple[int, ...]]] = Recent(256)

    def check(self, shapes: Mapping[str, Shape]) -> tuple[int, tuple[int, ...]]:
        """The number of rows, and the sizes of all other named dimensions: requests for which these agree can be joined.

        Raises:
            InvalidInput: an input is missing or unknown, or a shape is not as declared.
        """
        key = tuple(shapes.items())
        return self._known.get(key) or self._known.keep(key, self._checked(shapes))

    def _checked(self, shapes: Mapping[str, Shape]) -> tuple[int, tuple[int, ...]]:
        if shapes.keys() != self._specs.keys():
            self._signature.validate_shapes({shortened(name): np.empty(0, bool) for name in shapes})  # raises: it names them
        stand_ins = {name: _stand_in(self._specs[name], shape) for name, shape in shapes.items()}
        sizes = self._signature.validate_shapes(stand_ins, self._max_rows)
        rows = 1 if self._batch_dim is None else sizes[self._batch_dim]
        return rows, tuple(sizes[dim] for dim in self._named)


def _stand_in(spec: TensorSpec, shape: Shape) -> np.ndarray:
    """An array of this shape that takes no memory. NumPy's arrays have limits of their own: what is beyond is refused here."""
    if len(shape) == len(spec.shape):
        with contextlib.suppress(ValueError, OverflowError):
            return np.broadcast_to(np.False_, shape)
    given = shortened(list(shape[:SHOWN]))
    raise InvalidInput(f'input "{spec.name}" has shape {given}; the signature says {_declared(spec.shape)}')


def _declared(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def timeout_s(header_ms: str | None, parameter_us: int = 0) -> float | None:
    """How long the client waits: the smaller of the header `x-timeout-ms` and the protocol's own parameter, 0 for none.

    Raises:
        BadRequest: the header is no positive number.
    """
    allowed_s = parameter_us / 1e6 if parameter_us else None
    if header_ms is None:
        return allowed_s
    if not _MILLISECONDS.match(header_ms) or not (header_s := float(header_ms) / 1e3):
        raise BadRequest(f'header x-timeout-ms is "{shortened(header_ms)}"; a positive number of milliseconds is expected')
    return header_s if allowed_s is None else min(header_s, allowed_s)


@dataclass(frozen=True, slots=True)
class Part:
    """Where the bytes of an input stand in a body, and what they are; `in_place`, if they can be used there."""

    field: Field
    datatype: str
    shape: Shape
    start: int
    end: int
    in_place: bool

    @classmethod
    def of(cls, field: Field, datatype: str, shape: Shape, place: slice, *, unaligned: bool) -> "Part":
        """The part at this place of a body; values of `datatype` are row-major and little-endian. `unaligned`: see `Limits`."""
        item_bytes, start, end = field.dtype.itemsize, place.start, place.stop
        as_in_memory = datatype == field.datatype and datatype not in {"BOOL", "BYTES"}
        is_aligned = unaligned or start % item_bytes == 0
        in_place = as_in_memory and is_aligned and end - start == item_bytes * math.prod(shape)
        return cls(field, datatype, shape, start, end, in_place)

    def array(self, body: bytes) -> np.ndarray:
        """The input's array: a view of the body where it can be used in place, else a copy.

        Raises:
            BadRequest: the bytes are not as many as the shape needs, or no values of this datatype.
        """
        if self.in_place:
            return np.ndarray(self.shape, self.field.dtype, body, self.start)
        return array_of_bytes(self.field, self.datatype, body[self.start : self.end], self.shape)


def array_of_bytes(field: Field, datatype: str, data: bytes, shape: Shape) -> np.ndarray:
    """An input's array out of its bytes, row-major and little-endian; a view of them where the values can stay as they are.

    Raises:
        BadRequest: the bytes are not as many as the shape needs, or no values of this datatype.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        return objects(_elements(field, data, count), shape)
    wire = NUMPY[datatype]
    if len(data) != count * wire.itemsize:
        needed = count * wire.itemsize
        raise BadRequest(f'input "{field.name}" has {len(data)} bytes; shape {list(shape)} of {datatype} has {needed}')
    if datatype == "BOOL":
        bits = np.ndarray(shape, np.uint8, data)
        if (largest := int(bits.max(initial=0))) > 1:
            raise BadRequest(f'input "{field.name}" holds the byte {largest}; a BOOL is 0 or 1')
        return bits.view(np.bool_)
    array = np.ndarray(shape, wire, data)
    if datatype == "BF16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(field.dtype, copy=False)


def shape_of_bytes(field: Field, sizes: Sequence[int | str], data_bytes: int, instead: str) -> Shape:
    """The sizes, with the one that is only named worked out from the number of bytes.

    Raises:
        BadRequest: several are only named (`instead` says what to send), or no size fits the number.
    """
    named = [size for size in sizes if isinstance(size, str)]
    if len(named) > 1:
        raise BadRequest(f'input "{field.name}" has sizes that its bytes do not tell: {", ".join(named)}; send {instead}')
    unit_bytes = math.prod(size for size in sizes if isinstance(size, int)) * field.dtype.itemsize
    size, rest = divmod(data_bytes, unit_bytes)
    if named and rest:
        shape = f"shape {_declared(sizes)} of {field.datatype}"
        raise BadRequest(f'input "{field.name}" has {data_bytes} bytes; {shape} has a multiple of {unit_bytes}')
    return tuple(size if isinstance(known, str) else known for known in sizes)


def bytes_of_array(array: np.ndarray) -> bytes:
    """An array's bytes, row-major and little-endian; an array of `bytes` objects gets a length of four bytes before each."""
    if not array.dtype.hasobject:
        return array.tobytes()
    return b"".join(part for element in array.ravel() for part in (struct.pack("<I", len(element)), element))


def _elements(field: Field, data: bytes, count: int) -> list[bytes]:
    """The elements of a BYTES tensor: each has its length before it, four bytes, little-endian."""
    elements, at = [], 0
    while len(elements) < count and at + 4 <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        elements.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if len(elements) < count or at != len(data):
        raise BadRequest(
            f'input "{field.name}" has {len(data)} bytes, which are not {count} BYTES elements, each after its length in 4 bytes'
        )
    return elements


def objects(elements: Sequence[bytes], shape: Shape = (-1,)) -> np.ndarray:
    """An array of `bytes` objects (flat, if no shape is given): NumPy's own strings lose zero bytes at their end."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


def shortened(value: object) -> str:
    """A client's own text or value, cut where it is long."""
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
