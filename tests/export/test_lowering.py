"""A lowering that goes wrong is found: by its weights, compared bit for bit, or by its numbers (exit 8); nothing is written.

Each test lets the real lowering work and damages the bytes that it gives, as a defect of an exporter would.
"""

import io
import json
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from artifact.engines import load_engine
from artifact.golden import scaled_error
from export import run
from export.capture import capture
from export.cases import Case
from export.config import read_config
from export.errors import CaptureFailed
from export.torchscript import TorchScript

TOKENS = {
    "inputs": {"ids": {"dtype": "int64", "shape": ["batch", "length"], "range": [0, 4999]}},
    "dims": {"batch": {"min": 1, "max": 4}, "length": {"min": 1, "max": 6}},
}


@pytest.fixture
def damage_onnx(monkeypatch):
    """A function: from now on each lowered ONNX model's graph is changed by the given one."""
    real = run.lower_onnx

    def damage(change):
        def lower(captured):
            model = onnx.load_from_string(real(captured))
            change(model.graph)
            return model.SerializeToString()

        monkeypatch.setattr(run, "lower_onnx", lower)

    return damage


@pytest.fixture
def damage_records(monkeypatch, small):
    """A function: the records of model.pt, or of each lowered model.pt2, are changed by the given one.

    TorchScript is lowered in a process of its own, which takes seconds: the bytes are those of the artifact of `small`.
    """
    folder, exported = small
    real_pt2, kept = run.lower_pt2, tuple(torch.load(folder.checkpoint, weights_only=True))

    def damage(format_name, change):
        if format_name == "pt2":
            monkeypatch.setattr(run, "lower_pt2", lambda captured: rewritten(real_pt2(captured), change))
        else:
            lowered = TorchScript(rewritten((exported.path / "model.pt").read_bytes(), change), kept)
            monkeypatch.setattr(run, "lower_torchscript", lambda *_: lowered)

    return damage


def rewritten(data, change):
    """A zip archive with its records, name -> bytes, changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    return buffer.getvalue()


def node_of(graph, output_of, operator):
    """The first node of this operator that reads the initializer."""
    return next(node for node in graph.node if node.op_type == operator and output_of in node.input)


def change_initializer(graph, name, change):
    tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    change(array)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def add_a_thousandth(array):
    array.flat[0] += 1e-3


def next_float(array):
    array.flat[0] = np.nextafter(array.flat[0], np.float32(np.inf))


# ---- ONNX ----


def test_an_undamaged_lowering(work, damage_onnx, damage_records):
    """What damages the bytes below does no harm by itself."""
    work.net("good", "small")
    damage_onnx(lambda _: None)
    damage_records("torchscript", lambda _: None)
    damage_records("pt2", lambda _: None)

    assert work.export(formats=("onnx", "torchscript", "pt2")).created


def test_a_bias_that_is_not_added(work, damage_onnx):
    """The weight is in the file, but nothing reads it: the numbers tell."""
    work.net("good", "small")
    damage_onnx(lambda graph: node_of(graph, "a.bias", "Gemm").input.pop())

    message = work.refuse(8)

    assert message.startswith("the numbers disagree: engine onnx, case ")
    assert " comparison(s) failed on onnx, 0 case(s) passed. " in message
    assert message.endswith(
        "The model was captured with x [2, 4]: where only other sizes or values fail, forward behaves otherwise there "
        "and must not; where all fail, the lowering is wrong"
    )


def test_a_bias_that_is_gone(work, damage_onnx):
    """A weight that forward uses and the file lacks is named."""
    work.net("good", "small")

    def drop(graph):
        node_of(graph, "a.bias", "Gemm").input.pop()
        graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == "a.bias"))

    damage_onnx(drop)

    assert work.refuse(8) == ("weight a.bias is not in model.onnx, though forward uses it; the lowering dropped or changed it")


def test_two_layers_that_read_each_others_weights(work, damage_onnx):
    """All weights are there, under their names; two nodes read the wrong ones: the numbers tell."""
    work.net("good", "small")

    def swap(graph):
        first, second = node_of(graph, "b.weight", "Gemm"), node_of(graph, "c.weight", "Gemm")
        first.input[1], second.input[1] = second.input[1], first.input[1]

    damage_onnx(swap)

    assert work.refuse(8).startswith("the numbers disagree: engine onnx, case ")


def test_two_weights_that_change_names(work, damage_onnx):
    """The same with the values in each other's place: names and bits tell."""
    work.net("good", "small")

    def swap(graph):
        first, second = (next(one for one in graph.initializer if one.name == name) for name in ("b.weight", "c.weight"))
        first.raw_data, second.raw_data = second.raw_data, first.raw_data

    damage_onnx(swap)

    assert work.refuse(8) == ("weight b.weight in model.onnx is not the checkpoint's, bit for bit; the lowering changed it")


