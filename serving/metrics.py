"""What is counted and timed, and the page on which Prometheus reads it. docs/metrics.md lists every metric.

A request may pay a few hundred nanoseconds for all of this, less than one `observe` of prometheus_client's own histogram. So it
only leaves its time stamps behind, and they are folded into buckets 512 requests at a time, or when somebody asks.

Threads: everything is called on the event loop, except `VersionMetrics.totals` and `Metrics.text`, which any thread may call.
Both sides share built-in lists and dicts, and touch them by single calls into C, which the other side sees whole or not at all.
Folding holds a lock, and a request never waits for it.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Protocol

import numpy as np
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from serving.protocols.accepted import accepted

PROTOCOLS: tuple[str, ...] = ("oip", "predictions")
"""The values of the label `protocol`."""

REASONS: tuple[str, ...] = (
    "bad_request",
    "body_timeout",
    "body_too_large",
    "client_left",
    "deadline",
    "engine",
    "engine_lost",
    "not_found",
    "not_ready",
    "out_of_memory",
    "queue_full",
    "other",
)
"""The values of the label `reason`. Any other word is counted as `other`: no caller can make series without end."""

STAGES = ("decode", "queue", "infer", "encode")
"""What a request passes, one after the other; together they last as long as the whole."""

SECONDS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, inclusive, of the buckets of every histogram of seconds."""

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds, inclusive, of the buckets of rows per engine call."""

FOLD_AT = 512
"""Requests of one protocol that are folded at a time: about 0.1 ms of work, and 100 kB of stamps."""

Stamps = tuple[int, int, float, float, float, float, float]
"""An answered request: the index of its protocol in `PROTOCOLS`, its rows, and five readings of `time.perf_counter`, none earlier
than the one before it: when it was there, when it was decoded, when the engine began with its first row and ended with its last,
and when the answer's bytes were there."""
_PER_REQUEST = 7
_BOUNDS_S = np.array(SECONDS)
_LABELS = ("model", "version")


@dataclass(frozen=True, slots=True)
class Times:
    """A histogram of seconds: how many were at most each bound of `SECONDS` (cumulative), how many there were, and their sum."""

    within: Sequence[int]
    count: int
    sum_s: float


@dataclass(frozen=True, slots=True)
class Calls:
    """The engine's calls for one number of rows, and the seconds that they took."""

    count: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Totals:
    """What one served version did since it was loaded, at one moment.

    `answered` counts requests by protocol, `failed` by reason; `failed_s` is how long the latter took. `rows`, `stages` (by the
    names of `STAGES`) and `whole` (from arrival to answer) are those of answered requests. `calls` are the engine's, by rows.
    `last_s` is when the latest answer was there, in seconds since the epoch; None before the first.
    """

    answered: Mapping[str, int]
    failed: Mapping[str, int]
    failed_s: float
    rows: int
    stages: Mapping[str, Times]
    whole: Times
    calls: Mapping[int, Calls]
    last_s: float | None


class VersionMetrics:
    """What one served version counts. A version that is loaded again gets a new one, which starts at 0."""

    def __init__(self, model: str, version: int) -> None:
        self.model = model
        self.version = version
        self._stamps: list[Stamps] = []
        self.answered: Callable[[Stamps], None] = self._stamps.append
        """A request was answered with 200. A list's own method, since every request pays for it."""
        self._failed = dict.fromkeys(REASONS, 0)
        self._failed_s = 0.0
        self._calls: dict[int, tuple[int, float]] = {}
        # Only folding changes what follows, and it holds the lock.
        self._folding = threading.Lock()
        self._answered = np.zeros(len(PROTOCOLS), np.int64)
        self._rows = 0
        self._within = np.zeros((len(STAGES) + 1, len(SECONDS)), np.int64)  # the last row is the whole
        self._sums_s = np.zeros(len(STAGES) + 1)
        self._last_stamp_s = float("-inf")

    def failed(self, reason: str, took_s: float = 0.0) -> None:
        """A request was not answered with 200, for one of `REASONS`, after `took_s` from its arrival."""
        self._failed[reason if reason in self._failed else "other"] += 1
        self._failed_s += took_s

    def executed(self, rows: int, infer_s: float) -> None:
        """The engine was called; `rows` are those that were asked for, without padding. Each size that occurs is kept."""
        try:
            count, seconds = self._calls[rows]
        except KeyError:
            count, seconds = 0, 0.0
        self._calls[rows] = (count + 1, seconds + infer_s)
        # If another thread is folding, the next call looks again.
        if len(self._stamps) >= FOLD_AT and self._folding.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._folding.release()

    def totals(self) -> Totals:
        """Everything up to now; any thread may ask. All but `failed` and `calls` is of the very same requests."""
        with self._folding:
            self._fold()
            answered = dict(zip(PROTOCOLS, self._answered.tolist(), strict=True))
            rows, last_stamp_s = self._rows, self._last_stamp_s
            within, sums_s = self._within.tolist(), self._sums_s.tolist()
        count = sum(answered.values())
        *stages, whole = (Times(at_most, count, sum_s) for at_most, sum_s in zip(within, sums_s, strict=True))
        return Totals(
            answered=answered,
            failed=self._failed.copy(),
            failed_s=self._failed_s,
            rows=rows,
            stages=dict(zip(STAGES, stages, strict=True)),
            whole=whole,
            calls={size: Calls(*calls) for size, calls in sorted(self._calls.copy().items())},
            last_s=time.time() - (time.perf_counter() - last_stamp_s) if count else None,
        )

    def _fold(self) -> None:
        """Takes what requests left behind into the buckets. The lock is held."""
        taken = self._stamps[:]
        del self._stamps[: len(taken)]  # what the event loop appended meanwhile stays
        if not taken:
            return
        flat = np.fromiter(itertools.chain.from_iterable(taken), np.float64, len(taken) * _PER_REQUEST)
        table = flat.reshape(-1, _PER_REQUEST).T.copy()  # one row for protocols, one for rows, one for each stamp
        seconds = np.empty((len(STAGES) + 1, table.shape[1]))
        np.subtract(table[3:], table[2:-1], out=seconds[:-1])
        np.subtract(table[-1], table[2], out=seconds[-1])
        self._answered += np.bincount(table[0].astype(np.intp), minlength=len(PROTOCOLS))
        self._rows += int(table[1].sum())
        self._sums_s += seconds.sum(axis=1)
        self._last_stamp_s = max(self._last_stamp_s, float(table[-1].max()))
        # Among sorted values, the place of a bound after its equals is how many are at most the bound: cumulative, and inclusive.
        seconds.sort(axis=1)
        self._within += [ascending.searchsorted(_BOUNDS_S, side="right") for ascending in seconds]


