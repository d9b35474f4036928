"""Inputs for capture, parity and golden cases: drawn from the signature alone, within it, the same on every call."""

import numpy as np
import pytest

from artifact.signature import Dim, Signature, TensorSpec
from export.cases import (
    Case,
    edge_sizes,
    golden_candidates,
    is_mask,
    parity_cases,
    sample_inputs,
    tensors,
    value_kinds,
)

FLOATS = TensorSpec("x", "float32", ("batch", 4), (-1.0, 2.0))
FREE = TensorSpec("x", "float32", ("batch", 4))
IDS = TensorSpec("ids", "int64", ("batch", "length"), (3, 9))
MASK = TensorSpec("mask", "int64", ("batch", "length"), (0, 1))
OUT = TensorSpec("y", "float32", ("batch", 3))
DIMS = {"batch": Dim(1, 8), "length": Dim(2, 12, 2, 6)}


def signature(*inputs, dims=None):
    used = {dim for spec in inputs for dim in spec.shape if isinstance(dim, str)}
    return Signature(inputs, (OUT,), {name: dim for name, dim in (dims or DIMS).items() if name in used})


@pytest.mark.parametrize(
    ("dim", "sizes"),
    [
        (Dim(1, 16, 1, 8), [1, 2, 8, 9, 15, 16]),
        (Dim(1, 64, 1, 20), [1, 2, 20, 33, 63, 64]),
        (Dim(1, 1), [1]),
        (Dim(4, 4), [4]),
        (Dim(1, 2), [1, 2]),
        (Dim(3, 7), [3, 4, 5, 6, 7]),
        (Dim(64, 256, 32, 128), [64, 96, 128, 192, 224, 256]),
    ],
)
def test_edge_sizes(dim, sizes):
    """min, the next, 2, an odd one, the usual one, the last but one and max, as far as they are allowed."""
    assert edge_sizes(dim) == sizes


def test_every_edge_of_every_dimension_is_a_case():
    """Each with the other dimensions at their usual sizes, then the corners of every pair, then all min and all max."""
    cases = parity_cases(signature(IDS, MASK))
    sizes = [dict(case.sizes) for case in cases]

    for batch in edge_sizes(DIMS["batch"]):
        assert {"batch": batch, "length": 6} in sizes
    for length in edge_sizes(DIMS["length"]):
        assert {"batch": 3, "length": length} in sizes
    for corner in ((1, 12), (8, 2), (1, 2), (8, 12)):
        assert {"batch": corner[0], "length": corner[1]} in sizes


