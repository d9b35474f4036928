"""The server's own numbers: its page for Prometheus, read before a load and after it. See docs/metrics.md."""

import http.client
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from bench.observed.errors import NotSeen
from bench.results import ServerUse, Stages

_TIMEOUT_S = 5.0
_MOST_BYTES = 16 * 2**20
_OURS = "stateserve_build_info"
_STARTED, _CPU_S, _RSS_BYTES = "process_start_time_seconds", "process_cpu_seconds_total", "process_resident_memory_bytes"
_ALL_CPU_S, _ALL_RSS_BYTES = "stateserve_process_cpu_seconds_total", "stateserve_process_resident_bytes"
_PROCESSES, _RESTARTS = "stateserve_processes", "stateserve_process_restarts_total"
_LOADS = "stateserve_loads_total"
_ROWS = "stateserve_batch_rows"
_STAGES = {name: f"stateserve_{name}_seconds" for name in ("decode", "queue", "infer", "encode")}
_WHOLE = "stateserve_request_seconds"
_COUNTERS = frozenset(f"{family}_{part}" for family in (*_STAGES.values(), _WHOLE, _ROWS) for part in ("sum", "count"))
_OF_PROCESSES = frozenset({_ALL_CPU_S, _ALL_RSS_BYTES, _PROCESSES, _RESTARTS})
_KEPT = frozenset({_OURS, _STARTED, _CPU_S, _RSS_BYTES, _LOADS}) | _COUNTERS | _OF_PROCESSES

Series = tuple[str, str, str]
"""A number's name, model and version; those that it has not are empty."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Means over the requests that the server answered between two readings: milliseconds of its stages and of the whole."""

    stages_ms: Mapping[str, float]
    whole_ms: float
    rows_per_call: float

    def stages(self, client_ms: float) -> Stages:
        """With the rest of the clients' mean latency.

        Requests that are under way at either edge are in one mean and not in the other: where that makes the server's greater,
        the rest is 0.
        """
        return Stages(**self.stages_ms, client=max(0.0, client_ms - self.whole_ms), rows_per_call=self.rows_per_call)


def read_page(host: str, port: int) -> Mapping[Series, float] | None:
    """What this module needs of GET /metrics; None where the server is not ours.

    Raises:
        NotSeen: it does not answer, or it forbids it.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        content = answer.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as cause:
        raise NotSeen(f"GET /metrics was not answered: {cause or type(cause).__name__}") from cause
    finally:
        connection.close()
    if answer.status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        raise NotSeen(f"GET /metrics is not allowed: status {answer.status}")
    return parse(content.decode(errors="replace")) if answer.status == http.HTTPStatus.OK else None


def parse(text: str) -> Mapping[Series, float] | None:
    """The numbers of a page that this module needs, those of the server's processes summed; None where it is not a page of ours.

    Raises:
        NotSeen: it is, and cannot be read.
    """
    if _OURS not in text:
        return None
    try:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except ValueError as cause:
        raise NotSeen(f"GET /metrics is no page for Prometheus: {cause}") from cause
    kept = [sample for sample in samples if sample.name in _KEPT]
    numbers: dict[Series, float] = {}
    for one in kept:
        series = one.name, one.labels.get("model", ""), one.labels.get("version", "")
        numbers[series] = one.value + (numbers.get(series, 0.0) if one.name in _OF_PROCESSES else 0.0)
    return numbers


def counted(before: Mapping[Series, float], after: Mapping[Series, float], model: str, version: str | None) -> Counted | None:
    """What the server counted of a model between two readings, all its versions together where none is named.

    None where it counted nothing: no request of it was answered, or it is an archive, which has no such stages.

    Raises:
        NotSeen: the server or the model was started anew in between, so that its counters began again.
    """
    _require_same_process(before, after)
    loads = (_LOADS, model, "")
    old, new = _of(before, model, version), _of(after, model, version)
    if before.get(loads) != after.get(loads) or any(new.get(series, -1.0) < value for series, value in old.items()):
        raise NotSeen(f"{model} was loaded anew while it was measured: its counters began again")
    sums = dict.fromkeys(_COUNTERS, 0.0)
    for series, value in new.items():
        sums[series[0]] += value - old.get(series, 0.0)
    if sums[f"{_WHOLE}_count"] == 0 or sums[f"{_ROWS}_count"] == 0:
        return None
    return Counted(
        stages_ms={name: _mean(sums, family) * 1e3 for name, family in _STAGES.items()},
        whole_ms=_mean(sums, _WHOLE) * 1e3,
        rows_per_call=_mean(sums, _ROWS),
    )


def process_use(before: Mapping[Series, float], after: Mapping[Series, float]) -> ServerUse:
    """What the server's processes used by its own word; their memory at the beginning or the end, whichever was more.

    Raises:
        NotSeen: it does not say (it does on Linux only), or it, or one of its processes, was started anew in between.
    """
    _require_same_process(before, after)
    restarts = (_RESTARTS, "", "")
    if before.get(restarts) != after.get(restarts):
        raise NotSeen("one of the server's processes ended while it was measured, and its time is not told any more")
    cpu, rss, processes = (_ALL_CPU_S, "", ""), (_ALL_RSS_BYTES, "", ""), (_PROCESSES, "", "")
    if cpu not in after:
        cpu, rss = (_CPU_S, "", ""), (_RSS_BYTES, "", "")
    if not all(series in page for series in (cpu, rss) for page in (before, after)):
        raise NotSeen("the server's metrics do not tell its CPU time and memory")
    most = int(max(before[rss], after[rss]))
    return ServerUse(cpu_s=after[cpu] - before[cpu], rss_bytes=most, processes=int(after.get(processes, 1)))


def _require_same_process(before: Mapping[Series, float], after: Mapping[Series, float]) -> None:
    started = (_STARTED, "", "")
    if before.get(started) != after.get(started):
        raise NotSeen(
            "two readings of the server's metrics are of two processes: it was started anew, or several share the address, each "
            "with its own counters"
        )


def _of(page: Mapping[Series, float], model: str, version: str | None) -> dict[Series, float]:
    return {
        series: value
        for series, value in page.items()
        if series[0] in _COUNTERS and series[1] == model and version in {None, series[2]}
    }


def _mean(sums: Mapping[str, float], family: str) -> float:
    count = sums[f"{family}_count"]
    return sums[f"{family}_sum"] / count if count else 0.0
