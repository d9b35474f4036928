"""What surrounds a PyTorch program on a CUDA device, with the CPU in its place: lanes, staging, graphs, layouts, failures."""

import io
import threading
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from host_device import HostMemory, HostStreams, host_device, host_program, loaded_program

import artifact
from artifact.engines import EngineOptions, load_engine
from artifact.engines.cuda import graphs, weights
from artifact.engines.cuda.engines import pt2_call, script_call
from artifact.engines.cuda.memory import CudaMemory
from artifact.engines.cuda.program import Device
from artifact.engines.cuda.staging import Staging
from artifact.engines.cuda.streams import capturing
from artifact.engines.cuda.weights import place_script
from artifact.engines.precision import allow_tf32
from artifact.engines.torchscript import load_script, run_script
from artifact.errors import DeviceLost, EngineFailed, EngineUnavailable, OutOfMemory
from artifact.signature import Dim, Signature, TensorSpec

ROWS = Signature(
    (TensorSpec("x", "float32", ("batch", 2), (0, 4)),), (TensorSpec("y", "float32", ("batch", 2)),), {"batch": Dim(1, 12)}
)
IMAGES = Signature(
    (TensorSpec("image", "uint8", ("batch", 3, 4, 6), (0, 255)),),
    (TensorSpec("y", "float32", ("batch", 3, 4, 6)),),
    {"batch": Dim(1, 4)},
)
WORDS = Signature(
    (TensorSpec("ids", "int64", ("batch", "length"), (0, 9)),),
    (TensorSpec("y", "int64", ("batch", "length")),),
    {"batch": Dim(1, 4), "length": Dim(1, 64, opt=8)},
)


def rows(count, first=0.0):
    return {"x": np.arange(first, first + count * 2, dtype=np.float32).reshape(count, 2) % 4}


def lane_of(program):
    return program._lanes[0]


def seen_by(lane):
    assert isinstance(lane.streams, HostStreams)
    return lane.streams.seen


@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize(("engine", "file", "call"), [("torchscript", "model.pt", script_call), ("pt2", "model.pt2", pt2_call)])
def test_the_answers_are_those_of_the_cpu(mlp_artifact, engine, file, call, cuda_graphs):
    """Every number of rows up to the largest gives what the CPU's engine gives, with graphs and without."""
    loaded = artifact.load(mlp_artifact, engine=engine)
    given = call((mlp_artifact / file).read_bytes(), "cpu", "float32", torch.channels_last)
    program = host_program(given, loaded.signature, cuda_graphs=cuda_graphs)
    for count in (*range(1, 17), 3, 1):
        x = np.random.default_rng(count).uniform(-4, 4, (count, 4)).astype(np.float32)
        expected = loaded.run({"x": x})["logits"]

        assert np.allclose(program.run({"x": x})["logits"], expected, atol=1e-6)
    assert program.uses_graphs is cuda_graphs


def test_one_warm_up_for_every_bucket():
    """Loading captures each power of two up to the largest batch, and that; a call of three rows then runs four's graph."""
    program = host_program(lambda x: x + 1, ROWS)
    lane = lane_of(program)
    assert lane.graphs.captured == {((2,),): [12, 8, 4, 2, 1]}

    seen = seen_by(lane)
    seen.clear()
    assert program.run(rows(3))["y"].tolist() == (rows(3)["x"] + 1).tolist()
    assert seen == ["upload", "compute", "replay", "compute", "finish"]
    assert lane.graphs.captured == {((2,),): [12, 8, 4, 2, 1]}


def test_rows_of_a_bucket_that_nobody_sent_are_valid():
    """A graph's other rows are those of earlier calls, or of the warm-up: each of them one that the model takes."""
    seen = []

    def call(x):
        seen.append(x.clone())
        return x + 1

    program = host_program(call, ROWS)
    program.run({"x": np.full((4, 2), 3, np.float32)})
    program.run({"x": np.full((3, 2), 1, np.float32)})

    assert seen[-1].tolist() == [[1, 1]] * 3 + [[3, 3]]
    assert all(((each >= 0) & (each <= 4)).all() for each in seen)


