"""Golden cases travel whole, errors are measured as defined, and a replay finds what is wrong."""

import dataclasses
import shutil

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import numpy_helper

import artifact
from artifact import golden
from artifact.errors import DamagedArtifact, GoldenMismatch
from artifact.golden import GoldenCase, Replay, scaled_error
from artifact.signature import Dim, Signature, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 2), (-4, 4)),), (TensorSpec("y", "float32", ("batch",)),), {"batch": Dim(1, 5)}
)


class Sums:
    """An engine that sums each row, and remembers what it was asked."""

    name = "onnx"

    def __init__(self, extra=0.0, dtype=np.float32):
        self.extra, self.dtype, self.asked = extra, dtype, []

    def run(self, inputs):
        self.asked.append(inputs["x"].copy())
        return {"y": (inputs["x"].sum(axis=1) + self.extra).astype(self.dtype)}


def case(name, row, *, engine="onnx"):
    inputs = {"x": np.array([row], np.float32)}
    answer = inputs["x"].sum(axis=1)
    return GoldenCase(name, inputs, {engine: {"y": answer}}, {"y": answer.astype(np.float64)})


def compared(name, rows, error, tolerance=1e-6):
    return Replay("onnx", name, "y", rows, tiled=rows > 1, error=error, tolerance=tolerance, bit_equal=False)


CASES = (case("00", [1, 2]), case("01", [-3, 0.5]))


@pytest.mark.parametrize(
    ("actual", "reference", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([0.25], [0.0], 0.25),  # nothing is divided by less than 1
        ([0.5], [0.25], 0.25),
        ([101.0, 0.0], [100.0, 0.0], 0.01),  # by the largest reference, wherever it stands
        ([100.0, 1.0], [100.0, 0.0], 0.01),
        ([-100.0], [-101.0], 1 / 101),
        ([np.nan], [1.0], np.inf),
        ([1.0], [np.nan], np.inf),
        ([np.nan], [np.nan], np.inf),
        ([np.inf], [1.0], np.inf),
        ([1.0], [np.inf], np.inf),
        ([np.inf], [np.inf], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
        ([[1.0]], [1.0], np.inf),
        ([], [], 0.0),
        ([0.5, -1e9], [0.0, -1e9], 0.5),  # a mask's fill value is no scale for the others
        ([0.0, -1.01e9], [0.0, -1e9], 0.01),  # and is judged by its own
        ([0.0, 5e8], [0.0, 0.0], 5e8),
    ],
)
def test_scaled_error(actual, reference, expected):
    """The largest difference over the largest reference, or over 1; infinite where shapes or finiteness differ."""
    assert scaled_error(np.array(actual, np.float32), np.array(reference)) == pytest.approx(expected, rel=1e-6)


def test_scaled_error_is_measured_in_float64():
    """Two float32 numbers that differ in the last bit do differ."""
    one = np.array([1.0], np.float32)

    assert scaled_error(np.nextafter(one, 2, dtype=np.float32), one) == 2.0**-23


def test_round_trip():
    """Cases come back from their bytes as they were, in the order of their names; a slash ends a name."""
    decoded = golden.decode(golden.encode(reversed(CASES)))

    assert [made.name for made in decoded] == ["00", "01"]
    for made, read in zip(CASES, decoded, strict=True):
        for before, after in (
            (made.inputs, read.inputs),
            (made.reference, read.reference),
            (made.outputs["onnx"], read.outputs["onnx"]),
        ):
            assert before.keys() == after.keys()
            assert all(before[name].dtype == after[name].dtype for name in before)
            assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_scalar_keeps_its_shape():
    """A value without a dimension comes back as one."""
    scalar = {"y": np.array(2.5, np.float32)}
    made = GoldenCase("00", CASES[0].inputs, {"onnx": scalar}, {"y": np.array(2.5)})

    (read,) = golden.decode(golden.encode([made]))

    assert (read.outputs["onnx"]["y"].shape, read.reference["y"].shape) == ((), ())
    assert (read.outputs["onnx"]["y"].item(), read.reference["y"].item()) == (2.5, 2.5)


def test_the_bytes_are_the_same_every_time():
    """The order in which cases come does not show in the bytes."""
    assert golden.encode(CASES) == golden.encode(reversed(CASES))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not safetensors",
        safetensors.numpy.save({"00": np.zeros(1)}),
        safetensors.numpy.save({"00/input": np.zeros(1)}),
        safetensors.numpy.save({"00/input/x/y": np.zeros(1)}),
        safetensors.numpy.save({"00/output/x": np.zeros(1)}),
        safetensors.numpy.save({"00/other/x": np.zeros(1)}),
    ],
    ids=range(7),
)
def test_bytes_that_hold_no_cases(data):
    """Bytes that are not golden cases are damage, not a crash."""
    with pytest.raises(DamagedArtifact, match=r"^the golden cases cannot be read: "):
        golden.decode(data)


