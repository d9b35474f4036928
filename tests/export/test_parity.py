"""Parity: numbers that disagree anywhere in the declared range are not exported (exit 8); what was found is in parity.json."""

import json

import numpy as np
import pytest

import artifact
from artifact.golden import decode
from artifact.manifest import read_manifest
from export.cost import ParityLimits
from export.parity import MAX_GOLDEN_BYTES, MAX_GOLDEN_CASES

TOKENS = {"dtype": "int64", "shape": ["batch", "length"]}
MASKED = {
    "inputs": {"ids": {**TOKENS, "range": [0, 9]}, "mask": {**TOKENS, "range": [0, 1]}},
    "dims": {"batch": {"min": 1, "max": 4}, "length": {"min": 1, "max": 6, "opt": 4}},
}


def report_of(exported):
    return json.loads((exported.path / "parity.json").read_bytes())


def golden_of(exported):
    return decode((exported.path / "golden.safetensors").read_bytes())


# ---- the model is at fault ----


def test_a_lone_row_that_is_treated_apart(work):
    """`if x.shape[0] == 1` does not show in the capture, which takes 1 for a size like any other: parity finds it."""
    work.net("disagreeing", "one_row_apart")

    message = work.refuse(8)

    assert message.startswith(
        "rows of one batch influence one another: 5 rows together and the same rows alone differ by a scaled"
    )
    assert message.endswith(
        "A server that joins requests would give wrong answers; make forward treat each row by itself, "
        "or declare dims.batch with min and max 1"
    )


def test_rows_that_influence_one_another(work):
    """A mean over the batch is refused though every engine agrees with the model."""
    work.net("disagreeing", "batch_mean")

    assert work.refuse(8).startswith("rows of one batch influence one another: ")


@pytest.mark.parametrize("name", ["one_row_apart", "batch_mean"])
def test_a_batch_of_one_only(work, name):
    """The remedy works: where requests are never joined, a model may do with a batch what it likes."""
    work.net("disagreeing", name, dims={"batch": {"min": 1, "max": 1}})

    exported = work.export()

    assert report_of(exported)["batching"] == {"dim": "batch", "reason": "batch is 1 to 1: two requests never fit into one batch"}


@pytest.mark.parametrize("name", ["random", "remembers"])
def test_another_answer_each_time(work, name):
    """A forward that draws random numbers or changes its own buffers has no answer to agree with."""
    work.net("disagreeing", name)

    assert work.refuse(8) == (
        "the model itself gives another y each time for the same input: forward draws random numbers or remembers earlier calls. "
        "Take that out (torch.nn.functional.dropout needs training=self.training)"
    )


def test_nan_for_a_declared_input(work):
    """NaN is never an answer, whatever the engines say."""
    work.net("disagreeing", "logarithm")

    assert work.refuse(8) == (
        "the model itself gives NaN or infinity in y for a declared input, x [1, 4]. "
        "Narrow the input's range to what the model takes, or mend the model"
    )


def test_a_range_beyond_the_embedding(work):
    """Token ids that the model does not have are found by the edges of the declared range."""
    work.net(
        "disagreeing",
        "few_tokens",
        inputs={"ids": {**TOKENS, "range": [0, 10]}},
        dims={"batch": {"min": 1, "max": 4}, "length": {"min": 1, "max": 6}},
    )

    message = work.refuse(8)

    assert message == (
        "input ids declares the range [0, 10], but the model itself fails with 10: IndexError: index out of range in self. "
        "Declare only what it takes; of token ids, check the size of its vocabulary"
    )
    assert work.refuse(8, formats=("torchscript",)) == message  # and not in the lowering's words


# ---- kinds of models and signatures ----


def test_two_outputs_of_two_dtypes(work):
    """Each output has its own budget: an integer one must be equal."""
    outputs = {"y": {"dtype": "float32", "shape": ["batch", 3]}, "best": {"dtype": "int64", "shape": ["batch"]}}
    model = work.net("good", "two_outputs", outputs=outputs)

    exported = work.export()

    engine = report_of(exported)["engines"]["onnx"]["outputs"]
    assert engine["best"] == {"budget": 0.0, "scaled": 0.0, "max_abs": 0.0}
    assert 0 < engine["y"]["budget"] < 1e-5
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    answer = artifact.load(exported.path).run({"x": x})
    assert answer["best"].dtype == np.int64
    assert answer["best"].tolist() == answer["y"].argmax(-1).tolist()
    assert model is not None


def test_several_inputs_with_a_mask(work):
    """Tokens and mask share their dims; full, empty and one-token masks are among the cases."""
    work.net("good", "masked_mean", **MASKED)

    cases = {entry["case"] for entry in report_of(work.export())["comparisons"]}

    assert {"usual, full mask", "usual, empty mask", "usual, one in mask", "usual, low", "usual, high"} <= cases
    assert {"length=1, uniform", "length=6, uniform", "all max, uniform", "batch min, length max, uniform"} <= cases


