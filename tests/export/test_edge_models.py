"""Models that once slipped through, or were refused without need: each is told what it is, or exports and replays."""

import dataclasses
import json
import random
import time
from collections import Counter

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import artifact
import export.run
from artifact import golden
from artifact.manifest import read_manifest
from artifact.signature import Dim, Signature, TensorSpec
from export.build import build_model
from export.capture import capture
from export.cases import golden_candidates, parity_cases, sample_inputs
from export.config import read_config
from export.cost import activation_bytes
from export.parity import CEILINGS
from stateserve import app

X = {"dtype": "float32", "shape": ["batch", 4], "range": [-1, 1]}
Y = {"dtype": "float32", "shape": ["batch", 3]}
MASKED = {"inputs": {"x": X, "mask": {"dtype": "int64", "shape": ["batch", 3], "range": [0, 1]}}}
HUGE = 1_000_000_000


def report_of(exported):
    return json.loads((exported.path / "parity.json").read_bytes())


def replay_of(exported):
    """The tiles and rows of its own replay, all of which passed."""
    results = artifact.load(exported.path).replay()
    assert all(result.passed for result in results), results
    return Counter((result.tiled, result.rows) for result in results)


# ---- what a reference proves ----


def test_a_forward_that_depends_on_its_dtype(work):
    """Where float32 and float64 are two models, a budget of four times their difference would prove nothing."""
    work.net("edges", "reads_its_dtype")

    message = work.refuse(8)

    assert CEILINGS["float32"] == 1e-3
    assert message.startswith("output y of the model differs between float32 and float64 by a scaled error of ")
    assert "forward depends on its dtype" in message


def test_fill_values_do_not_hide_a_mean_over_the_batch(work):
    """Beside a -1e9 every other error would be nothing: values of that size are judged apart."""
    work.net("edges", "masked_batch_mean", **MASKED)

    assert work.refuse(8).startswith("rows of one batch influence one another: ")


def test_fill_values_alone_do_no_harm(work):
    """A mask's -1e9 in rows that do not depend on each other exports."""
    work.net("edges", "masked", **MASKED)

    exported = work.export()

    assert report_of(exported)["engines"]["onnx"]["outputs"]["y"]["budget"] < 1e-4
    assert replay_of(exported)


def test_booleans_are_those_of_the_models_own_precision(work):
    """A comparison of the very bound comes out otherwise in float64: no engine is held to that."""
    work.net(
        "edges",
        "threshold",
        inputs={"x": {**X, "range": [0, 0.1]}},
        outputs={"y": {"dtype": "bool", "shape": ["batch", 4]}},
    )

    exported = work.export()

    assert report_of(exported)["reference"]["precision"] == "float64"
    assert not artifact.load(exported.path).run({"x": np.full((1, 4), 0.1, np.float32)})["y"].any()
    assert replay_of(exported)


def test_a_model_that_cannot_be_copied(work):
    """It has no float64 twin; it is judged by float32, and the report says why."""
    work.net("edges", "locked")

    reference = report_of(work.export())["reference"]

    assert reference == {"precision": "float32", "obstacle": "TypeError: cannot pickle '_thread.lock' object"}


def test_an_old_weight_norm(work):
    """Its weight is computed on each call, and cannot be copied before the first: it has a float64 twin all the same."""
    work.net("edges", "old_weight_norm")

    assert report_of(work.export())["reference"] == {"precision": "float64", "obstacle": None}


# ---- rows ----


def test_a_batch_that_never_holds_two_requests(work):
    """Between 2 and 3 rows no two requests are joined: the model may mix its rows, and its replay does not tile them."""
    work.net("edges", "batch_centred", dims={"batch": {"min": 2, "max": 3}})

    exported = work.export()

    assert report_of(exported)["batching"] == {"dim": "batch", "reason": "batch is 2 to 3: two requests never fit into one batch"}
    assert set(replay_of(exported)) == {(False, 2)}


def test_a_replay_tiles_whole_requests(work):
    """Of up to 5 rows, two requests of 2 fill 4."""
    work.net("edges", "rows", dims={"batch": {"min": 2, "max": 5}})

    exported = work.export()

    assert report_of(exported)["batching"]["rows"] == 4
    assert set(replay_of(exported)) == {(False, 2), (True, 4)}


