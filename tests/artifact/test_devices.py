"""Where an engine can run, and the batch sizes that it is made ready for."""

import ctypes
import sys

import numpy as np
import pytest

from artifact.engines import cuda_devices, devices
from artifact.engines.buckets import buckets, example
from artifact.signature import Dim, Signature, TensorSpec


@pytest.fixture(autouse=True)
def _asked_anew():
    for function in (devices._is_for_cuda, devices._driver_devices):
        function.cache_clear()
    yield
    for function in (devices._is_for_cuda, devices._driver_devices):
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


def library(folder, package, part):
    """A package's folder with its part for CUDA, which cannot be imported."""
    (folder / package / part).parent.mkdir(parents=True)
    (folder / package / part).touch()
    (folder / package / "__init__.py").write_text("raise SystemError('imported')")


PARTS = [
    ("onnx", "onnxruntime", "capi/libonnxruntime_providers_cuda.so"),
    ("torchscript", "torch", "lib/libtorch_cuda.so"),
    ("pt2", "torch", "lib/libtorch_cuda.so"),
]


@pytest.mark.parametrize(("name", "package", "part"), PARTS)
def test_the_driver_and_the_library_both_count(monkeypatch, tmp_path, name, package, part):
    """A library's build for the CPU sees no device; one with CUDA those that the driver shows. It is not imported for that."""
    monkeypatch.setattr(ctypes, "CDLL", driver(2))
    library(tmp_path, package, part)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package, raising=False)
    assert cuda_devices(name) == ["cuda:0", "cuda:1"]
    assert cuda_devices("other") == []

    devices._is_for_cuda.cache_clear()
    (tmp_path / package / part).unlink()
    assert cuda_devices(name) == []


def test_a_library_that_is_not_installed(monkeypatch):
    """It sees no device."""
    monkeypatch.setattr(ctypes, "CDLL", driver(2))
    monkeypatch.setattr(devices, "find_spec", lambda _: None)

    assert [cuda_devices(name) for name, _, _ in PARTS] == [[], [], []]


def test_without_a_driver_there_is_no_device(monkeypatch, tmp_path):
    """Whatever is installed."""

    def none(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", none)
    library(tmp_path, "torch", "lib/libtorch_cuda.so")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert cuda_devices("torchscript") == []


def test_a_driver_that_does_not_start(monkeypatch, tmp_path):
    """A driver that is there and refuses shows no device."""
    monkeypatch.setattr(ctypes, "CDLL", driver(2, initialises=999))
    library(tmp_path, "torch", "lib/libtorch_cuda.so")
    monkeypatch.syspath_prepend(str(tmp_path))

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


def test_buckets_that_a_start_can_afford():
    """Larger batches are left out where their inputs would take more than 256 MiB; the smallest is always there."""
    image = TensorSpec("x", "float32", ("batch", 3, 1024, 1024), (0, 1))

    assert buckets(signature(Dim(1, 4096), image)) == (1, 2, 4, 8, 16)
    assert buckets(signature(Dim(32, 64), image)) == (32,)


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
