"""Libraries are asked where they are loaded, and only there; what a version cannot tell is left out."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from foundation import loaded as facts

PROJECT = Path(__file__).parents[2]


def in_process(code, **variables):
    env = {**os.environ, "PYTHONPATH": str(PROJECT), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_nothing_is_imported():
    """The whole record is made without PyTorch, ONNX Runtime or NumPy, and has nothing of them but their versions."""
    code = (
        "import json, sys; from foundation.environment import environment; found = environment();"
        "print(json.dumps([found, [name for name in ('torch', 'onnxruntime', 'numpy') if name in sys.modules]]))"
    )
    found, imported = in_process(code)

    assert imported == []
    assert {"torch", "onnxruntime", "numpy", "threads", "seeds"} & found.keys() == set()
    assert found["packages"]["torch"] == importlib.metadata.version("torch")


def test_what_pytorch_says():
    """Its build, its kernels, its threads, its seed, and every switch as it is set at that moment; CUDA stays as it is."""
    code = (
        "import json, torch; from foundation.environment import environment; torch.manual_seed(7); torch.set_num_threads(1);"
        "torch.use_deterministic_algorithms(True); torch.set_float32_matmul_precision('high');"
        "print(json.dumps([environment(), torch.cuda.is_initialized()]))"
    )
    found, cuda = in_process(code, ATEN_CPU_CAPABILITY="default")

    assert not cuda
    assert found["torch"]["commit"] == torch.version.git_version
    assert found["torch"]["cpu_capability"] == "DEFAULT"
    assert found["torch"]["build"]["blas"]
    assert found["torch"]["precision"]["get_float32_matmul_precision"] == "high"
    assert found["torch"]["determinism"]["are_deterministic_algorithms_enabled"] is True
    assert found["threads"]["torch.get_num_threads"] == 1
    assert found["seeds"] == {"torch.initial_seed": 7}
    assert found["variables"] == {**found["variables"], "ATEN_CPU_CAPABILITY": "default"}


def test_a_version_that_cannot_tell(monkeypatch):
    """An older, a half-loaded or a forbidden module has fewer facts, and raises nothing."""

    class Mixed:
        @property
        def allow_tf32(self):
            raise RuntimeError("the old and the new names of this switch were mixed")

    backends = SimpleNamespace(cuda=SimpleNamespace(matmul=Mixed()), cudnn=SimpleNamespace(enabled=True))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(backends=backends))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setitem(sys.modules, "numpy", SimpleNamespace())
    found = facts.loaded()

    assert set(found) == {"torch", "threads", "seeds"}
    assert found["torch"]["kernels"] == {"backends.cudnn.enabled": True}
    assert found["torch"]["precision"] == {}
    assert found["torch"]["commit"] is None


def test_gpus_in_use(monkeypatch):
    """Where CUDA is in use already, every GPU has its capability."""
    gpu = SimpleNamespace(name="NVIDIA H200", major=9, minor=0)
    cuda = SimpleNamespace(is_initialized=lambda: True, device_count=lambda: 1, get_device_properties=lambda _: gpu)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    assert facts.loaded()["gpus"] == [{"name": "NVIDIA H200", "capability": "9.0"}]


def test_build_of_pytorch_for_cuda():
    """Of the page of `torch.__config__`, the libraries; nothing of the builder's paths."""
    page = (
        "PyTorch built with:\n  - GCC 11.2\n  - Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605\n"
        "  - Intel(R) MKL-DNN v3.7.1 (Git Hash 8d263e6)\n  - OpenMP 201511 (a.k.a. OpenMP 4.5)\n  - CUDA Runtime 12.6\n"
        "  - Magma 2.6.1\n  - Build settings: BLAS_INFO=mkl, CXX_COMPILER=/opt/rh/c++, LAPACK_INFO=mkl, "
    )

    assert facts._torch_build(page) == {
        "compiler": "GCC 11.2",
        "mkl": "2024.2-Product",
        "onednn": "v3.7.1 (Git Hash 8d263e6)",
        "openmp": "201511",
        "blas": "mkl",
        "lapack": "mkl",
        "magma": "2.6.1",
    }
