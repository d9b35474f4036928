"""What ONNX Runtime is told for a CUDA device: seen by a session of its CPU build that says it runs on CUDA."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

import artifact
from artifact.engines import EngineOptions, load_engine
from artifact.engines.cuda.session import provider_options
from artifact.engines.onnx import failed
from artifact.errors import DeviceLost, EngineFailed, EngineUnavailable, OutOfMemory
from artifact.signature import Dim, Signature, TensorSpec

PROJECT = Path(__file__).parents[2]
CUDA = "CUDAExecutionProvider"
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 2), (0, 4)),), (TensorSpec("y", "float32", ("batch", 2)),), {"batch": Dim(1, 5)}
)
STRICT = "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the default CPU EP"
FULL = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 1073741824"


def model(*kinds):
    """x + 1, and then each of the operations."""
    names = ["x1", *(f"x{number}" for number in range(2, len(kinds) + 2))]
    names[-1] = "y"
    nodes = [helper.make_node("Add", ["x", "one"], [names[0]])]
    nodes += [helper.make_node(kind, [before], [after]) for kind, before, after in zip(kinds, names, names[1:], strict=False)]
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1])
    outer = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", outer[:1], outer[1:], [one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


class Binding:
    """A binding of the CPU's session: outputs that are to lie on a GPU lie here."""

    def __init__(self, binding, seen):
        self.binding, self.seen = binding, seen

    def bind_output(self, name, device_type, device_id):
        self.seen.append(f"bind {name} to {device_type}:{device_id}")
        self.binding.bind_output(name)

    def bind_cpu_input(self, name, array):
        assert array.flags.c_contiguous
        self.seen.append(f"bind {name}")
        self.binding.bind_cpu_input(name, array)

    def __getattr__(self, name):
        if name in {"synchronize_inputs", "synchronize_outputs", "copy_outputs_to_cpu"}:
            self.seen.append(name)
        return getattr(self.binding, name)


@pytest.fixture
def runtime(monkeypatch):
    """ONNX Runtime as if it had CUDA: `seen` is what was asked of it, `refuses` its error for a strict session."""
    made = onnxruntime.InferenceSession

    class Runtime:
        seen, sessions, refuses, fails = [], [], None, []

    class Session:
        def __init__(self, data, settings, *, providers, enable_fallback):
            strict = settings._entries.get("session.disable_cpu_ep_fallback") == "1"
            Runtime.sessions.append((settings._entries, providers, enable_fallback))
            if strict and Runtime.refuses is not None:
                raise Runtime.refuses
            self.session = made(data, settings, providers=["CPUExecutionProvider"]) if not strict else made(data)

        def get_providers(self):
            return [CUDA, "CPUExecutionProvider"]

        def io_binding(self):
            return Binding(self.session.io_binding(), Runtime.seen)

        def run_with_iobinding(self, binding, options):
            shrink = options.get_run_config_entry("memory.enable_memory_arena_shrinkage") if Runtime.fails == ["told"] else None
            Runtime.seen.append("run" if shrink is None else f"run, shrinking {shrink}")
            if Runtime.fails and isinstance(Runtime.fails[0], Exception):
                raise Runtime.fails.pop()
            options = onnxruntime.RunOptions()  # the CPU's arena has no such name
            self.session.run_with_iobinding(binding.binding, options)

        def __getattr__(self, name):
            return getattr(self.session, name)

    class Options(onnxruntime.SessionOptions):
        def __init__(self):
            super().__init__()
            self._entries = {}

        def add_session_config_entry(self, key, value):
            self._entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    return Runtime


@pytest.fixture
def engine(runtime):
    made = load_engine("onnx", model(), SIGNATURE, EngineOptions(threads=1, device="cuda:3"))
    runtime.warm = list(runtime.seen)
    runtime.seen.clear()
    return made


def test_what_the_provider_is_told():
    """TF32 where it is asked for, the search by heuristics, memory no further than what is needed, and its limit."""
    told = {
        "device_id": "3",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "do_copy_in_default_stream": "1",
    }
    limited = {"device_id": "0", "use_tf32": "1", "gpu_mem_limit": "1073741824"}

    assert provider_options(EngineOptions(device="cuda:3", precision="float16")) == told
    assert provider_options(EngineOptions(device="cuda:0", precision="tf32", memory_bytes=1 << 30)) == told | limited


def test_nothing_may_fall_back(runtime, engine):
    """CUDA is the only provider that is named, the CPU's is forbidden, and so is starting again without CUDA."""
    ((entries, providers, enable_fallback),) = runtime.sessions

    assert entries["session.disable_cpu_ep_fallback"] == "1"
    assert providers == [(CUDA, provider_options(EngineOptions(device="cuda:3")))]
    assert enable_fallback == 0
    assert engine.name == "onnx"