def test_no_cases_prove_nothing():
    """An artifact without golden cases is refused: its replay would pass whatever the engine answers."""
    with pytest.raises(DamagedArtifact, match=r"^there are no golden cases, so nothing proves the numbers; export again$"):
        golden.require_complete((), SIGNATURE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": {}}, "golden case 00 records nothing; the signature says y"),
        ({"outputs": {"onnx": {"z": np.zeros(1)}}}, "golden case 00 records z; the signature says y"),
        ({"inputs": {}}, "golden case 00 is not one of this model: the model takes x; missing: x"),
        (
            {"inputs": {"x": np.full((1, 2), 5, np.float32)}},
            'golden case 00 is not one of this model: input "x" holds 5.0; the signature allows -4 to 4',
        ),
    ],
)
def test_cases_that_lack_something(changes, message):
    """A case that is not one of the model's is damage, and named."""
    with pytest.raises(DamagedArtifact) as caught:
        golden.require_complete((dataclasses.replace(CASES[0], **changes),), SIGNATURE)

    assert str(caught.value) == message


def test_replay_runs_each_case_alone_and_all_tiled_to_the_largest_batch():
    """Every case runs as recorded, then the rows of all run again and again in one batch of the largest size."""
    engine = Sums()
    results = golden.replay(engine, SIGNATURE, CASES, {"y": 1e-6})

    assert [array.tolist() for array in engine.asked] == [
        [[1, 2]],
        [[-3, 0.5]],
        [[1, 2], [-3, 0.5], [1, 2], [-3, 0.5], [1, 2]],
    ]
    assert [(r.case, r.rows, r.tiled, r.passed, r.bit_equal) for r in results] == [
        ("00", 1, False, True, True),
        ("01", 1, False, True, True),
        ("00 and 1 more", 5, True, True, True),
    ]


@pytest.mark.parametrize(("dim", "rows"), [(Dim(1, 1), []), (Dim(2, 3), []), (Dim(2, 5), [4]), (Dim(3, 9), [9])])
def test_tiles_are_whole_cases(dim, rows):
    """Export proved what joins whole requests: a batch that two never fit into is not tiled."""
    signature = Signature(SIGNATURE.inputs, SIGNATURE.outputs, {"batch": dim})
    block = {"x": np.arange(2 * dim.min, dtype=np.float32).reshape(dim.min, 2)}
    answer = block["x"].sum(axis=1)
    made = GoldenCase("00", block, {"onnx": {"y": answer}}, {"y": answer.astype(np.float64)})

    results = golden.replay(Sums(), signature, [made], {"y": 1e-6})

    assert [result.rows for result in results if result.tiled] == rows
    assert all(result.passed for result in results)


def test_tiles_stay_within_a_start_s_memory(monkeypatch):
    """A batch of a thousand million rows is tiled to MAX_TILED_BYTES of inputs, here 7 rows of 8 bytes."""
    assert golden.MAX_TILED_BYTES == 256 << 20
    monkeypatch.setattr(golden, "MAX_TILED_BYTES", 63)
    signature = Signature(SIGNATURE.inputs, SIGNATURE.outputs, {"batch": Dim(1, 10**9)})

    assert [result.rows for result in golden.replay(Sums(), signature, CASES, {"y": 1e-6})] == [1, 1, 7]


def test_without_a_batch_dimension_nothing_is_tiled():
    """A model without rows is replayed as recorded, and that is all."""
    fixed = Signature((TensorSpec("x", "float32", (1, 2)),), (TensorSpec("y", "float32", (1,)),))

    assert [result.tiled for result in golden.replay(Sums(), fixed, CASES, {"y": 1e-6})] == [False, False]


def test_a_scalar_is_one_row():
    """A model whose input has no dimensions is replayed as one row."""
    signature = Signature((TensorSpec("x", "float32", ()),), (TensorSpec("y", "float32", ()),))
    value = np.array(3, np.float32)
    made = GoldenCase("00", {"x": value}, {"onnx": {"y": value}}, {"y": value.astype(np.float64)})

    class Same:
        name = "onnx"

        def run(self, inputs):
            return {"y": inputs["x"]}

    (result,) = golden.replay(Same(), signature, [made], {"y": 1e-6})

    assert (result.rows, result.passed) == (1, True)


def test_an_error_only_in_large_batches_is_found():
    """An engine that is right for one row and wrong for five does not pass."""

    class Large(Sums):
        def run(self, inputs):
            answers = super().run(inputs)
            return {"y": answers["y"] + np.float32(len(inputs["x"]) > 1)}

    results = golden.replay(Large(), SIGNATURE, CASES, {"y": 1e-6})

    assert [result.passed for result in results] == [True, True, False]


