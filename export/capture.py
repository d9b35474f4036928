"""Capture: `torch.export` over the declared ranges, and the proof that they survived.

`torch.onnx.export` must never capture by itself: where a model does not take the declared range it narrows the range in silence
and succeeds. So the program is captured here, its ranges are compared with the declaration, and every format but TorchScript is
lowered from it.
"""

import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from artifact.signature import Dim as DeclaredDim
from artifact.signature import Signature
from export.cases import sample_inputs, tensors
from export.config import Config
from export.errors import CaptureFailed


@dataclass(frozen=True, slots=True)
class Captured:
    """The program, the signature in `forward`'s order of inputs, and the inputs that it was captured with."""

    program: ExportedProgram
    signature: Signature
    sample: Mapping[str, np.ndarray]


def require_eval(model: nn.Module) -> None:
    """Raises CaptureFailed if any submodule is in train mode after `eval()`: its dropout would be live in the artifact."""
    training = [name or type(model).__name__ for name, module in model.named_modules() if module.training]
    if training:
        raise CaptureFailed(
            f"{type(model).__name__} stays in train mode after eval(): {', '.join(training[:5])}. "
            "Exported so, dropout and batch statistics would be live; mend its train() or the line that sets training"
        )


def bind_inputs(model: nn.Module, config: Config) -> Signature:
    """The declared signature in the order of `forward`'s parameters, whose names must be those of the YAML's inputs.

    Raises:
        CaptureFailed: they are not.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    named = [p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    required = {p.name for p in parameters if p.default is p.empty and p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}}
    order = tuple(name for name in named if name in config.inputs)
    if not required <= set(config.inputs) or set(order) != set(config.inputs) or order != tuple(named[: len(order)]):
        raise CaptureFailed(
            f"forward of {type(model).__name__} takes {', '.join(named) or 'nothing by position'}; "
            f"the config's inputs are {', '.join(config.inputs)}. "
            "Name the inputs as forward does"
        )
    return config.signature(order)


def capture(model: nn.Module, signature: Signature) -> Captured:
    """Captures the model over its declared ranges.

    Raises:
        CaptureFailed: the model fails on its sample, branches on a declared dimension, or its ranges, outputs or dtypes are not
            as declared.
    """
    sample = sample_inputs(signature)
    arguments = tuple(tensors(sample, signature))
    shapes = _dynamic_shapes(signature)
    try:
        with warnings.catch_warnings(action="ignore"):  # on how layers keep their weights; what came out is checked below
            program = torch.export.export(model, arguments, dynamic_shapes=shapes, strict=False)
    except Exception as cause:  # capture runs the model's own code: anything can come out
        raise CaptureFailed(_explain(cause, model, signature, sample)) from cause
    _forget_sources(program)
    _require_ranges(program, signature)
    _require_outputs(program, signature)
    return Captured(program, signature, sample)


def _forget_sources(program: ExportedProgram) -> None:
    """Takes out the source lines and paths that every node carries: they would get into the artifact."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _dynamic_shapes(signature: Signature) -> tuple[dict[int, Any], ...]:
    dims = {name: _torch_dim(name, dim) for name, dim in signature.dims.items() if dim.min < dim.max}
    return tuple(
        {axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in dims}
        for spec in signature.inputs
    )


