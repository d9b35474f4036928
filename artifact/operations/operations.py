"""The operations of one model at work: raw values become the engine's tensors, its outputs become what a person asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifact.operations import declared
from artifact.operations.declared import ONLY, Chains, Declared
from artifact.operations.errors import BadOperations, BadRaw
from artifact.operations.kinds import Files, InputOperation, Kind, Output, OutputOperation, Raw, Tensor, Tensors
from artifact.operations.limits import RawLimits
from artifact.operations.raw import RawSpec, RawValue
from artifact.signature import BATCH, Signature, TensorSpec

Row = dict[str, np.ndarray]
Labels = Mapping[str, Sequence[str]]

TEXT = "text"
"""The name of a raw text whose chain was declared as a list: it makes several tensors, and is none of them."""


@dataclass(frozen=True, slots=True)
class Operations:
    """What an artifact declares, checked against its signature. Made by `make`; several threads may use one.

    `chains` are the declaration, with the artifact's own names of files; `raw_inputs` say what may be sent raw.
    """

    chains: Chains
    raw_inputs: tuple[RawSpec, ...]
    _signature: Signature
    _inputs: Mapping[str, Callable[[Any, RawLimits], Row]]
    _fills: Mapping[str, Tensor]
    _outputs: Mapping[str, Callable[[Row], Any]]

    @property
    def predicts(self) -> bool:
        """Whether operations on outputs are declared."""
        return bool(self._outputs)

    def prepare(self, raw: Mapping[str, RawValue], limits: RawLimits) -> Row:
        """The tensors of ONE row, by name, each with a leading dimension of 1.

        Raises:
            BadRaw: a raw input is missing or unknown, or its value is not what its operations take.
        """
        if raw.keys() != self._inputs.keys():
            raise BadRaw(f"the raw inputs are {', '.join(self._inputs)}; the request has {', '.join(raw) or 'none'}")
        row: Row = {}
        for name, prepare in self._inputs.items():
            row |= prepare(raw[name], limits)
        return row

    def join(self, rows: Sequence[Row]) -> Row:
        """Rows as one batch, along the leading dimension; those of several lengths are filled up to the longest.

        Raises:
            BadRaw: rows are of sizes that cannot be joined.
        """
        return {
            spec.name: self._joined(spec, [row[spec.name] for row in rows])
            for spec in self._signature.inputs
            if spec.name in rows[0]
        }

    def _joined(self, spec: TensorSpec, arrays: list[np.ndarray]) -> np.ndarray:
        fill = self._fills.get(spec.name)
        if fill is not None:
            return _filled(spec, self._signature, arrays, fill)
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            shown = ", ".join(str(list(shape[1:])) for shape in sorted(shapes))
            raise BadRaw(f'input "{spec.name}": the rows of a request must be of one shape, not {shown}')
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def finish(self, outputs: Mapping[str, np.ndarray]) -> list[Any]:
        """What is declared of outputs, as plain JSON data, a row each: of one chain its value, of several a dictionary by output.

        `outputs` have a leading dimension of as many rows.
        """
        rows = len(next(iter(outputs.values())))
        return [self._finished({name: array[row] for name, array in outputs.items()}) for row in range(rows)]

    def _finished(self, row: Row) -> Any:
        if ONLY in self.chains.postprocess:
            return next(iter(self._outputs.values()))(row)
        return {name: finish(row) for name, finish in self._outputs.items()}


def make(chains: Chains, signature: Signature, files: Files, labels: Labels) -> Operations:
    """The operations, every kind checked from the raw value to the declared tensor, and from the output to the answer.

    `files` are the bytes of those that the chains name; `labels` are by output.

    Raises:
        BadOperations: a chain does not fit, with the place in the YAML.
        OperationsUnavailable: a package is not installed.
    """
    inputs = [_input_chain(name, chain, signature, files) for name, chain in chains.preprocess.items()]
    made = [tensor for one in inputs for tensor in one.spec.makes]
    if twice := {name for name in made if made.count(name) > 1}:
        raise BadOperations(f"two chains make the input {', '.join(sorted(twice))}", ("preprocess",))
    if inputs and (lacking := [spec.name for spec in signature.inputs if spec.name not in made]):
        raise BadOperations(f"no chain makes the input {', '.join(lacking)}; declare one for each", ("preprocess",))
    if chains.postprocess:
        _require_rows(signature)
    outputs = {
        spec.name: Output(spec.dtype, spec.shape[1:], tuple(labels[spec.name]) if spec.name in labels else None)
        for spec in signature.outputs
    }
    return Operations(
        chains=chains,
        raw_inputs=tuple(one.spec for one in inputs),
        _signature=signature,
        _inputs={one.spec.name: one.prepare for one in inputs},
        _fills={name: tensor for one in inputs for name, tensor in one.tensors.items() if tensor.fill is not None},
        _outputs=dict(_output_chain(name, chain, outputs) for name, chain in chains.postprocess.items()),
    )


def _require_rows(signature: Signature) -> None:
    """Raises BadOperations unless every output has rows: an answer is made of one."""
    for spec in signature.outputs:
        if not spec.shape or spec.shape[0] not in {BATCH, 1}:
            raise BadOperations(f"output {spec.name} has no leading dimension of rows ({BATCH!r}, or 1)", ("postprocess",))


@dataclass(frozen=True, slots=True)
class _InputChain:
    spec: RawSpec
    tensors: Mapping[str, Tensor]
    prepare: Callable[[Any, RawLimits], Row]


def _input_chain(name: str, chain: Sequence[Declared[InputOperation]], signature: Signature, files: Files) -> _InputChain:
    first = chain[0]
    if first.operation.raw is None:
        begins = [known for known, operation in declared.INPUT_OPERATIONS.items() if operation.raw is not None]
        raise BadOperations(f"a chain begins with {', '.join(begins)}, not with {first.name}", first.path)
    kind: Kind = Raw(first.operation.raw)
    steps = []
    for one in (*chain, *_implied_layout(chain)):
        try:
            steps.append((one.operation.step, kind))
            kind = one.operation.kind_of(kind, files)
        except ValueError as cause:
            raise BadOperations(f"{one.name}: {cause}", one.path) from cause
    made = [step(given, files) for step, given in steps]
    if not isinstance(kind, (Tensor, Tensors)):
        raise BadOperations(f"the chain ends with {kind}, which is no tensor", chain[-1].path)
    name = name or (_only_input(signature, first) if isinstance(kind, Tensor) else TEXT)
    tensors = {name: kind} if isinstance(kind, Tensor) else dict(kind.by_name)
    for tensor_name, tensor in tensors.items():
        _require_fits(tensor_name, tensor, signature, chain[-1])
    spec = RawSpec(name, first.operation.raw, tuple(tensors), first.operation.details())
    wanted = {one.name: one.dtype for one in signature.inputs}

    def prepare(value: Any, limits: RawLimits) -> Row:
        for step in made:
            value = step(value, limits)
        arrays = {name: value} if isinstance(kind, Tensor) else value
        return {key: np.ascontiguousarray(array, wanted[key])[np.newaxis] for key, array in arrays.items()}

    return _InputChain(spec, tensors, prepare)


def _implied_layout(chain: Sequence[Declared[InputOperation]]) -> tuple[Declared[InputOperation], ...]:
    """A chain of images that does not say `layout` ends with the default one."""
    layout = declared.INPUT_OPERATIONS.get("layout")
    if layout is None or chain[0].operation.raw != "image" or any(one.name == "layout" for one in chain):
        return ()
    return (Declared("layout", layout(), chain[-1].path),)


def _only_input(signature: Signature, first: Declared[InputOperation]) -> str:
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise BadOperations(
            f"the model takes {names}: name the chain's, as {{{signature.inputs[0].name}: [...]}}", first.path[:1]
        )
    return signature.inputs[0].name


def _require_fits(name: str, tensor: Tensor, signature: Signature, last: Declared[InputOperation]) -> None:
    """Raises BadOperations unless every tensor that the chain can make is one that the signature allows."""
    spec = next((spec for spec in signature.inputs if spec.name == name), None)
    if spec is None:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise BadOperations(f"the chain makes {name!r}, which is no input of the model; they are {names}", last.path)
    if tensor.dtype != spec.dtype:
        mend = "add to_float" if tensor.dtype == "uint8" and spec.dtype == "float32" else f"declare it {tensor.dtype}"
        raise BadOperations(f"the chain makes {tensor.dtype}, but input {name} is {spec.dtype}; {mend}", last.path)
    if not spec.shape or spec.shape[0] not in {BATCH, 1}:
        raise BadOperations(f"input {name} has no leading dimension of rows ({BATCH!r}, or 1)", last.path)
    declared_shape = spec.shape[1:]
    if len(tensor.shape) != len(declared_shape) or any(
        not _size_fits(size, dim, signature, (tensor.most or {}).get(axis))
        for axis, (size, dim) in enumerate(zip(tensor.shape, declared_shape, strict=False))
    ):
        shown = ", ".join("any" if size is None else str(size) for size in tensor.shape)
        raise BadOperations(
            f"the chain makes [{shown}] for a row, but input {name} is [{', '.join(map(str, declared_shape))}]", last.path
        )
    if spec.bounds is not None and not spec.bounds[0] <= tensor.low <= tensor.high <= spec.bounds[1]:
        low, high = spec.range or spec.bounds
        raise BadOperations(
            f"the chain makes values from {tensor.low:g} to {tensor.high:g}, but input {name} declares the range "
            f"[{low:g}, {high:g}]; declare what it makes",
            last.path,
        )


def _size_fits(size: int | None, dim: int | str, signature: Signature, most: int | None) -> bool:
    """Whether a size is one that the declared dimension can have; any size is for a named one to judge, request by request."""
    if isinstance(dim, int):
        return size == dim
    allowed = signature.dims[dim]
    return (most is None or most <= allowed.max) if size is None else allowed.allows(size)


def _filled(spec: TensorSpec, signature: Signature, arrays: list[np.ndarray], tensor: Tensor) -> np.ndarray:
    """Rows filled up to one shape that the signature allows: each size the longest, at least the least, a multiple."""
    shape = [max(array.shape[axis] for array in arrays) for axis in range(1, arrays[0].ndim)]
    for axis, dim in enumerate(spec.shape[1:]):
        if isinstance(dim, str):
            allowed = signature.dims[dim]
            shape[axis] = -(-max(shape[axis], allowed.min) // allowed.multiple) * allowed.multiple
    joined = np.full((len(arrays), *shape), tensor.fill, arrays[0].dtype)
    for place, array in enumerate(arrays):
        pairs = zip(shape, array.shape[1:], strict=True)
        left = tensor.side == "left"
        joined[(place, *(slice(most - size, most) if left else slice(size) for most, size in pairs))] = array[0]
    return joined


def _output_chain(
    name: str, chain: Sequence[Declared[OutputOperation]], outputs: Mapping[str, Output]
) -> tuple[str, Callable[[Row], Any]]:
    path = chain[0].path
    if name == ONLY:
        if len(outputs) != 1:
            shown = ", ".join(outputs)
            raise BadOperations(f"the model gives {shown}: name the chain's, as {{{next(iter(outputs))}: [...]}}", path[:1])
        name = next(iter(outputs))
    if name not in outputs:
        raise BadOperations(f"{name!r} is no output of the model; they are {', '.join(outputs)}", path[:2])
    value, steps = outputs[name], []
    for one in chain:
        try:
            after = one.operation.kind_of(value, outputs)
            steps.append(one.operation.step(value, outputs))
        except ValueError as cause:
            raise BadOperations(f"{one.name}: {cause}", one.path) from cause
        value = after

    def finish(row: Row) -> Any:
        result: Any = row[name]
        for step in steps:
            result = step(result, row)
        return result.tolist() if isinstance(result, np.ndarray) else result

    return name, finish


def load(content: Mapping[str, Any], signature: Signature, files: Files, labels: Labels) -> Operations:
    """The operations that a manifest states.

    Raises:
        BadOperations: they are none that this version knows, or do not fit.
        OperationsUnavailable: a package is not installed.
    """
    return make(declared.parse(**content), signature, files, labels)
