"""TorchServe's metrics: what it counts, under its names, on its page or in its log; and histograms of our own for .mar models.

Everything is called on the event loop, apart from `text` and `collect`, which any thread may call, and what the thread of
`measuring` does, which writes series that nothing else writes.
"""

import logging
import re
import socket
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from serving.metrics import SECONDS
from serving.settings import Settings
from serving.torchserve.metrics.families import LABEL, NAME, Declared, Family, Kind, java_number
from serving.torchserve.metrics.metric_logs import server_log, workers_log
from serving.torchserve.metrics.metrics_config import HOSTNAME, default_metrics, read_metrics_config

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the metrics page."""
DEFAULT_VERSION = "default"
"""The label of a request whose path names no version."""
LEGACY = frozenset({"ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds"})
"""What metrics_mode=legacy shows on the page; the rest it logs."""
MAX_AUTO_DETECTED = 1000
"""Metrics that workers may add, at most: a handler that makes up names fills no memory."""

log = logging.getLogger("stateserve")
_LINE = re.compile(
    r"(?:INFO > )?(?:\[METRICS\])?\s*(?P<name>\w[\w\s]*)\.(?P<unit>[^:|]+):(?P<value>[-+0-9.eE]+)\|#(?P<labels>[^|]*)"
    r"(?:\|#type:(?P<kind>\w+))?\|#hostname:(?P<host>[^,|]+),(?P<time>[^,]+)(?:,(?P<request>.*))?"
)
_KINDS: dict[str, Kind] = {"COUNTER": "counter", "GAUGE": "gauge", "HISTOGRAM": "histogram"}


class TorchServeMetrics(Collector):
    """What TorchServe counts, in one of its three modes: `prometheus` (on the page), `log` (in the log), `legacy` (both).

    `page` gives our own families, which follow on the page in every mode.
    """

    def __init__(self, settings: Settings, page: Callable[[], bytes] = bytes) -> None:
        declared = default_metrics() if settings.metrics_config is None else read_metrics_config(settings.metrics_config)
        self._mode = settings.metrics_mode
        self._auto_detect = settings.model_metrics_auto_detect
        self._page = page
        self._hostname = socket.gethostname()
        self._server = {one.name: Family(one) for one in declared.server}
        self._workers = {one.name: Family(one) for one in declared.workers}
        self._on_host = ("Host", self._hostname)
        self._request_times = Times()
        self._queue_times = Times()

    def answered(self, status: int) -> None:
        """A request was answered, on any connector."""
        kind = "2XX" if 200 <= status < 300 else "4XX" if 400 <= status < 500 else "5XX"
        self._count(f"Requests{kind}", self._on_host, 1.0)

    def requested(self, model: str, version: str | None) -> None:
        """A prediction was asked of a model that there is; `version` as the path names it."""
        self._count("ts_inference_requests_total", (model, version or DEFAULT_VERSION, self._hostname), 1.0)

    def inferred(self, model: str, version: str | None, queue_s: float, latency_s: float) -> None:
        """A prediction was answered with success, after `latency_s` in all, of which it waited `queue_s` for a worker."""
        labels = (model, version or DEFAULT_VERSION, self._hostname)
        self._count("ts_inference_latency_microseconds", labels, round(latency_s * 1e6, 3))
        self._count("ts_queue_latency_microseconds", labels, round(queue_s * 1e6, 3))
        self._count("QueueTime", self._on_host, float(int(queue_s * 1000)))
        self._request_times.add(labels[:2], latency_s)
        self._queue_times.add(labels[:2], queue_s)

    def worker_thread(self, thread_s: float) -> None:
        """A batch, or a load, cost the server itself so long: what it took in all, without the worker's own time."""
        self._count("WorkerThreadTime", self._on_host, float(int(thread_s * 1000)))

    def worker_loaded(self, worker: str, load_s: float) -> None:
        """A worker, such as `W-9000-m_1.0`, loaded its model."""
        self._count("WorkerLoadTime", (worker, *self._on_host), float(int(load_s * 1000)))

    def worker_line(self, line: str) -> bool:
        """A line of a worker's stdout that begins with `[METRICS]`; False where it is no metric that counts."""
        if (found := _LINE.fullmatch(line.strip())) is None:
            return False
        pairs = [pair.partition(":") for pair in found["labels"].split(",") if pair]
        family = self._workers.get(found["name"]) or self._detected(found, [name for name, _, _ in pairs])
        try:
            value = float(found["value"])
        except ValueError:
            return False
        return family is not None and self._tell(
            family, (*(text for _, _, text in pairs), found["host"]), value, workers_log, found["request"] or "null"
        )

    def text(self, names: Collection[str] = ()) -> bytes:
        """The page; with `names` (the query's `name[]`), only the samples of these names."""
        families = [*self._server.values(), *self._workers.copy().values()]
        shown = [family for family in families if self._is_on_page(family)]
        own = "".join(f"{line}\n" for family in shown for line in family.lines(names))
        rest = self._page()
        return own.encode() + (b"".join(_only(rest, names)) if names else rest)

    def collect(self) -> Iterator[Metric]:
        """Our own histograms of .mar models, for the registry of our own page."""
        whole = "From a request to a .mar model to its answer, where that was a success."
        yield self._request_times.family("stateserve_mar_request_seconds", whole)
        yield self._queue_times.family("stateserve_mar_queue_seconds", "How long such a request waited for a worker.")

    def describe(self) -> Iterable[Metric]:
        """What `collect` will give."""
        return self.collect()

    def host(self, name: str, value: float, device: str | None = None) -> None:
        """A fact of this machine, or of one of its GPUs."""
        self._count(name, self._on_host if device is None else ("Host", device, self._hostname), value)

    def _count(self, name: str, labels: tuple[str, ...], value: float) -> None:
        if (family := self._server.get(name)) is not None:
            self._tell(family, labels, value, server_log)

    def _tell(
        self, family: Family, labels: tuple[str, ...], value: float, to: logging.Logger, request: str | None = None
    ) -> bool:
        if self._is_on_page(family):
            return family.add(labels, value)
        if len(labels) != len(family.declared.labels):
            return False
        if to.isEnabledFor(logging.INFO):
            to.info("%s", _log_line(family.declared, labels, value, request))
        return True

    def _is_on_page(self, family: Family) -> bool:
        return self._mode == "prometheus" or (self._mode == "legacy" and family.declared.name in LEGACY)

    def _detected(self, found: re.Match[str], labels: Sequence[str]) -> Family | None:
        """The family of a metric that no metrics.yaml declares, where such are to count."""
        name, kind = found["name"], _KINDS.get((found["kind"] or "COUNTER").upper())
        if not self._auto_detect or name in self._server or kind is None or len(self._workers) >= MAX_AUTO_DETECTED:
            return None
        if not NAME.fullmatch(name) or not all(map(LABEL.fullmatch, labels)) or len({*labels, HOSTNAME}) != len(labels) + 1:
            return None
        log.info("metric %s of a worker is counted from now on (model_metrics_auto_detect)", name)
        return self._workers.setdefault(name, Family(Declared(name, kind, found["unit"], (*labels, HOSTNAME))))