class Counts(Protocol):
    """What is counted of a version: here, or by other processes."""

    def totals(self) -> Totals:
        """Everything up to now; any thread may ask."""
        ...


class Measured(Protocol):
    """A served version, as far as metrics go."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def version(self) -> int:
        """The version's number."""
        ...

    @property
    def metrics(self) -> Counts:
        """What it counts."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests between their routing and their answer."""
        ...

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the engine."""
        ...


class Metrics(Collector):
    """What the server counts, and the page that shows it. Its registry is its own: two applications in a process share nothing.

    `models` gives the versions that are served: the series of one that is gone are gone with it. `states` gives, for each version
    that should be served, its model's name, its number, and whether it is ready. Both are called in the thread that asks for the
    page, so they give what does not change while one walks through it, such as a tuple. `failed_elsewhere` gives, by reason, the
    requests that failed in other processes before their model was found.
    """

    def __init__(
        self,
        models: Callable[[], Iterable[Measured]],
        states: Callable[[], Iterable[tuple[str, int, bool]]] = tuple,
        failed_elsewhere: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._models = models
        self._states = states
        self._failed_elsewhere = failed_elsewhere
        self._failed = dict.fromkeys(REASONS, 0)
        self._loads: Counter[str] = Counter()
        self._failed_loads: Counter[str] = Counter()
        self._swaps: Counter[str] = Counter()
        self._build = installed_version("stateserve")
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def add(self, collector: Collector) -> None:
        """Shows the families of another collector on the page, too."""
        self._registry.register(collector)

    def request_failed(self, reason: str) -> None:
        """A request failed before its model was found, for one of `REASONS`; the labels `model` and `version` are empty."""
        self._failed[reason if reason in self._failed else "other"] += 1

    def loaded(self, model: str, *, replaces: bool = False) -> None:
        """A version passed its checks and is served; `replaces`: it took over from another version of its model."""
        self._loads[model] += 1
        self._swaps[model] += replaces
        self._failed_loads[model] += 0  # a counter must be seen at 0 for its first step to be seen

    def load_failed(self, model: str) -> None:
        """A version failed its checks. `model` is a directory of the repository: clients could make up names without end."""
        self._failed_loads[model] += 1

    def text(self, accept: str | None) -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics where the header `accept` asks for it, else Prometheus' text."""
        weights = accepted(accept or "")
        if weights.get("application/openmetrics-text", 0.0) > weights.get("text/plain", 0.0):
            return openmetrics.generate_latest(self._registry), openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4

    def collect(self) -> Iterator[Metric]:
        """Every family, for the registry."""
        models = {(model.name, str(model.version)): model for model in self._models()}  # no series may be there twice
        totals = {labels: model.metrics.totals() for labels, model in models.items()}
        elsewhere = self._failed_elsewhere()
        modelless = {reason: count + elsewhere.get(reason, 0) for reason, count in self._failed.copy().items()}
        yield from _request_counts(totals, modelless)
        yield from _request_times(totals)
        yield from _engine_calls(totals)
        in_flight = ((labels, model.in_flight) for labels, model in models.items())
        queued_rows = ((labels, model.queued_rows) for labels, model in models.items())
        yield gauge("stateserve_requests_in_flight", "Requests between their routing and their answer.", _LABELS, in_flight)
        yield gauge("stateserve_queued_rows", "Rows that wait for the engine.", _LABELS, queued_rows)
        states = {(model, str(version)): ready for model, version, ready in self._states()}.items()
        yield gauge("stateserve_ready", "1 where the version is served, 0 where it failed its checks.", _LABELS, states)
        for name, text, counts in (
            ("stateserve_loads", "Versions that passed their checks and were served.", self._loads),
            ("stateserve_loads_failed", "Versions that failed their checks.", self._failed_loads),
            ("stateserve_swaps", "Versions that took over from another version of their model.", self._swaps),
        ):
            yield counter(name, text, ("model",), (((model,), count) for model, count in counts.copy().items()))
        yield gauge("stateserve_build_info", "1, and which version of Stateserve this is.", ("version",), [((self._build,), 1)])


