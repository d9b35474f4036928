"""Models made by hand, whose answers say exactly what was asked, and of which version.

All numbers are integers small enough for float32 to hold, so every answer is exact in whatever batch it was worked out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from artifact import golden, manifest
from artifact.engines import MODEL_FILES
from artifact.golden import GoldenCase
from artifact.manifest import FileEntry, Manifest
from artifact.signature import BATCH, Dim, Signature, TensorSpec
from foundation.storage import canonical_json

INPUT = "x"
COLUMNS = 4
PIXELS, HIDDEN, CLASSES = 784, 128, 10
"""Of the MLP."""

_OPSET, _IR = 18, 8
_BUDGET = 1e-6


@dataclass(frozen=True, slots=True)
class SoakModel:
    """One float32 input `x` and one output `y`, both with rows; `answer` is what the model makes of `x`, exactly."""

    onnx: bytes
    columns: int
    max_rows: int
    answer: Callable[[np.ndarray], np.ndarray]


def files(model: SoakModel) -> dict[str, bytes]:
    """The files of its artifact."""
    rows = np.ones((1, model.columns), np.float32)
    answer = model.answer(rows)
    signature = Signature(
        (TensorSpec(INPUT, "float32", (BATCH, model.columns)),),
        (TensorSpec("y", "float32", (BATCH, answer.shape[1])),),
        {BATCH: Dim(1, model.max_rows)},
    )
    case = GoldenCase("00-made", {INPUT: rows}, {"onnx": {"y": answer}}, {"y": answer.astype(np.float64)})
    listed = {MODEL_FILES["onnx"]: model.onnx}
    evidence = {
        manifest.GOLDEN: golden.encode([case]),
        manifest.PARITY: canonical_json({"engines": {"onnx": {"outputs": {"y": {"budget": _BUDGET}}}}}),
    }
    stated = Manifest(
        signature=signature,
        config={},
        weights_sha256="0" * 64,
        files={name: FileEntry.of(data) for name, data in listed.items()},
        evidence={name: FileEntry.of(data) for name, data in evidence.items()},
    )
    return {manifest.MANIFEST: stated.encode(), **listed, **evidence}


def doubled() -> SoakModel:
    """`y` is twice `x`, and 1 more."""
    nodes = [helper.make_node("Mul", ["x", "two"], ["twice"]), helper.make_node("Add", ["twice", "one"], ["y"])]
    constants = {"two": np.array([2], np.float32), "one": np.array([1], np.float32)}
    return SoakModel(_onnx(nodes, constants, COLUMNS, COLUMNS), COLUMNS, 16, lambda x: 2 * x + 1)


def mirrored() -> SoakModel:
    """`y` is `x`, its columns in reverse."""
    nodes = [helper.make_node("Gather", ["x", "order"], ["y"], axis=1)]
    order = np.arange(COLUMNS)[::-1].copy()
    return SoakModel(_onnx(nodes, {"order": order}, COLUMNS, COLUMNS), COLUMNS, 16, lambda x: x[:, ::-1])


def shifted(by: int, max_rows: int = 16) -> SoakModel:
    """`y` is `x` and `by` more, after as many turns of a loop as the largest number in the second column says (each 0.7 µs)."""
    turn = helper.make_graph(
        [helper.make_node("Sin", ["v_in"], ["v_out"]), helper.make_node("Identity", ["on_in"], ["on_out"])],
        "turn",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("on_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [1]),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["x", "second"], ["wishes"], axis=1),
        helper.make_node("ReduceMax", ["wishes"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "", "zero"], ["still_zero"], body=turn),
        helper.make_node("Sum", ["x", "still_zero", "by"], ["y"]),
    ]
    constants = {"second": np.array(1), "zero": np.zeros(1, np.float32), "by": np.array([by], np.float32)}
    return SoakModel(_onnx(nodes, constants, COLUMNS, COLUMNS), COLUMNS, max_rows, lambda x: x + by)


def mlp(version: int) -> SoakModel:
    """784-128-10 with whole weights, the same in every version, and the version's number added to every output."""
    generator = np.random.default_rng(0)
    first = generator.integers(-2, 3, (PIXELS, HIDDEN)).astype(np.float32)
    second = generator.integers(-2, 3, (HIDDEN, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", "second", "version"], ["y"]),
    ]
    constants = {"first": first, "second": second, "version": np.full(CLASSES, version, np.float32)}
    onnx = _onnx(nodes, constants, PIXELS, CLASSES)
    return SoakModel(onnx, PIXELS, 64, lambda x: np.maximum(x @ first, 0) @ second + np.float32(version))


def _onnx(nodes: list[NodeProto], constants: dict[str, np.ndarray], taken: int, given: int) -> bytes:
    graph = helper.make_graph(
        nodes,
        "soak",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, taken])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [BATCH, given])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=_IR).SerializeToString()
