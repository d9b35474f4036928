"""A shallow look into a torch.save file: its numbers and texts, without its tensors, its classes or torch.

The pickle is read by Python's own reader with every name that it gives bound to a stand-in, so that nothing is imported and
nothing of the file's runs, however it was made: files that are refused as unsafe can be looked at too. Tensors stay where they
are; one of a single value, such as Lightning's scores, is read.
"""

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

_PurePython: Any = pickle._Unpickler  # noqa: SLF001 # pyright: ignore[reportAttributeAccessIssue]
"""The reader in Python: the one in C takes memory for any index of its memo that a file names."""

MAX_PICKLE_BYTES = 64 << 20
"""A longer pickle is not looked into: it is not the table of contents of tensors."""

MAX_VALUE_BYTES = 16
LEGACY_PICKLES_BEFORE = 3
"""Magic number, protocol version, system facts; then the object (torch/serialization.py)."""

ELEMENT_FORMATS = {
    "DoubleStorage": "d", "FloatStorage": "f", "HalfStorage": "e", "LongStorage": "q", "IntStorage": "i", "ShortStorage": "h",
    "CharStorage": "b", "ByteStorage": "B", "BoolStorage": "?",
}  # fmt: skip
"""Storage class -> its element in struct's letters."""

BUFFER_OPCODES = frozenset(b"\x96\x97\x98")
"""BYTEARRAY8 and the out-of-band buffers, which take memory before they read; torch.save writes none of them."""

NUMPY_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}

DAMAGED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
    RecursionError, struct.error, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, AssertionError,
)  # fmt: skip
"""What reading a file of any bytes can raise, beside OSError."""


def top_level(path: Path) -> Mapping[Any, Any]:
    """The mapping that a torch.save file holds, zip or legacy; empty where it holds something else, or cannot be read.

    Values are plain data; what is none is a stand-in, of which nothing is to be read. Raises OSError as `open` does.
    """
    held = shallow(path)
    return held if isinstance(held, dict) else {}


def shallow(path: Path) -> Any:
    """What a torch.save file holds: plain data with stand-ins in it, or a stand-in; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return _from_zip(file) if file.read(4) == b"PK\x03\x04" else _from_legacy(file)
    except DAMAGED:
        return None


def _from_zip(file: Any) -> Any:
    with zipfile.ZipFile(file) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None or archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
            return None
        root = name.removesuffix("data.pkl")

        def value(key: str) -> bytes:
            record = archive.getinfo(f"{root}data/{key}")
            return archive.read(record) if record.file_size <= MAX_VALUE_BYTES else b""

        return _Reader(io.BytesIO(archive.read(name)), value).load()


def _from_legacy(file: Any) -> Any:
    file.seek(0)
    pickles = io.BytesIO(file.read(MAX_PICKLE_BYTES))  # they stand first, the tensors' bytes behind them
    for _ in range(LEGACY_PICKLES_BEFORE):
        _Reader(pickles, _no_values).load()
    return _Reader(pickles, _no_values).load()


def _no_values(key: str) -> bytes:
    raise KeyError(key)


class StandIn:
    """What stands for every object that is not plain data: it takes whatever a pickle does to it, and keeps nothing.

    `named` is the name of its class in the file, "" for a tensor.
    """

    named = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "StandIn":
        """As a function's: what it would have made."""
        return StandIn()

    def append(self, _: Any) -> None:
        """As a list's."""

    def extend(self, _: Any) -> None:
        """As a list's."""

    def add(self, _: Any) -> None:
        """As a set's."""


class _Ordered(dict[Any, Any]):
    """An OrderedDict of the file; the attributes that torch gives it (`_metadata`) are dropped."""

    def __setstate__(self, _: Any) -> None:
        pass


class _Storage:
    """A storage of the file: which, of what, how many elements."""

    def __init__(self, kind: str, key: str, elements: int) -> None:
        self.kind, self.key, self.elements = kind, key, elements


class _Dtype:
    """A numpy.dtype of the file: its code without the byte order, and the byte order that its state gives."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = str(code).lstrip("<>|=")
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] == ">":
            self.order = ">"


def _numpy_scalar(dtype: Any = None, raw: Any = b"", *_: Any) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.code not in NUMPY_FORMATS:
        return StandIn()
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    return struct.unpack(dtype.order + NUMPY_FORMATS[dtype.code], raw)[0]


def _encoded(text: Any = "", *_: Any) -> Any:
    return text.encode("latin1") if isinstance(text, str) else StandIn()


class _Reader(_PurePython):
    """Python's own reader, which here knows no class, no function and no extension."""

    dispatch: ClassVar[dict[int, Any]] = {code: load for code, load in _PurePython.dispatch.items() if code not in BUFFER_OPCODES}

    def __init__(self, file: Any, values: Callable[[str], bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self._values = values
        self._plain: Mapping[str, Any] = {
            "collections.OrderedDict": _Ordered,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor=None, *_: tensor,
            "numpy.dtype": _Dtype,
            "numpy.core.multiarray.scalar": _numpy_scalar,
            "numpy._core.multiarray.scalar": _numpy_scalar,
            "_codecs.encode": _encoded,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Never imports: a stand-in of that name, or one of the few that give plain data."""
        return self._plain.get(f"{module}.{name}") or type("Named", (StandIn,), {"named": f"{module}.{name}"})

    def get_extension(self, code: int) -> None:
        """An extension code names an object of this process; none is given out."""
        raise pickle.UnpicklingError(f"extension {code}")

    def persistent_load(self, pid: Any) -> Any:
        """A tensor's storage: noted, not read."""
        match pid:
            case ("storage", kind, str() | int() as key, _, int() as elements, *_):
                return _Storage(str(getattr(kind, "named", "")).rpartition(".")[2], str(key), elements)
        return StandIn()

    def _tensor(self, storage: Any = None, offset: Any = 0, size: Any = (), *_: Any) -> Any:
        """The value of a tensor that has just one and no dimension; else a stand-in."""
        letter = ELEMENT_FORMATS.get(storage.kind) if isinstance(storage, _Storage) else None
        if letter is None or size != () or storage.elements != 1 or offset != 0:
            return StandIn()
        try:
            return struct.unpack(f"<{letter}", self._values(storage.key))[0]
        except (KeyError, struct.error):
            return StandIn()