def test_no_case_stands_twice():
    """Neither sizes with kind, nor a name, nor a seed."""
    cases = parity_cases(signature(IDS, MASK))

    assert len({(tuple(case.sizes.items()), case.kind) for case in cases}) == len(cases)
    assert len({case.name for case in cases}) == len(cases)
    assert len({case.seed for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("specs", "kinds"),
    [
        ((FLOATS,), ["uniform", "low", "high", "zeros", "extremes"]),
        ((FREE,), ["uniform", "normal", "zeros", "ones", "large"]),
        ((IDS,), ["uniform", "low", "high"]),
        ((IDS, MASK), ["uniform", "low", "high", "full mask", "one in mask", "empty mask"]),
        ((MASK,), ["uniform", "low", "high"]),
    ],
)
def test_kinds_of_values(specs, kinds):
    """What the inputs can take; masks beside other inputs have kinds of their own."""
    assert value_kinds(signature(*specs)) == kinds


@pytest.mark.parametrize(
    "specs",
    [
        (FLOATS,),
        (FREE,),
        (IDS, MASK),
        (TensorSpec("x", "float16", ("batch",), (-1, 1)),),
        (TensorSpec("x", "float64", ("batch",)),),
        (TensorSpec("x", "uint8", ("batch",), (0, 255)),),
        (TensorSpec("x", "int8", ("batch",), (-128, 127)),),
        (TensorSpec("x", "bool", ("batch",)),),
        (TensorSpec("x", "int64", ("batch",), (-(2**53), 2**53)),),
        (TensorSpec("x", "float32", ("batch",), (5, 9)),),
    ],
    ids=str,
)
def test_every_case_is_a_valid_request(specs):
    """dtype, shape and range are those that the server would accept: the signature judges."""
    declared = signature(*specs)

    for case in (*parity_cases(declared), *golden_candidates(declared)):
        assert declared.validate(case.inputs(declared)) == {name: case.sizes[name] for name in declared.dims}


def test_the_same_on_every_call():
    """Values come from the case's seed, and differ between cases."""
    declared = signature(FLOATS)
    cases = [case for case in parity_cases(declared) if case.kind == "uniform"]

    first = [case.inputs(declared)["x"] for case in cases]
    again = [case.inputs(declared)["x"] for case in parity_cases(declared) if case.kind == "uniform"]

    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({array.tobytes()[:16] for array in first}) == len(first)


def test_integers_reach_both_ends():
    """Uniform integers include the high end; `low` and `high` are nothing else."""
    declared = signature(IDS)
    many = Case("many", {"batch": 100, "length": 12}, "uniform", 0).inputs(declared)["ids"]

    assert (many.min(), many.max()) == (3, 9)
    assert set(Case("", {"batch": 2, "length": 2}, "low", 0).inputs(declared)["ids"].flat) == {3}
    assert set(Case("", {"batch": 2, "length": 2}, "high", 0).inputs(declared)["ids"].flat) == {9}


@pytest.mark.parametrize(("kind", "rows"), [("full mask", [1, 1, 1]), ("empty mask", [0, 0, 0]), ("one in mask", [1, 0, 0])])
def test_masks(kind, rows):
    """Full, empty, and a single token; the other inputs stay uniform."""
    declared = signature(IDS, MASK, dims={"batch": Dim(1, 8), "length": Dim(3, 3)})
    made = Case("", {"batch": 2, "length": 3}, kind, 0).inputs(declared)

    assert made["mask"].tolist() == [rows, rows]
    assert len(set(made["ids"].flat)) > 1


def test_what_is_a_mask():
    """Booleans, and integers of 0 and 1; not floats."""
    assert is_mask(MASK)
    assert is_mask(TensorSpec("m", "bool", (2,)))
    assert not is_mask(IDS)
    assert not is_mask(TensorSpec("m", "float32", (2,), (0, 1)))


def test_kinds_of_floats():
    """Ends, zeros, only extremes; without a range: normal, ones and ten times normal."""
    declared = signature(FLOATS)
    made = {kind: Case("", {"batch": 8}, kind, 0).inputs(declared)["x"] for kind in value_kinds(declared)}
    free = signature(FREE)
    unbound = {kind: Case("", {"batch": 8}, kind, 0).inputs(free)["x"] for kind in value_kinds(free)}

    assert set(made["low"].flat) == {-1}
    assert set(made["high"].flat) == {2}
    assert set(made["zeros"].flat) == {0}
    assert set(made["extremes"].flat) == {-1, 2}
    assert set(unbound["ones"].flat) == {1}
    assert np.abs(unbound["large"]).max() > 5


def test_zeros_outside_the_range():
    """They are moved to its nearest end."""
    declared = signature(TensorSpec("x", "float32", ("batch",), (5, 9)))

    assert set(Case("", {"batch": 4}, "zeros", 0).inputs(declared)["x"].flat) == {5}


@pytest.mark.parametrize(
    ("dims", "shape"),
    [
        ({"batch": Dim(1, 8), "length": Dim(1, 12)}, (2, 3)),
        ({"batch": Dim(1, 1), "length": Dim(1, 12)}, (1, 2)),
        ({"batch": Dim(3, 8), "length": Dim(3, 12)}, (3, 4)),
        ({"batch": Dim(1, 8), "length": Dim(4, 16, 4)}, (2, 8)),
        ({"batch": Dim(2, 2), "length": Dim(2, 2)}, (2, 2)),
    ],
)
def test_the_sample(dims, shape):
    """Two or more of each (two steps of a multiple), no two alike where that is allowed."""
    assert sample_inputs(signature(IDS, MASK, dims=dims))["ids"].shape == shape


def test_the_sample_shares_no_size_with_a_fixed_one():
    """A batch of 4 rows of 4 could be taken for square."""
    declared = signature(TensorSpec("x", "float32", ("batch", 2, 3)))

    assert sample_inputs(declared)["x"].shape == (4, 2, 3)


def test_golden_candidates_have_the_fewest_rows():
    """One row of each kind, then the other dimensions' ends."""
    candidates = golden_candidates(signature(IDS, MASK))

    assert {case.sizes["batch"] for case in candidates} == {1}
    assert [case.sizes["length"] for case in candidates[-2:]] == [2, 12]
    assert [case.name for case in candidates[:2]] == ["00-uniform", "01-low"]


def test_elements():
    """All inputs together."""
    assert Case("", {"batch": 3, "length": 5}, "uniform", 0).elements(signature(IDS, MASK)) == 30


def test_tensors_share_no_memory():
    """What a forward does in place does not reach the arrays; only floats are converted."""
    declared = signature(FLOATS)
    inputs = Case("", {"batch": 2}, "uniform", 0).inputs(declared)
    before = inputs["x"].copy()

    (made,) = tensors(inputs, declared)
    made.zero_()

    assert np.array_equal(inputs["x"], before)
