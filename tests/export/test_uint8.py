"""An image as it comes, in uint8: normalised inside the graph, in every format, and proven in float16."""

import json

import numpy as np
import onnx
import pytest
import torch

import artifact
from artifact.errors import InvalidInput
from artifact.manifest import read_manifest
from artifact.signature import Signature, TensorSpec
from export.cases import parity_cases


def test_the_cases_hold_every_pixel():
    """Black, white, and all between them, the ends included: an integer range is drawn to its last number."""
    image = TensorSpec("image", "uint8", (4, 3, 32, 32), (0, 255))
    signature = Signature((image,), (TensorSpec("y", "float32", (4,)),), {})

    arrays = {case.kind: case.inputs(signature)["image"] for case in parity_cases(signature)}

    assert arrays.keys() == {"uniform", "low", "high"}
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.uint8)}
    assert np.unique(arrays["uniform"]).tolist() == list(range(256))
    assert (arrays["low"].max(), arrays["high"].min()) == (0, 255)


@pytest.mark.parametrize("engine", ["onnx", "torchscript", "pt2"])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_engine_takes_pixels(pixels, engine, precision):
    """The model's own answer in float32, and within the float16 budget in float16."""
    model, exported = pixels
    image = np.random.default_rng(1).integers(0, 255, (3, 3, 32, 32), np.uint8, endpoint=True)
    with torch.no_grad():
        expected = model(torch.from_numpy(image)).numpy()

    loaded = artifact.load(exported.path, engine=engine, precision=precision)

    answer = loaded.run({"image": image})["y"]
    assert answer.dtype == np.float32
    assert np.abs(answer - expected).max() <= 2 * loaded.budgets[engine]["y"] * max(1, np.abs(expected).max())
    assert all(result.passed for result in loaded.replay())


def test_the_artifact_says_so(pixels):
    """uint8 and its range in the signature, float16 in the manifest, budgets for both precisions in the report."""
    _, exported = pixels

    stated = read_manifest(exported.path)

    assert stated.signature.inputs == (TensorSpec("image", "uint8", ("batch", 3, 32, 32), (0, 255)),)
    assert stated.precision == "float16"
    assert stated.content["config"]["model"]["params"].keys() == {"num_classes", "normalize"}
    report = json.loads((exported.path / "parity.json").read_bytes())
    assert report["engines"]["onnx"]["outputs"]["y"]["budget"] < 1e-4
    assert 1e-3 < report["precisions"]["float16"]["outputs"]["y"]["budget"] < 2e-2
    with pytest.raises(InvalidInput, match='input "image" is float32; the signature says uint8'):
        artifact.load(exported.path).run({"image": np.zeros((1, 3, 32, 32), np.float32)})


def test_pixels_are_scaled_before_they_are_rounded(pixels):
    """In model.float16.onnx the first convolution is where float16 begins: 255 times a mean would lose digits in it."""
    _, exported = pixels

    proto = onnx.load(exported.path / "model.float16.onnx")

    assert [node.op_type for node in proto.graph.node[:5]] == ["Cast", "Sub", "Mul", "Cast", "Conv"]
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    floats = {tensor.data_type for tensor in proto.graph.initializer if tensor.name.endswith("weight")}
    assert floats == {onnx.TensorProto.FLOAT16}