def test_a_normalisation_that_is_left_out(work, damage_onnx):
    """A layer that is skipped: the numbers tell."""
    work.net("good", "small")

    def leave_out(graph):
        index, node = next((i, node) for i, node in enumerate(graph.node) if node.op_type == "LayerNormalization")
        graph.node[index].CopyFrom(helper.make_node("Identity", [node.input[0]], [node.output[0]]))

    damage_onnx(leave_out)

    assert work.refuse(8).startswith("the numbers disagree: engine onnx, case ")


@pytest.mark.parametrize("change", [add_a_thousandth, next_float])
def test_one_changed_weight(work, damage_onnx, change):
    """One value of one weight, by a thousandth or by its last bit."""
    work.net("good", "small")
    damage_onnx(lambda graph: change_initializer(graph, "b.weight", change))

    assert work.refuse(8) == ("weight b.weight in model.onnx is not the checkpoint's, bit for bit; the lowering changed it")


def test_sampled_inputs_find_a_thousandth_in_a_layer(work, damage_onnx, monkeypatch):
    """Without the bits, parity finds a thousandth in a weight that every input meets …"""
    work.net("good", "small")
    monkeypatch.setattr(run, "compare_onnx_weights", lambda *_: 0)
    damage_onnx(lambda graph: change_initializer(graph, "head.weight", add_a_thousandth))

    assert work.refuse(8).startswith("the numbers disagree: engine onnx, case ")


def test_sampled_inputs_do_not_find_a_last_bit(work, damage_onnx, monkeypatch):
    """… but not a last bit: it drowns in rounding."""
    work.net("good", "small")
    monkeypatch.setattr(run, "compare_onnx_weights", lambda *_: 0)
    damage_onnx(lambda graph: change_initializer(graph, "head.weight", next_float))

    assert work.export().created


def test_sampled_inputs_do_not_find_a_changed_token(work, damage_onnx, monkeypatch):
    """Of 5000 tokens the cases meet a few hundred: a thousandth in the others' weights is found by the bits alone."""
    model = work.net("disagreeing", "few_tokens", {"tokens": 5000}, **TOKENS)
    damage_onnx(lambda graph: change_initializer(graph, "emb.weight", lambda array: array[1234].__iadd__(np.float32(1e-3))))

    assert work.refuse(8) == ("weight emb.weight in model.onnx is not the checkpoint's, bit for bit; the lowering changed it")

    monkeypatch.setattr(run, "compare_onnx_weights", lambda *_: 0)
    exported = work.export()
    engine = load_engine("onnx", (exported.path / "model.onnx").read_bytes(), read_config(work.folder / "best.yaml").signature())
    ids = np.full((1, 1), 1234)
    wrong, right = engine.run({"ids": ids})["y"], model(torch.from_numpy(ids)).detach().numpy()
    assert scaled_error(wrong, right) > 500 * json.loads((exported.path / "parity.json").read_bytes())["comparisons"][0]["budget"]


def test_an_output_of_another_dtype(work, damage_onnx):
    """The same numbers in float64 are not what the signature declares."""
    work.net("good", "small")

    def widen(graph):
        graph.node[-1].output[0] = "narrow"
        graph.node.append(helper.make_node("Cast", ["narrow"], ["y"], to=TensorProto.DOUBLE))
        graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE

    damage_onnx(widen)

    assert work.refuse(8) == (
        "engine onnx gives y as float64; the signature says float32. The lowering changed it; leave onnx out with --format"
    )


def test_an_engine_that_refuses_the_bytes(work, damage_onnx):
    """The engine's own words are passed on."""
    work.net("good", "small")

    def make_unknown(graph):
        graph.node[-1].domain, graph.node[-1].op_type = "no.such.domain", "NoSuchOperator"

    damage_onnx(make_unknown)

    message = work.refuse(8)

    assert message.startswith("the lowered model does not load: ONNX Runtime ")
    assert "no.such.domain" in message


