"""Where an engine can run, and the batch sizes that it is made ready for."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from artifact.engines import cuda_devices, devices
from artifact.engines.buckets import buckets, example
from artifact.signature import Dim, Signature, TensorSpec

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _asked_anew():
    for function in (devices._count, devices._driver_devices):
        function.cache_clear()
    yield
    for function in (devices._count, devices._driver_devices):
        function.cache_clear()


def driver(count, initialises=0):
    """NVIDIA's driver, with so many devices."""

    class Driver:
        @staticmethod
        def cuInit(_):  # noqa: N802 - the driver's name
            return initialises

        @staticmethod
        def cuDeviceGetCount(place):  # noqa: N802 - the driver's name
            place._obj.value = count
            return 0

    return lambda _: Driver


def test_without_a_driver_nothing_is_imported():
    """On a machine without NVIDIA's driver the answer costs neither PyTorch nor ONNX Runtime."""
    code = (
        "import ctypes, sys\n"
        "def none(name): raise OSError(name)\n"
        "ctypes.CDLL = none\n"
        "from artifact.engines import cuda_devices\n"
        "print([cuda_devices(name) for name in ('onnx', 'torchscript', 'pt2', 'other')], "
        "sorted({'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "[[], [], [], []] []\n", done.stderr


def test_the_driver_and_the_library_both_count(monkeypatch):
    """ONNX Runtime's build for the CPU sees no device; one with CUDA sees those that the driver shows."""
    import onnxruntime

    monkeypatch.setattr(ctypes, "CDLL", driver(2))
    assert cuda_devices("onnx") == []

    devices._count.cache_clear()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert cuda_devices("onnx") == ["cuda:0", "cuda:1"]
    assert cuda_devices("other") == []


@pytest.mark.parametrize(
    ("is_available", "count", "found"), [(True, 1, ["cuda:0"]), (True, 3, ["cuda:0", "cuda:1"]), (False, 1, [])]
)
def test_pytorchs_own_view(monkeypatch, is_available, count, found):
    """PyTorch's formats run on what both PyTorch and the driver see."""
    import torch

    monkeypatch.setattr(ctypes, "CDLL", driver(2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    assert cuda_devices("torchscript") == cuda_devices("pt2") == found


def test_a_driver_that_does_not_start(monkeypatch):
    """A driver that is there and refuses shows no device."""
    monkeypatch.setattr(ctypes, "CDLL", driver(2, initialises=999))

    assert cuda_devices("torchscript") == []


def signature(dim, spec=None):
    first = spec or TensorSpec("x", "float32", ("batch", "length"), (-3, 3))
    return Signature((first,), (TensorSpec("y", "float32", ("batch",)),), {"batch": dim, "length": Dim(4, 64, 4, opt=16)})


@pytest.mark.parametrize(
    ("dim", "found"),
    [
        (Dim(1, 1), (1,)),
        (Dim(1, 16), (1, 2, 4, 8, 16)),
        (Dim(1, 12), (1, 2, 4, 8, 12)),
        (Dim(3, 50, 4), (4, 8, 16, 32, 48)),
        (Dim(20, 100), (20, 32, 64, 100)),
    ],
)
def test_buckets(dim, found):
    """Powers of two and the largest batch, each as the model takes it."""
    assert buckets(signature(dim)) == found
    assert all(dim.allows(size) for size in found)


def test_rows_that_a_model_takes():
    """The middle of each range at the usual size of every dimension; masks are 1, and what has no range is 0."""
    specs = (
        TensorSpec("x", "float32", ("batch", "length"), (-1, 4)),
        TensorSpec("mask", "int64", ("batch", "length"), (0, 1)),
        TensorSpec("ids", "int32", ("batch",), (0, 30521)),
        TensorSpec("image", "uint8", ("batch", 3), (0, 255)),
        TensorSpec("flag", "bool", ("batch",)),
        TensorSpec("scale", "float64", (2,)),
    )
    made = Signature(specs, (TensorSpec("y", "float32", (2,)),), {"batch": Dim(1, 4), "length": Dim(4, 64, 4, opt=16)})
    found = example(made, 1)
    rows = example(Signature(specs[:5], (TensorSpec("y", "float32", ("batch",)),), made.dims), 3)

    assert {name: array.flat[0] for name, array in found.items()} == {
        "x": np.float32(1.5), "mask": 1, "ids": 15261, "image": 128, "flag": False, "scale": 0.0
    }  # fmt: skip
    assert rows["x"].shape == (3, 16)
    Signature(specs[:5], (TensorSpec("y", "float32", ("batch",)),), made.dims).validate(rows)