def test_a_program_that_writes_into_its_inputs():
    """It is given copies: what it leaves behind is in no row of a later call, and not in the caller's array."""
    program = host_program(lambda x: x.mul_(2), ROWS)
    given = rows(3)
    before = given["x"].copy()

    assert all(program.run(given)["y"].tolist() == (before * 2).tolist() for _ in range(3))
    assert (given["x"] == before).all()


def test_answers_belong_to_the_caller():
    """The next call of the same lane leaves an earlier answer alone."""
    program = host_program(lambda x: x + 1, ROWS)
    first = program.run(rows(4))["y"]
    program.run(rows(4, first=1))

    assert first.tolist() == (rows(4)["x"] + 1).tolist()


def test_a_program_that_cannot_be_captured(caplog):
    """It runs without graphs, whichever lane finds out; the log says so once, with the reason."""
    device = host_device(lanes=2, refuses=RuntimeError("operation not permitted when stream is capturing\nmore"))
    program = host_program(lambda x: x + 1, ROWS, device)

    assert not program.uses_graphs
    assert program.run(rows(5))["y"].tolist() == (rows(5)["x"] + 1).tolist()
    assert [record.getMessage() for record in caplog.records] == [
        "the program runs without CUDA graphs, since it cannot be captured: operation not permitted when stream is capturing"
    ]


def test_a_program_that_waits_for_the_device(caplog):
    """It is found out before a capture, which would fail: PyTorch's allocator does not recover from one that did."""
    device = host_device(lanes=2)
    first = device.streams[0]
    assert isinstance(first, HostStreams)

    def call(x):
        if first.is_strict:
            raise RuntimeError("called a synchronizing CUDA operation")
        return x + 1

    program = host_program(call, ROWS, device)

    assert not program.uses_graphs
    assert not [word for lane in program._lanes for word in seen_by(lane) if word in {"warm", "capture"}]
    assert program.run(rows(5))["y"].tolist() == (rows(5)["x"] + 1).tolist()
    assert [record.getMessage() for record in caplog.records] == [
        "the program runs without CUDA graphs, since it cannot be captured: called a synchronizing CUDA operation"
    ]


def test_a_device_that_is_lost():
    """Where even waiting fails, no call can succeed any more: the error says so by its type."""
    is_lost = False

    class Lost(HostStreams):
        def finish(self):
            super().finish()
            if is_lost:
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    program = host_program(lambda x: x + 1, ROWS, Device(torch.device("cpu"), HostMemory(), [Lost()], pinned=False))
    is_lost = True
    for _ in range(2):
        with pytest.raises(DeviceLost, match=r"^cpu is lost to this process, which is to be started again: CUDA error"):
            program.run(rows(2))


def test_a_shape_that_has_no_memory_for_its_landing(monkeypatch):
    """Its calls run without graphs, and small ones are answered as ever: the largest batch's want is not theirs."""
    device = host_device()
    program = host_program(lambda ids: ids + 1, WORDS, device)
    lane = lane_of(program)
    made = lane.graphs._filled

    def filled(tensor, device):
        if tensor.shape[1] > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made(tensor, device)

    monkeypatch.setattr(lane.graphs, "_filled", filled)
    for _ in range(2):
        assert (program.run({"ids": np.full((1, 64), 3)})["y"] == 4).all()

    assert isinstance(device.memory, HostMemory)
    assert device.memory.released == 1
    assert lane.graphs.captured == {((8,),): [4, 2, 1]}
    assert program.uses_graphs


def test_a_shape_whose_landing_would_be_too_large(monkeypatch):
    """It has none: a landing is as long as the largest batch, and the device's memory is for the calls."""
    monkeypatch.setattr(graphs, "MAX_BYTES", 4 * 32 * 8)
    program = host_program(lambda ids: ids + 1, WORDS)
    for length in (32, 33):
        assert (program.run({"ids": np.full((1, length), 3)})["y"] == 4).all()

    assert lane_of(program).graphs.captured == {((8,),): [4, 2, 1], ((32,),): [1]}


