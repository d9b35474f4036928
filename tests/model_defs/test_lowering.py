"""Every architecture can be captured over its whole declared range, traced, and run in float64."""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import model_defs

IMAGE = ("batch", 3, "height", "width")
TEXT = ("batch", "sequence")
IMAGE_SIZES = [{"batch": 1, "height": 64, "width": 96}, {"batch": 3, "height": 96, "width": 64}]
TEXT_SIZES = [{"batch": 1, "sequence": 1}, {"batch": 1, "sequence": 40}, {"batch": 16, "sequence": 2}]


@dataclass(frozen=True)
class Case:
    """An architecture, small enough to run; the first of `sizes` is what is captured, the others are what is compared."""

    name: str
    inputs: Mapping[str, tuple[str | int, ...]]
    params: Mapping[str, Any] = field(default_factory=dict)
    sizes: tuple[Mapping[str, int], ...] = ({"batch": 3}, {"batch": 1}, {"batch": 2}, {"batch": 16})

    def example(self, size: Mapping[str, int]) -> dict[str, Tensor]:
        """Inputs of this size: normal numbers, tokens below 50, a mask that ends at half of the first row."""
        generator = torch.Generator().manual_seed(1)
        example = {}
        for name, shape in self.inputs.items():
            numbers = [size[dim] if isinstance(dim, str) else dim for dim in shape]
            if name == "input_ids":
                example[name] = torch.randint(0, 50, numbers, generator=generator)
            elif name == "attention_mask":
                example[name] = torch.ones(numbers, dtype=torch.int64)
                example[name][0, (numbers[1] + 1) // 2 :] = 0
            else:
                example[name] = torch.randn(numbers, generator=generator)
        return example


VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 7}
BERT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CASES = [
    Case("mlp", {"x": ("batch", 5)}, {"in_features": 5, "hidden": [7, 6], "out_features": 3}),
    Case("digits_cnn", {"image": ("batch", 1, 8, 8)}),
    Case("resnet18", {"image": IMAGE}, sizes=({"batch": 2, "height": 96, "width": 128}, *IMAGE_SIZES)),
    Case("resnet34", {"image": IMAGE}, sizes=({"batch": 2, "height": 96, "width": 128}, *IMAGE_SIZES[:1])),
    Case("resnet50", {"image": IMAGE}, sizes=({"batch": 2, "height": 96, "width": 128}, *IMAGE_SIZES[:1])),
    Case("vit", {"image": ("batch", 3, 32, 32)}, VIT),
    Case(
        "bert",
        {"input_ids": TEXT, "attention_mask": TEXT},
        {**BERT, "max_position_embeddings": 40},
        ({"batch": 3, "sequence": 7}, *TEXT_SIZES),
    ),
]
RANGES = {"batch": (1, 16), "height": (64, 256), "width": (64, 256), "sequence": (1, 40)}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def model(case):
    """The model in eval mode, with running statistics as training leaves them."""
    torch.manual_seed(0)
    model = model_defs.build(case.name, case.params).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return model


def difference(found: Tensor, reference: Tensor) -> float:
    """Our error measure: max|a-b| / max(1, max|ref|)."""
    assert found.shape == reference.shape
    return ((found - reference).abs().max() / reference.abs().max().clamp(min=1)).item()


def declared_dims() -> dict[str, Any]:
    """The ranges as torch.export takes them; height and width are multiples of 32."""
    dims: dict[str, Any] = {name: Dim(name, min=low, max=high) for name, (low, high) in RANGES.items()}
    return dims | {name: 32 * Dim(f"{name}_32", min=2, max=8) for name in ("height", "width")}


@torch.no_grad()
def test_a_capture_keeps_the_declared_ranges(case, model):
    """torch.export narrows nothing and fixes nothing, and the captured program gives the model's numbers at other sizes."""
    dims = declared_dims()
    declared = {name: {axis: dims[dim] for axis, dim in enumerate(shape) if dim in dims} for name, shape in case.inputs.items()}
    program = torch.export.export(model, (), case.example(case.sizes[0]), dynamic_shapes=declared)
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    for name, shape in case.inputs.items():
        for found, dim in zip(placeholders[name].shape, shape, strict=True):
            if isinstance(dim, int):
                assert found == dim
            else:
                constraint = program.range_constraints[found.node.expr]
                assert (constraint.lower, constraint.upper) == RANGES[dim]
    symbols = {str(dim) for name in case.inputs for dim in placeholders[name].shape if not isinstance(dim, int)}
    assert len(symbols) == len({dim for shape in case.inputs.values() for dim in shape if isinstance(dim, str)})
    for size in case.sizes[1:]:
        example = case.example(size)
        assert difference(program.module()(**example), model(**example)) <= 1e-6


@torch.no_grad()
def test_a_trace_holds_at_other_sizes_and_on_other_devices(case, model):
    """No size is baked in, none is turned into a Python number (torch would warn), and no device is named."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(model, example_kwarg_inputs=case.example(case.sizes[0]), check_trace=False)
    assert 'value="cpu"' not in str(traced.inlined_graph)  # pyright: ignore[reportAttributeAccessIssue]
    for size in case.sizes[1:]:
        example = case.example(size)
        assert difference(traced(**example), model(**example)) <= 1e-6  # pyright: ignore[reportCallIssue]


@torch.no_grad()
def test_float64_is_kept_from_input_to_output(case, model):
    """The reference of parity is the same model in double precision; float32 agrees with it."""
    example = case.example(case.sizes[1])
    double = {name: value.double() if value.is_floating_point() else value for name, value in example.items()}
    reference = copy.deepcopy(model).double()(**double)
    assert reference.dtype == torch.float64
    assert difference(model(**example), reference) <= 2e-6


@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours_or_on_chance(case, model):
    """In eval mode the same input gives the same bits, and a row alone gives what it gives in a batch."""
    example = case.example(case.sizes[0])
    batched = model(**example)
    assert torch.equal(batched, model(**example))
    alone = model(**{name: value[1:2] for name, value in example.items()})
    assert difference(alone, batched[1:2]) <= 2e-6


@torch.no_grad()
def test_bert_refuses_a_range_that_its_positions_do_not_cover():
    """A declared sequence longer than the table fails at capture, not in production."""
    case = CASES[-1]
    model = model_defs.build("bert", case.params).eval()
    sequence = Dim("sequence", min=1, max=41)
    declared = {name: {1: sequence} for name in case.inputs}
    with pytest.raises(RuntimeError, match=r"^Constraints violated \(sequence\)"):
        torch.export.export(model, (), case.example(case.sizes[0]), dynamic_shapes=declared)
