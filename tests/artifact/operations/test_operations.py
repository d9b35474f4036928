"""Rows joined to a batch, and what a model must have for its outputs to be made an answer."""

from typing import Literal

import numpy as np
import pytest

from artifact.operations import Chains, make
from artifact.operations.declared import ONLY, Declared
from artifact.operations.errors import BadOperations
from artifact.operations.kinds import OutputOperation, Tensor
from artifact.operations.operations import _filled
from artifact.signature import Dim, Signature, TensorSpec

LENGTH = Dim(4, 64, 4)
IDS = TensorSpec("ids", "int64", ("batch", "length"), (0, 99))
SIGNATURE = Signature((IDS,), (TensorSpec("y", "float32", ("batch", 2)),), {"batch": Dim(1, 8), "length": LENGTH})


def filled(*lengths, side: Literal["left", "right"] = "right"):
    rows = [np.arange(1, length + 1, dtype=np.int64)[np.newaxis] for length in lengths]
    return _filled(IDS, SIGNATURE, rows, Tensor("int64", (None,), 0, 99, fill=7, side=side)).tolist()


def test_rows_are_filled():
    """Shorter rows are filled at the declared side, up to the longest, the least, and the next multiple."""
    assert filled(2, 3) == [[1, 2, 7, 7], [1, 2, 3, 7]]
    assert filled(2, 3, side="left") == [[7, 7, 1, 2], [7, 1, 2, 3]]
    assert filled(5) == [[1, 2, 3, 4, 5, 7, 7, 7]]
    assert filled(0, 4, side="left") == [[7] * 4, [1, 2, 3, 4]]
    assert filled(0, 4) == [[7] * 4, [1, 2, 3, 4]]


class Doubled(OutputOperation):
    """An operation of this file's own."""

    def kind_of(self, given, outputs):  # noqa: ARG002 - the interface
        return given

    def step(self, given, outputs):  # noqa: ARG002 - the interface
        return lambda value, _row: value * 2


def operations(signature, name="y"):
    chain: tuple[Declared[OutputOperation], ...] = (Declared("doubled", Doubled(), ("postprocess", name, 0, "doubled")),)
    return make(Chains(postprocess={name: chain}), signature, {}, {})


def test_an_answer_per_row():
    """Each row of the outputs becomes plain data, by output where the chains are named, and bare where there is one list."""
    outputs = {"y": np.array([[1, 2], [3, 4]], np.float32)}
    assert operations(SIGNATURE).finish(outputs) == [{"y": [2.0, 4.0]}, {"y": [6.0, 8.0]}]
    assert operations(SIGNATURE, ONLY).finish(outputs) == [[2.0, 4.0], [6.0, 8.0]]
    assert operations(SIGNATURE).predicts


def test_outputs_without_rows():
    """An output that counts no rows cannot be cut into answers; one that is not there has no chain."""
    odd = Signature(SIGNATURE.inputs, (TensorSpec("y", "float32", (3, 2)),), SIGNATURE.dims)
    with pytest.raises(BadOperations) as caught:
        operations(odd)
    assert str(caught.value) == "postprocess: output y has no leading dimension of rows ('batch', or 1)"
    assert caught.value.path == ("postprocess",)
    with pytest.raises(BadOperations) as caught:
        operations(SIGNATURE, "z")
    assert str(caught.value) == "postprocess.z: 'z' is no output of the model; they are y"
