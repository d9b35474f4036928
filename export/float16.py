"""The ONNX model in float16: weights and computing of half the width, inputs and outputs as the signature says.

Every operator after the first product computes in float16, but those whose results leave its range or lose too much of it
(exponentials, powers, sums), for which a value is cast to float32 and back. What comes before the first product (pixels that are
scaled, masks that become biases) stays in float32: there it costs nothing. The split is that of `torch.autocast`, but sums come
down to float16 again, since a model half in float32 would move twice the bytes.

onnxruntime's own converter was not taken: it also narrows what comes before the first product, where a pixel's mean loses three
digits, clips weights in silence, and leaves the nodes in an order that onnx's checker refuses.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from artifact.engines import model_file
from export.capture import Captured
from export.errors import CaptureFailed, ParityFailed
from export.onnx import OPSET, content, encode, innermost, tensor_content, used_weights

FILE = model_file("onnx", "float16")
LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).smallest_subnormal)
HALF_RANGE = LARGEST / 2
"""Where float32 comes down to float16 it is held within half the range, so that a mask's fill value and what it is added to stay
finite; an activation beyond it is found by parity."""

PRODUCTS = frozenset({"Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"})
"""Where float16 begins: what tensor cores do."""

WIDE = frozenset(
    {
        *("Acos", "Asin", "Cosh", "CumSum", "Exp", "GridSample", "Log", "LpNormalization", "Pow", "Resize", "Sinh", "Softplus"),
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Tan", "TopK"),
        *("NonMaxSuppression", "Range", "RoiAlign"),
    }
)
"""Operators that stay in float32: those of autocast's list that are not safe by themselves, and some with few float16 kernels."""

ANY_DTYPE = frozenset({"Cast", "Shape", "Size"})
"""Operators that take a value as it is: what they give does not depend on its precision, or says so itself."""