def test_an_engine_that_fails_on_a_case(work, damage_onnx):
    """An engine that takes the captured size only is named with the case, which the model itself answers."""
    work.net("good", "small")

    def fix_the_batch(graph):
        graph.initializer.append(numpy_helper.from_array(np.zeros((2, 3), np.float32), "two_rows"))
        graph.node[-1].output[0] = "free"
        graph.node.append(helper.make_node("Sum", ["free", "two_rows"], ["summed"]))
        graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "shape"))
        graph.node.append(helper.make_node("Reshape", ["summed", "shape"], ["y"]))

    damage_onnx(fix_the_batch)

    message = work.refuse(8)

    assert message.startswith("engine onnx fails in case 'usual, uniform', which")
    assert " the model itself answers: ONNX Runtime failed: " in message


# ---- TorchScript ----

CODE = "model/code/__torch__/stateserve_plugin/"


def edit_code(old, new):
    """A change of the program's text."""

    def change(records):
        name = next(name for name in records if name.startswith(CODE))
        text = records[name].decode()
        assert old in text
        records[name] = text.replace(old, new).encode()

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(edit_code("torch.linear(x, CONSTANTS.c0, CONSTANTS.c1)", "torch.linear(x, CONSTANTS.c0)"), id="no bias"),
        pytest.param(edit_code("(input, CONSTANTS.c2,", "(input, CONSTANTS.c4,"), id="another layer's weight"),
        pytest.param(
            edit_code("torch.layer_norm(input1, [5], CONSTANTS.c6, CONSTANTS.c7)", "torch.relu(input1)"), id="no normalisation"
        ),
    ],
)
def test_torchscript_that_computes_otherwise(work, damage_records, change):
    """A weight that is no longer read is not among the constants; whatever tells first, nothing is written."""
    work.net("good", "small")
    damage_records("torchscript", change)

    message = work.refuse(8, formats=("torchscript",))

    assert message.startswith("weight ")
    assert message.endswith(" is not in model.pt, bit for bit, though forward uses it; the lowering changed it")


def test_torchscript_with_two_weights_swapped(work, damage_records):
    """TorchScript's constants have no names, so two in each other's place are found by the numbers."""
    work.net("good", "small")

    def swap(records):
        records["model/constants/2"], records["model/constants/4"] = records["model/constants/4"], records["model/constants/2"]

    damage_records("torchscript", swap)

    assert work.refuse(8, formats=("torchscript",)).startswith("the numbers disagree: engine torchscript, case ")


@pytest.mark.parametrize("change", [add_a_thousandth, next_float])
def test_one_changed_weight_in_torchscript(work, damage_records, change):
    """One value of one constant."""
    work.net("good", "small")
    damage_records("torchscript", lambda records: change_record(records, "model/constants/2", change))

    assert work.refuse(8, formats=("torchscript",)) == (
        "weight b.weight is not in model.pt, bit for bit, though forward uses it; the lowering changed it"
    )


def test_sampled_inputs_and_one_changed_weight_in_torchscript(work, damage_records, monkeypatch):
    """Without the bits, parity finds a thousandth, and does not find a last bit."""
    work.net("good", "small")
    monkeypatch.setattr(run, "compare_torchscript_weights", lambda *_: 0)

    damage_records("torchscript", lambda records: change_record(records, "model/constants/8", add_a_thousandth))
    assert work.refuse(8, formats=("torchscript",)).startswith("the numbers disagree: engine torchscript, case ")

    damage_records("torchscript", lambda records: change_record(records, "model/constants/8", next_float))
    assert work.export(formats=("torchscript",)).created


def test_torchscript_that_cannot_be_lowered(work):
    """What the tracer's process says last is passed on: exit 7."""
    work.net("uncapturable", "branches_on_values")
    signature = read_config(work.folder / "best.yaml").signature()

    with pytest.raises(CaptureFailed) as caught:
        run.lower_torchscript("no_such_model", {}, work.plugins, signature, {})

    assert str(caught.value).startswith("no_such_model cannot be lowered to TorchScript: ")
    assert str(caught.value).endswith("; leave torchscript out with --format")


# ---- .pt2 ----


@pytest.mark.parametrize("change", [add_a_thousandth, next_float])
def test_one_changed_weight_in_pt2(work, damage_records, change):
    """One value of one weight."""
    work.net("good", "small")
    damage_records("pt2", lambda records: change_record(records, "archive/data/weights/weight_2", change))

    assert work.refuse(8, formats=("pt2",)) == (
        "weight b.weight in model.pt2 is not the checkpoint's, bit for bit; the lowering changed it"
    )


def test_sampled_inputs_and_one_changed_weight_in_pt2(work, damage_records, monkeypatch):
    """Without the bits, parity finds a thousandth, and does not find a last bit."""
    work.net("good", "small")
    monkeypatch.setattr(run, "compare_pt2_weights", lambda *_: 0)

    damage_records("pt2", lambda records: change_record(records, "archive/data/weights/weight_8", add_a_thousandth))
    assert work.refuse(8, formats=("pt2",)).startswith("the numbers disagree: engine pt2, case ")

    damage_records("pt2", lambda records: change_record(records, "archive/data/weights/weight_8", next_float))
    assert work.export(formats=("pt2",)).created


