"""The machine's facts: what a person needs to know to get the same numbers elsewhere. No paths, no user, no host name."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

_PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxscript", "safetensors", "stateserve", "torch")
_ENGINE_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "torch")
_ISA_VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environment() -> dict[str, Any]:
    """Python, system, processor with its instruction sets, cores, package versions, and the variables that choose kernels."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "isa": _cpu_flags(),
        "cores": cores(),
        "packages": _versions(),
        "variables": {name: os.environ[name] for name in _ISA_VARIABLES if name in os.environ},
    }


def speed_identity(*, gpus: bool = False) -> dict[str, Any]:
    """What a measured speed depends on: processor, instruction sets, cores, engines' versions, and with `gpus` the GPUs' names.

    Speeds that were measured where it is equal hold here.
    """
    packages = {name: version for name, version in _versions().items() if name in _ENGINE_PACKAGES}
    found: dict[str, Any] = {"cpu": _cpu_model(), "isa": _cpu_flags(), "cores": cores(), "packages": packages}
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


def _values(page: str, key: str) -> list[str]:
    """What every core says of a key in /proc/cpuinfo."""
    return [match.strip() for match in re.findall(rf"^{key}[ \t]*:(.*)$", page, re.MULTILINE)]


def _gpu_names() -> list[str]:
    """The names of NVIDIA's GPUs, as its driver tells them; empty where there is none."""
    pages = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    return sorted(match.group(1).strip() for page in pages if (match := re.search(r"^Model:(.+)$", page, re.MULTILINE)))


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