Series = Iterable[tuple[Sequence[str], float]]
"""The values of the labels, and the value."""
_ByVersion = Mapping[tuple[str, str], Totals]  # the values of `_LABELS`, and what that version did


def _request_counts(totals: _ByVersion, modelless: Mapping[str, int]) -> Iterator[Metric]:
    """Requests answered and failed; `modelless` are those that failed before their model was found."""
    answered = (((*labels, protocol), count) for labels, one in totals.items() for protocol, count in one.answered.items())
    yield counter("stateserve_requests_answered", "Requests answered with 200.", (*_LABELS, "protocol"), answered)
    reasons = {("", ""): modelless, **{labels: one.failed for labels, one in totals.items()}}
    failed = (((*labels, reason), count) for labels, counts in reasons.items() for reason, count in counts.items())
    yield counter("stateserve_requests_failed", "Requests not answered with 200.", (*_LABELS, "reason"), failed)
    rows = ((labels, one.rows) for labels, one in totals.items())
    yield counter("stateserve_rows", "Rows of the requests that were answered with 200.", _LABELS, rows)


def _request_times(totals: _ByVersion) -> Iterator[Metric]:
    """How long answered requests took, stage by stage and in all."""
    for stage, text in (
        ("decode", "From a request's body to its arrays."),
        ("queue", "From a request's arrays until the engine began with them."),
        ("infer", "From the engine's beginning with a request to its end; requests that were joined share it."),
        ("encode", "From the engine's end to the answer's bytes."),
    ):
        yield _seconds(f"stateserve_{stage}_seconds", text, {labels: one.stages[stage] for labels, one in totals.items()})
    whole = {labels: one.whole for labels, one in totals.items()}
    yield _seconds("stateserve_request_seconds", "From a request's body to the answer's bytes.", whole)


def _engine_calls(totals: _ByVersion) -> Iterator[Metric]:
    """How often the engine was called, how long that took, and for how many rows."""
    sizes = HistogramMetricFamily("stateserve_batch_rows", "Rows per call of the engine, without padding.", labels=_LABELS)
    counts, seconds = {}, {}
    for labels, one in totals.items():
        counts[labels] = sum(calls.count for calls in one.calls.values())
        seconds[labels] = sum(calls.seconds for calls in one.calls.values())
        within = [sum(calls.count for rows, calls in one.calls.items() if rows <= bound) for bound in BATCH_ROWS]
        rows = sum(rows * calls.count for rows, calls in one.calls.items())
        sizes.add_metric(labels, _buckets(BATCH_ROWS, within, counts[labels]), rows)
    yield counter("stateserve_executions", "Calls of the engine.", _LABELS, counts.items())
    yield counter("stateserve_execution_seconds", "Seconds that the engine's calls took.", _LABELS, seconds.items(), "seconds")
    yield sizes


def counter(name: str, text: str, labels: Sequence[str], series: Series, unit: str = "") -> Metric:
    """A family of counters; `name` without `_total`."""
    family = CounterMetricFamily(name, text, labels=labels, unit=unit)
    for values, value in series:
        family.add_metric(values, value)
    return family


def gauge(name: str, text: str, labels: Sequence[str], series: Series) -> Metric:
    """A family of gauges."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in series:
        family.add_metric(values, value)
    return family


def _seconds(name: str, text: str, times: Mapping[tuple[str, str], Times]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=_LABELS, unit="seconds")
    for labels, one in times.items():
        family.add_metric(labels, _buckets(SECONDS, one.within, one.count), one.sum_s)
    return family


def _buckets(bounds: Sequence[float], within: Sequence[int], count: int) -> list[tuple[str, int]]:
    """The buckets as the library wants them: the bound's text, and how many are at most the bound."""
    return [(floatToGoString(bound), at_most) for bound, at_most in zip(bounds, within, strict=True)] + [("+Inf", count)]
