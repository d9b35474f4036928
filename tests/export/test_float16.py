"""model.float16.onnx: weights and computing in float16, inputs and outputs as before, and nothing lost without a word."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch

import artifact
import export.run
import model_defs
from artifact.manifest import read_manifest
from artifact.signature import Dim, Signature, TensorSpec
from export.capture import capture
from export.float16 import FILE, HALF_RANGE, compare_float16_weights, round_to_float16
from export.onnx import lower_onnx

BERT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
BERT |= {"max_position_embeddings": 40}
TOKENS = ("batch", "sequence")
TEXT = Signature(
    (TensorSpec("input_ids", "int64", TOKENS, (0, 49)), TensorSpec("attention_mask", "int64", TOKENS, (0, 1))),
    (TensorSpec("embedding", "float32", ("batch", 32)),),
    {"batch": Dim(1, 8), "sequence": Dim(1, 40)},
)


def rows(dtype="float32"):
    """Inputs and outputs of the plugins' models: rows of 4 numbers to rows of 3."""
    return Signature(
        (TensorSpec("x", dtype, ("batch", 4), (-1, 1)),), (TensorSpec("y", dtype, ("batch", 3)),), {"batch": Dim(1, 8)}
    )


def rounded(model, signature):
    """The model's ONNX in float16, and what was captured of it."""
    captured = capture(model.eval().requires_grad_(requires_grad=False), signature)
    return onnx.load_from_string(round_to_float16(lower_onnx(captured), captured)), captured


def initializers(proto):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def producer(proto, name):
    return next(node for node in proto.graph.node if name in node.output)


# ---- the file ----


def test_it_is_part_of_the_content(work):
    """Listed, hashed, beside model.onnx; a config without float16, or without ONNX, gives none."""
    work.net("good", "small", precision="float16")

    exported = work.export()

    assert FILE == "model.float16.onnx"
    assert read_manifest(exported.path).files.keys() == {"model.onnx", FILE}
    assert exported.sizes[FILE] == (exported.path / FILE).stat().st_size
    found = exported.precisions["float16"]["files"][FILE]
    assert found["weights_rounded"] == 10
    assert 0 < found["outputs"]["y"]["scaled"] < exported.precisions["float16"]["outputs"]["y"]["budget"]
    assert FILE not in read_manifest(work.export(formats=("pt2",)).path).listed


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_other_precisions_need_no_file(work, precision):
    """TF32 is a switch of the engine, and bfloat16 is PyTorch's alone."""
    work.net("good", "small", precision=precision)

    assert read_manifest(work.export().path).files.keys() == {"model.onnx"}


def test_weights_and_ends(work):
    """Every weight is the checkpoint's, rounded; inputs and outputs keep names, dtypes and axes."""
    model = work.net("good", "small", precision="float16")

    path = work.export().path

    proto, plain = onnx.load(path / FILE), onnx.load(path / "model.onnx")
    stored = initializers(proto)
    for name, tensor in model.state_dict().items():
        assert stored[name].dtype == np.float16
        assert np.array_equal(stored[name], tensor.half().numpy())
    assert list(proto.graph.input) == list(plain.graph.input)
    assert list(proto.graph.output) == list(plain.graph.output)
    assert [node.op_type for node in proto.graph.node if node.op_type == "Cast"] == ["Cast", "Cast"]
    assert proto.graph.node[-1].output == ["y"]


def test_a_changed_weight(work, monkeypatch):
    """One that is not the rounded one of the checkpoint is found, however small the change."""
    work.net("good", "small", precision="float16")

    def poisoned(data, captured):
        proto = onnx.load_from_string(round_to_float16(data, captured))
        tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == "b.weight")
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[0, 0] = np.nextafter(array[0, 0], np.float16(9))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, "b.weight"))
        return proto.SerializeToString()

    monkeypatch.setattr(export.run, "round_to_float16", poisoned)

    assert work.refuse(8) == (
        "weight b.weight in model.float16.onnx is not the checkpoint's, rounded to float16; the lowering changed it"
    )


def test_a_weight_beyond_float16(work):
    """It would be infinite; nothing is clipped."""
    model = work.net("good", "small", precision="float16")
    weights = model.state_dict()
    weights["a.weight"] *= 1e-6
    weights["a.bias"][2] = 70000
    weights["b.weight"][:, 2] = 0
    work.save(weights)

    assert work.refuse(8) == "weight a.bias holds 70000, and float16 ends at 65504; declare precision: bfloat16, tf32 or float32"


