"""One server of ours for all tests that only ask, with models of every dtype, each of which gives back what it gets."""

import numpy as np
import pytest
from onnx import helper

from artifact.signature import Dim, Signature, TensorSpec
from bench.processes import started

BATCH = {"batch": Dim(1, 16, opt=4)}
LENGTH = {"length": Dim(2, 9, multiple=2, opt=5)}
NUMBERS = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
FLAG = TensorSpec("flag", "bool", ("batch", 2))
WHOLE = (TensorSpec("x", "int64", (2, 3), (-5, 5)),)
MODELS = {
    "broken/1": (WHOLE, {}),
    "half/1": ((TensorSpec("x", "float16", ("batch", 3), (-1, 1)),), BATCH),
    "mixed/1": ((FLAG, *(TensorSpec(dtype, dtype, ("batch", "length"), (0, 100)) for dtype in NUMBERS)), BATCH | LENGTH),
    "one/3": ((TensorSpec("x", "float32", ("batch", 4), (-1, 1)),), BATCH),
    "whole/1": (WHOLE, {}),
}


def echo(signature):
    """An ONNX model whose outputs are its inputs."""

    def info(spec):
        return helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)

    given, back = signature.inputs, signature.outputs
    nodes = [helper.make_node("Identity", [one.name], [other.name]) for one, other in zip(given, back, strict=True)]
    graph = helper.make_graph(nodes, "echo", [*map(info, given)], [*map(info, back)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture(scope="session")
def served(write_artifact, tmp_path_factory):
    """A server with `MODELS`, whose output NAME_back is input NAME; `broken` fails its checks."""
    root = tmp_path_factory.mktemp("served") / "repository"
    for place, (given, dims) in MODELS.items():
        signature = Signature(given, tuple(TensorSpec(f"{spec.name}_back", spec.dtype, spec.shape) for spec in given), dims)
        golden = {spec.name: np.zeros(spec.concrete({"batch": 1, "length": 2}), spec.dtype) for spec in given}
        write_artifact(root / place, signature, {"onnx": echo(signature)}, golden)
    (root / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    with started("serving", "--repository", str(root), folder=root.parent, ready="/v2/models/whole/ready") as running:
        yield running
