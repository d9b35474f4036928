"""What a parity case costs, counted in the captured program."""

import pytest

from export.capture import capture
from export.config import read_config
from export.cost import Clock, ParityLimits, activation_bytes


@pytest.fixture
def captured(work):
    """A model of 4 -> 16 -> relu -> 3, captured."""
    model = work.net("good", "stepped_rows")
    return capture(model, read_config(work.folder / "best.yaml").signature())


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_activations_by_hand(captured, rows):
    """At the peak the first layer's answer and its ReLU live at once: 16 numbers each, 4 bytes each, in every row."""
    assert activation_bytes(captured, captured.signature, {"batch": rows}) == rows * (16 + 16) * 4


def test_activations_of_multiples(work):
    """A size in steps of 4 is counted in full: the input, height x 8, and 3 channels of height/4 x 2."""
    model = work.net(
        "good",
        "pool",
        inputs={"image": {"dtype": "float32", "shape": ["batch", 1, "height", 8]}},
        dims={"batch": {"min": 1, "max": 3}, "height": {"min": 8, "max": 16, "multiple": 4}},
    )
    captured = capture(model, read_config(work.folder / "best.yaml").signature())

    assert activation_bytes(captured, captured.signature, {"batch": 2, "height": 12}) == 2 * (12 * 8 + 3 * 3 * 2) * 4


def test_activations_without_named_dimensions(work):
    """Fixed sizes are counted as well."""
    model = work.net(
        "good",
        "stepped_rows",
        inputs={"x": {"dtype": "float32", "shape": [5, 4]}},
        dims={},
        outputs={"y": {"dtype": "float32", "shape": [5, 3]}},
    )
    captured = capture(model, read_config(work.folder / "best.yaml").signature())

    assert activation_bytes(captured, captured.signature, {}) == 5 * (16 + 16) * 4


def test_unknown_costs_are_tried():
    """A clock that has seen nothing allows any case."""
    assert Clock(ParityLimits(time_s=1)).allows("float64", 10**12)


def test_a_case_is_estimated_by_the_last_one():
    """2 s for 10 elements make 4 s of 20: within 6 s, and not within 5."""
    clock = Clock(ParityLimits(time_s=6))
    clock.note("float64", 10, 2.0)
    assert clock.allows("float64", 20)

    clock = Clock(ParityLimits(time_s=5))
    clock.note("float64", 10, 2.0)
    assert not clock.allows("float64", 20)


def test_precisions_are_estimated_apart():
    """A float32 reference may still be within the limit where float64 is not; the time spent counts for both."""
    clock = Clock(ParityLimits(time_s=5))
    clock.note("float64", 10, 2.0)
    clock.note("float32", 10, 0.5)

    assert not clock.allows("float64", 20)
    assert clock.allows("float32", 20)
    assert clock.spent_s == 2.5


def test_the_default_limits():
    """120 s and 4 GiB."""
    assert (ParityLimits().time_s, ParityLimits().memory_bytes) == (120.0, 4 << 30)