def test_a_file_beyond_the_budget(work, monkeypatch):
    """What the model itself would not lose in float16, the file may not lose either."""
    work.net("good", "small", precision="float16")

    def worse(data, captured):
        proto = onnx.load_from_string(round_to_float16(data, captured))
        proto.graph.node[-1].input[0] = "off"
        offset = onnx.numpy_helper.from_array(np.array(0.01, np.float16), "offset")
        last = next(node for node in proto.graph.node if "y.float16" in node.output)
        proto.graph.node.insert(len(proto.graph.node) - 1, onnx.helper.make_node("Add", [last.output[0], "offset"], ["off"]))
        proto.graph.initializer.append(offset)
        return proto.SerializeToString()

    monkeypatch.setattr(export.run, "round_to_float16", worse)
    message = work.refuse(8)

    assert message.startswith("model.float16.onnx is off by a scaled error of ")
    assert message.endswith(" in float16. Declare precision: float32, or leave onnx out with --format")


# ---- what is rounded ----


def test_tables_and_trunk_are_float16():
    """Of BERT all weights are; the mask becomes a bias in float32, is held within half the range, and added in float16."""
    torch.manual_seed(0)
    model = model_defs.build("bert", BERT)

    proto, captured = rounded(model, TEXT)

    stored = initializers(proto)
    assert {stored[name].dtype for name in captured.program.state_dict if name in stored} == {np.dtype(np.float16)}
    assert compare_float16_weights(proto.SerializeToString(), captured, model.state_dict()) == 21
    softmax = next(node for node in proto.graph.node if node.op_type == "Softmax")
    bias = producer(proto, producer(proto, softmax.input[0]).input[1])
    assert bias.op_type == "Cast"
    held = producer(proto, bias.input[0])
    assert held.op_type == "Clip"
    assert [stored[name] for name in held.input[1:]] == [-HALF_RANGE, HALF_RANGE]


def test_a_text_without_tokens(work):
    """All of its scores are filled: no infinity less infinity, no NaN, but zero, as in float32."""
    tokens = {"dtype": "int64", "shape": ["batch", "sequence"]}
    work.write(
        {
            **work.data("bert", BERT),
            "inputs": {"input_ids": {**tokens, "range": [0, 49]}, "attention_mask": {**tokens, "range": [0, 1]}},
            "dims": {"batch": {"min": 1, "max": 4}, "sequence": {"min": 1, "max": 8}},
            "outputs": {"embedding": {"dtype": "float32", "shape": ["batch", 32]}},
            "precision": "float16",
        }
    )
    work.save(model_defs.build("bert", BERT).state_dict())

    loaded = artifact.load(work.export().path, precision="float16")

    ids = np.arange(6).reshape(2, 3)
    mask = np.array([[0, 0, 0], [1, 1, 0]])
    answer = loaded.run({"input_ids": ids, "attention_mask": mask})["embedding"]
    assert answer.dtype == np.float32
    assert not answer[0].any()
    assert answer[1].any()


def test_sums_are_taken_in_float32():
    """A sum of many is computed in float32, and comes down again where it meets float16."""

    class Summed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Linear(4, 3)

        def forward(self, x):
            y = self.a(x)
            return y - y.exp().sum(-1, keepdim=True).log()

    proto, _ = rounded(Summed(), rows())

    kinds = Counter(node.op_type for node in proto.graph.node)
    assert producer(proto, next(node for node in proto.graph.node if node.op_type == "Exp").input[0]).op_type == "Cast"
    assert (kinds["Cast"], kinds["Clip"]) == (4, 1)


def test_a_branch_stays_float32(work):
    """An If and all within it: float16 ends before it, and begins again at the next product."""
    work.plugin("precise")
    model = model_defs.build("branching", {})

    proto, captured = rounded(model, rows())

    branch = next(node for node in proto.graph.node if node.op_type == "If")
    stored = initializers(proto)
    assert stored["a.weight"].dtype == np.float16
    assert stored["b.weight"].dtype == np.float32
    assert branch.output[0] == "y"
    assert compare_float16_weights(proto.SerializeToString(), captured, model.state_dict()) == 4


def test_the_same_bytes():
    """Twice over the same program."""
    model = model_defs.build("bert", BERT)
    captured = capture(model.eval(), TEXT)
    data = lower_onnx(captured)

    assert round_to_float16(data, captured) == round_to_float16(data, captured)