def test_shapes_that_come_later_are_captured_up_to_a_bound(monkeypatch):
    """A new length has its own graph from its first call on; where there are enough, others run without one."""
    monkeypatch.setattr(graphs, "MAX_SHAPES", 2)
    program = host_program(lambda ids: ids + 1, WORDS)
    for length in (8, 5, 7, 5):
        ids = np.full((2, length), 3)
        assert (program.run({"ids": ids})["y"] == 4).all()

    assert lane_of(program).graphs.captured == {((8,),): [4, 2, 1], ((5,),): [2]}


def test_a_model_without_rows():
    """It has one graph, for its one shape."""
    signature = Signature((TensorSpec("x", "float32", (3,), (0, 1)),), (TensorSpec("y", "float32", ()),))
    program = host_program(lambda x: x.sum(), signature)

    assert program.run({"x": np.array([1, 2, 4], np.float32)})["y"] == 7
    assert lane_of(program).graphs.captured == {((3,),): [0]}


def test_images_are_uploaded_as_they_are_and_laid_out_on_the_device():
    """uint8 stays uint8 up to the program, which is given images channels last; answers have the plain layout."""
    seen = []

    def call(image):
        seen.append((image.dtype, image.is_contiguous(memory_format=torch.channels_last)))
        return image.to(torch.float32) / 255

    program = host_program(call, IMAGES)
    image = np.random.default_rng(0).integers(0, 255, (3, 3, 4, 6), np.uint8)

    assert np.array_equal(program.run({"image": image})["y"], image.astype(np.float32) / 255)
    assert set(seen) == {(torch.uint8, True)}
    (landing,) = lane_of(program).graphs._landings.values()
    assert landing is not None
    assert landing.inputs[0].dtype == torch.uint8


def test_a_program_that_views_an_images_memory(caplog):
    """What fails with images channels last runs in the plain layout, and the log says so."""

    def call(image):
        return image.view(-1).view(image.shape).to(torch.float32)

    program = host_program(call, IMAGES)
    image = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 6), np.uint8)

    assert np.array_equal(program.run({"image": image})["y"], image.astype(np.float32))
    assert "the program does not run with images laid out channels last, and runs without" in caplog.text


class Viewed(torch.nn.Module):
    """As many older programs: rows of features are a view of what a convolution gave."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(x).view(-1, 4 * 4 * 6)


def exported(module, example, most):
    batch = torch.export.Dim("batch", min=1, max=most)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module.eval(), (example,), dynamic_shapes=({0: batch},)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("call", [script_call, pt2_call])
def test_a_program_that_views_what_a_convolution_gave(caplog, call):
    """Its filters are in the plain layout, too: what a convolution gives is laid out as they are."""
    module, image = Viewed(), torch.rand(2, 3, 4, 6)
    data = script(module, image) if call is script_call else exported(module, image, 4)
    signature = Signature(
        (TensorSpec("image", "float32", ("batch", 3, 4, 6), (0, 1)),),
        (TensorSpec("y", "float32", ("batch", 96)),),
        {"batch": Dim(1, 4)},
    )
    program = loaded_program(partial(call, data, "cpu", "float32"), signature)

    with torch.inference_mode():
        expected = module(image).numpy()
    assert np.allclose(program.run({"image": image.numpy()})["y"], expected, atol=1e-6)
    assert program.uses_graphs
    assert "the program does not run with images laid out channels last, and runs without" in caplog.text


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_out_of_memory(cuda_graphs):
    """A call that finds too little memory says so by its type; what was kept is given back, and the next call is answered."""
    is_full = False

    def call(x):
        if is_full:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return x + 1

    device = host_device()
    signature = Signature(ROWS.inputs, ROWS.outputs, {"batch": Dim(1, 12)})
    program = host_program(call, signature, device, cuda_graphs=cuda_graphs)
    is_full = True
    with pytest.raises(OutOfMemory, match=r"^cpu has no memory for this call: CUDA out of memory"):
        program.run(rows(9))

    is_full = False
    assert isinstance(device.memory, HostMemory)
    assert device.memory.released == 1
    assert program.run(rows(9))["y"].tolist() == (rows(9)["x"] + 1).tolist()


def test_a_bucket_that_has_no_memory_for_its_graph():
    """It runs without one, where smaller ones have theirs: a graph takes more than a call."""
    device = host_device()

    def call(x):
        if len(x) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x + 1

    program = host_program(call, ROWS, device)

    assert lane_of(program).graphs.captured == {((2,),): [8, 4, 2, 1]}
    assert program.uses_graphs
    assert program.run(rows(7))["y"].tolist() == (rows(7)["x"] + 1).tolist()
    with pytest.raises(OutOfMemory):
        program.run(rows(9))


def test_a_program_that_fails():
    """Its own failure is the server's fault, and not for want of memory; the lane is free again."""

    def call(x):
        if x.max() > 3:
            raise RuntimeError("the sizes do not fit")
        return x + 1

    program = host_program(call, ROWS, cuda_graphs=False)
    for _ in range(3):
        with pytest.raises(EngineFailed, match=r"^the program failed on cpu: the sizes do not fit$") as caught:
            program.run({"x": np.full((2, 2), 3.5, np.float32)})
        assert type(caught.value) is EngineFailed
    assert program.run(rows(1))["y"].tolist() == [[1, 2]]


