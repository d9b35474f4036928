"""The allow-list: what a checkpoint's pickle may import.

It is what torch's `weights_only` reader accepts (torch/_weights_only_unpickler.py) as far as a state_dict needs it, and a few
plain types that training scripts save beside the weights. Nothing else is ever let through, and no setting adds to it.
"""

from collections.abc import Iterator
from typing import Any, Final

_STORAGES: Final = (
    "Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool", "ComplexDouble", "ComplexFloat",
    "QUInt8", "QInt8", "QInt32", "QUInt4x2", "QUInt2x4",
)  # fmt: skip
_DTYPES: Final = (
    "float64", "float32", "float16", "bfloat16", "complex32", "complex64", "complex128", "int64", "int32", "int16", "int8",
    "uint8", "uint16", "uint32", "uint64", "bool", "quint8", "qint8", "qint32", "quint4x2", "quint2x4",
    "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
)  # fmt: skip
TORCH_GLOBALS: Final = frozenset(
    {
        "collections.OrderedDict", "collections.Counter", "_codecs.encode",
        "builtins.bytearray", "builtins.set", "builtins.complex",
        "torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
        "torch.storage.UntypedStorage", "torch.storage.TypedStorage",
        "torch._tensor._rebuild_from_type_v2",
        *(f"torch._utils._rebuild_{name}" for name in (
            "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor", "sparse_tensor",
            "meta_tensor_no_storage",
        )),
        *(f"torch.{name}" for name in (
            "per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric",
            "per_channel_affine_float_qparams",
        )),
        *(f"torch.{name}Storage" for name in _STORAGES),
        *(f"torch.cuda.{name}Storage" for name in _STORAGES[:12]),
        *(f"torch.{name}" for name in _DTYPES),
    }
)  # fmt: skip
"""What torch's reader accepts by itself and a state_dict has a use for. Quantised, sparse and meta tensors are here so that they
can be refused by the name of the tensor; wrapper subclasses and nested tensors are not."""

BENIGN_GLOBALS: Final = frozenset(
    {
        "argparse.Namespace", "collections.defaultdict",
        "builtins.frozenset", "builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.str", "builtins.bool",
        "datetime.datetime", "datetime.date", "datetime.time", "datetime.timedelta", "datetime.timezone",
        *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in (
            "Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath",
        )),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        "numpy.dtype", "numpy.ndarray",
    }
)  # fmt: skip
"""Plain types that training scripts save beside the weights: metrics, arguments, paths, times."""


def stand_ins(named: set[str]) -> list[Any]:
    """What stands for the plain types among the globals, as torch's `safe_globals` takes it: (object, name in the pickle)."""
    wanted = named & BENIGN_GLOBALS
    if not wanted:
        return []
    return [(stand_in, name) for name, stand_in in _every_stand_in() if name in wanted] + list(_dtype_classes(wanted))


def _every_stand_in() -> Iterator[tuple[str, Any]]:
    import argparse
    import datetime as dt
    import pathlib

    import numpy as np

    for plain in (frozenset, list, dict, int, float, str, bool):
        yield f"builtins.{plain.__name__}", plain
    for plain in (dt.datetime, dt.date, dt.time, dt.timedelta, dt.timezone):
        yield f"datetime.{plain.__name__}", plain
    for module in ("pathlib", "pathlib._local"):
        for name in ("Path", "PosixPath", "PurePath", "PurePosixPath"):
            yield f"{module}.{name}", pathlib.PurePosixPath
        for name in ("WindowsPath", "PureWindowsPath"):
            yield f"{module}.{name}", pathlib.PureWindowsPath
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    for core in ("core", "_core"):
        yield f"numpy.{core}.multiarray.scalar", scalar
        yield f"numpy.{core}.multiarray._reconstruct", reconstruct
    yield "numpy.dtype", np.dtype
    yield "numpy.ndarray", np.ndarray
    yield "argparse.Namespace", argparse.Namespace
    yield "collections.defaultdict", _plain_dict


def _plain_dict(_factory: Any = None) -> dict[Any, Any]:
    """What a defaultdict is read as: torch's reader fills no other kind of dictionary."""
    return {}


def _dtype_classes(wanted: set[str]) -> Iterator[Any]:
    """NumPy's classes of number types, whose instances torch's reader must be told that it may fill."""
    import numpy as np

    if "numpy.dtype" in wanted:
        for code in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"):
            yield type(np.dtype(code))