def test_a_dimension_in_multiples(work):
    """Cases stay on the multiples, and so do golden cases."""
    work.net(
        "good",
        "pool",
        inputs={"image": {"dtype": "float32", "shape": ["batch", 1, "height", 8]}},
        dims={"batch": {"min": 1, "max": 3}, "height": {"min": 8, "max": 16, "multiple": 4}},
    )

    exported = work.export()

    assert read_manifest(exported.path).signature.dims["height"].multiple == 4
    assert {case.inputs["image"].shape[2] for case in golden_of(exported)} == {8, 16}


def test_a_dimension_of_one_size(work):
    """min equal to max is a fixed size with a name."""
    work.net("good", "small", dims={"batch": {"min": 4, "max": 4}})

    exported = work.export()

    assert {case.inputs["x"].shape for case in golden_of(exported)} == {(4, 4)}
    assert report_of(exported)["batching"] == {"dim": "batch", "reason": "batch is 4 to 4: two requests never fit into one batch"}


def test_a_batch_that_starts_above_one(work):
    """Golden cases have as few rows as the signature allows; joined batches are made of such blocks."""
    work.net("good", "small", dims={"batch": {"min": 2, "max": 8}})

    exported = work.export()

    assert {case.inputs["x"].shape for case in golden_of(exported)} == {(2, 4)}
    assert report_of(exported)["batching"]["rows"] == 8
    assert all(replay.passed for replay in artifact.load(exported.path).replay())


def test_no_dimension_has_a_name(work):
    """A signature of fixed sizes exports, and its requests cannot be joined."""
    work.net(
        "good",
        "small",
        inputs={"x": {"dtype": "float32", "shape": [2, 4], "range": [-1, 1]}},
        dims={},
        outputs={"y": {"dtype": "float32", "shape": [2, 3]}},
    )

    report = report_of(work.export())

    assert report["batching"]["dim"] is None
    assert {entry["case"] for entry in report["comparisons"] if entry["engine"] == "onnx"} == {
        *(f"usual, {kind}" for kind in ("uniform", "low", "high", "zeros", "extremes")),
        *(f"golden 0{index}-{kind}" for index, kind in enumerate(("uniform", "low", "high", "zeros", "extremes"))),
    }


def test_a_model_without_a_batch(work):
    """Where inputs and outputs share no leading dimension, none of them counts rows."""
    work.net(
        "good",
        "vector",
        inputs={"x": {"dtype": "float32", "shape": ["points", 4], "range": [-1, 1]}},
        dims={"points": {"min": 1, "max": 8}},
        outputs={"y": {"dtype": "float32", "shape": [3]}},
    )

    exported = work.export()

    assert report_of(exported)["batching"] == {
        "dim": None,
        "reason": "inputs and outputs share no leading dimension: requests cannot be joined",
    }
    assert read_manifest(exported.path).signature.batch_dim is None


def test_a_forward_that_cannot_run_in_float64(work):
    """It is judged by float32, with PyTorch's own tolerance, and the report says why."""
    work.net("good", "float32_only")

    report = report_of(work.export())

    assert report["reference"]["precision"] == "float32"
    assert report["reference"]["obstacle"].startswith("RuntimeError: ")
    assert report["engines"]["onnx"]["outputs"]["y"]["budget"] == 1e-5
    assert {entry["reference"] for entry in report["comparisons"]} == {"float32"}


def test_a_float64_reference(work):
    """A forward that can run in float64 is judged by it, and eager PyTorch's own error is recorded beside the engine's."""
    work.net("good", "small")

    report = report_of(work.export())

    assert report["reference"] == {"precision": "float64", "obstacle": None}
    assert {entry["engine"] for entry in report["comparisons"]} == {"eager", "onnx"}
    assert report["engines"]["onnx"]["outputs"]["y"]["budget"] >= 1e-6


def test_a_float16_model(work):
    """A model in half precision has a half-precision budget."""
    half = {"dtype": "float16", "shape": ["batch", 4], "range": [-1, 1]}
    work.net("good", "half", inputs={"x": half}, outputs={"y": {"dtype": "float16", "shape": ["batch", 3]}})

    exported = work.export()

    assert report_of(exported)["engines"]["onnx"]["outputs"]["y"]["budget"] == 5e-3
    assert artifact.load(exported.path).run({"x": np.ones((1, 4), np.float16)})["y"].dtype == np.float16


# ---- the report and the golden cases ----


def test_the_reports_fields(work):
    """parity.json says how it measured, what each engine reached, and every comparison."""
    work.net("good", "small")

    report = report_of(work.export())

    assert report.keys() == {
        "schema",
        "measure",
        "budget",
        "reference",
        "engines",
        "batching",
        "left_out",
        "comparisons",
    }
    assert report["measure"] == "scaled = max|a - b| / max(1, max|reference|)"
    assert report["budget"] == "max(4 * scaled error of eager PyTorch, floor)"
    assert report["batching"]["dim"] == "batch"
    assert report["batching"]["scaled"] < 1e-12
    assert report["left_out"] == []
    engine = report["engines"]["onnx"]
    assert engine.keys() == {"outputs", "determinism", "weights_bit_equal"}
    assert engine["weights_bit_equal"] == 10
    worst = max(entry["scaled"] for entry in report["comparisons"] if entry["engine"] == "onnx")
    assert engine["outputs"]["y"]["scaled"] == worst <= engine["outputs"]["y"]["budget"]
    assert "mixed rows, batched" in {entry["case"] for entry in report["comparisons"]}
    assert all(
        entry.keys() == {"case", "engine", "output", "reference", "max_abs", "scaled", "budget"}
        for entry in report["comparisons"]
    )


