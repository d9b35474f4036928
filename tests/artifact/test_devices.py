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
    for function in (devices._cuda_of, devices._driver):
        function.cache_clear()
    yield
    for function in (devices._cuda_of, devices._driver):
        function.cache_clear()


def driver(count, initialises=0, version=12080):
    """NVIDIA's driver, with so many devices, for a version of CUDA as it tells it."""

    class Driver:
        @staticmethod
        def cuInit(_):  # noqa: N802 - the driver's name
            return initialises

        @staticmethod
        def cuDriverGetVersion(place):  # noqa: N802 - the driver's name
            place._obj.value = version
            return 0

        @staticmethod
        def cuDeviceGetCount(place):  # noqa: N802 - the driver's name
            place._obj.value = count
            return 0

    return lambda _: Driver


BUILDS = [
    ("onnx", "onnxruntime", "capi/build_and_package_info.py", "cuda_version = '12.8'"),
    ("torchscript", "torch", "version.py", "cuda: Optional[str] = '12.8'"),
    ("pt2", "torch", "version.py", "cuda = '12.8'"),
]


@pytest.fixture
def built(monkeypatch, tmp_path):
    """Puts a package in the library's place, which says how it was built, and cannot be imported."""

    def built(package, file, text):
        devices._cuda_of.cache_clear()
        place = tmp_path / package / file
        place.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / package / "__init__.py").write_text("raise SystemError('imported')")
        place.write_text(f"from typing import Optional\n{text}\ncudart_version = 7\nhip: Optional[str] = None\n")
        monkeypatch.delitem(sys.modules, package, raising=False)

    monkeypatch.syspath_prepend(str(tmp_path))
    return built


@pytest.mark.parametrize("build", BUILDS)
def test_the_driver_and_the_library_both_count(monkeypatch, built, build):
    """A build for a CUDA that the driver runs sees what the driver shows; another one nothing. It is not imported for that."""
    name, package, file, text = build
    monkeypatch.setattr(ctypes, "CDLL", driver(2))
    built(package, file, text)
    assert cuda_devices(name) == ["cuda:0", "cuda:1"]
    assert cuda_devices("other") == []

    for other in (text.replace("'12.8'", "None"), text.replace("12.8", "13.0"), ""):
        built(package, file, other)
        assert cuda_devices(name) == []


def test_an_older_driver_of_the_same_cuda(monkeypatch, built):
    """It runs what is built for a newer minor version, as NVIDIA promises."""
    monkeypatch.setattr(ctypes, "CDLL", driver(1, version=12020))
    built(*BUILDS[1][1:])

    assert cuda_devices("torchscript") == ["cuda:0"]


def test_what_is_installed_here(monkeypatch):
    """The libraries themselves say how they were built where it is looked for."""
    import onnxruntime
    import torch

    monkeypatch.setattr(ctypes, "CDLL", driver(1, version=99000))

    assert bool(cuda_devices("torchscript")) is bool(cuda_devices("pt2")) is (torch.version.cuda is not None)
    assert bool(cuda_devices("onnx")) is ("CUDAExecutionProvider" in onnxruntime.get_available_providers())


def test_a_library_that_is_not_installed(monkeypatch):
    """It sees no device; nor does one that cannot be found."""
    monkeypatch.setattr(ctypes, "CDLL", driver(2))
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    assert [cuda_devices(name) for name, *_ in BUILDS] == [[], [], []]

    def broken(name):
        raise ModuleNotFoundError(name)

    devices._cuda_of.cache_clear()
    monkeypatch.setattr(devices, "find_spec", broken)
    assert [cuda_devices(name) for name, *_ in BUILDS] == [[], [], []]


def test_without_a_driver_there_is_no_device(monkeypatch, built):
    """Whatever is installed."""

    def none(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", none)
    built(*BUILDS[1][1:])

    assert cuda_devices("torchscript") == []


def test_a_driver_that_does_not_start(monkeypatch, built):
    """A driver that is there and refuses shows no device."""
    monkeypatch.setattr(ctypes, "CDLL", driver(2, initialises=999))
    built(*BUILDS[1][1:])

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
