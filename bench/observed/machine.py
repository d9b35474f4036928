"""The machine that a load test runs on, as its report tells it: no paths, no user, no host name."""

import contextlib
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from bench.observed import gpus
from bench.observed.cores import load_before
from foundation.environment import environment

__all__ = ["facts", "load_before"]

_PACKAGES = ("fastapi", "granian", "onnxruntime", "onnxruntime-gpu", "orjson", "prometheus-client", "pydantic", "pysimdjson")
_PACKAGES += ("torch", "torchserve", "uvicorn", "uvloop")
_CGROUP = Path("/sys/fs/cgroup")
_MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def facts() -> dict[str, Any]:
    """The facts of `foundation.environment`, and what matters for serving.

    `packages` has those that serve, too. `machine_cores` are all, `cores` those that may be used (affinity, the cgroup's quota).
    `memory_bytes` is the machine's, `memory_limit_bytes` the cgroup's (None: no limit). `gpus` have a name and `memory_bytes`.
    """
    known = environment()
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit_bytes = _memory_limit_bytes()
    driver, found = _gpus()
    return {
        **known,
        "packages": dict(sorted({**known["packages"], **_versions()}.items())),
        "kernel": re.split(r"[^\d.]", platform.release())[0],  # what follows is the builder's own word
        "machine_cores": os.cpu_count(),
        "memory_bytes": memory_bytes,
        "memory_limit_bytes": limit_bytes if limit_bytes is not None and limit_bytes < memory_bytes else None,
        "gpus": found,
        "gpu_driver": driver,
    }


def _memory_limit_bytes() -> int | None:
    for name in _MEMORY_LIMITS:
        try:
            return int((_CGROUP / name).read_text())
        except (OSError, ValueError):  # no such cgroup file here, or "max": no limit
            continue
    return None


def _gpus() -> tuple[str | None, list[dict[str, Any]]]:
    """The driver's version, and every GPU."""
    with gpus.nvml() as library:
        if library is None:
            return None, []
        handles = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        return library.nvmlSystemGetDriverVersion(), [
            {"name": library.nvmlDeviceGetName(gpu), "memory_bytes": library.nvmlDeviceGetMemoryInfo(gpu).total}
            for gpu in handles
        ]


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