def test_a_leading_dimension_of_another_name(work):
    """A softmax over `length` mixes what the model is meant to mix: only `batch` counts rows."""
    sequence = {"dtype": "float32", "shape": ["length", 4], "range": [-1, 1]}
    work.net(
        "edges",
        "softmax_over_length",
        inputs={"x": sequence},
        dims={"length": {"min": 1, "max": 8}},
        outputs={"y": {"dtype": "float32", "shape": ["length", 3]}},
    )

    exported = work.export()

    assert read_manifest(exported.path).signature.batch_dim is None
    assert report_of(exported)["batching"]["dim"] is None
    assert not any(tiled for tiled, _ in replay_of(exported))


def test_the_same_model_over_a_batch(work):
    """A softmax over `batch` is refused."""
    work.net("edges", "softmax_over_length")

    assert work.refuse(8).startswith("rows of one batch influence one another: ")


# ---- forms of answers ----


@pytest.mark.parametrize("formats", [("onnx",), ("torchscript",), ("pt2",)])
def test_a_scalar_output(work, formats):
    """A number without a shape exports, keeps its form in the golden cases, and passes `check --replay`."""
    work.net("edges", "scalar", outputs={"y": {"dtype": "float32", "shape": []}})

    exported = work.export(formats=formats)

    cases = golden.decode((exported.path / "golden.safetensors").read_bytes())
    assert {array.shape for case in cases for array in (case.reference["y"], case.outputs[formats[0]]["y"])} == {()}
    result = CliRunner().invoke(app, ["check", "--replay", str(exported.path)])
    assert result.exit_code == 0, result.output


