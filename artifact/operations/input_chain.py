"""One chain of operations on an input: from a raw value to the tensors of one row."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from artifact.operations.declared import Declared, Path
from artifact.operations.errors import BadOperations, BadParameter
from artifact.operations.images.layout import Layout, required_size
from artifact.operations.kinds import Files, Image, InputOperation, Kind, Raw, Step, Tensor, Tensors
from artifact.operations.raw import RawSpec
from artifact.raw_limits import RawLimits
from artifact.signature import BATCH, Dim, Signature, TensorSpec

Row = dict[str, np.ndarray]
"""The tensors of one row by name, each with a leading dimension of 1."""

TEXT = "text"
"""The name of a raw text whose chain was declared as a list: it makes several tensors, and is none of them."""


@dataclass(frozen=True, slots=True)
class InputChain:
    """A raw input: what may be sent, the tensors of one row that it becomes, and the function that makes them."""

    spec: RawSpec
    tensors: Mapping[str, Tensor]
    prepare: Callable[[Any, RawLimits], Row]


def input_chain(name: str, chain: Sequence[Declared[InputOperation]], signature: Signature, files: Files) -> InputChain:
    """The chain, checked from the raw value to the declared tensors; `name` is empty where it was declared as a list.

    Raises:
        BadOperations: it does not fit, with the place in the YAML.
        OperationsUnavailable: a package is not installed.
    """
    first = chain[0].operation
    raw = first.begins_with()
    if raw is None:
        begins = "decode, tokenize or table"
        raise BadOperations(f"a chain begins with {begins}, not with {chain[0].name}", chain[0].path)
    complete = (*chain, *_implied_layout(chain))
    kinds, makers = _followed(complete, Raw(raw), files)
    kind, last = kinds[-1], complete[-1]
    if not isinstance(kind, (Tensor, Tensors)):
        raise BadOperations(f"the chain ends with {kind}, which is no tensor", last.path)
    name = name or (_only_input(signature, chain[0]) if isinstance(kind, Tensor) else TEXT)
    tensors = {name: kind} if isinstance(kind, Tensor) else _taken(kind, signature)
    order = last.operation.order if isinstance(last.operation, Layout) else ""
    set_at = _set_at(complete, kinds)
    for tensor_name, tensor in tensors.items():
        _require_fits(tensor_name, tensor, signature, last, [set_at.get(axis, last.path) for axis in order])
    steps = [make() for make in makers]
    if order and isinstance(kind, Tensor) and None in kind.shape:
        steps.insert(-1, required_size(order, _declared_sizes(name, signature)))
    wanted = {spec.name: spec.dtype for spec in signature.inputs}

    def prepare(value: Any, limits: RawLimits) -> Row:
        for step in steps:
            value = step(value, limits)
        arrays = {name: value} if isinstance(kind, Tensor) else value
        return {key: np.ascontiguousarray(arrays[key], wanted[key])[np.newaxis] for key in tensors}

    return InputChain(RawSpec(name, raw, tuple(tensors), first.details()), tensors, prepare)


def _taken(made: Tensors, signature: Signature) -> dict[str, Tensor]:
    """Those of several tensors that the model takes: one without token types, say. All, where it takes none of them."""
    inputs = {spec.name for spec in signature.inputs}
    return {name: tensor for name, tensor in made.by_name.items() if name in inputs} or dict(made.by_name)


def _followed(chain: Sequence[Declared[InputOperation]], kind: Kind, files: Files) -> tuple[list[Kind], list[Callable[[], Step]]]:
    """The kind after each operation, and what makes each step: done only when all of the chain is known to fit."""
    kinds: list[Kind] = []
    makers: list[Callable[[], Step]] = []
    for one in chain:
        makers.append(functools.partial(one.operation.step, kind, files))
        with _at(one):
            kind = one.operation.kind_of(kind, files)
        kinds.append(kind)
    return kinds, makers


@contextlib.contextmanager
def _at(one: Declared[InputOperation]) -> Iterator[None]:
    """What the operation itself says, as a BadOperations with its place in the YAML."""
    try:
        yield
    except BadParameter as cause:
        raise BadOperations(str(cause), (*one.path, *cause.path)) from cause
    except ValueError as cause:
        raise BadOperations(str(cause), one.path) from cause


def _set_at(chain: Sequence[Declared[InputOperation]], kinds: Sequence[Kind]) -> dict[str, Path]:
    """The operation that last changed a picture's channels, height or width (C, H, W), where one did."""
    found: dict[str, Path] = {}
    known: dict[str, Any] = {"C": None, "H": (None, None), "W": (None, None)}
    for one, kind in zip(chain, kinds, strict=True):
        if isinstance(kind, Image):
            now = {"C": kind.channels, "H": (kind.height, kind.least), "W": (kind.width, kind.least)}
            found |= {axis: one.path for axis, size in now.items() if size != known[axis]}
            known = now
    return found