def test_as_many_calls_go_on_at_once_as_there_are_lanes():
    """Two threads are in the program together, each in a lane of its own; a third waits until one is free."""
    inside, together = threading.Semaphore(0), threading.Event()
    is_ready = False

    def call(x):
        if is_ready:
            inside.release()
            assert together.wait(10)
        return x + 1

    program = host_program(call, ROWS, host_device(lanes=2), cuda_graphs=False)
    is_ready = True
    answers = {}
    threads = [
        threading.Thread(target=lambda first=first: answers.update({first: program.run(rows(2, first=first))["y"].tolist()}))
        for first in range(3)
    ]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=10)
    assert inside.acquire(timeout=10)
    assert not inside.acquire(blocking=False)
    together.set()
    for thread in threads:
        thread.join(10)

    assert answers == {first: (rows(2, first=first)["x"] + 1).tolist() for first in range(3)}


def test_staging_grows_and_is_used_again():
    """A buffer serves every size up to its own; a larger one takes its place, a power of two of bytes."""
    staging = Staging(pinned=False)
    small = staging.put("x", np.arange(6, dtype=np.int16).reshape(2, 3))
    again = staging.put("x", np.arange(8, dtype=np.int16))
    large = staging.put("x", np.arange(9, dtype=np.int16))

    assert small.data_ptr() == again.data_ptr() != large.data_ptr()
    assert large.tolist() == list(range(9))
    assert large.untyped_storage().nbytes() == 32
    assert staging.put("none", np.empty((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float64"])
def test_staging_takes_arrays_as_they_come(dtype):
    """Views, read-only arrays and every element type arrive as they are."""
    plain = (np.arange(24).reshape(4, 6) % 2).astype(dtype)
    read_only = np.frombuffer(plain.tobytes(), dtype).reshape(4, 6)
    for given in (plain[::-1, ::2], plain.T, read_only):
        assert np.array_equal(Staging(pinned=False).put("x", given).numpy(), given)


def test_memory_for_inputs():
    """What an engine gives out for inputs is an array like any other, of the shape and type that were asked for."""
    program = host_program(lambda x: x + 1, ROWS)
    array = program.empty((3, 2), np.dtype("float32"))
    array[:] = 1

    assert program.run({"x": array})["y"].tolist() == [[2, 2]] * 3


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize(("engine", "file", "call"), [("torchscript", "model.pt", script_call), ("pt2", "model.pt2", pt2_call)])
def test_half_precision(mlp_artifact, engine, file, call, precision):
    """Products are computed in half precision, to the bit as autocast alone does it; answers have the declared type."""
    signature = artifact.load(mlp_artifact).signature
    x = np.random.default_rng(0).uniform(-4, 4, (5, 4)).astype(np.float32)
    given = call((mlp_artifact / file).read_bytes(), "cpu", precision, torch.channels_last)
    answer = host_program(given, signature, precision=precision).run({"x": x})["logits"]
    exact = artifact.load(mlp_artifact, engine=engine).run({"x": x})["logits"]
    options = EngineOptions(precision=precision)
    plain = load_engine(engine, (mlp_artifact / file).read_bytes(), signature, options).run({"x": x})["logits"]

    assert answer.dtype == np.float32
    assert 0 < np.abs(answer - exact).max() < 0.2
    assert np.array_equal(host_program(given, signature, precision=precision, cuda_graphs=False).run({"x": x})["logits"], plain)


class Convolved(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.last = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.last(torch.relu(self.conv(x)).mean((2, 3))) + torch.arange(x.shape[0], device="cpu").unsqueeze(1)


def script(module, example):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.freeze(torch.jit.trace(module.eval(), example))
        buffer = io.BytesIO()
        torch.jit.save(program, buffer)
    return buffer.getvalue()


def test_a_scripts_weights_are_fitted():
    """Filters lie channels last, weights of products are in half precision, and the devices that it names are the device."""
    program = load_script(script(Convolved(), torch.ones(2, 3, 8, 8)), "cpu")
    place_script(program, "meta", "bfloat16", torch.channels_last)
    constants = list(program.graph.findAllNodes("prim::Constant", recurse=True))
    weights = [
        node.t("value") for node in constants if node.output().type().kind() == "TensorType" and node.hasAttribute("value")
    ]

    assert {weight.device.type for weight in weights} == {"meta"}
    assert {weight.dtype for weight in weights if weight.dim() > 1} == {torch.bfloat16}
    assert [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights if weight.dim() == 4] == [True]
    assert [node.s("value") for node in constants if node.output().type().kind() == "DeviceObjType"] == ["meta"]


@pytest.mark.parametrize(("precision", "allowed"), [("float32", False), ("tf32", True), ("float16", False)])
def test_what_tracing_wrote_of_tf32_does_not_hold(precision, allowed):
    """A traced convolution says by itself whether it may use TF32: it says what is asked for, and the program still runs."""
    data, image = script(Convolved(), torch.ones(2, 3, 8, 8)), torch.rand(2, 3, 8, 8)
    plain, program = load_script(data, "cpu"), load_script(data, "cpu")
    place_script(program, "cpu", precision, torch.channels_last)
    (node,) = program.graph.findAllNodes("aten::_convolution", recurse=True)

    assert list(node.inputs())[-1].node().output().toIValue() is allowed
    if precision != "float16":  # on the CPU autocast has no kernel for what was traced
        assert np.allclose(run_script(program, image), run_script(plain, image), atol=1e-6)  # type: ignore[call-overload]


def test_weights_that_an_embedding_reads_too_are_not_converted():
    """One that is tied to the last product stays as the embedding needs it."""

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(5, 4)

        def forward(self, ids):
            return torch.nn.functional.linear(self.words(ids), self.words.weight)

    buffer = io.BytesIO()
    torch.export.save(torch.export.export(Tied().eval(), (torch.ones(2, 3, dtype=torch.int64),)), buffer)
    module = pt2_call(buffer.getvalue(), "cpu", "bfloat16", torch.channels_last)
    assert isinstance(module, torch.fx.GraphModule)

    assert module.get_parameter("words.weight").dtype == torch.float32


def test_a_programs_weights_are_fitted():
    """So are those of an exported program, and what its export checks of element types is gone with autocast."""

    class Cast(Convolved):
        def forward(self, x):
            return super().forward(x).to(torch.float64)

    data = exported(Cast(), torch.ones(2, 3, 8, 8), 8)
    module = pt2_call(data, "cpu", "bfloat16", torch.channels_last)
    assert isinstance(module, torch.fx.GraphModule)

    filters, matrix = module.get_parameter("conv.weight"), module.get_parameter("last.weight")
    assert (filters.dtype, matrix.dtype) == (torch.bfloat16, torch.bfloat16)
    assert filters.is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert module(torch.ones(4, 3, 8, 8)).dtype == torch.float64
    answer = pt2_call(data, "meta", "float32", torch.contiguous_format)(torch.ones(4, 3, 8, 8, device="meta"))
    assert isinstance(answer, torch.Tensor)
    assert answer.device.type == "meta"


@pytest.mark.parametrize("name", sorted(weights._IN_HALF))
def test_weights_are_only_converted_for_what_autocast_runs_in_half(name):
    """PyTorch has a kernel of autocast's for each of those operations on CUDA."""
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "AutocastCUDA")


def test_a_device_that_is_not_there(mlp_artifact):
    """Without it the engines of PyTorch say how many there are, and what to do."""
    for engine in ("torchscript", "pt2"):
        with pytest.raises(EngineUnavailable) as caught:
            artifact.load(mlp_artifact, engine=engine, device="cuda:7")
        assert str(caught.value) == (
            f"PyTorch {torch.__version__} cannot run on cuda:7 here: it sees {torch.cuda.device_count()} CUDA device(s); install "
            "PyTorch for CUDA and NVIDIA's driver, take one of those that are there, or run on the CPU"
        )
    assert Device.__name__ == "Device"


def test_want_of_memory_is_known_by_type_and_by_what_the_allocator_counts(monkeypatch):
    """TorchScript's interpreter hides the type; PyTorch's allocator counts what it refused."""
    refused = {"num_ooms": 2}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: dict(refused))
    memory = CudaMemory(torch.device("cuda", 0), None)

    assert not memory.ran_out(RuntimeError("CUDA out of memory"))
    assert memory.ran_out(torch.OutOfMemoryError("anything"))
    refused["num_ooms"] = 3
    assert memory.ran_out(RuntimeError("The following operation failed in the TorchScript interpreter."))
    assert not memory.ran_out(RuntimeError("The following operation failed in the TorchScript interpreter."))
    error = torch.AcceleratorError("CUDA error: out of memory")
    vars(error)["error_code"] = 2
    assert memory.ran_out(error)


def test_a_memory_limit_is_a_share_of_the_device(monkeypatch):
    """PyTorch takes the limit as a fraction of the device's memory; more than all of it is all of it."""
    told = []
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: {})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("Facts", (), {"total_memory": 1 << 34}))
    monkeypatch.setattr(torch.cuda.memory, "set_per_process_memory_fraction", lambda share, device: told.append((share, device)))
    device = torch.device("cuda", 1)
    CudaMemory(device, 1 << 32)
    CudaMemory(device, 1 << 40)

    assert told == [(0.25, device), (1.0, device)]


