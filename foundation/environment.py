"""The machine's facts: what a person needs to know to get the same numbers elsewhere. No paths, no user, no host name."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from foundation.installed import installed, installed_sha256, lock_files
from foundation.loaded import loaded

_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxscript", "safetensors", "stateserve", "torch")
_TRAINING_PACKAGES = ("accelerate", "lightning", "opencv-python", "opencv-python-headless", "pillow", "pytorch-lightning")
_TRAINING_PACKAGES += ("scikit-learn", "scipy", "timm", "tokenizers", "torchaudio", "torchvision", "transformers", "triton")
_ENGINE_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch")
VARIABLES = {
    "precision": (
        "DNNL_DEFAULT_FPMATH_MODE",
        "NVIDIA_TF32_OVERRIDE",
        "ONEDNN_DEFAULT_FPMATH_MODE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    ),
    "kernels": (
        "ATEN_CPU_CAPABILITY",
        "DNNL_MAX_CPU_ISA",
        "GLIBC_TUNABLES",
        "MKL_CBWR",
        "MKL_ENABLE_INSTRUCTIONS",
        "NPY_DISABLE_CPU_FEATURES",
        "ONEDNN_MAX_CPU_ISA",
        "OPENBLAS_CORETYPE",
    ),
    "determinism": ("CUBLAS_WORKSPACE_CONFIG", "CUDA_LAUNCH_BLOCKING", "PYTHONHASHSEED"),
    "threads": (
        "MKL_DYNAMIC",
        "MKL_NUM_THREADS",
        "OMP_DYNAMIC",
        "OMP_NUM_THREADS",
        "OMP_SCHEDULE",
        "OPENBLAS_NUM_THREADS",
    ),
}
"""What the variables that are recorded decide -> their names."""


def environment() -> dict[str, Any]:
    """What decides a computation's numbers, as JSON: cheap (some milliseconds), so that a training can record it as it runs.

    Python, system, processor with its instruction sets, cores, package versions, the variables that choose kernels, GPUs. What
    PyTorch, ONNX Runtime and NumPy say of their build, threads and switches is there only where they are loaded: nothing is
    imported, and CUDA is not initialised.
    """
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "os": _os(),
        "cpu": _cpu_model(),
        "cpu_id": _cpu_id(),
        "isa": _cpu_flags(),
        "cores": cores(),
        "packages": _versions((*_PACKAGES, *_TRAINING_PACKAGES)),
        "installed_sha256": installed_sha256(installed()),
        "variables": _variables(),
        "gpus": [{"name": name} for name in _gpu_names()],
        "gpu_driver": _gpu_driver(),
        **loaded(),
    }


def whole_environment(directory: Path, git: Mapping[str, Any] | None) -> dict[str, Any]:
    """`environment`, every installed package, the hashes of a project's lock files, and its `git` state as it is given."""
    return {**environment(), "installed": installed(), "lock_files": lock_files(directory), "git": git}


def speed_identity(*, gpus: bool = False) -> dict[str, Any]:
    """What a measured speed depends on: processor, instruction sets, cores, engines' versions, and with `gpus` the GPUs' names.

    Speeds that were measured where it is equal hold here.
    """
    found: dict[str, Any] = {"cpu": _cpu_model(), "isa": _cpu_flags(), "cores": cores(), "packages": _versions(_ENGINE_PACKAGES)}
    return {**found, "gpus": _gpu_names()} if gpus else found


def cores() -> int:
    """Cores that this process may use at once: affinity and the cgroup's quota included (v2, and v1), at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _cgroup_quota() -> float | None:
    for name in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        try:
            words = Path(name).read_text().split()
            if len(words) == 1:
                words += Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().split()
            return int(words[0]) / int(words[1]) if int(words[0]) > 0 else None
        except (OSError, ValueError, IndexError):  # no such cgroup file here, or "max": no quota
            continue
    return None


def _cpu_model() -> str:
    """Its name; on arm64, which has none, the numbers of its kinds of cores (implementer, variant, part)."""
    page = _cpuinfo()
    match = re.search(r"^model name\s*:\s*(.+)$", page, re.MULTILINE)
    if match:
        return match.group(1)
    kinds = zip(*(_values(page, f"CPU {name}") for name in ("implementer", "variant", "part")), strict=False)
    numbers = ", ".join(sorted({f"implementer {by} variant {variant} part {part}" for by, variant, part in kinds}))
    return f"ARM {numbers}" if numbers else platform.processor()


def _cpu_flags() -> list[str]:
    """The instruction sets that kernels are chosen by; x86 has them as `flags`, arm64 as `Features`."""
    relevant = re.compile(r"avx|amx|fma|sse4|vnni|bf16|asimd|sve|sme|i8mm|fphp")
    found = (_values(_cpuinfo(), "flags") or _values(_cpuinfo(), "Features"))[:1]
    return sorted(flag for flag in " ".join(found).split() if relevant.search(flag))


def _cpu_id() -> str | None:
    """Vendor, family, model, stepping: virtual machines have one name for many processors. None where there is none (arm64)."""
    values = [_values(_cpuinfo(), key) for key in ("vendor_id", "cpu family", "model", "stepping")]
    return " ".join(found[0] for found in values) if all(values) else None


def _os() -> dict[str, str]:
    """The distribution, the kernel's number, and the C library, whose `exp` and `tanh` some kernels call."""
    try:
        release = platform.freedesktop_os_release()
        name = f"{release['ID']} {release.get('VERSION_ID', '')}".strip()
    except (OSError, KeyError):
        name = platform.system()
    kernel = re.split(r"[^\d.]", platform.release())[0]  # what follows is the builder's own word
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):  # no glibc
        libc = None
    return {"name": name, "kernel": kernel, **({"libc": libc} if libc else {})}


def _variables() -> dict[str, str]:
    """Those that are set; none whose value holds a path."""
    names = sorted(name for group in VARIABLES.values() for name in group)
    return {name: os.environ[name] for name in names if name in os.environ and "/" not in os.environ[name]}


def _values(page: str, key: str) -> list[str]:
    """What every core says of a key in /proc/cpuinfo."""
    return [match.strip() for match in re.findall(rf"^{key}[ \t]*:(.*)$", page, re.MULTILINE)]


def _gpu_names() -> list[str]:
    """The names of NVIDIA's GPUs, as its driver tells them; empty where there is none."""
    pages = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    return sorted(match.group(1).strip() for page in pages if (match := re.search(r"^Model:(.+)$", page, re.MULTILINE)))


def _gpu_driver() -> str | None:
    """NVIDIA's driver, as it tells its version; None where there is none."""
    try:
        match = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return match.group(1) if match else None


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for package in sorted(packages):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
