"""The model that takes as much memory as it is asked for, on the CPU."""

import numpy as np
import pytest

import artifact
from artifact.errors import EngineFailed, OutOfMemory
from bench.gpu import hungry

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def test_the_hungry_model_takes_what_it_is_asked_for(tmp_path):
    """It is a whole artifact, proves itself, gives its input back, fails beyond all memory, and goes on."""
    loaded = artifact.load(hungry.write(tmp_path), threads=1)
    rows = np.array([[1], [3], [-5]], np.float32)

    assert all(one.passed for one in loaded.replay())
    assert loaded.run({"x": rows})["y"].tolist() == rows.tolist()
    with pytest.raises((EngineFailed, OutOfMemory)):
        loaded.run({"x": np.full((1, 1), 1 << 22, np.float32)})
    assert loaded.run({"x": rows})["y"].tolist() == rows.tolist()


def test_values_that_engines_try_at_their_start_take_hardly_any():
    """They are those in the middle of the declared range."""
    assert sum(hungry.RANGE) / 2 == 1
