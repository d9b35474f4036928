"""What the libraries that compute say of themselves: build, threads, switches. Asked only where they are loaded already."""

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

_TORCH_SWITCHES = {
    "precision": (
        "get_float32_matmul_precision()",
        "backends.cuda.matmul.fp32_precision",
        "backends.cuda.matmul.allow_tf32",
        "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
        "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
        "backends.cudnn.conv.fp32_precision",
        "backends.cudnn.rnn.fp32_precision",
        "backends.cudnn.allow_tf32",
        "backends.mkldnn.matmul.fp32_precision",
        "backends.mkldnn.conv.fp32_precision",
    ),
    "types": ("get_default_dtype()",),
    "kernels": (
        "backends.cudnn.enabled",
        "backends.mkldnn.enabled",
        "backends.nnpack.enabled",
        "backends.cuda.flash_sdp_enabled()",
        "backends.cuda.mem_efficient_sdp_enabled()",
        "backends.cuda.cudnn_sdp_enabled()",
        "backends.cuda.math_sdp_enabled()",
    ),
    "determinism": (
        "are_deterministic_algorithms_enabled()",
        "is_deterministic_algorithms_warn_only_enabled()",
        "backends.cudnn.deterministic",
        "backends.cudnn.benchmark",
        "backends.mkldnn.deterministic",
    ),
}
"""What PyTorch's switches decide -> where they are read; those that a version lacks are left out."""


def loaded() -> dict[str, Any]:
    """Facts of PyTorch (`torch`, `threads`, `seeds`), ONNX Runtime and NumPy, each where it is loaded in this process."""
    found: dict[str, Any] = {}
    for module, facts in _FACTS.items():
        if sys.modules.get(module) is not None:  # None: its import was forbidden
            found |= facts(sys.modules[module])
    return found


def _torch(torch: Any) -> dict[str, Any]:
    found = {
        "commit": _read(torch, "version.git_version"),
        "cuda": _read(torch, "version.cuda"),
        "hip": _read(torch, "version.hip"),
        "cudnn": _read(torch, "backends.cudnn.version()"),
        "cpu_capability": _read(torch, "backends.cpu.get_cpu_capability()"),
        "build": _torch_build(_read(torch, "__config__.show()") or ""),
        **{kind: _switches(torch, paths) for kind, paths in _TORCH_SWITCHES.items()},
    }
    threads = {f"torch.{name}": _read(torch, f"{name}()") for name in ("get_num_threads", "get_num_interop_threads")}
    return {
        "torch": found,
        "threads": threads,
        "seeds": {"torch.initial_seed": _read(torch, "initial_seed()")},
        **_torch_gpus(torch),
    }


def _torch_build(page: str) -> dict[str, str]:
    """Compiler and mathematical libraries of `torch.__config__`; its switches of the compiler hold paths, and decide little."""
    patterns = {
        "compiler": r"^  - (GCC [\d.]+|clang [\d.]+|MSVC \d+)",
        "mkl": r"Math Kernel Library Version ([\w.-]+)",
        "onednn": r"MKL-DNN (v[\d.]+ \(Git Hash \w+\))",
        "openmp": r"^  - OpenMP (\d+)",
        "blas": r"BLAS_INFO=(\w+)",
        "lapack": r"LAPACK_INFO=(\w+)",
        "magma": r"Magma ([\d.]+)",
    }
    found = {name: re.search(pattern, page, re.MULTILINE) for name, pattern in patterns.items()}
    return {name: match.group(1) for name, match in found.items() if match}


def _torch_gpus(torch: Any) -> dict[str, Any]:
    """The GPUs with their capability, where this process uses CUDA already: asking would initialise it."""
    if not _read(torch, "cuda.is_initialized()"):
        return {}
    every = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {"gpus": [{"name": gpu.name, "capability": f"{gpu.major}.{gpu.minor}"} for gpu in every]}


def _switches(torch: Any, paths: tuple[str, ...]) -> dict[str, Any]:
    values = {path.removesuffix("()"): _read(torch, path) for path in paths}
    return {path: value for path, value in values.items() if value is not None}


def _read(module: Any, path: str) -> Any:
    """The value at a path of names, called where it ends in `()`; None where this version has none, or will not tell."""
    value = module
    try:
        for name in path.removesuffix("()").split("."):
            value = getattr(value, name)
        value = value() if path.endswith("()") else value
    except (AttributeError, RuntimeError, ImportError):  # RuntimeError: old and new names of TF32's switch were mixed
        return None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _onnxruntime(onnxruntime: Any) -> dict[str, Any]:
    try:
        page, providers = onnxruntime.get_build_info(), onnxruntime.get_available_providers()
    except (AttributeError, RuntimeError):  # a version that does not tell
        return {}
    commit = re.search(r"git-commit-id=(\w+)", page)
    build = re.search(r"build type=(\w+)", page)
    known = {"commit": commit and commit.group(1), "build": build and build.group(1), "providers": list(providers)}
    return {"onnxruntime": {name: value for name, value in known.items() if value}}


def _numpy(numpy: Any) -> dict[str, Any]:
    try:
        built = numpy.show_config(mode="dicts")
        blas = built["Build Dependencies"]["blas"]
        simd = built["SIMD Extensions"]
        return {"numpy": {"blas": f"{blas['name']} {blas['version']}", "simd": sorted(simd.get("found", []))}}
    except (AttributeError, KeyError, TypeError):  # before 1.25, or built in another way
        return {}


_FACTS: Mapping[str, Callable[[Any], dict[str, Any]]] = {"torch": _torch, "onnxruntime": _onnxruntime, "numpy": _numpy}
