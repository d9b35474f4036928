"""Where the random numbers stand, and back to there."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from checkpoints import rng
from checkpoints.errors import UnreadableCheckpoint


def draw():
    return (
        random.random(),
        random.gauss(0, 1),
        np.random.normal(),  # noqa: NPY002 - the global generator is what is restored
        np.random.random_sample(),  # noqa: NPY002
        torch.rand(3).tolist(),
        torch.randn(1).item(),
    )


def test_every_generator_goes_on_from_where_it_was():
    """Python's, NumPy's with its spare normal number, torch's."""
    draw()  # NumPy and Python keep a second normal number for the next call
    states = rng.capture()
    expected = draw()
    draw()
    rng.check(states)
    assert rng.restore(states) == ()
    assert draw() == expected


def test_taking_the_states_draws_nothing():
    """Two states in a row are the same."""
    one, other = rng.capture(), rng.capture()
    assert torch.equal(one.pop("torch"), other.pop("torch"))
    assert one == other


def test_numpy_is_left_alone_where_it_is_not_imported():
    """What was never imported draws nothing; torch imports it only where it is asked to."""
    code = "import sys, torch; sys.modules.pop('numpy', None); from checkpoints import rng; assert 'numpy' not in rng.capture()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "change",
    [
        {"python": (3, (1, 2), None)},
        {"python": "seed"},
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"torch": None},
        {"numpy": (b"short", 1, 0, 0.0)},
        {"numpy": 5},
        {"cuda": [torch.zeros(3)]},
        {"cuda": 7},
    ],
)
def test_what_is_no_state_is_refused(change):
    """Before any generator is touched."""
    states = {**rng.capture(), **change}
    with pytest.raises(UnreadableCheckpoint, match="random numbers"):
        rng.check(states)


def test_cuda_states_without_cuda_are_said():
    """Training that goes on elsewhere draws other numbers there; that is a note, no error."""
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    states = {**rng.capture(), "cuda": [torch.get_rng_state()]}
    rng.check(states)
    (note,) = rng.restore(states)
    assert note.startswith("The random numbers of 1 CUDA devices were saved, 0 are here: what was drawn on the others is drawn")