def test_a_zero_of_the_other_sign_in_pt2(work, damage_records):
    """0.0 and -0.0 are equal and not the same bits."""
    work.net("good", "small")
    state = torch.load(work.checkpoint, weights_only=True)
    state["b.weight"][0, 0] = 0.0
    work.save(state)
    damage_records("pt2", lambda records: change_record(records, "archive/data/weights/weight_2", negate_zero))

    assert work.refuse(8, formats=("pt2",)) == (
        "weight b.weight in model.pt2 is not the checkpoint's, bit for bit; the lowering changed it"
    )


def negate_zero(array):
    assert array.flat[0] == 0
    array.flat[0] = -0.0


def test_pt2_with_two_weights_swapped(work, damage_records):
    """Its weights have names."""
    work.net("good", "small")

    def swap(records):
        first, second = "archive/data/weights/weight_2", "archive/data/weights/weight_4"
        records[first], records[second] = records[second], records[first]

    damage_records("pt2", swap)

    assert work.refuse(8, formats=("pt2",)).startswith("weight b.weight in model.pt2 is not the checkpoint's, bit for bit")


def change_record(records, name, change):
    array = np.frombuffer(records[name], np.float32).copy()
    change(array)
    records[name] = array.tobytes()


# ---- what the comparison covers ----


def test_every_weight_is_compared(small):
    """The report states for each format how many weights were found in its file, bit for bit: all ten here."""
    _, exported = small
    engines = json.loads((exported.path / "parity.json").read_bytes())["engines"]

    assert {name: engine["weights_bit_equal"] for name, engine in engines.items()} == {"onnx": 10, "torchscript": 10, "pt2": 10}


def test_weights_keep_their_names_and_bits_in_onnx(small):
    """Each initializer is the checkpoint's tensor of that name."""
    folder, exported = small
    state = torch.load(folder.checkpoint, weights_only=True)

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(exported.path / "model.onnx").graph.initializer}

    assert stored.keys() == state.keys()
    assert all(stored[name].tobytes() == tensor.numpy().tobytes() for name, tensor in state.items())


def test_a_buffer_that_is_not_saved(work):
    """It comes out of the constructor, the same every time, and there is nothing to compare it with: two weights are."""
    work.net("good", "unsaved_buffer")

    exported = work.export(formats=("onnx", "torchscript", "pt2"))

    engines = json.loads((exported.path / "parity.json").read_bytes())["engines"]
    assert {name: engine["weights_bit_equal"] for name, engine in engines.items()} == {"onnx": 2, "torchscript": 2, "pt2": 2}


@pytest.mark.parametrize("format_name", ["onnx", "torchscript", "pt2"])
def test_weights_that_numpy_has_no_dtype_for(work, format_name):
    """bfloat16 weights are compared like all others."""
    work.net("good", "brain_float", inputs={"ids": {"dtype": "int64", "shape": ["batch"], "range": [0, 9]}})

    exported = work.export(formats=(format_name,))

    assert json.loads((exported.path / "parity.json").read_bytes())["engines"][format_name]["weights_bit_equal"] == 1


def test_batch_norm_keeps_its_statistics(work):
    """Running mean and variance are compared as weights are; the counter, which eval does not read, is not in the program."""
    work.net("good", "batch_normed")

    exported = work.export()

    report = json.loads((exported.path / "parity.json").read_bytes())
    assert report["engines"]["onnx"]["weights_bit_equal"] == 6


def test_the_opset_and_the_names_of_the_interface(small):
    """Opset 18, and inputs, outputs and axes under the signature's names."""
    _, exported = small
    model = onnx.load(exported.path / "model.onnx")

    assert [(one.domain, one.version) for one in model.opset_import if one.domain == ""] == [("", 18)]
    for values, name in ((model.graph.input, "x"), (model.graph.output, "y")):
        assert [value.name for value in values] == [name]
        assert values[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_cases_are_what_capture_sees(work):
    """The model is captured with two rows or more, since PyTorch takes one for a constant."""
    model = work.net("good", "small")

    captured = capture(model, read_config(work.folder / "best.yaml").signature())

    assert captured.sample["x"].shape == (2, 4)
    assert isinstance(Case("sample", {"batch": 2}, "uniform", 0).inputs(captured.signature)["x"], np.ndarray)
