"""A model that is not as its config declares it is not exported: exit 7, the reason, the remedy, and no file."""

import pytest
import torch

from export.capture import capture
from export.config import read_config
from export.errors import CaptureFailed

SEQUENCE = {
    "inputs": {"x": {"dtype": "float32", "shape": ["batch", "length", 4], "range": [-1, 1]}},
    "dims": {"batch": {"min": 1, "max": 8}, "length": {"min": 1, "max": 12}},
}
NARROW = "Narrow dims to what it takes, or make forward independent of the size"


def outputs(**declared):
    return {"outputs": {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in declared.items()}}


def test_a_branch_on_the_batch_size(work):
    """A forward that does otherwise from 5 rows on is told with the range that it takes."""
    work.net("uncapturable", "branches_on_batch")

    message = work.refuse(7)

    assert message.startswith(
        "BranchesOnBatch does not take all of its declared ranges (batch 1 to 8): "
        "its forward branches on a size, loops over it, or fixes it.\n  "
    )
    assert "<= 4" in message
    assert message.endswith(f"\n{NARROW}")


def test_a_branch_outside_the_declared_range(work):
    """The same forward exports where the branch is never taken."""
    work.net("uncapturable", "branches_on_batch", dims={"batch": {"min": 1, "max": 4}})

    assert work.export().created


def test_a_loop_over_a_named_dimension(work):
    """A loop is unrolled to the sample's size, so the dimension is fixed."""
    work.net("uncapturable", "loops_over_length", **SEQUENCE)

    message = work.refuse(7)

    assert message.startswith("LoopsOverLength does not take all of its declared ranges (batch 1 to 8, length 1 to 12)")
    assert "length" in message.splitlines()[1]
    assert message.endswith(NARROW)


def test_a_submodule_in_train_mode(work):
    """A module whose train() ignores its argument is named: its dropout would be live."""
    work.net("uncapturable", "stays_in_train")

    assert work.refuse(7) == (
        "StaysInTrain stays in train mode after eval(): drop. Exported so, dropout and batch statistics would be live; "
        "mend its train() or the line that sets training"
    )


def test_a_submodule_that_branches_on_values(work):
    """What torch.export says is given in one line, with the shapes that were tried."""
    work.net("uncapturable", "branches_on_values")

    message = work.refuse(7)

    assert message.startswith(
        "BranchesOnValues cannot be captured by torch.export with x [2, 4] (declared: batch 1 to 8): GuardOnData"
    )
    assert message.endswith("forward must run on these shapes without branching on values of tensors")
    assert len(message.splitlines()) == 1


def test_a_fixed_size_that_forward_does_not_take(work):
    """A wrong number of features is a failure of the capture, with PyTorch's reason."""
    work.net("good", "small", inputs={"x": {"dtype": "float32", "shape": ["batch", 5]}})

    assert work.refuse(7) == (
        "Small cannot be captured by torch.export with x [2, 5] (declared: batch 1 to 8): RuntimeError: "
        "a and b must have same reduction dim, but got [s77, 5] X [4, 5]. "
        "forward must run on these shapes without branching on values of tensors"
    )


def test_positions_that_are_sliced(work):
    """8 rows of positions do not serve a length of 12: the capture says up to which they do."""
    work.net("uncapturable", "sliced_positions", **SEQUENCE)

    message = work.refuse(7)

    assert message.startswith("SlicedPositions does not take all of its declared ranges (batch 1 to 8, length 1 to 12)")
    assert "<= 8" in message.splitlines()[1]


def test_positions_that_are_looked_up(work):
    """An index past an embedding's end does not show in the capture: the largest case fails in the model itself."""
    work.net("uncapturable", "looked_up_positions", **SEQUENCE)

    assert work.refuse(8) == (
        "the model itself fails on a declared input, x [1, 12, 4]: IndexError: index out of range in self. "
        "Declare under dims and range only what the model takes"
    )


@pytest.mark.parametrize("name", ["sliced_positions", "looked_up_positions"])
def test_positions_within_what_the_model_has(work, name):
    """With a length of at most 8 both export."""
    work.net("uncapturable", name, **{**SEQUENCE, "dims": {"batch": {"min": 1, "max": 8}, "length": {"min": 1, "max": 8}}})

    assert work.export().created


def test_an_output_of_another_shape(work):
    """Both shapes are shown, with the names of dimensions."""
    work.net("good", "small", **outputs(y=("float32", ["batch", 4])))

    assert work.refuse(7) == ("output y is declared [batch, 4]; forward gives [batch, 3]. Declare that shape, or change forward")


def test_an_output_of_another_dtype(work):
    """Dtypes are never converted in silence."""
    work.net("good", "small", **outputs(y=("float64", ["batch", 3])))

    assert work.refuse(7) == "output y is declared float64; forward gives float32. Declare that, or convert in forward"


def test_too_few_outputs_declared(work):
    """Every output of forward is declared, or none is exported."""
    work.net("good", "two_outputs")

    assert work.refuse(7) == ("forward gives 2 tensor(s); the config declares 1 output(s): y. Declare each, in forward's order")