def test_memory_that_pytorch_does_not_give_back(monkeypatch, caplog):
    """A call that had too little is answered with that, whatever becomes of what is kept; no capture is disturbed by it."""
    held = []

    def refused():
        held.append(capturing.locked())
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.cuda, "memory_stats", lambda _: {})
    monkeypatch.setattr(torch.cuda, "empty_cache", refused)
    CudaMemory(torch.device("cuda", 0), None).release()

    assert held == [True]
    assert not capturing.locked()
    assert caplog.messages == ["PyTorch gives no memory of cuda:0 back: captures_underway.empty() INTERNAL ASSERT FAILED"]


@pytest.mark.parametrize("allowed", [True, False])
def test_every_switch_for_tf32_says_the_same(allowed):
    """PyTorch has older switches and newer ones; where they disagree, whatever asks for the older fails."""
    try:
        allow_tf32(allowed=allowed)
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn

        assert (matmul.allow_tf32, cudnn.allow_tf32) == (allowed, allowed)
        assert (torch.get_float32_matmul_precision() == "highest") is not allowed
        assert (matmul.fp32_precision == "tf32", cudnn.conv.fp32_precision == "tf32") == (allowed, allowed)  # type: ignore[attr-defined]
        assert cudnn.rnn.fp32_precision != "tf32" or allowed  # type: ignore[attr-defined]
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
