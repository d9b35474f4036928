"""ONNX's operators, compiled once for all exports of a process: a test that exports often does not wait for them each time."""

import contextlib
import copy
import functools

import pytest


@contextlib.contextmanager
def compiled_once():
    """Half of a small export's time goes into the table of ONNX's operators, which torch compiles anew for each: here once.

    Each export has a copy of its own. The real commands, in processes of their own, make theirs as ever.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    compiled = functools.cache(ONNXRegistry.from_torchlib)

    def from_torchlib(**options):
        own = copy.copy(compiled(**options))
        own.functions = {operator: list(known) for operator, known in own.functions.items()}
        return own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(from_torchlib))
        yield
