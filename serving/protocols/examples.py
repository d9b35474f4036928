"""Requests that can be sent as they stand: of every signature one that its own check accepts."""

import itertools
import json
import math
import shlex
from collections.abc import Mapping
from typing import Any

from artifact.signature import DTYPES, Signature, TensorSpec
from serving.protocols.schemas import Bound, bounds
from serving.protocols.tensors import DATATYPES

MAX_NUMBERS = 2000
"""An example of more numbers would fill pages: `predictions_command` and `infer_command` make it where it is sent."""


def example_sizes(signature: Signature) -> dict[str, int]:
    """A size for every named dimension: the usual ones, or the smallest if those make too many numbers."""
    usual = _usual_sizes(signature)
    return usual if _numbers(signature, usual) <= MAX_NUMBERS else _smallest_sizes(signature)


def is_short(signature: Signature) -> bool:
    """Whether the example has at most `MAX_NUMBERS` numbers."""
    return _numbers(signature, example_sizes(signature)) <= MAX_NUMBERS


def predictions_example(signature: Signature) -> dict[str, Any]:
    """A body for POST /predictions/{model}."""
    sizes = example_sizes(signature)
    shapes = {spec.name: spec.concrete(sizes) for spec in signature.inputs}
    return {"inputs": {spec.name: _nested(_values(spec, shapes[spec.name]), shapes[spec.name]) for spec in signature.inputs}}


def infer_example(signature: Signature) -> dict[str, Any]:
    """A body for POST /v2/models/{model}/infer."""
    sizes = example_sizes(signature)
    return {"inputs": [{**_head(spec, sizes), "data": _values(spec, spec.concrete(sizes))} for spec in signature.inputs]}


def predictions_command(signature: Signature, url: str) -> str:
    """A shell command that makes a body of equal numbers, of the usual sizes, and sends it to `url`, a model's /predictions."""
    sizes = _usual_sizes(signature)
    arrays = [f"{json.dumps(spec.name)}: {_nested_expression(spec, spec.concrete(sizes))}" for spec in signature.inputs]
    return _command(f'{{"inputs": {{{", ".join(arrays)}}}}}', url)


def infer_command(signature: Signature, url: str) -> str:
    """The same for `url`, a model's infer below /v2."""
    sizes = _usual_sizes(signature)
    tensors = [
        f"{json.dumps(_head(spec, sizes))[:-1]}, {_flat_expression(spec, spec.concrete(sizes))}}}" for spec in signature.inputs
    ]
    return _command(f'{{"inputs": [{", ".join(tensors)}]}}', url)


def _command(body: str, url: str) -> str:
    program = shlex.quote(f"import json; print(json.dumps({body}))")
    return f"python3 -c {program} | curl -H 'Content-Type: application/json' --data-binary @- {shlex.quote(url)}"


def _head(spec: TensorSpec, sizes: Mapping[str, int]) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.concrete(sizes)), "datatype": DATATYPES[spec.dtype]}


def _usual_sizes(signature: Signature) -> dict[str, int]:
    """The declared usual sizes, but the fewest rows."""
    sizes = _smallest_sizes(signature)
    usual = {name: dim.opt for name, dim in signature.dims.items() if dim.opt is not None and name != signature.batch_dim}
    return {**sizes, **{name: size for name, size in usual.items() if signature.dims[name].allows(size)}}


def _smallest_sizes(signature: Signature) -> dict[str, int]:
    return {name: math.ceil(dim.min / dim.multiple) * dim.multiple for name, dim in signature.dims.items()}


def _numbers(signature: Signature, sizes: Mapping[str, int]) -> int:
    return sum(math.prod(spec.concrete(sizes)) for spec in signature.inputs)


def _values(spec: TensorSpec, shape: tuple[int, ...]) -> list[Bound]:
    return list(itertools.islice(itertools.cycle(_samples(spec)), math.prod(shape)))


def _nested(flat: list[Any], shape: tuple[int, ...]) -> Any:
    for size in reversed(shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat if shape else flat[0]


def _nested_expression(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    expression = str(_middle(spec))
    for size in reversed(shape):
        expression = f"[{expression}] * {size}" if size > 1 else f"[{expression}]"
    return expression


def _flat_expression(spec: TensorSpec, shape: tuple[int, ...]) -> str:
    return f'"data": [{_middle(spec)}] * {math.prod(shape)}'


def _middle(spec: TensorSpec) -> Bound:
    samples = _samples(spec)
    return samples[len(samples) // 2]


def _samples(spec: TensorSpec) -> list[Bound]:
    """Values from one end of the range to the other; without a range, of 0 to 1."""
    if spec.dtype == "bool":
        return [False, True]
    low, high = (spec.range and bounds(spec)) or (0, 1)
    if DTYPES[spec.dtype].kind == "f":
        points = [float(f"{low * (1 - part) + high * part:.4g}") for part in (0, 0.25, 0.5, 0.75, 1)]
    else:
        points = sorted({low + (high - low) * quarter // 4 for quarter in range(5)})
    return [min(max(point, low), high) for point in points]
