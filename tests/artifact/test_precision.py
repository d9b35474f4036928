"""An artifact in another precision than float32: what it computes, and what its answers are compared with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import artifact
from artifact import check, golden
from artifact.engines import EngineOptions, load_engine, model_file
from artifact.errors import DamagedArtifact, EngineUnavailable, GoldenMismatch

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def half(mlp_artifact, tmp_path, rehash, rewrite_manifest):
    """A copy that declares bfloat16, with budgets for it as export would state them."""
    copy = shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")
    parity = json.loads((copy / "parity.json").read_bytes())
    parity["precisions"] = {"bfloat16": {"outputs": {"logits": {"budget": 0.05, "measured": 0.01}}}}
    (copy / "parity.json").write_text(json.dumps(parity))
    rehash(copy)
    rewrite_manifest(copy, lambda value: value["content"]["config"].update(precision="bfloat16"))
    return copy


@pytest.mark.parametrize("engine", ["torchscript", "pt2"])
def test_answers_are_compared_with_the_reference(half, engine):
    """In bfloat16 no answer is as it was recorded in float32, and all lie within the budget of the float64 reference."""
    loaded = artifact.load(half, engine=engine, precision="bfloat16")
    replays = loaded.replay()

    assert (loaded.precision, loaded.device) == ("bfloat16", "cpu")
    assert loaded.budgets[engine] == {"logits": 0.05}
    assert {replay.tolerance for replay in replays} == {0.05}
    assert not any(replay.bit_equal for replay in replays)
    assert max(replay.error for replay in replays) > 1e-4
    golden.require(replays)


def test_a_budget_that_does_not_hold(half, rehash):
    """Answers outside the precision's budget are refused as any others are."""
    parity = json.loads((half / "parity.json").read_bytes())
    parity["precisions"]["bfloat16"]["outputs"]["logits"]["budget"] = 1e-5
    (half / "parity.json").write_text(json.dumps(parity))
    rehash(half)

    with pytest.raises(GoldenMismatch, match=r"disagrees on engine torchscript: output logits"):
        golden.require(artifact.load(half, engine="torchscript", precision="bfloat16").replay())


def test_the_cpu_computes_in_float32(half):
    """Left to itself the CPU gives what was recorded, whatever the artifact declares for a GPU."""
    loaded = artifact.load(half)

    assert (loaded.engine.name, loaded.precision) == ("onnx", "float32")
    assert all(replay.tolerance < 1e-4 for replay in loaded.replay())
    golden.require(loaded.replay())


def test_a_precision_that_was_not_proven(half):
    """Nothing says how exact it has to be: it is refused, with both ways out."""
    with pytest.raises(EngineUnavailable) as caught:
        artifact.load(half, engine="torchscript", precision="float16")
    assert str(caught.value) == (
        f"{half} was not proven in float16, and nothing says how exact it has to be: export it again with `precision: float16` "
        "in its YAML, or run it with precision float32"
    )


@pytest.mark.parametrize("entry", [None, {"outputs": {}}, {"outputs": {"logits": {"budget": "small"}}}])
def test_budgets_that_are_none(half, rehash, entry):
    """A precision that is stated without a budget for every output is damage."""
    parity = json.loads((half / "parity.json").read_bytes())
    parity["precisions"]["bfloat16"] = entry
    (half / "parity.json").write_text(json.dumps(parity))
    rehash(half)

    with pytest.raises(DamagedArtifact, match=r"parity\.json states no budgets for bfloat16: "):
        artifact.load(half, engine="pt2", precision="bfloat16")


def test_words_that_are_no_precision(mlp_artifact):
    """An unknown precision is refused with those that there are."""
    with pytest.raises(EngineUnavailable) as caught:
        artifact.load(mlp_artifact, precision="int8")
    assert str(caught.value) == "there is no precision 'int8'; they are float32, tf32, float16, bfloat16"