def test_too_many_outputs_declared(work):
    """The count is compared in both directions."""
    work.net("good", "small", **outputs(y=("float32", ["batch", 3]), z=("float32", ["batch", 3])))

    assert work.refuse(7).startswith("forward gives 1 tensor(s); the config declares 2 output(s): y, z.")


def test_the_names_of_a_named_tuple_in_another_order(work):
    """Two outputs of one shape would be swapped without a trace, so the names are compared."""
    work.net("good", "named_outputs", **outputs(other=("float32", ["batch", 3]), score=("float32", ["batch", 3])))

    assert work.refuse(7) == (
        "forward gives Named(score, other); the config's outputs are other, score. Name the outputs as forward does, in its order"
    )


def test_the_names_of_a_named_tuple(work):
    """In forward's order they export."""
    work.net("good", "named_outputs", **outputs(score=("float32", ["batch", 3]), other=("float32", ["batch", 3])))

    assert work.export().created


def test_a_dict_of_outputs(work):
    """Engines know outputs by order, so a dict is refused."""
    work.net("uncapturable", "gives_a_dict")

    assert work.refuse(7) == "forward gives a dict; return a tuple of tensors in the order of the config's outputs: y"


@pytest.mark.parametrize("names", [["image"], ["x", "z"]])
def test_inputs_that_forward_does_not_name(work, names):
    """Inputs are bound by name."""
    work.net("good", "small", inputs={name: {"dtype": "float32", "shape": ["batch", 4]} for name in names})

    assert work.refuse(7) == (
        f"forward of Small takes x; the config's inputs are {', '.join(names)}. Name the inputs as forward does"
    )


def test_inputs_by_keyword_only(work):
    """Engines give inputs by position."""
    work.net("uncapturable", "keyword_only")

    assert work.refuse(7) == (
        "forward of KeywordOnly takes nothing by position; the config's inputs are x. Name the inputs as forward does"
    )


def test_the_order_of_the_yaml_does_not_matter(work):
    """The signature has forward's order of inputs, whatever the YAML's is."""
    tokens = {"dtype": "int64", "shape": ["batch", "length"]}
    model = work.net(
        "good",
        "masked_mean",
        inputs={"mask": {**tokens, "range": [0, 1]}, "ids": {**tokens, "range": [0, 9]}},
        dims=SEQUENCE["dims"],
    )

    exported = work.export()

    assert [spec["name"] for spec in _manifest(exported.path)["content"]["signature"]["inputs"]] == ["ids", "mask"]
    assert model(torch.tensor([[3, 4]]), torch.tensor([[1, 0]])).shape == (1, 3)


def test_an_operator_without_an_onnx_form(work):
    """The operator is named, and the way out."""
    work.net("custom_operator", "custom_operator")

    message = work.refuse(7)

    assert message == (
        "the captured program has no ONNX form: No ONNX function found for "
        "<OpOverload(op='stateserve_tests.double', overload='default')>. "
        "Failure message: No decompositions registered for the real-valued input; export to another format with --format"
    )


def test_a_multiple_that_starts_at_one_step(work):
    """PyTorch takes a dimension from two steps on; less is said, never narrowed in silence."""
    work.net(
        "good",
        "pool",
        inputs={"image": {"dtype": "float32", "shape": ["batch", 1, "height", 8]}},
        dims={"batch": {"min": 1, "max": 3}, "height": {"min": 4, "max": 16, "multiple": 4}},
    )

    assert work.refuse(7) == (
        "height of input image is declared 4 to 16 in multiples of 4, but the captured program takes 8 to 16 in multiples of 4. "
        "Declare that range under dims.height, or change forward so that it does not depend on the size"
    )


def test_two_names_for_one_size(work):
    """Dimensions of two names may differ, so a forward that needs them equal is refused."""
    tokens = {"dtype": "int64", "shape": ["batch", "length"]}
    work.net(
        "good",
        "masked_mean",
        inputs={"ids": {**tokens, "range": [0, 9]}, "mask": {**tokens, "shape": ["batch", "other"], "range": [0, 1]}},
        dims={**SEQUENCE["dims"], "other": {"min": 1, "max": 12}},
    )

    message = work.refuse(7)

    assert message.startswith("MaskedMean cannot be captured by torch.export with ids [2, 3], mask [2, 4] (declared: ")
    assert "must match the size of tensor b" in message


def test_the_captured_program_has_no_source_lines(work):
    """Every node's stack trace, with its paths, is taken out."""
    model = work.net("good", "small")

    captured = capture(model, read_config(work.folder / "best.yaml").signature())

    assert all("stack_trace" not in node.meta for node in captured.program.graph.nodes)


def test_the_error_keeps_its_cause(work):
    """Who calls `capture` finds PyTorch's own error behind ours."""
    model = work.net("uncapturable", "branches_on_values")
    signature = read_config(work.folder / "best.yaml").signature()

    with pytest.raises(CaptureFailed) as caught:
        capture(model, signature)

    assert caught.value.__cause__ is not None


def _manifest(path):
    import json

    return json.loads((path / "manifest.json").read_bytes())