def _declared_sizes(name: str, signature: Signature) -> tuple[Dim | None, ...]:
    """What each dimension of a row may be; None where it is fixed, and was checked with the chain."""
    spec = next(spec for spec in signature.inputs if spec.name == name)
    return tuple(signature.dims[dim] if isinstance(dim, str) else None for dim in spec.shape[1:])


def _implied_layout(chain: Sequence[Declared[InputOperation]]) -> tuple[Declared[InputOperation], ...]:
    """A chain of images that does not say `layout` ends with the default one."""
    if chain[0].operation.raw != "image" or any(one.name == "layout" for one in chain):
        return ()
    return (Declared("layout", Layout(), chain[-1].path),)


def _only_input(signature: Signature, first: Declared[InputOperation]) -> str:
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise BadOperations(
            f"the model takes {names}: name the chain's, as {{{signature.inputs[0].name}: [...]}}", first.path[:1]
        )
    return signature.inputs[0].name


def _require_fits(
    name: str, tensor: Tensor, signature: Signature, last: Declared[InputOperation], set_at: Sequence[Path]
) -> None:
    """Raises BadOperations unless every tensor that the chain can make is one that the signature allows.

    `set_at` says which operation set each axis, of a picture; else all is the last one's.
    """
    spec = next((spec for spec in signature.inputs if spec.name == name), None)
    if spec is None:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise BadOperations(f"the chain makes {name!r}, which is no input of the model; they are {names}", last.path)
    if tensor.dtype != spec.dtype:
        mend = "add to_float" if tensor.dtype == "uint8" and spec.dtype == "float32" else f"declare it {tensor.dtype}"
        raise BadOperations(f"the chain makes {tensor.dtype}, but input {name} is {spec.dtype}; {mend}", last.path)
    if not spec.shape or spec.shape[0] not in {BATCH, 1}:
        raise BadOperations(f"input {name} has no leading dimension of rows ({BATCH!r}, or 1)", last.path)
    if (wrong := _wrong_axes(tensor, spec, signature)) is not None:
        reordered = (replace(tensor, shape=shape) for shape in itertools.permutations(tensor.shape))
        by_order = any(_wrong_axes(other, spec, signature) is None for other in reordered)
        places = [set_at[axis] for axis in wrong if set_at and not by_order]
        raise BadOperations(
            f"the chain makes [{_sizes_text(tensor)}] for a row, but input {name} is [{_dims_text(spec.shape[1:], signature)}]",
            max(places, default=last.path),
        )
    with _at(last):
        last.operation.require_within(tensor, spec)


def _wrong_axes(tensor: Tensor, spec: TensorSpec, signature: Signature) -> list[int] | None:
    """The axes of a row whose size the input does not take, none of them where it has more or fewer; None where all fit."""
    sizes, dims = tensor.shape, spec.shape[1:]
    if len(sizes) != len(dims):
        return []
    most = tensor.most or {}
    fits = [_size_fits(size, dim, signature, most.get(axis)) for axis, (size, dim) in enumerate(zip(sizes, dims, strict=True))]
    return None if all(fits) else [axis for axis, fit in enumerate(fits) if not fit]


def _sizes_text(tensor: Tensor) -> str:
    most = tensor.most or {}
    unknown = [f"up to {most[axis]}" if axis in most else "any" for axis in range(len(tensor.shape))]
    return ", ".join(unknown[axis] if size is None else str(size) for axis, size in enumerate(tensor.shape))


def _dims_text(shape: Sequence[int | str], signature: Signature) -> str:
    return ", ".join(f"{dim}: {signature.dims[dim]}" if isinstance(dim, str) else str(dim) for dim in shape)


def _size_fits(size: int | None, dim: int | str, signature: Signature, most: int | None) -> bool:
    """Whether a size is one that the declared dimension can have; any size is for a named one to judge, request by request."""
    if isinstance(dim, int):
        return size == dim
    allowed = signature.dims[dim]
    return (most is None or most <= allowed.max) if size is None else allowed.allows(size)
