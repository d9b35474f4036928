"""The inputs of a load test's requests: made up within a signature, or read from files."""

import io
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from artifact import Dim, Signature, TensorSpec
from artifact.errors import InvalidInput
from artifact.signature import BATCH
from bench.body import Body
from bench.errors import NotAsked
from bench.payloads import DTYPES

MOST_BYTES = 1 << 30
"""All different inputs of a test together: they are held in memory, in every process that sends them."""

IMAGES: Mapping[str, str] = {
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
}
"""Suffix of an image file -> its content type."""

_CONTENT_TYPES: Mapping[str, str] = {
    **IMAGES,
    ".json": "application/json",
    ".npy": "application/x-npy",
    ".txt": "text/plain; charset=utf-8",
}
_OTHER = "application/octet-stream"

Arrays = dict[str, np.ndarray]


def made_up(signature: Signature, rows: int = 1, different: int = 8, seed: int = 0) -> list[Arrays]:
    """So many different inputs of a request, each of `rows` rows, the same for the same seed.

    Values are spread evenly over the declared range; without one, floats lie in 0 to 1, bytes (uint8) in 0 to 255, and other
    integers are 0 or 1. A named dimension has its `opt`, or its largest size where it declares none.

    Raises:
        NotAsked: the model does not take so many rows, or the inputs are too large, or the signature allows none.
    """
    sizes = _sizes(signature, rows)
    shapes = {spec.name: spec.concrete(sizes) for spec in signature.inputs}
    needed = different * sum(math.prod(shapes[spec.name]) * np.dtype(spec.dtype).itemsize for spec in signature.inputs)
    if needed > MOST_BYTES:
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise NotAsked(
            f"{different} different requests with {shown} have {needed:,} bytes, at most {MOST_BYTES:,} are made up: "
            "ask for fewer --rows, or give --input"
        )
    generator = np.random.default_rng(seed)
    return [{spec.name: _values(spec, shapes[spec.name], generator) for spec in signature.inputs} for _ in range(different)]


def from_files(paths: Sequence[Path], signature: Signature, *, guessed: bool = False) -> list[Arrays]:
    """The inputs of one request for each file, in order; of a folder, all its files of one kind, by name.

    - .json: `{"inputs": {name: nested lists}}`, the Open Inference Protocol's JSON; for a model with one input also
      `{"inputs": nested lists}` or only the lists
    - .npy: the one input; .npz: inputs by name

    Each is checked against the signature; where that is `guessed`, values and the sizes of variable dimensions are not.

    Raises:
        NotAsked: a file cannot be read, is of no such kind or of another than the rest, or is not what the model takes.
    """
    files = listed(paths, tuple(_READERS))
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) > 1:
        raise NotAsked(f"--input has files of several kinds ({', '.join(sorted(kinds))}): give one kind at a time")
    return [_read(file, signature, guessed=guessed) for file in files]


def bodies(paths: Sequence[Path], *, images_only: bool = False) -> list[Body]:
    """One request's body for each file, byte for byte, with a content type by the suffix; of a folder, all its files by name.

    Raises:
        NotAsked: a file cannot be read, or is not an image where only images are asked for.
    """
    files = listed(paths, tuple(IMAGES) if images_only else None)
    return [Body(content_of(file), {"Content-Type": _CONTENT_TYPES.get(file.suffix.lower(), _OTHER)}) for file in files]


def _sizes(signature: Signature, rows: int) -> dict[str, int]:
    sizes = {name: _usual(name, dim) for name, dim in signature.dims.items()}
    if signature.batch_dim is None:
        if rows != 1:
            raise NotAsked(f"--rows {rows}: the model has no batch dimension, a request is one row")
        return sizes
    batch = signature.dims[BATCH]
    if not batch.allows(rows):
        raise NotAsked(f"--rows {rows}: the model allows {batch} rows in a request")
    return sizes | {BATCH: rows}