MOVES = frozenset({"Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that only move values: of weights, they give float16, which is exact."""


def round_to_float16(data: bytes, captured: Captured) -> bytes:
    """The model of `export.onnx.lower_onnx`, in float16; the same bytes on every export.

    Raises:
        ParityFailed: a weight is beyond float16's range.
        CaptureFailed: the dtypes within it cannot be told, or what came out is not valid ONNX.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(data), check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as cause:
        raise CaptureFailed(
            f"model.onnx cannot be rounded to float16: {innermost(cause)}; leave onnx out with --format, or declare "
            "precision: float32"
        ) from cause
    model = onnx_ir.from_proto(inferred)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _Rounding(model.graph, frozenset(captured.program.state_dict)).run()
    return encode(model)


def compare_float16_weights(data: bytes, captured: Captured, weights: Mapping[str, torch.Tensor]) -> int:
    """Compares every weight that the program uses with the file's: bit for bit the checkpoint's, or that rounded to float16.

    Raises:
        ParityFailed: one is neither there under its name nor under another.
    """
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer}
    contents = {content(array) for array in stored.values()}
    used = used_weights(captured)
    for name in used:
        tensor = weights[name].detach()
        allowed = {tensor_content(tensor)}
        if tensor.dtype == torch.float32:
            allowed.add(tensor_content(tensor.half()))
        if not allowed & ({content(stored[name])} if name in stored else contents):
            raise ParityFailed(f"weight {name} in {FILE} is not the checkpoint's, rounded to float16; the lowering changed it")
    return len(used)


class _Rounding:
    """One pass over the graph, in the order in which it computes: every node's inputs are known when it is reached."""

    def __init__(self, graph: onnx_ir.Graph, weights: frozenset[str]) -> None:
        self._graph = graph
        self._weights = weights
        self._narrow: set[onnx_ir.Value] = set()
        self._other: dict[tuple[onnx_ir.Value, str], onnx_ir.Value] = {}
        self._casts = 0

    def run(self) -> None:
        """Rewrites the graph."""
        for node in list(self._graph):
            self._visit(node)
        for index, value in enumerate(self._graph.outputs):
            if value in self._narrow:
                self._graph.outputs[index] = self._wide_output(value)
        self._drop_unused()

    def _visit(self, node: onnx_ir.Node) -> None:
        inner = list(_inner_nodes(node))
        if inner:  # a branch or a loop: all of it in float32
            for each in (node, *inner):
                self._widen(each, before=node)
        elif node.op_type in ANY_DTYPE:
            return
        elif self._is_narrow(node):
            self._round(node)
        else:
            self._widen(node, before=node)

    def _is_narrow(self, node: onnx_ir.Node) -> bool:
        """Whether a node is to compute in float16."""
        floats = [(index, value) for index, value in enumerate(node.inputs) if value is not None and self._is_float(value)]
        if not floats or node.domain not in {"", "ai.onnx"} or node.op_type in WIDE:
            return False
        if not all("tensor(float16)" in _allowed(node, index) for index, _ in floats):
            return False
        if node.op_type in PRODUCTS or any(value in self._narrow for _, value in floats):
            return True
        return node.op_type in MOVES and all(value.name in self._weights for _, value in floats)

    def _is_float(self, value: onnx_ir.Value) -> bool:
        return value in self._narrow or (isinstance(value.type, onnx_ir.TensorType) and value.dtype == onnx_ir.DataType.FLOAT)

    def _round(self, node: onnx_ir.Node) -> None:
        kinds = set()
        for index, value in enumerate(node.inputs):
            if value is not None and self._is_float(value):
                kinds.add(_kind(node, index, node.inputs))
                if value not in self._narrow:
                    node.replace_input_with(index, self._as_float16(value, node))
        for index, value in enumerate(node.outputs):
            if self._is_float(value) and _kind(node, index, node.outputs) in kinds:
                self._narrow.add(value)

    def _widen(self, node: onnx_ir.Node, before: onnx_ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None and value in self._narrow:
                node.replace_input_with(index, self._once(value, "float32", lambda wide: self._cast(wide, before, "FLOAT")))

    def _as_float16(self, value: onnx_ir.Value, node: onnx_ir.Node) -> onnx_ir.Value:
        if value.is_initializer():
            return self._once(value, "float16", self._rounded_constant)
        if node.op_type in PRODUCTS or (value, "float16") in self._other:
            return self._once(value, "float16", lambda wide: self._cast(wide, node, "FLOAT16"))
        return self._once(value, "held", lambda wide: self._cast(self._held(wide, node), node, "FLOAT16"))

    def _once(self, value: onnx_ir.Value, kind: str, make: Callable[[onnx_ir.Value], onnx_ir.Value]) -> onnx_ir.Value:
        """The value in another precision, made at its first use: every later one comes after that."""
        if (value, kind) not in self._other:
            self._other[value, kind] = make(value)
        return self._other[value, kind]

    def _rounded_constant(self, value: onnx_ir.Value) -> onnx_ir.Value:
        array = _constant(value)
        is_weight = value.name in self._weights
        rounded = _rounded_weight(str(value.name), array) if is_weight else _rounded_fill(array)
        made = onnx_ir.val(f"{value.name}.float16", const_value=onnx_ir.tensor(rounded))
        self._graph.register_initializer(made)
        return made

    def _held(self, value: onnx_ir.Value, node: onnx_ir.Node) -> onnx_ir.Value:
        """The value, held within half of float16's range."""
        return self._insert(onnx_ir.node("Clip", [value, self._bound(-HALF_RANGE), self._bound(HALF_RANGE)]), node)

    def _bound(self, bound: float) -> onnx_ir.Value:
        name = f"float16_{'high' if bound > 0 else 'low'}"
        if name not in self._graph.initializers:
            array = np.array(bound, np.float32)
            self._graph.register_initializer(onnx_ir.val(name, const_value=onnx_ir.tensor(array)))
        return self._graph.initializers[name]

    def _cast(self, value: onnx_ir.Value, before: onnx_ir.Node, dtype: str) -> onnx_ir.Value:
        return self._insert(onnx_ir.node("Cast", [value], {"to": onnx_ir.DataType[dtype]}), before)

    def _insert(self, node: onnx_ir.Node, before: onnx_ir.Node | None) -> onnx_ir.Value:
        node.name = f"precision_{self._casts}"
        node.outputs[0].name = f"{node.name}_value"
        self._casts += 1
        if before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(before, node)
        return node.outputs[0]

    def _wide_output(self, value: onnx_ir.Value) -> onnx_ir.Value:
        """A cast that has the output's name, dtype and shape; the float16 value below it gets another name."""
        name, shape, type_ = value.name, value.shape, value.type
        value.name = f"{name}.float16"
        made = self._insert(onnx_ir.node("Cast", [value], {"to": onnx_ir.DataType.FLOAT}), None)
        made.name, made.shape, made.type = name, shape, type_
        return made

    def _drop_unused(self) -> None:
        """Constants of which only the float16 is used go, and it takes their name."""
        for (value, kind), made in self._other.items():
            if kind == "float16" and value.is_initializer() and not value.uses() and not value.is_graph_output():
                name = value.name
                del self._graph.initializers[str(name)]
                made.name = name


def _rounded_weight(name: str, array: np.ndarray) -> np.ndarray:
    largest = float(np.abs(array).max(initial=0.0))
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float16)
    if not np.isfinite(rounded).all():
        raise ParityFailed(
            f"weight {name} holds {largest:.6g}, and float16 ends at {LARGEST:g}; declare precision: bfloat16, tf32 or float32"
        )
    return rounded


def _rounded_fill(array: np.ndarray) -> np.ndarray:
    """A constant of the program: fill values (-3.4e38) come to the end of half the range, tiny ones (1e-12) do not become 0."""
    held = np.where(np.isfinite(array), np.clip(array, -HALF_RANGE, HALF_RANGE), array)
    tiny = (array != 0) & (np.abs(array) < SMALLEST)
    return np.where(tiny, np.copysign(SMALLEST, array), held).astype(np.float16)


def _constant(value: onnx_ir.Value) -> np.ndarray:
    if value.const_value is None:
        raise ValueError(f"initializer {value.name} has no value")
    return value.const_value.numpy()


def _inner_nodes(node: onnx_ir.Node) -> Iterator[onnx_ir.Node]:
    """The nodes of a node's subgraphs, at any depth."""
    for attribute in node.attributes.values():
        graphs: Iterable[onnx_ir.Graph] = ()
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            graphs = (attribute.as_graph(),)
        elif attribute.type == onnx_ir.AttributeType.GRAPHS:
            graphs = attribute.as_graphs()
        for graph in graphs:
            for inner in graph:
                yield inner
                yield from _inner_nodes(inner)


def _kind(node: onnx_ir.Node, index: int, values: object) -> str:
    """The name of the type that the operator's schema gives an input or output: those of one name have one dtype."""
    schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    formal = schema.inputs if values is node.inputs else schema.outputs
    return formal[min(index, len(formal) - 1)].type_str  # the last one may stand for many


def _allowed(node: onnx_ir.Node, index: int) -> Iterable[str]:
    kind = _kind(node, index, node.inputs)
    schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    constraints = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return constraints.get(kind, (kind,))