def test_a_run_is_bound(runtime, engine):
    """Inputs are bound and on the device before the run; outputs stay there, and are copied back once."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3).T

    assert engine.run({"x": x})["y"].tolist() == (x + 1).tolist()
    steps = ["bind x", "bind y to cuda:3", "synchronize_inputs", "run", "synchronize_outputs", "copy_outputs_to_cpu"]
    assert runtime.seen == steps
    assert runtime.warm == steps * 4  # one warm-up each of 5, 4, 2 and 1 rows


def test_arithmetic_of_shapes_may_be_on_the_cpu(runtime):
    """A model that is refused for it alone is made again, with the CPU for the rest and a note of which node is where."""
    runtime.refuses = RuntimeError(STRICT)
    made = load_engine("onnx", model("Neg"), SIGNATURE, EngineOptions(device="cuda:0"))
    _, (entries, providers, enable_fallback) = runtime.sessions

    assert made.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[-2, -2]]
    assert entries["session.record_ep_graph_assignment_info"] == "1"
    assert "session.disable_cpu_ep_fallback" not in entries
    assert [one if isinstance(one, str) else one[0] for one in providers] == [CUDA, "CPUExecutionProvider"]
    assert enable_fallback == 0


def test_an_operation_without_a_kernel(runtime):
    """One that would compute on the CPU is refused by name, with the ways out."""
    runtime.refuses = RuntimeError(STRICT)

    with pytest.raises(EngineUnavailable) as caught:
        load_engine("onnx", model("Erf", "Abs"), SIGNATURE, EngineOptions(device="cuda:0"))
    assert str(caught.value) == (
        f"ONNX Runtime {onnxruntime.__version__} has no CUDA kernel for Abs, Erf of model.onnx, and nothing falls back to the "
        "CPU in silence: take engine torchscript or pt2 for cuda:0, or run on the CPU"
    )


def test_a_cpu_that_takes_the_place_of_cuda(mlp_artifact, runtime, monkeypatch):
    """ONNX Runtime leaves out a provider that it cannot load; what it then runs on is looked at, and refused."""
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["CPUExecutionProvider"])

    with pytest.raises(EngineUnavailable) as caught:
        artifact.load(mlp_artifact, engine="onnx", device="cuda:3")
    assert str(caught.value) == (
        f"ONNX Runtime {onnxruntime.__version__} cannot run on cuda:3 here: install onnxruntime-gpu and the CUDA libraries that "
        "it asks for, or run on the CPU"
    )
    assert runtime.seen == []


def test_without_the_cuda_provider(mlp_artifact):
    """The build for the CPU says what to install."""
    with pytest.raises(EngineUnavailable, match=r"cannot run on cuda:0 here: install onnxruntime-gpu"):
        artifact.load(mlp_artifact, engine="onnx", device="cuda:0")


def test_out_of_memory_on_the_device(runtime, engine):
    """It has a type of its own; the next run gives back what the arena does not use, and the one after it runs as always."""
    x = {"x": np.ones((2, 2), np.float32)}
    runtime.fails = [RuntimeError(FULL)]
    with pytest.raises(OutOfMemory, match=r"^ONNX Runtime failed: .*Failed to allocate memory"):
        engine.run(x)

    runtime.fails = ["told"]
    assert engine.run(x)["y"].tolist() == [[2, 2]] * 2
    assert [step for step in runtime.seen if step.startswith("run")] == ["run", "run, shrinking gpu:3"]
    runtime.fails = [RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")]
    with pytest.raises(EngineFailed) as caught:
        engine.run(x)
    assert type(caught.value) is EngineFailed


def test_what_the_allocators_say():
    """A real arena that is too small (the CPU's, limited) fails with words that are known for it."""
    code = """
import sys
import numpy as np, onnxruntime as runtime
from onnx import TensorProto, helper
repeats = helper.make_tensor("repeats", TensorProto.INT64, [2], [1, 1 << 20])
graph = helper.make_graph(
    [helper.make_node("Tile", ["x", "repeats"], ["y"])],
    "large",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
    [repeats],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
memory = runtime.OrtMemoryInfo("Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT)
runtime.create_and_register_allocator(memory, runtime.OrtArenaCfg({"max_mem": 1 << 20, "arena_extend_strategy": 1}))
settings = runtime.SessionOptions()
settings.log_severity_level = 4
settings.add_session_config_entry("session.use_env_allocators", "1")
session = runtime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
from artifact.engines.onnx import failed
try:
    session.run(None, {"x": np.ones((8, 4), np.float32)})
except Exception as error:
    print(type(failed(error)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "OutOfMemory\n", done.stderr
    assert type(failed(RuntimeError("CUDA failure 2: out of memory ; GPU=0"))) is OutOfMemory
    assert type(failed(RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0"))) is DeviceLost
    assert type(failed(RuntimeError("Got invalid dimensions"))) is EngineFailed


def test_bfloat16_has_a_way_out(mlp_artifact):
    """ONNX has no bfloat16 form: what to take instead is said."""
    with pytest.raises(EngineUnavailable) as caught:
        artifact.load(mlp_artifact, engine="onnx", device="cuda:0", precision="bfloat16")
    assert str(caught.value) == (
        "engine onnx has no bfloat16 form for cuda:0: take engine torchscript or pt2, or precision float16 or float32"
    )