class Times:
    """Histograms of seconds by model and version; one thread adds, any may read."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._sums_s: dict[tuple[str, str], float] = {}

    def add(self, labels: tuple[str, str], seconds: float) -> None:
        """Notes one time."""
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(SECONDS) + 1)
        counts[bisect_left(SECONDS, seconds)] += 1
        self._sums_s[labels] = self._sums_s.get(labels, 0.0) + seconds

    def family(self, name: str, text: str) -> Metric:
        """All of them, as prometheus_client wants to see them."""
        family = HistogramMetricFamily(name, text, labels=("model", "version"), unit="seconds")
        for labels, counts in self._counts.copy().items():
            within, buckets = 0, []
            for bound, count in zip((*map(floatToGoString, SECONDS), "+Inf"), tuple(counts), strict=True):
                within += count
                buckets.append((bound, within))
            family.add_metric(labels, buckets, self._sums_s.get(labels, 0.0))
        return family


class Measuring:
    """A thread that measures this machine at once, and then every `interval_s`, until it is closed."""

    def __init__(self, metrics: TorchServeMetrics, interval_s: float) -> None:
        self._metrics = metrics
        self._interval_s = interval_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="host facts", daemon=True)

    def start(self) -> None:
        """Begins, where psutil is installed."""
        try:
            import psutil  # noqa: F401 - host_facts needs it
        except ModuleNotFoundError:
            log.warning("this machine is not measured, since psutil is not installed: pip install 'stateserve[torchserve]'")
        else:
            self._thread.start()

    def close(self) -> None:
        """Ends it; what is being measured may still be written."""
        self._ended.set()

    def _measure(self) -> None:
        from serving.torchserve.metrics.host_facts import gpu_facts, host_facts

        while True:
            for fact in (*host_facts(), *gpu_facts()):
                self._metrics.host(fact.name, fact.value, fact.device)
            if self._ended.wait(self._interval_s):
                return


def _log_line(declared: Declared, labels: Sequence[str], value: float, request: str | None) -> str:
    """A metric as TorchServe logs it: the last label is the host's."""
    pairs = ",".join(f"{name}:{text}" for name, text in zip(declared.labels[:-1], labels, strict=False))
    asked = "" if request is None else f"requestID:{request},"
    now = int(time.time())
    return f"{declared.name}.{declared.unit}:{java_number(value)}|#{pairs}|#hostname:{labels[-1]},{asked}timestamp:{now}"


def _only(page: bytes, names: Collection[str]) -> Iterator[bytes]:
    """The samples of these names, each family's head before its first."""
    head: list[bytes] = []
    for line in page.splitlines(keepends=True):
        if line.startswith(b"#"):
            head = [*head[-1:], line] if line.startswith(b"# TYPE") else [line]
        elif re.split(rb"[{ ]", line, maxsplit=1)[0].decode() in names:
            yield from head
            yield line
            head = []
