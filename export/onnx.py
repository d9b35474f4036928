"""The captured program as ONNX: opset 18, one file, the same bytes on every export, no source lines or paths in it."""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir
import torch
from onnxscript import optimizer

from artifact.signature import Signature
from export.capture import Captured
from export.cases import tensor_bytes
from export.errors import CaptureFailed, ParityFailed

OPSET = 18
_MAX_BYTES = 2_000_000_000  # protobuf's limit for one file is 2 GiB


def lower_onnx(captured: Captured) -> bytes:
    """Lowers the program.

    Weights keep their names and their bits: constants are folded only where no weight is involved (ONNX Runtime folds the rest
    when it loads), so that `compare_onnx_weights` sees every one.

    Raises:
        CaptureFailed: an operator has no ONNX form, or the model is too large for one file.
    """
    with _quiet():
        try:
            lowered = torch.onnx.export(
                captured.program, (), dynamo=True, opset_version=OPSET, external_data=False, optimize=False, verbose=False
            )
        except Exception as cause:  # the exporter raises whatever its parts raise
            raise CaptureFailed(
                f"the captured program has no ONNX form: {innermost(cause)}; export to another format with --format"
            ) from cause
    if lowered is None:
        raise CaptureFailed("torch.onnx.export gave no program")
    model = lowered.model
    _fold_constants(model, frozenset(captured.program.state_dict))
    _name_values(model, captured.signature)
    return encode(model)


def encode(model: onnx_ir.Model) -> bytes:
    """The bytes of a checked model, without anything that differs between machines.

    Raises:
        CaptureFailed: it is not valid, or too large for one file.
    """
    _strip(model)
    proto = onnx_ir.to_proto(model)
    if proto.ByteSize() > _MAX_BYTES:
        raise CaptureFailed(f"the ONNX model has {proto.ByteSize()} bytes; one file holds at most {_MAX_BYTES}")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as cause:
        raise CaptureFailed(
            f"the ONNX model that came out is not valid: {innermost(cause)}; leave onnx out with --format"
        ) from cause
    return proto.SerializeToString(deterministic=True)


def compare_onnx_weights(data: bytes, captured: Captured, weights: Mapping[str, torch.Tensor]) -> int:
    """Compares every weight that the program uses with the ONNX file's, bit for bit, and returns how many there are.

    A weight of which the file has no tensor of that name must be there under another (equal tensors are stored once).

    Raises:
        ParityFailed: one differs, or is not there.
    """
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer}
    contents = {content(array) for array in stored.values()}
    used = used_weights(captured)
    for name in used:
        expected = tensor_content(weights[name])
        if name in stored and content(stored[name]) != expected:
            raise ParityFailed(f"weight {name} in model.onnx is not the checkpoint's, bit for bit; the lowering changed it")
        if name not in stored and expected not in contents:
            raise ParityFailed(f"weight {name} is not in model.onnx, though forward uses it; the lowering dropped or changed it")
    return len(used)


def used_weights(captured: Captured) -> list[str]:
    """The names of the parameters and persistent buffers that the captured program reads."""
    signature = captured.program.graph_signature
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    state = captured.program.state_dict
    return [
        targets[node.name]
        for node in captured.program.graph.nodes
        if node.op == "placeholder" and node.users and node.name in targets and targets[node.name] in state
    ]


def innermost(error: BaseException) -> str:
    """The first line of the error at the root of the chain; those around it tell how to report a bug to PyTorch."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first[:400].rstrip(". ")


def content(array: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """Dtype, shape and bytes: arrays are the same if these are."""
    return (str(array.dtype), array.shape, array.tobytes())


def tensor_content(tensor: torch.Tensor) -> tuple[str, tuple[int, ...], bytes]:
    """As `content`, of a tensor: NumPy does not have all of its dtypes."""
    return (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor_bytes(tensor))


def _fold_constants(model: onnx_ir.Model, weights: frozenset[str]) -> None:
    def should_fold(node: onnx_ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    optimizer.fold_constants(model, onnx_shape_inference=False, should_fold=should_fold)
    optimizer.remove_unused_nodes(model)


def _name_values(model: onnx_ir.Model, signature: Signature) -> None:
    """Inputs and outputs get the signature's names and axes (the exporter says s31); all else but the weights is numbered."""
    _separate_outputs(model.graph)
    taken = {spec.name for spec in (*signature.inputs, *signature.outputs)}
    for value in list(model.graph.initializers.values()):
        if value.name in taken:
            value.name = f"{value.name}.weight"
    for number, node in enumerate(model.graph.all_nodes()):
        node.name = f"node_{number}"
        for index, value in enumerate(node.outputs):
            value.name = f"value_{number}_{index}"
    for values, specs in ((model.graph.inputs, signature.inputs), (model.graph.outputs, signature.outputs)):
        for value, spec in zip(values, specs, strict=True):
            value.name = spec.name
            value.shape = onnx_ir.Shape(spec.shape)


def _separate_outputs(graph: onnx_ir.Graph) -> None:
    """An output that is an input, a weight or another output as well gets a name of its own, through Identity."""
    seen = {*graph.inputs, *graph.initializers.values()}
    for index, value in enumerate(graph.outputs):
        if value in seen:
            node = onnx_ir.node("Identity", inputs=[value])
            node.outputs[0].type = value.type
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
        seen.add(value)


def _strip(model: onnx_ir.Model) -> None:
    """Takes out what differs between machines or tells of them: source lines, paths, versions, inner shapes with odd names."""
    model.producer_name, model.producer_version, model.doc_string = "stateserve", None, None
    model.metadata_props.clear()
    interface = {*model.graph.inputs, *model.graph.outputs}
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in graph.initializers.values():
            value.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                if value not in interface:
                    value.shape = value.type = None
    for value in interface:
        value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's own log ("torchvision is not installed") and deprecation warnings off the terminal."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
