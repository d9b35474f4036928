"""The engines give the same answers, leave their inputs alone, and say what they need."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import artifact
from artifact.engines import LOADERS, MODEL_FILES, EngineOptions, load_engine
from artifact.errors import EngineFailed, EngineUnavailable
from artifact.golden import scaled_error
from artifact.signature import Dim, Signature, TensorSpec

PROJECT = Path(__file__).parents[2]
ENGINES = ("onnx", "torchscript", "pt2")
TWO = Signature(
    (TensorSpec("a", "float32", ("batch", 2)), TensorSpec("b", "float32", ("batch", 2))),
    (TensorSpec("sum", "float32", ("batch", 2)), TensorSpec("difference", "float32", ("batch", 2))),
    {"batch": Dim(1, 8)},
)


class TwoByTwo(torch.nn.Module):
    """Answers a tuple, and writes into its inputs on the way."""

    def forward(self, a, b):
        total = a + b
        a.sub_(b)
        return total, a


def torchscript(module, count=2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.freeze(torch.jit.trace(module.eval(), tuple(torch.ones(3, 2) for _ in range(count))))
        buffer = io.BytesIO()
        torch.jit.save(program, buffer)
    return buffer.getvalue()


def pt2(module):
    program = torch.export.export(module.eval(), (torch.ones(3, 2), torch.ones(3, 2)))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def onnx_two(*, outputs=("sum", "difference")):
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], [outputs[0]]), helper.make_node("Sub", ["a", "b"], [outputs[1]])],
        "two",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("a", "b")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in outputs],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_the_engines_agree(mlp_artifact, rows):
    """ONNX Runtime, TorchScript and the exported program give the same outputs."""
    x = np.random.default_rng(rows).uniform(-4, 4, (rows, 4)).astype(np.float32)
    answers = [artifact.load(mlp_artifact, engine=engine).run({"x": x}) for engine in ENGINES]

    assert all(list(answer) == ["logits"] for answer in answers)
    assert all(answer["logits"].shape == (rows, 3) and answer["logits"].dtype == np.float32 for answer in answers)
    assert max(scaled_error(answer["logits"], answers[0]["logits"]) for answer in answers) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_inputs_are_taken_as_they_come(mlp_artifact, engine):
    """Views, reversed and read-only arrays give what a plain copy of them gives, and are not modified."""
    loaded = artifact.load(mlp_artifact, engine=engine)
    plain = np.random.default_rng(0).uniform(-4, 4, (6, 8)).astype(np.float32)
    read_only = np.frombuffer(plain[:, :4].tobytes(), np.float32).reshape(6, 4)
    for given in (plain[::-1, ::2], plain[:, 4:][::2], plain.T[:4].T, read_only):
        before = given.copy()
        answer = loaded.run({"x": given})["logits"]

        assert np.array_equal(answer, loaded.run({"x": before})["logits"])
        assert np.array_equal(given, before)


@pytest.mark.parametrize(
    ("engine", "model"), [("onnx", onnx_two()), ("torchscript", torchscript(TwoByTwo())), ("pt2", pt2(TwoByTwo()))], ids=ENGINES
)
def test_outputs_are_named_by_the_signature(engine, model):
    """Several outputs carry the signature's names in its order; a program that writes into its inputs writes into copies."""
    loaded = load_engine(engine, model, TWO)
    a, b = np.array([[1, 2]] * 3, np.float32), np.array([[10, 20]] * 3, np.float32)
    answers = [loaded.run({"b": b, "a": a}) for _ in range(2)]

    for answer in answers:
        assert list(answer) == ["sum", "difference"]
        assert answer["sum"].tolist() == [[11, 22]] * 3
        assert answer["difference"].tolist() == [[-9, -18]] * 3
    assert a.tolist() == [[1, 2]] * 3


def test_an_onnx_model_with_other_outputs():
    """ONNX names its outputs itself: others than the signature's are refused."""
    with pytest.raises(EngineUnavailable) as caught:
        load_engine("onnx", onnx_two(outputs=("difference", "sum")), TWO)

    assert str(caught.value) == "model.onnx gives difference, sum; the signature says sum, difference"


def test_a_program_with_another_number_of_outputs():
    """A TorchScript program whose answer is not of the signature's form fails by name."""
    engine = load_engine("torchscript", torchscript(torch.nn.ReLU(), 1), Signature(TWO.inputs[:1], TWO.outputs, TWO.dims))

    with pytest.raises(EngineFailed) as caught:
        engine.run({"a": np.ones((3, 2), np.float32)})
    assert str(caught.value) == "the model gives Tensor; the signature says 2 tensor(s): sum, difference"