def _torch_dim(name: str, dim: DeclaredDim) -> Any:
    if dim.multiple == 1:
        return Dim(name, min=dim.min, max=dim.max)
    steps = Dim(f"{name}_steps", min=dim.min // dim.multiple, max=dim.max // dim.multiple)
    return dim.multiple * steps


def _require_ranges(program: ExportedProgram, signature: Signature) -> None:
    """Every named dimension must have come out free, with its declared bounds, as one expression wherever it stands."""
    expressions: dict[str, Any] = {}
    for spec, value in zip(signature.inputs, _values(program, program.graph_signature.user_inputs), strict=True):
        for dim, size in zip(spec.shape, value.shape, strict=True):
            if isinstance(dim, int):
                continue
            declared = signature.dims[dim]
            expression = getattr(getattr(size, "node", None), "expr", size)
            low, high, step = _bounds(program, expression)
            if (low, high, step) != _declared_bounds(declared):
                raise CaptureFailed(
                    f"{dim} of input {spec.name} is declared {declared}, but the captured program takes "
                    f"{_range(low, high, step)}. "
                    f"Declare that range under dims.{dim}, or change forward so that it does not depend on the size"
                )
            if expressions.setdefault(dim, expression) != expression:
                raise CaptureFailed(f"{dim} stands for two independent sizes in the captured program; give them two names")


def _require_plain_outputs(program: ExportedProgram, signature: Signature) -> None:
    """What forward gives must be a tensor, or a flat tuple or list of them, since engines know outputs by their order alone."""
    spec = program.call_spec.out_spec
    declared = [output.name for output in signature.outputs]
    if spec is None or spec.is_leaf():
        return
    if spec.type is dict or not all(child.is_leaf() for child in spec.children()):
        kind = "a dict" if spec.type is dict else "a nested structure"
        raise CaptureFailed(
            f"forward gives {kind}; return a tuple of tensors in the order of the config's outputs: {', '.join(declared)}"
        )
    fields = getattr(spec.context, "_fields", None)  # of a named tuple
    if fields is not None and list(fields) != declared:
        raise CaptureFailed(
            f"forward gives {spec.context.__name__}({', '.join(fields)}); the config's outputs are {', '.join(declared)}. "
            "Name the outputs as forward does, in its order"
        )


def _require_outputs(program: ExportedProgram, signature: Signature) -> None:
    _require_plain_outputs(program, signature)
    values = list(_values(program, program.graph_signature.user_outputs))
    if len(values) != len(signature.outputs):
        raise CaptureFailed(
            f"forward gives {len(values)} tensor(s); the config declares {len(signature.outputs)} output(s): "
            f"{', '.join(spec.name for spec in signature.outputs)}. Declare each, in forward's order"
        )
    sizes = _named_sizes(program, signature)
    for spec, value in zip(signature.outputs, values, strict=True):
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise CaptureFailed(
                f"output {spec.name} is {kind} in the captured program, not a tensor; leave it out of forward's answer"
            )
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype != spec.dtype:
            raise CaptureFailed(
                f"output {spec.name} is declared {spec.dtype}; forward gives {dtype}. Declare that, or convert in forward"
            )
        shape = [sizes.get(str(getattr(getattr(size, "node", None), "expr", size)), str(size)) for size in value.shape]
        declared = [_static(dim, signature) for dim in spec.shape]
        if shape != declared:
            raise CaptureFailed(
                f"output {spec.name} is declared [{', '.join(declared)}]; forward gives [{', '.join(shape)}]. "
                "Declare that shape, or change forward"
            )


def _static(dim: int | str, signature: Signature) -> str:
    """A dimension that can have one size only is that size in the program."""
    if isinstance(dim, str) and signature.dims[dim].min == signature.dims[dim].max:
        return str(signature.dims[dim].min)
    return str(dim)


def _named_sizes(program: ExportedProgram, signature: Signature) -> dict[str, str]:
    """The program's expression for a size -> the name that the signature gives it."""
    return {
        str(size.node.expr): dim
        for spec, value in zip(signature.inputs, _values(program, program.graph_signature.user_inputs), strict=True)
        for dim, size in zip(spec.shape, value.shape, strict=True)
        if isinstance(dim, str) and isinstance(size, torch.SymInt)
    }


def _values(program: ExportedProgram, names: Any) -> Any:
    """The example value of each named node of the graph; anything else (a constant output) stands for itself."""
    nodes = {node.name: node for node in program.graph.nodes}
    return (nodes[name].meta["val"] if isinstance(name, str) and name in nodes else name for name in names)


def _bounds(program: ExportedProgram, expression: Any) -> tuple[int, int, int]:
    """Smallest size, largest size and step of an expression that must be `symbol` or `step*symbol`."""
    if isinstance(expression, int) or not expression.free_symbols:
        return int(expression), int(expression), 1
    step, symbol = expression.as_coeff_Mul()
    bounds = program.range_constraints.get(symbol)
    if bounds is None or not symbol.is_Symbol:
        raise CaptureFailed(f"the captured program has a size {expression} that no declared dimension explains")
    return int(step * bounds.lower), int(step * bounds.upper), int(step)


def _declared_bounds(dim: DeclaredDim) -> tuple[int, int, int]:
    """As `_bounds` gives them; a dimension of one size is a constant in the program."""
    return dim.min, dim.max, dim.multiple if dim.min < dim.max else 1


def _range(low: int, high: int, step: int) -> str:
    return f"{low} only" if low == high else str(DeclaredDim(low, high, step))


def _explain(cause: Exception, model: nn.Module, signature: Signature, sample: Mapping[str, np.ndarray]) -> str:
    name = type(model).__name__
    declared = ", ".join(f"{dim} {size}" for dim, size in signature.dims.items())
    reasons = re.findall(r"^\s*- (.+)$", str(cause), re.MULTILINE)
    if "Constraints violated" in str(cause) and reasons:
        listed = "\n  ".join(reasons[:5])
        return (
            f"{name} does not take all of its declared ranges ({declared}): its forward branches on a size, loops over it, "
            f"or fixes it.\n  {listed}\nNarrow dims to what it takes, or make forward independent of the size{_recurrent(model)}"
        )
    shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in sample.items())
    first = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return (
        f"{name} cannot be captured by torch.export with {shapes} (declared: {declared or 'no named dims'}): "
        f"{type(cause).__name__}: {first[:400].rstrip('. ')}. "
        f"forward must run on these shapes without branching on values of tensors{_recurrent(model)}"
    )


def _recurrent(model: nn.Module) -> str:
    """What to know of a model with a recurrent layer, which torch.export unrolls over one length."""
    kinds = sorted({type(module).__name__ for module in model.modules() if isinstance(module, nn.RNNBase)})
    return f". {', '.join(kinds)} is captured for one length only: give that axis a fixed size" if kinds else ""
