"""The GPUs, by NVIDIA's management library (NVML): what they do while a load runs. No library, driver or GPU: nothing is seen."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from bench.results import GpuUse


@dataclass(frozen=True, slots=True)
class Reading:
    """One GPU at one moment: its place among all, the share of time that it computed (0 to 1), and whose processes are on it."""

    index: int
    name: str
    utilisation: float
    power_w: float
    memory_bytes: int
    pids: frozenset[int]


@contextlib.contextmanager
def nvml() -> Iterator[Any | None]:
    """The library, ready until the block ends; None where there is no library or no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except ModuleNotFoundError:
        yield None
        return
    except pynvml.NVMLError:  # type: ignore[possibly-unbound]
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def read(library: Any) -> list[Reading]:
    """Every GPU now, by the library that `nvml` gives; one that does not tell all (a part of a divided GPU, say) is left out."""
    readings = []
    for index in range(library.nvmlDeviceGetCount()):
        with contextlib.suppress(library.NVMLError):
            gpu = library.nvmlDeviceGetHandleByIndex(index)
            readings.append(
                Reading(
                    index=index,
                    name=library.nvmlDeviceGetName(gpu),
                    utilisation=library.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
                    power_w=library.nvmlDeviceGetPowerUsage(gpu) / 1000,
                    memory_bytes=library.nvmlDeviceGetMemoryInfo(gpu).used,
                    pids=frozenset(process.pid for process in library.nvmlDeviceGetComputeRunningProcesses(gpu)),
                )
            )
    return readings


def uses(readings: Sequence[Reading], pids: Collection[int]) -> tuple[GpuUse, ...]:
    """What each GPU did over all its readings: those on which one of these processes was, or all where that cannot be told.

    In a container NVML may tell the host's process ids, or none.
    """
    by_index: dict[int, list[Reading]] = {}
    for reading in readings:
        by_index.setdefault(reading.index, []).append(reading)
    used = {index for index, found in by_index.items() if any(not one.pids.isdisjoint(pids) for one in found)}
    return tuple(_use(by_index[index]) for index in sorted(used or by_index))


def are_told(readings: Sequence[Reading], pids: Collection[int]) -> bool:
    """Whether one of these processes was seen on a GPU; where none was, `uses` has all GPUs, other processes' work included."""
    return any(not one.pids.isdisjoint(pids) for one in readings)


def _use(readings: Sequence[Reading]) -> GpuUse:
    return GpuUse(
        name=readings[0].name,
        utilisation=fmean(one.utilisation for one in readings),
        power_w=fmean(one.power_w for one in readings),
        memory_bytes=max(one.memory_bytes for one in readings),
    )