def test_the_engine_is_deterministic(work):
    """The same run gives the same bits, and the report says with how many threads that was tried."""
    work.net("good", "small")

    determinism = report_of(work.export())["engines"]["onnx"]["determinism"]

    assert all(value is True for key, value in determinism.items() if key.endswith("bit_equal")), determinism
    assert determinism["threads"][0] == 1


def test_golden_cases_are_single_rows(work):
    """Inputs, the engine's answer and the float64 reference, for one row each."""
    work.net("good", "small")

    cases = golden_of(work.export())

    assert [case.name for case in cases] == ["00-uniform", "01-low", "02-high", "03-zeros", "04-extremes"]
    for case in cases:
        assert case.inputs["x"].shape == (1, 4)
        assert case.outputs["onnx"]["y"].dtype == np.float32
        assert case.reference["y"].dtype == np.float64
        assert case.outputs.keys() == {"onnx"}


def test_at_most_eight_golden_cases(work):
    """A signature with more candidates keeps the first eight."""
    work.net("good", "masked_mean", **MASKED)

    assert len(golden_of(work.export())) == MAX_GOLDEN_CASES == 8


def test_golden_cases_of_four_megabytes(work):
    """Large rows leave room for fewer cases: here 1 MB each of inputs and answers and 2 MB of reference, and one case."""
    width = 262_144
    wide = {"dtype": "float32", "shape": ["batch", width], "range": [-1, 1]}
    work.net(
        "good",
        "wide",
        {"width": width},
        inputs={"x": wide},
        dims={"batch": {"min": 1, "max": 2}},
        outputs={"y": {"dtype": "float32", "shape": ["batch", width]}},
    )

    exported = work.export()

    assert MAX_GOLDEN_BYTES == 4_000_000
    assert len(golden_of(exported)) == 1


def test_smaller_rows_leave_room_for_more(work):
    """At 1.2 MB a case, three fit."""
    width = 75_000
    work.net(
        "good",
        "wide",
        {"width": width},
        inputs={"x": {"dtype": "float32", "shape": ["batch", width], "range": [-1, 1]}},
        dims={"batch": {"min": 1, "max": 2}},
        outputs={"y": {"dtype": "float32", "shape": ["batch", width]}},
    )

    exported = work.export()

    assert len(golden_of(exported)) == 3
    assert (exported.path / "golden.safetensors").stat().st_size <= MAX_GOLDEN_BYTES


# ---- the limits ----


def test_a_memory_limit(work):
    """The cases that need more are left out, the largest first; the report and the result say so."""
    work.net("good", "small", dims={"batch": {"min": 1, "max": 64}})

    exported = work.export(limits=ParityLimits(memory_bytes=2000))

    report = report_of(exported)
    left_out = {entry["case"] for entry in report["left_out"]}
    ran = {entry["case"] for entry in report["comparisons"]}
    assert left_out == {"batch=32, uniform", "batch=33, uniform", "batch=63, uniform", "batch=64, uniform"} & left_out
    assert "batch=64, uniform" in left_out
    assert {"batch=1, uniform", "batch=2, uniform"} <= ran
    assert not left_out & ran
    assert exported.left_out == len(left_out)
    assert {entry["reason"] for entry in report["left_out"]} == {"beyond 120 s or 2000 bytes"}


def test_a_reference_in_float32_before_none(work):
    """A case that fits the limit in float32 but not in float64 is judged by float32."""
    work.net("good", "small", dims={"batch": {"min": 1, "max": 8}})

    report = report_of(work.export(limits=ParityLimits(memory_bytes=400)))

    references = {entry["case"]: entry["reference"] for entry in report["comparisons"]}
    assert references["batch=1, uniform"] == "float64"
    assert "float32" in references.values()


def test_the_first_case_is_never_left_out(work):
    """However small the limits, the smallest case runs in full, and so do the golden cases."""
    work.net("good", "small")

    exported = work.export(limits=ParityLimits(time_s=0.0, memory_bytes=0))

    report = report_of(exported)
    cases = [entry["case"] for entry in report["comparisons"] if not entry["case"].startswith(("golden", "mixed"))]
    assert set(cases) == {"batch=1, uniform"}
    assert exported.left_out == len(report["left_out"]) > 5
    assert len(golden_of(exported)) == 5


def test_a_time_limit(work):
    """A limit in seconds leaves cases out as well."""
    work.net("good", "small")

    exported = work.export(limits=ParityLimits(time_s=1e-9))

    assert {entry["reason"] for entry in report_of(exported)["left_out"]} == {f"beyond 1e-09 s or {4 << 30} bytes"}