def _usual(name: str, dim: Dim) -> int:
    """The size that is asked for: `opt`, else the largest; the next smaller one that is a multiple, or the smallest of all."""
    wanted = dim.max if dim.opt is None else dim.opt
    smallest = -(-dim.min // dim.multiple) * dim.multiple
    size = max(wanted - wanted % dim.multiple, smallest)
    if not dim.allows(size):
        raise NotAsked(f"the model's dimension {name} allows no size at all: {dim}")
    return size


def _values(spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    low, high = spec.bounds or ((0, 255) if dtype == np.uint8 else (0, 1))
    if dtype.kind == "f":
        if low > high:
            raise _no_value(spec)
        part = generator.random(shape)
        return np.clip(((1 - part) * low + part * high).astype(dtype), low, high)
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    first, last = max(math.ceil(low), least), min(math.floor(high), most)
    if first > last:
        raise _no_value(spec)
    if dtype.kind == "b":
        return generator.integers(first, last, shape, endpoint=True) > 0
    return generator.integers(first, last, shape, dtype, endpoint=True)


def _no_value(spec: TensorSpec) -> NotAsked:
    return NotAsked(f"input {spec.name!r} allows no value at all: {spec.dtype} in the range {spec.range}")


def listed(paths: Sequence[Path], suffixes: Sequence[str] | None) -> list[Path]:
    """The files, with those of folders in their place; `suffixes` are those that are taken, None for any.

    Raises:
        NotAsked: a folder holds none, or a file is of another kind.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            found = sorted(file for file in inside if _fits(file, suffixes))
            if not found:
                raise NotAsked(f"--input {path} holds no {'files' if suffixes is None else ', '.join(suffixes)}")
            files += found
        elif path.exists() and not _fits(path, suffixes):
            is_image = path.suffix.lower() in IMAGES
            instead = "images go with --protocol predictions-image" if is_image else "--protocol raw sends any file as it is"
            raise NotAsked(f"--input {path} is none of {', '.join(suffixes or ())}: {instead}")
        else:
            files.append(path)
    return files


def _fits(path: Path, suffixes: Sequence[str] | None) -> bool:
    return suffixes is None or path.suffix.lower() in suffixes


def content_of(file: Path) -> bytes:
    """The bytes of a file.

    Raises:
        NotAsked: it cannot be read, or is empty.
    """
    try:
        content = file.read_bytes()
    except OSError as cause:
        raise NotAsked(f"--input {file} cannot be read: {cause.strerror}") from cause
    if not content:
        raise NotAsked(f"--input {file} is empty")
    return content


def _read(file: Path, signature: Signature, *, guessed: bool) -> Arrays:
    content = content_of(file)
    try:
        arrays = _READERS[file.suffix.lower()](content, signature)
        _require_names(arrays, signature)
        if guessed:
            _require_alike(arrays, signature)
        else:
            signature.validate(arrays)
    except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, InvalidInput) as cause:
        why = f"{cause} is missing" if isinstance(cause, KeyError) else cause
        raise NotAsked(f"--input {file}: {why}") from cause
    return arrays


def _read_json(content: bytes, signature: Signature) -> Arrays:
    document = orjson.loads(content)
    stated = document.get("inputs") if isinstance(document, dict) else document
    if isinstance(stated, list) and stated and all(isinstance(one, dict) for one in stated):
        tensors = {one["name"]: one for one in stated}
        _require_names(tensors, signature)
        return {spec.name: _tensor(tensors[spec.name], spec) for spec in signature.inputs}
    if isinstance(stated, list):
        return {_only(signature).name: _array(stated, _only(signature))}
    if not isinstance(stated, dict):
        raise TypeError('it is not of the form {"inputs": {name: nested lists}}')
    _require_names(stated, signature)
    return {spec.name: _array(stated[spec.name], spec) for spec in signature.inputs}


def _read_npy(content: bytes, signature: Signature) -> Arrays:
    if not content.startswith(_NPY):
        raise ValueError("it is no .npy file")
    return {_only(signature).name: _native(np.load(io.BytesIO(content), allow_pickle=False))}


def _read_npz(content: bytes, _signature: Signature) -> Arrays:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("it is no .npz file")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: _native(arrays[name]) for name in arrays.files}


_READERS: Mapping[str, Callable[[bytes, Signature], Arrays]] = {".json": _read_json, ".npy": _read_npy, ".npz": _read_npz}
_NPY = b"\x93NUMPY"


def _tensor(stated: Mapping[str, Any], spec: TensorSpec) -> np.ndarray:
    """A tensor of the Open Inference Protocol's JSON, whose data may be flat."""
    dtype = DTYPES.get(stated["datatype"])
    if dtype != np.dtype(spec.dtype):
        raise ValueError(f'input "{spec.name}" is {stated["datatype"]}; the signature says {spec.dtype}')
    array, shape = _array(stated["data"], spec), stated["shape"]
    if array.size != math.prod(shape):
        raise ValueError(f'input "{spec.name}" has {array.size} values; its shape {shape} has {math.prod(shape)}')
    return array.reshape(shape)


def _array(data: Any, spec: TensorSpec) -> np.ndarray:
    """Nested lists of JSON. Whole numbers are taken for floats; fractions are not for integers, nor booleans for numbers."""
    dtype = np.dtype(spec.dtype)
    try:
        found = np.asarray(data)
    except ValueError as cause:
        raise ValueError(f'input "{spec.name}" has lists that are not of one length') from cause
    with np.errstate(over="ignore"):
        array = found.astype(dtype) if found.dtype.kind in _TAKEN[dtype.kind] else None
    holds = array is not None and (np.isfinite(array).all() if dtype.kind == "f" else np.array_equal(array, found))
    if array is None or not holds:
        raise ValueError(f'input "{spec.name}" holds values that are no {spec.dtype}')
    return array


_TAKEN: Mapping[str, str] = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
"""Kind of a dtype -> kinds of what JSON has that are taken for it."""


def _native(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _only(signature: Signature) -> TensorSpec:
    if len(signature.inputs) != 1:
        raise ValueError(f"the model takes {_names(signature)}; this file has one input without a name")
    return signature.inputs[0]


def _require_names(arrays: Mapping[str, Any], signature: Signature) -> None:
    if arrays.keys() != {spec.name for spec in signature.inputs}:
        raise ValueError(f"the model takes {_names(signature)}; the file has {', '.join(map(str, arrays)) or 'nothing'}")


def _names(signature: Signature) -> str:
    return ", ".join(spec.name for spec in signature.inputs)


def _require_alike(arrays: Arrays, signature: Signature) -> None:
    """What is known of a guessed signature: dtypes, ranks and sizes that do not vary."""
    for spec in signature.inputs:
        array = arrays[spec.name]
        if array.dtype != np.dtype(spec.dtype):
            raise ValueError(f'input "{spec.name}" is {array.dtype}; the server says {spec.dtype}')
        fixed = zip(spec.shape, array.shape, strict=False)
        if array.ndim != len(spec.shape) or any(dim != size for dim, size in fixed if isinstance(dim, int)):
            shape = ", ".join("any" if isinstance(dim, str) else str(dim) for dim in spec.shape)
            raise ValueError(f'input "{spec.name}" has shape {list(array.shape)}; the server says [{shape}]')