@pytest.mark.parametrize(("engine", "words"), [("onnx", "ONNX Runtime failed"), ("torchscript", "TorchScript failed")])
def test_an_engine_that_fails(mlp_artifact, engine, words):
    """What an engine refuses, unchecked, is the server's fault and says which engine it was."""
    with pytest.raises(EngineFailed, match=rf"^{words}: "):
        artifact.load(mlp_artifact, engine=engine).engine.run({"x": np.zeros((2, 5), np.float32)})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("engine", ENGINES)
def test_threads(mlp_artifact, engine, monkeypatch):
    """The number of threads reaches the engine, and does not change the answer."""
    made = []
    session = onnxruntime.InferenceSession

    def spy(model, options, **rest):
        made.append(options.intra_op_num_threads)
        return session(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    loaded = artifact.load(mlp_artifact, engine=engine, threads=1)

    assert made == [1] if engine == "onnx" else torch.get_num_threads() == 1
    x = np.ones((4, 4), np.float32)
    assert scaled_error(loaded.run({"x": x})["logits"], artifact.load(mlp_artifact, engine=engine).run({"x": x})["logits"]) < 1e-6


def test_a_pt2_that_holds_pickles_is_not_loaded(tmp_path):
    """A .pt2 with a member that would run code when unpickled is refused before PyTorch sees it."""
    import pickle
    import zipfile

    class Touch:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    buffer = io.BytesIO(pt2(TwoByTwo()))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/data/constants/custom_obj_0", pickle.dumps(Touch()))

    with pytest.raises(EngineUnavailable) as caught:
        load_engine("pt2", buffer.getvalue(), TWO)
    assert str(caught.value) == (
        "model.pt2 holds pickled data, which would run code when loaded: archive/data/constants/custom_obj_0"
    )
    assert not (tmp_path / "ran").exists()


def test_one_file_per_engine():
    """Every engine has its file, and the order of both is the order of preference."""
    assert list(LOADERS) == list(MODEL_FILES) == list(ENGINES)
    assert EngineOptions().threads is None


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
sys.meta_path.insert(0, Blocker())
"""


def blocked(modules, code):
    script = f"BLOCKED = {set(modules)!r}\n{BLOCKER}\n{code}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("engine", "library", "install"),
    [
        ("onnx", "onnxruntime", "pip install 'stateserve[cpu]' (or [gpu])"),
        ("torchscript", "torch", "pip install torch"),
        ("pt2", "torch", "pip install torch"),
    ],
)
def test_an_engine_whose_library_is_not_installed(mlp_artifact, engine, library, install):
    """Without its library an engine says what is missing, and the line that installs it."""
    done = blocked(
        [library],
        "import artifact\nfrom artifact.errors import EngineUnavailable\n"
        f"try:\n    artifact.load({str(mlp_artifact)!r}, engine={engine!r})\n"
        "except EngineUnavailable as error:\n    print(error)",
    )

    assert done.stdout == f"engine {engine} needs {library}, which is not installed: {install}\n", done.stderr


def test_an_onnx_artifact_needs_neither_torch_nor_onnx(mlp_artifact):
    """`artifact` imports, loads, runs and replays without torch, onnx, onnxscript and yaml."""
    done = blocked(
        ["torch", "onnx", "onnxscript", "yaml"],
        "import artifact, numpy\nfrom artifact import golden\n"
        f"loaded = artifact.load({str(mlp_artifact)!r})\n"
        "golden.require(loaded.replay())\n"
        "print(loaded.run({'x': numpy.zeros((2, 4), numpy.float32)})['logits'].shape)",
    )

    assert done.stdout == "(2, 3)\n", done.stderr


def test_without_a_library_the_other_engines_are_still_checked(mlp_artifact):
    """`check --replay` skips what is not installed here, says so, and holds the rest to the golden cases."""
    done = blocked(
        ["torch"],
        "from pathlib import Path\nfrom artifact.check import replay_all, require_all\n"
        f"replayed = list(replay_all(Path({str(mlp_artifact)!r}), ('onnx', 'torchscript', 'pt2')))\n"
        "require_all(replayed)\nprint([(entry.engine, bool(entry.results), entry.unavailable) for entry in replayed])",
    )
    missing = "needs torch, which is not installed: pip install torch"

    assert done.stdout == (
        f"[('onnx', True, None), ('torchscript', False, 'engine torchscript {missing}'), "
        f"('pt2', False, 'engine pt2 {missing}')]\n"
    ), done.stderr