def test_a_nan_is_never_within_a_bound():
    """NaN answers, and NaN errors, fail."""
    assert not golden.replay(Sums(np.nan), SIGNATURE, CASES, {"y": 1e-6})[0].passed
    assert not compared("00", 1, float("nan"), 1.0).passed


@pytest.mark.parametrize(
    ("budget", "extra", "passed"), [(1e-3, 9e-4, True), (1e-3, 4e-3, False), (0.0, 4e-7, True), (0.0, 2e-5, False)]
)
def test_the_bound_is_the_budget_or_a_millionth(budget, extra, passed):
    """An output may be off by its budget, or by 1e-6 if that is more: both scaled, here by a reference of up to 3."""
    results = golden.replay(Sums(extra), SIGNATURE, CASES, {"y": budget})

    assert all(result.passed for result in results) == passed


def test_integers_must_be_equal():
    """An integer output has no roundings: one off is wrong, however large the numbers."""
    signature = Signature(SIGNATURE.inputs, (TensorSpec("y", "int64", ("batch",)),), SIGNATURE.dims)
    large = [
        dataclasses.replace(made, outputs={"onnx": {"y": np.array([10_000_000])}}, reference={"y": np.array([1e7])})
        for made in CASES
    ]

    class Constant(Sums):
        def run(self, inputs):
            return {"y": np.full(len(inputs["x"]), 10_000_000 + int(self.extra))}

    assert all(result.passed for result in golden.replay(Constant(), signature, large, {"y": 0.0}))
    assert not any(result.passed for result in golden.replay(Constant(1), signature, large, {"y": 0.0}))


def test_an_engine_that_answered_nothing_at_export_is_held_to_the_reference():
    """A case that this engine did not answer at export is compared with the float64 reference."""
    results = golden.replay(Sums(1), SIGNATURE, [case("00", [1, 2], engine="torchscript")], {"y": 1e-6})

    assert [result.error for result in results] == pytest.approx([1 / 3, 1 / 3])


def test_the_worst_case_is_named():
    """A mismatch names the worst case, its error, what is allowed, and how many failed."""
    replays = [
        compared("00", 1, 1e-7),
        compared("01", 1, 2e-3),
        compared("02", 16, 5e-2),
    ]

    with pytest.raises(GoldenMismatch) as caught:
        golden.require(replays)
    assert str(caught.value) == (
        "golden case 02 disagrees on engine onnx: output y, 16 row(s), scaled error 5.00e-02, allowed 1.00e-06 "
        "(2 comparison(s) failed). This machine does not give the numbers that were proven at export; do not serve it, export "
        "again or compare the engine's version with environment.json"
    )
    golden.require(replays[:1])


@pytest.fixture
def copy(mlp_artifact, tmp_path):
    return shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")


def test_every_engine_replays_what_export_recorded(mlp_artifact):
    """On the machine of the export every engine gives its recorded single rows bit for bit."""
    for engine in ("onnx", "torchscript", "pt2"):
        results = artifact.load(mlp_artifact, engine=engine).replay()
        golden.require(results)
        assert {result.rows for result in results} == {1, 16}
        assert all(result.bit_equal for result in results if not result.tiled)


@pytest.mark.parametrize("wrong", [1e-4, np.nan, np.inf])
def test_a_poisoned_golden_output(copy, rehash, wrong):
    """A golden output that the engine does not give is found, also with every hash made right."""
    path = copy / "golden.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    name = sorted(key for key in arrays if "/output/onnx/" in key)[1]
    arrays[name].flat[0] += wrong
    path.write_bytes(safetensors.numpy.save(arrays))
    rehash(copy)

    with pytest.raises(GoldenMismatch, match=rf"^golden case {name.split('/')[0]}[^:]*: output logits, "):
        golden.require(artifact.load(copy, engine="onnx").replay())
    golden.require(artifact.load(copy, engine="torchscript").replay())


def test_a_weight_that_is_off_by_a_thousandth(copy, rehash):
    """A model file whose hashes and content id were made right, but not its numbers, is caught by the replay."""
    before = artifact.read_manifest(copy).content_id
    model = onnx.load_from_string((copy / "model.onnx").read_bytes())
    weight = max(model.graph.initializer, key=lambda tensor: len(numpy_helper.to_array(tensor).flat))
    array = numpy_helper.to_array(weight).copy()
    array.flat[0] += np.float32(1e-3)
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    rehash(copy)

    loaded = artifact.load(copy, engine="onnx")
    assert loaded.manifest.content_id != before
    with pytest.raises(GoldenMismatch, match="disagrees on engine onnx: output logits"):
        golden.require(loaded.replay())
