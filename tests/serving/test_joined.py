"""Joined rows: one call, and each request's own answer or error."""

from typing import Any

import numpy as np
import pytest

from artifact.errors import EngineFailed, InvalidInput
from artifact.signature import Dim, Signature, TensorSpec
from serving.joined import JoinedEngine

SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 2), (0, 100)),),
    (TensorSpec("y", "float32", ("batch",)),),
    {"batch": Dim(1, 16)},
)


class Summing:
    """Adds up each row, and fails where a row holds 13. `given` are the rows of each call."""

    name = "onnx"

    def __init__(self, lose=0):
        self.given = []
        self._lose = lose

    def run(self, inputs):
        x = inputs["x"]
        self.given.append(len(x))
        if (x == 13).any():
            raise EngineFailed("the engine met 13")
        return {"y": x.sum(axis=1)[self._lose :]}


def joined(engine, padded=lambda rows: rows, signature=SIGNATURE) -> Any:
    return JoinedEngine(engine, signature, padded)


def rows(*values):
    return {"x": np.array([[value, 1] for value in values], np.float32)}


def test_joined_rows_are_split_again():
    """Three requests are one call, and each has its own rows back."""
    engine = Summing()
    outcomes = joined(engine).run([rows(1, 2), rows(3), rows(4, 5, 6)], [2, 1, 3])
    assert [outcome["y"].tolist() for outcome in outcomes] == [[2, 3], [4], [5, 6, 7]]
    assert engine.given == [6]


def test_rows_are_padded_to_a_proven_size_and_cut_again():
    """A call is given the size that was asked of `padded`, by repeating its last row; nobody sees the padding."""
    engine = Summing()
    outcomes = joined(engine, lambda _: 8).run([rows(1, 2), rows(3)], [2, 1])
    assert [outcome["y"].tolist() for outcome in outcomes] == [[2, 3], [4]]
    assert joined(engine, lambda _: 8).run([rows(7)], [1])[0]["y"].tolist() == [8]
    assert engine.given == [8, 8]


def test_a_value_out_of_range_never_reaches_the_engine():
    """The request that holds it is told so; its neighbours are answered in one call."""
    engine = Summing()
    good, bad, fine = joined(engine).run([rows(1), rows(2, 101), rows(3)], [1, 2, 1])
    assert good["y"].tolist() == [2]
    assert fine["y"].tolist() == [4]
    assert isinstance(bad, InvalidInput)
    assert str(bad) == 'input "x" holds 101.0; the signature allows 0 to 100'
    assert engine.given == [2]


def test_nan_is_out_of_every_range():
    """NaN is refused where a range is declared, alone and joined, and all may be refused."""
    engine = Summing()
    outcomes = joined(engine).run([rows(float("nan")), rows(float("inf"))], [1, 1])
    assert all(isinstance(outcome, InvalidInput) for outcome in outcomes)
    assert engine.given == []


def test_a_call_that_fails_is_made_again_request_by_request():
    """One request that the engine fails on fails alone."""
    engine = Summing()
    good, bad, fine = joined(engine).run([rows(1), rows(13), rows(3, 4)], [1, 1, 2])
    assert good["y"].tolist() == [2]
    assert fine["y"].tolist() == [4, 5]
    assert isinstance(bad, EngineFailed)
    assert engine.given == [4, 1, 1, 2]


def test_one_request_alone():
    """`run_one` answers as `run` does, padded or not, and raises what `run` would give."""
    assert joined(Summing()).run_one(rows(1, 2), 2)["y"].tolist() == [2, 3]
    assert joined(Summing(), lambda _: 8).run_one(rows(1, 2), 2)["y"].tolist() == [2, 3]
    for padded in (lambda count: count, lambda _: 8):
        with pytest.raises(InvalidInput, match=r"holds 101\.0"):
            joined(Summing(), padded).run_one(rows(101), 1)
        with pytest.raises(EngineFailed, match="met 13"):
            joined(Summing(), padded).run_one(rows(13), 1)
    with pytest.raises(EngineFailed, match=r"has shape \[1\] for 2 rows"):
        joined(Summing(lose=1)).run_one(rows(1, 2), 2)


def test_an_answer_of_other_length_is_never_given_out():
    """An engine that loses a row fails the request, rather than to shift the answers of its neighbours."""
    outcomes = joined(Summing(lose=1)).run([rows(1), rows(2)], [1, 1])
    assert [str(outcome) for outcome in outcomes] == ['output "y" has shape [0] for 1 rows'] * 2


@pytest.mark.parametrize("error", [MemoryError("no memory"), ValueError("anything")])
def test_whatever_the_engine_raises_is_the_requests_outcome(error):
    """No error of an engine ends the thread that runs it."""

    class Raising:
        name = "onnx"

        def run(self, _):
            raise error

    assert joined(Raising()).run([rows(1), rows(2)], [1, 1]) == [error, error]


def test_a_model_without_rows_answers_one_request():
    """Without a batch dimension nothing is joined, padded or split."""
    signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", ()),), {})

    class Total:
        name = "onnx"

        def run(self, inputs):
            return {"y": np.float32(inputs["x"].sum()).reshape(())}

    (outcome,) = joined(Total(), lambda _: 8, signature).run([{"x": np.ones(2, np.float32)}], [1])
    assert outcome["y"].shape == ()
    assert outcome["y"] == 2


def test_an_answer_never_shares_memory_with_the_next_call():
    """The gathered rows' buffer is used again; an engine that gives back its input as it came has its answer copied."""

    class Same:
        name = "onnx"

        def run(self, inputs):
            return {"y": inputs["x"]}

    engine = joined(Same())
    first = engine.run([rows(1), rows(2)], [1, 1])
    engine.run([rows(3), rows(4)], [1, 1])
    assert [outcome["y"].tolist() for outcome in first] == [[[1, 1]], [[2, 1]]]


def test_gathered_rows_of_several_shapes_keep_apart():
    """Each shape has a buffer of its own, which grows with the largest call."""
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", "n")),),
        (TensorSpec("y", "float32", ("batch",)),),
        {"batch": Dim(1, 16), "n": Dim(1, 9)},
    )
    engine = joined(Summing(), signature=signature)
    for width in (1, 2, 3, 2, 1):
        for count in (1, 3, 2):
            requests = [{"x": np.full((count, width), value, np.float32)} for value in (1, 2)]
            one, two = engine.run(requests, [count, count])
            assert one["y"].tolist() == [width] * count
            assert two["y"].tolist() == [2 * width] * count