def test_the_file_of_a_precision(half, mlp_artifact):
    """ONNX has a file of its own for float16; PyTorch's formats compute in half precision from the one that they have."""
    assert model_file("onnx", "float16", "cuda:0") == "model.float16.onnx"
    assert model_file("onnx", "tf32", "cuda:0") == model_file("onnx") == "model.onnx"
    assert model_file("pt2", "float16", "cuda:0") == "model.pt2"
    with pytest.raises(EngineUnavailable, match=r"^engine onnx has no bfloat16 form for cpu: take engine torchscript or pt2"):
        artifact.load(half, engine="onnx", precision="bfloat16")
    with pytest.raises(EngineUnavailable) as caught:
        artifact.load(mlp_artifact, engine="onnx", precision="float16")
    assert str(caught.value) == (f"{mlp_artifact} holds no model.float16.onnx; export it with `precision: float16` in its YAML")


@pytest.mark.parametrize("engine", ["torchscript", "pt2"])
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "tf32"])
def test_answers_have_the_declared_type(mlp_artifact, engine, precision):
    """Whatever is computed in, float32 was promised; TF32 is a CUDA device's, and float32 elsewhere."""
    loaded = artifact.load(mlp_artifact, engine=engine)
    model = (mlp_artifact / model_file(engine)).read_bytes()
    x = {"x": np.linspace(-4, 4, 20, dtype=np.float32).reshape(5, 4)}
    answer = load_engine(engine, model, loaded.signature, EngineOptions(precision=precision)).run(x)["logits"]

    assert answer.dtype == np.float32
    assert np.array_equal(answer, loaded.run(x)["logits"]) == (precision == "tf32")


def test_auto_takes_what_runs_on_the_device(half, monkeypatch):
    """On a GPU that only PyTorch knows, `auto` is a format of PyTorch's; where none runs, the first says why."""
    from artifact import artifact as room

    asked = []

    def load(name, _model, _signature, options):
        asked.append((name, options.device, options.precision))
        raise EngineUnavailable("no device")

    monkeypatch.setattr(room, "load_engine", load)
    for devices in ({"pt2"}, {"torchscript", "pt2"}, {"onnx", "pt2"}):
        monkeypatch.setattr(room, "cuda_devices", lambda name, devices=devices: ["cuda:0"] if name in devices else [])
        with pytest.raises(EngineUnavailable, match="no device"):
            artifact.load(half, device="cuda:0")

    assert asked == [(name, "cuda:0", "bfloat16") for name in ("pt2", "torchscript", "pt2")]
    monkeypatch.setattr(room, "cuda_devices", lambda _: [])
    with pytest.raises(EngineUnavailable, match="engine onnx has no bfloat16 form"):
        artifact.load(half, device="cuda:0")


def test_check_replays_on_every_device(half, monkeypatch):
    """`check --replay` runs each format on the CPU and on every GPU that its library knows, there in the declared precision."""
    monkeypatch.setattr(check, "cuda_devices", lambda name: [] if name == "onnx" else ["cuda:7"])
    replayed = list(check.replay_all(half, ("onnx", "pt2")))

    assert [(entry.where, bool(entry.results)) for entry in replayed] == [
        ("onnx", True),
        ("pt2", True),
        ("pt2 on cuda:7 in bfloat16", False),
    ]
    assert "cannot run on cuda:7 here" in (replayed[-1].unavailable or "")
    check.require_all(replayed)


def test_a_transposed_product_in_float16():
    """A float16 model with a product of transposed rows, as attention has it, runs on the CPU: one optimiser is kept from it."""
    code = """
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from artifact.engines import EngineOptions, load_engine
from artifact.signature import Dim, Signature, TensorSpec

nodes = [
    helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
    helper.make_node("Transpose", ["half"], ["turned"], perm=[1, 0, 2]),
    helper.make_node("MatMul", ["turned", "weight"], ["product"]),
    helper.make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
]
weight = numpy_helper.from_array(np.ones((8, 3), np.float16), "weight")
outer = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 5, 8] if name == "x" else [5, 2, 3]) for name in ("x", "y")]
graph = helper.make_graph(nodes, "attention", outer[:1], outer[1:], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
signature = Signature((TensorSpec("x", "float32", (2, 5, 8)),), (TensorSpec("y", "float32", (5, 2, 3)),))
engine = load_engine("onnx", model, signature, EngineOptions(precision="float16"))
print(engine.run({"x": np.ones((2, 5, 8), np.float32)})["y"].tolist() == np.full((5, 2, 3), 8).tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)

    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