def test_one_value_as_two_outputs(work):
    """`return y, y`: ONNX gives each output its own name, and both agree."""
    work.net("edges", "answers_twice", outputs={"first": Y, "second": Y})

    exported = work.export()

    answer = artifact.load(exported.path).run({"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)})
    assert list(answer) == ["first", "second"]
    assert answer["first"].any()
    assert np.array_equal(answer["first"], answer["second"])


def test_an_input_as_an_output(work):
    """`return x, y`: the first output is the input, under a name of its own."""
    model = work.net("edges", "echoes", outputs={"same": {"dtype": "float32", "shape": ["batch", 4]}, "y": Y})
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)

    exported = work.export()

    answer = artifact.load(exported.path).run({"x": x})
    assert np.array_equal(answer["same"], x)
    with torch.inference_mode():
        assert np.allclose(answer["y"], model(torch.from_numpy(x))[1].numpy(), atol=1e-6)


# ---- building ----


def test_buffers_that_are_drawn_are_the_same_every_time(work):
    """Whatever numpy.random, random and torch would give next, two exports in one process have one content id."""
    work.net("edges", "drawn_buffers")
    first = work.export(repository=work.folder / "first")
    np.random.seed(11)  # noqa: NPY002
    random.seed(12)
    torch.manual_seed(13)

    second = work.export(repository=work.folder / "second")

    assert second.content_id == first.content_id


def test_building_leaves_the_callers_random_state_alone(work):
    """NumPy's, Python's and torch's own numbers go on as if nothing had been drawn."""
    work.plugin("edges")

    def drawn(between):
        np.random.seed(1)  # noqa: NPY002
        random.seed(2)
        torch.manual_seed(3)
        between()
        return np.random.rand(), random.random(), torch.rand(1).item()  # noqa: NPY002

    assert drawn(lambda: build_model("drawn_buffers", {})) == drawn(lambda: None)


# ---- the artifact proves itself ----


def test_an_artifact_that_fails_its_own_replay_is_not_written(work, monkeypatch):
    """What is packed is replayed before it is written: a golden answer that was damaged on the way ends the export with 8."""
    work.net("edges", "rows")
    assemble = export.run.assemble

    def damage(*given):
        packed = assemble(*given)
        cases = golden.decode(packed.files["golden.safetensors"])
        damaged = [
            dataclasses.replace(case, outputs={"onnx": {"y": case.outputs["onnx"]["y"] + np.float32(1)}}) for case in cases
        ]
        return dataclasses.replace(packed, files={**packed.files, "golden.safetensors": golden.encode(damaged)})

    monkeypatch.setattr(export.run, "assemble", damage)

    message = work.refuse(8)

    assert message.startswith("the artifact does not pass its own replay, so it was not written: golden case ")
    assert "disagrees on engine onnx: output y" in message


# ---- large dimensions ----


def huge(multiple=1):
    return Signature(
        (TensorSpec("x", "float32", ("batch", "length"), (-1, 1)),),
        (TensorSpec("y", "float32", ("batch", 3)),),
        {"batch": Dim(1, HUGE, multiple=1), "length": Dim(multiple, HUGE, multiple=multiple)},
    )


@pytest.mark.parametrize("multiple", [1, 8])
def test_a_dimension_of_a_thousand_million(multiple):
    """Cases are made of few numbers: none of the allowed sizes is counted out."""
    declared = huge(multiple)
    started = time.perf_counter()

    cases = (*parity_cases(declared), *golden_candidates(declared))
    sample = sample_inputs(declared)

    assert time.perf_counter() - started < 1
    assert {"batch": HUGE, "length": HUGE} in [dict(case.sizes) for case in cases]
    assert sample["x"].shape == (2, 16 if multiple == 8 else 3)


def test_a_huge_batch_exports(work, monkeypatch):
    """Cases that no memory holds are left out, and the rest proves the model; its replay is tiled no further than is allowed."""
    work.net("edges", "rows", dims={"batch": {"min": 1, "max": HUGE}})
    monkeypatch.setattr(golden, "MAX_TILED_BYTES", 1 << 20)  # its 256 MB would take seconds

    exported = work.export(limits=export.run.ParityLimits(memory_bytes=1_000_000))

    left_out = {entry["case"] for entry in report_of(exported)["left_out"]}
    assert f"batch={HUGE}, uniform" in left_out
    assert replay_of(exported).keys() == {(False, 1), (True, (1 << 20) // (4 * 4))}


def test_activations_count_inputs_and_outputs(work):
    """A model with nothing between its ends still holds both: 4 numbers in and 3 out in every row, 4 bytes each."""
    model = work.net("edges", "rows")
    captured = capture(model, read_config(work.folder / "best.yaml").signature())

    assert activation_bytes(captured, captured.signature, {"batch": 1000}) == 1000 * (4 + 3) * 4


# ---- what is captured for one size only ----


def test_a_recurrent_layer_over_a_length(work):
    """A GRU is unrolled to the sample's length: it is named, and refused."""
    work.net(
        "edges",
        "recurrent",
        inputs={"x": {"dtype": "float32", "shape": ["batch", "length", 4], "range": [-1, 1]}},
        dims={"batch": {"min": 1, "max": 8}, "length": {"min": 1, "max": 12}},
    )

    assert "GRU is captured for one length only" in work.refuse(7)


# ---- a checkpoint's own config ----


@pytest.fixture
def own(work):
    """A function that saves a checkpoint with a config of its own, which names this labels file."""
    state = work.net("edges", "rows").state_dict()
    (work.folder / "best.yaml").unlink()
    (work.folder / "deeper").mkdir()
    for path in (work.folder / "names.txt", work.folder / "deeper" / "names.txt"):
        path.write_text("low\nmiddle\nhigh\n")
    (work.folder / "link.txt").symlink_to(work.folder / "names.txt")

    def save(labels):
        work.save({"state_dict": dict(state), "config": {**work.data("rows"), "outputs": {"y": {**Y, "labels": labels}}}})

    return save


@pytest.mark.parametrize(
    "labels",
    ["/FOLDER/names.txt", "../FOLDER/names.txt", "deeper/names.txt", "deeper/../names.txt", "./names.txt", "link.txt", ".."],
)
def test_labels_that_a_checkpoint_takes_from_elsewhere(work, own, labels):
    """A checkpoint comes from anywhere: its config must not have files of this machine copied into the artifact."""
    named = labels.replace("/FOLDER", str(work.folder) if labels.startswith("/") else f"/{work.folder.name}")
    own(named)

    assert work.refuse(2) == (
        f"best.pth (its own config): outputs.y.labels is {named!r}; a config inside a checkpoint may name a file beside it only, "
        "and no link"
    )


def test_labels_beside_the_checkpoint(work, own):
    """A plain file name works."""
    own("names.txt")

    exported = work.export()

    assert (exported.path / "labels.txt").read_text() == "low\nmiddle\nhigh\n"
