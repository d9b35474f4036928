"""How busy this machine is, as TorchServe measures it."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

_MIB, _GIB = 1 << 20, 1 << 30
_GPU_FIELDS = "index,utilization.gpu,memory.used,memory.total"
_GPU_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Fact:
    """One measurement; `device` is a GPU's number."""

    name: str
    value: float
    device: str | None = None


def host_facts() -> Iterator[Fact]:
    """The processors since the last call (0 at the first), memory and the root's disk now."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage("/")
    yield Fact("CPUUtilization", psutil.cpu_percent())
    yield Fact("DiskAvailable", disk.free / _GIB)
    yield Fact("DiskUsage", disk.used / _GIB)
    yield Fact("DiskUtilization", disk.percent)
    yield Fact("MemoryAvailable", memory.available / _MIB)
    yield Fact("MemoryUsed", memory.used / _MIB)
    yield Fact("MemoryUtilization", memory.percent)


def gpu_facts() -> Iterator[Fact]:
    """Every NVIDIA GPU's load and memory now; nothing where nvidia-smi is not installed or does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system's, with fixed arguments
            [program, f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_GPU_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return
    for line in done.stdout.splitlines():
        yield from _gpu(line)


def _gpu(line: str) -> Iterator[Fact]:
    """One GPU's facts; what it does not tell is `[N/A]`."""
    device, *texts = (text.strip() for text in line.split(","))
    load, used_mib, total_mib = (float(text) if text.replace(".", "", 1).isdigit() else None for text in texts)
    if load is not None:
        yield Fact("GPUUtilization", load, device)
    if used_mib is not None:
        yield Fact("GPUMemoryUsed", used_mib, device)
        if total_mib:
            yield Fact("GPUMemoryUtilization", 100 * used_mib / total_mib, device)
