"""The operations of one model at work: raw values become the engine's tensors, its outputs become what a person asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from artifact.operations import declared
from artifact.operations.declared import ONLY, Chains
from artifact.operations.errors import BadOperations, BadRaw
from artifact.operations.input_chain import Row, input_chain
from artifact.operations.kinds import Files, Output, Tensor
from artifact.operations.output_chain import output_chain
from artifact.operations.raw import RawSpec, RawValue
from artifact.raw_limits import RawLimits
from artifact.signature import BATCH, Signature, TensorSpec

Labels = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Operations:
    """What an artifact declares, checked against its signature. Made by `make`; several threads may use one.

    `chains` are the declaration, with the artifact's own names of files; `raw_inputs` say what may be sent raw.
    """

    chains: Chains
    raw_inputs: tuple[RawSpec, ...]
    signature: Signature
    _inputs: Mapping[str, Callable[[Any, RawLimits], Row]]
    _tensors: Mapping[str, Tensor]
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

    def span(self, name: str) -> float:
        """The difference between the largest and the smallest value that the tensor can hold."""
        return self._tensors[name].high - self._tensors[name].low

    def join(self, rows: Sequence[Row]) -> Row:
        """Rows as one batch, along the leading dimension; those of several lengths are filled up to the longest.

        Raises:
            BadRaw: rows are of sizes that cannot be joined.
        """
        return {
            spec.name: self._joined(spec, [row[spec.name] for row in rows])
            for spec in self.signature.inputs
            if spec.name in rows[0]
        }

    def _joined(self, spec: TensorSpec, arrays: list[np.ndarray]) -> np.ndarray:
        tensor = self._tensors[spec.name]
        if tensor.fill is not None:
            return _filled(spec, self.signature, arrays, tensor)
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
    inputs = [input_chain(name, chain, signature, files) for name, chain in chains.preprocess.items()]
    made = [tensor for one in inputs for tensor in one.spec.makes]
    if twice := {name for name in made if made.count(name) > 1}:
        raise BadOperations(f"two chains make the input {', '.join(sorted(twice))}", ("preprocess",))
    if inputs and (lacking := [spec.name for spec in signature.inputs if spec.name not in made]):
        raise BadOperations(f"no chain makes the input {', '.join(lacking)}; declare one for each", ("preprocess",))
    if chains.postprocess:
        _require_rows(signature)
    for spec in signature.outputs:
        if spec.name in labels and spec.shape[-1:] != (len(labels[spec.name]),):
            raise BadOperations(
                f"output {spec.name} has {len(labels[spec.name])} labels; its shape is [{', '.join(map(str, spec.shape))}], "
                "and the last dimension needs one for each place",
                ("postprocess",),
            )
    outputs = {
        spec.name: Output(spec.dtype, spec.shape[1:], tuple(labels[spec.name]) if spec.name in labels else None)
        for spec in signature.outputs
    }
    return Operations(
        chains=chains,
        raw_inputs=tuple(one.spec for one in inputs),
        signature=signature,
        _inputs={one.spec.name: one.prepare for one in inputs},
        _tensors={name: tensor for one in inputs for name, tensor in one.tensors.items()},
        _outputs=dict(output_chain(name, chain, outputs) for name, chain in chains.postprocess.items()),
    )


def _require_rows(signature: Signature) -> None:
    """Raises BadOperations unless every output has rows: an answer is made of one."""
    for spec in signature.outputs:
        if not spec.shape or spec.shape[0] not in {BATCH, 1}:
            raise BadOperations(f"output {spec.name} has no leading dimension of rows ({BATCH!r}, or 1)", ("postprocess",))


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


def load(content: Mapping[str, Any], signature: Signature, files: Files, labels: Labels) -> Operations:
    """The operations that a manifest states.

    Raises:
        BadOperations: they are none that this version knows, or do not fit.
        OperationsUnavailable: a package is not installed.
    """
    return make(declared.parse(**content), signature, files, labels)
