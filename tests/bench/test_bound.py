"""The engine alone: its batch sizes, the line through their times, and what goes wrong in its process."""

import dataclasses

import pytest

import artifact
from artifact import Dim, Signature, TensorSpec
from artifact.errors import EngineFailed, NotAnArtifact
from bench import alone, bound
from bench.bound import Run
from bench.errors import ProcessFailed
from bench.results import BoundPoint


def signature(**dims):
    first = "batch" if "batch" in dims else 1
    spec = TensorSpec("x", "float32", (first, *(name for name in dims if name != "batch")), (0, 1))
    return Signature((spec,), (dataclasses.replace(spec, name="y"),), dims)


def point(rows, call_s):
    return BoundPoint(rows=rows, call_s=call_s, rows_per_s=rows / call_s)


@pytest.mark.parametrize(
    ("dims", "sizes"),
    [
        ({}, [1]),
        ({"length": Dim(8, 64)}, [1]),
        ({"batch": Dim(1, 1)}, [1]),
        ({"batch": Dim(1, 5)}, [1, 2, 3, 4, 5]),
        ({"batch": Dim(2, 16, 4)}, [4, 8, 12, 16]),
        ({"batch": Dim(1, 40)}, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 40]),
        ({"batch": Dim(1, 64)}, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]),
        ({"batch": Dim(3, 50, 8)}, [8, 16, 24, 32, 48]),
        ({"batch": Dim(20, 100)}, [20, 24, 32, 48, 64, 96, 100]),
    ],
)
def test_sizes_are_those_that_the_model_takes(dims, sizes):
    """Every one up to 16, a ladder above, within the declared range and its multiples; one without a batch."""
    assert bound.batch_sizes(signature(**dims)) == sizes


def test_the_line_is_found():
    """Exact times give their own line; a call of one row weighs as much as one of many."""
    assert bound.fit([point(rows, 0.003 * rows + 0.01) for rows in (1, 2, 8, 64)]) == pytest.approx((0.003, 0.01))
    per_row_s, per_call_s = bound.fit([point(1, 0.012), point(2, 0.016), point(64, 0.26)])
    assert per_row_s + per_call_s == pytest.approx(0.012, rel=0.02)


def test_the_line_has_no_negative_part():
    """A call that costs nothing by itself, rows that cost nothing, and a single size give one number and 0."""
    assert bound.fit([point(1, 0.01), point(2, 0.03), point(4, 0.07)])[1] == 0
    assert bound.fit([point(1, 0.02), point(8, 0.01)])[0] == 0
    assert bound.fit([point(4, 0.02)]) == (0.005, 0.0)


def test_every_size_is_measured_and_told(mlp_artifact):
    """The points come one by one, in order; the engine is named though it was left open."""
    told = []
    found = bound.measure(mlp_artifact, Run(threads=1), 0.2, told.append)

    assert [one.rows for one in told] == list(range(1, 17))
    assert found.points == told
    assert (found.engine, found.threads, found.instances, found.device) == ("onnx", 1, 1, "cpu")
    assert all(0 < one.call_s < 1 and one.rows_per_s > 0 for one in told)
    assert found.best.rows_per_s == max(one.rows_per_s for one in told)
    assert found.per_row_s >= 0


def test_calls_may_come_at_once(mlp_artifact):
    """Two instances share the engine; only the sizes that were asked for are measured."""
    found = bound.measure(mlp_artifact, Run("onnx", 1, 2), 0.05, rows=(2, 4))

    assert ([one.rows for one in found.points], found.instances) == ([2, 4], 2)


@pytest.mark.parametrize("duration_s", [0.0, 0.001])
def test_a_slow_call_is_still_a_point(mlp_artifact, duration_s):
    """Where one call takes longer than the whole measurement it is measured once, or else three times."""
    loaded = artifact.load(mlp_artifact, engine="onnx", threads=1)
    calls = []
    slow = dataclasses.replace(loaded, engine=Counting(loaded.engine, calls))
    only = alone.measured(slow, 8, 1, duration_s)

    assert only.rows == 8
    assert len(calls) == 2 if duration_s == 0 else len(calls) >= 1 + alone.LEAST_CALLS


class Counting:
    """An engine whose calls are counted."""

    name = "onnx"

    def __init__(self, engine, calls):
        self.engine, self.calls = engine, calls

    def run(self, inputs):
        self.calls.append(inputs)
        return self.engine.run(inputs)


class Failing:
    """An engine that fails at its second call."""

    name = "onnx"
    failed = False

    def run(self, _):
        if self.failed:
            raise EngineFailed("no memory left")
        self.failed = True
        return {}


def test_an_engine_that_fails_is_told(mlp_artifact):
    """The engine's own error comes out of its thread."""
    loaded = dataclasses.replace(artifact.load(mlp_artifact, engine="onnx", threads=1), engine=Failing())

    with pytest.raises(EngineFailed, match=r"^no memory left$"):
        alone.measured(loaded, 1, 2, 1.0)


def test_errors_of_the_process_are_told_in_its_words(mlp_artifact, tmp_path):
    """An artifact that is none is told as everywhere; the engine's process says what failed in it."""
    with pytest.raises(NotAnArtifact, match=r"^.* has no readable manifest.json: an artifact is a directory "):
        bound.measure(tmp_path, Run(), 1.0)
    with pytest.raises(ProcessFailed, match=r"^there is no engine 'fast'; the engines are onnx, torchscript, pt2$"):
        bound.measure(mlp_artifact, Run("fast"), 1.0)


def test_a_run_is_what_the_server_says():
    """A server's facts are text; what it does not say is all cores, one call at a time, on the CPU."""
    assert Run.of({"engine": "pt2", "threads": "3", "instances": "2", "max_rows": "8"}) == Run("pt2", 3, 2, "cpu")
    assert Run.of({}).engine == "auto"
    assert Run.of({}).threads >= 1
