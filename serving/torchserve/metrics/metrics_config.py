"""Which of TorchServe's metrics there are: its own, or those of a metrics.yaml that `metrics_config` names."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from serving.errors import SettingsError
from serving.torchserve.metrics.families import LABEL, NAME, Declared, Kind

HOSTNAME = "Hostname"
"""The label that every metric of a worker has last, declared or not."""


@dataclass(frozen=True)
class Metrics:
    """The metrics of the server itself, and those of workers, which they tell by lines on stdout."""

    server: tuple[Declared, ...]
    workers: tuple[Declared, ...]


class _Metric(BaseModel, frozen=True, extra="forbid"):
    name: Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
    unit: str
    dimensions: tuple[Annotated[str, StringConstraints(pattern=f"^{LABEL.pattern}$")], ...] = ()


class _Metrics(BaseModel, frozen=True, extra="forbid"):
    counter: tuple[_Metric, ...] = ()
    gauge: tuple[_Metric, ...] = ()
    histogram: tuple[_Metric, ...] = ()

    def declared(self, *more_labels: str) -> Iterator[Declared]:
        kinds: dict[Kind, tuple[_Metric, ...]] = {"counter": self.counter, "gauge": self.gauge, "histogram": self.histogram}
        for kind, metrics in kinds.items():
            for metric in metrics:
                yield Declared(metric.name, kind, metric.unit, (*metric.dimensions, *more_labels))


class _File(BaseModel, frozen=True, extra="forbid"):
    dimensions: Any = None
    mode: Any = None
    ts_metrics: _Metrics = Field(default=_Metrics())
    model_metrics: _Metrics = Field(default=_Metrics())


def read_metrics_config(path: Path) -> Metrics:
    """The metrics that a file in the form of TorchServe's metrics.yaml declares.

    Raises:
        SettingsError: the file cannot be read, is no such YAML, or PyYAML is not installed.
    """
    try:
        import yaml
    except ModuleNotFoundError as cause:
        raise SettingsError(f"metrics_config={path} needs PyYAML: pip install 'stateserve[torchserve]'") from cause
    try:
        found = _File.model_validate(yaml.safe_load(path.read_bytes()))
    except (OSError, yaml.YAMLError) as cause:
        raise SettingsError(f"metrics_config={path} cannot be read: {cause}") from cause
    except ValidationError as cause:
        problems = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in cause.errors())
        raise SettingsError(f"metrics_config={path} is not as TorchServe's metrics.yaml: {problems}") from cause
    return Metrics(tuple(found.ts_metrics.declared()), tuple(found.model_metrics.declared(HOSTNAME)))


def default_metrics() -> Metrics:
    """What TorchServe 0.12 declares where nothing else is said."""
    host, model = ("Level", HOSTNAME), ("model_name", "model_version", "hostname")
    return Metrics(
        server=(
            *_all("counter", "Count", host, "Requests2XX", "Requests4XX", "Requests5XX"),
            *_all("counter", "Count", model, "ts_inference_requests_total"),
            *_all("counter", "Microseconds", model, "ts_inference_latency_microseconds", "ts_queue_latency_microseconds"),
            *_all("gauge", "Milliseconds", host, "QueueTime", "WorkerThreadTime"),
            *_all("gauge", "Milliseconds", ("WorkerName", *host), "WorkerLoadTime"),
            *_all("gauge", "Percent", host, "CPUUtilization", "MemoryUtilization", "DiskUtilization"),
            *_all("gauge", "Megabytes", host, "MemoryUsed", "MemoryAvailable"),
            *_all("gauge", "Gigabytes", host, "DiskUsage", "DiskAvailable"),
            *_all("gauge", "Percent", ("Level", "DeviceId", HOSTNAME), "GPUMemoryUtilization", "GPUUtilization"),
            *_all("gauge", "Megabytes", ("Level", "DeviceId", HOSTNAME), "GPUMemoryUsed"),
        ),
        workers=tuple(_all("gauge", "ms", ("ModelName", *host), "HandlerTime", "PredictionTime")),
    )


def _all(kind: Kind, unit: str, labels: tuple[str, ...], *names: str) -> Iterator[Declared]:
    return (Declared(name, kind, unit, labels) for name in names)
