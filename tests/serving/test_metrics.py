"""What is counted is exact, to the boundary of a bucket, whoever reads meanwhile; and Prometheus' own parsers read it."""

import bisect
import itertools
import math
import random
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from serving.metrics import BATCH_ROWS, FOLD_AT, PROTOCOLS, REASONS, SECONDS, STAGES, Metrics, VersionMetrics
from serving.processes.figures import ProcessFigures
from serving.protocols.statistics import statistics
from serving.settings import Settings
from serving.torchserve.metrics.metrics import TorchServeMetrics

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"
DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
HISTOGRAMS = ("request", *STAGES)


@dataclass
class Served:
    """A served version, as far as metrics go."""

    name: str
    version: int
    metrics: VersionMetrics
    in_flight: int = 0
    queued_rows: int = 0


def served(name="digits", version=1, **state):
    return Served(name, version, VersionMetrics(name, version), **state)


def page(metrics, accept=None):
    """The families of a page, as the parser of its form reads them, by name."""
    body, content_type = metrics.text(accept)
    parse = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
    return {family.name: family for family in parse(body.decode())}


def samples(metrics, accept=None):
    """Every sample of a page: (name, labels, value), labels as a set of pairs."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in page(metrics, accept).values()
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return samples(metrics)[name, frozenset(labels.items())]


def buckets(metrics, name, model="digits", version="1"):
    """Upper bound -> how many, of one histogram of the page."""
    return {
        float(dict(labels)["le"]): count
        for (sample, labels), count in samples(metrics).items()
        if sample == f"{name}_bucket" and {("model", model), ("version", version)} <= labels
    }


def answer(metrics, *stages_s, protocol="oip", rows=1, arrived_s=0.0):
    """A request whose stages took so long."""
    stamps = [arrived_s]
    for stage_s in stages_s:
        stamps.append(stamps[-1] + stage_s)
    metrics.answered((PROTOCOLS.index(protocol), rows, *stamps))


@pytest.mark.parametrize("stage", range(4))
def test_a_bound_belongs_to_its_bucket(stage):
    """A time that is a bound to the last bit is in that bucket (`le` is inclusive); the next larger number is in the next."""
    one = served()
    for bound in SECONDS:
        for seconds in (bound, math.nextafter(bound, math.inf)):
            answer(one.metrics, *(seconds if number == stage else 0.0 for number in range(4)))

    expected = {bound: 2 * number + 1 for number, bound in enumerate(SECONDS)} | {math.inf: 2 * len(SECONDS)}
    metrics = Metrics(lambda: (one,))
    assert buckets(metrics, f"stateserve_{STAGES[stage]}_seconds") == expected
    assert buckets(metrics, "stateserve_request_seconds") == expected
    zero = buckets(metrics, f"stateserve_{STAGES[stage - 1]}_seconds")
    assert set(zero.values()) == {2 * len(SECONDS)}


def test_buckets_and_sums_are_those_of_plain_arithmetic():
    """2 000 requests, over several folds and both protocols, fall where counting one by one would put them."""
    chance, one = random.Random(1), served()
    counted = {name: [0] * (len(SECONDS) + 1) for name in HISTOGRAMS}
    sums = dict.fromkeys(HISTOGRAMS, 0.0)
    for _ in range(2000):
        stamps = [chance.uniform(0, 1e5)]
        for _ in STAGES:
            stamps.append(stamps[-1] + chance.choice([0.0, chance.lognormvariate(-7, 4), chance.choice(SECONDS)]))
        arrived_s, decoded_s, begun_s, ended_s, encoded_s = stamps
        one.metrics.answered((chance.randrange(len(PROTOCOLS)), 1, arrived_s, decoded_s, begun_s, ended_s, encoded_s))
        times = (stamps[-1] - stamps[0], *(after - before for before, after in itertools.pairwise(stamps)))
        for name, seconds in zip(HISTOGRAMS, times, strict=True):
            counted[name][bisect.bisect_left(SECONDS, seconds)] += 1
            sums[name] += seconds

    metrics = Metrics(lambda: (one,))
    for name in HISTOGRAMS:
        cumulative = [sum(counted[name][: number + 1]) for number in range(len(SECONDS) + 1)]
        assert list(buckets(metrics, f"stateserve_{name}_seconds").values()) == cumulative
        assert value(metrics, f"stateserve_{name}_seconds_sum", model="digits", version="1") == pytest.approx(
            sums[name], rel=1e-12
        )
        assert value(metrics, f"stateserve_{name}_seconds_count", model="digits", version="1") == 2000


def test_stages_add_up_to_the_whole():
    """The sums of the four stages are the sum of whole requests: no time is lost between two stages."""
    one = served()
    answer(one.metrics, 0.25, 0.5, 1.0, 2.0, arrived_s=3.0)
    answer(one.metrics, 0.5, 0.0, 0.125, 4.0, arrived_s=5.0)

    totals = one.metrics.totals()
    assert {stage: times.sum_s for stage, times in totals.stages.items()} == {
        "decode": 0.75,
        "queue": 0.5,
        "infer": 1.125,
        "encode": 6.0,
    }
    assert totals.whole.sum_s == 8.375


def test_requests_are_folded_when_there_are_enough():
    """What requests leave behind is folded by the first engine call after there are 512 of them."""
    metrics = VersionMetrics("digits", 1)
    for _ in range(FOLD_AT - 1):
        metrics.executed(1, 0.1)
        answer(metrics, 1.0, 1.0, 1.0, 1.0)
    metrics.executed(1, 0.1)
    assert (len(metrics._stamps), metrics._answered.tolist()) == (FOLD_AT - 1, [0, 0])

    answer(metrics, 1.0, 1.0, 1.0, 1.0)
    metrics.executed(1, 0.1)
    assert (len(metrics._stamps), metrics._answered.tolist()) == (0, [FOLD_AT, 0])
    answer(metrics, 1.0, 1.0, 1.0, 1.0, protocol="predictions")
    assert metrics.totals().answered == {"oip": FOLD_AT, "predictions": 1}


def test_a_request_never_waits_for_who_folds():
    """While another thread folds, requests and calls go on; the first call after it folds all that gathered."""
    metrics = VersionMetrics("digits", 1)
    with metrics._folding:
        for _ in range(2 * FOLD_AT):
            answer(metrics, 1.0, 1.0, 1.0, 1.0)
            metrics.executed(1, 0.1)
    assert len(metrics._stamps) == 2 * FOLD_AT

    metrics.executed(1, 0.1)
    assert (len(metrics._stamps), metrics._answered.tolist()) == (0, [2 * FOLD_AT, 0])


def test_a_request_that_comes_while_others_are_taken_stays():
    """A request that is written down between the copying and the deleting of those before it is counted the next time."""
    metrics = VersionMetrics("digits", 1)

    class Interrupted(list):
        def __getitem__(self, index):
            taken = super().__getitem__(index)
            if len(self) == 1:
                answer(metrics, 1.0, 1.0, 1.0, 1.0, rows=5)
            return taken

    metrics._stamps = Interrupted()
    metrics.answered = metrics._stamps.append
    answer(metrics, 1.0, 1.0, 1.0, 1.0, rows=3)
    assert (metrics.totals().rows, len(metrics._stamps)) == (3, 1)


def test_readers_in_other_threads_see_whole_requests():
    """Two threads read as fast as they can while requests come: no request is lost, counted twice, or seen in part."""
    metrics, requests, seen = VersionMetrics("digits", 1), 60_000, [[], []]
    go_on, switch_s = threading.Event(), sys.getswitchinterval()

    def read(into):
        while not go_on.is_set():
            into.append(metrics.totals())

    readers = [threading.Thread(target=read, args=(into,)) for into in seen]
    sys.setswitchinterval(1e-5)
    try:
        for reader in readers:
            reader.start()
        for number in range(requests):
            answer(metrics, 0.25, 0.5, 1.0, 2.0, rows=3, protocol=PROTOCOLS[number % 2])
            metrics.executed(3, 0.5)
    finally:
        go_on.set()
        for reader in readers:
            reader.join()
        sys.setswitchinterval(switch_s)

    for into in seen:
        counts = [totals.whole.count for totals in into]
        assert counts == sorted(counts)
    for totals in (*seen[0], *seen[1], last := metrics.totals()):
        count = totals.whole.count
        assert (totals.rows, totals.whole.sum_s, totals.whole.within[-1]) == (3 * count, 3.75 * count, count)
        assert [times.sum_s for times in totals.stages.values()] == [0.25 * count, 0.5 * count, 1.0 * count, 2.0 * count]
        assert all(calls.seconds == 0.5 * calls.count for calls in totals.calls.values())
    assert (last.whole.count, last.calls[3].count) == (requests, requests)
    assert max(len(into) for into in seen) > 1


def test_page_of_one_version():
    """Every number that the server gave is on the page, in both forms of the text."""
    one = served(in_flight=3, queued_rows=40)
    answer(one.metrics, 0.25, 0.25, 0.25, 0.25, rows=4)
    answer(one.metrics, 0.25, 0.25, 0.25, 0.25, rows=8, protocol="predictions")
    one.metrics.executed(12, 0.5)
    one.metrics.executed(1, 0.25)
    one.metrics.failed("deadline")
    metrics = Metrics(lambda: (one,), lambda: (("digits", 1, True), ("digits", 2, False)))
    version = {"model": "digits", "version": "1"}

    for accept in (None, OPENMETRICS):
        found = samples(metrics, accept)
        for name, labels, expected in (
            ("stateserve_requests_answered_total", {**version, "protocol": "oip"}, 1),
            ("stateserve_requests_answered_total", {**version, "protocol": "predictions"}, 1),
            ("stateserve_requests_failed_total", {**version, "reason": "deadline"}, 1),
            ("stateserve_requests_failed_total", {**version, "reason": "engine"}, 0),
            ("stateserve_rows_total", version, 12),
            ("stateserve_executions_total", version, 2),
            ("stateserve_execution_seconds_total", version, 0.75),
            ("stateserve_batch_rows_count", version, 2),
            ("stateserve_batch_rows_sum", version, 13),
            ("stateserve_requests_in_flight", version, 3),
            ("stateserve_queued_rows", version, 40),
            ("stateserve_ready", version, 1),
            ("stateserve_ready", {"model": "digits", "version": "2"}, 0),
        ):
            assert found[name, frozenset(labels.items())] == expected, name
    assert buckets(metrics, "stateserve_batch_rows") == dict.fromkeys(BATCH_ROWS, 1) | dict.fromkeys(
        (*BATCH_ROWS[4:], math.inf), 2
    )


def test_sizes_of_batches_at_the_bounds():
    """A call for as many rows as a bound counts in that bucket; one row more counts in the next."""
    one = served()
    for bound in BATCH_ROWS:
        one.metrics.executed(bound, 0.5)
        one.metrics.executed(bound + 1, 0.5)

    within = [sum(rows <= bound for size in BATCH_ROWS for rows in (size, size + 1)) for bound in (*BATCH_ROWS, math.inf)]
    assert list(buckets(Metrics(lambda: (one,)), "stateserve_batch_rows").values()) == within


def test_form_follows_what_the_client_accepts():
    """OpenMetrics, with its units and its end mark, where it is asked for; Prometheus' text for everyone else."""
    metrics = Metrics(lambda: (served(),))

    for accept in (None, "", "text/plain", "*/*"):
        body, content_type = metrics.text(accept)
        assert (content_type.split(";")[0], b"# EOF" in body) == ("text/plain", False)
    body, content_type = metrics.text(OPENMETRICS)
    assert content_type.split(";")[0] == "application/openmetrics-text"
    assert body.endswith(b"# EOF\n")
    assert b"# UNIT stateserve_queue_seconds seconds\n" in body


def test_names_follow_the_rules_of_prometheus():
    """Ours begin with `stateserve_` and count in base units; the process's own are the library's."""
    families = page(Metrics(lambda: (served(),), lambda: (("digits", 1, True),)), OPENMETRICS)
    foreign = {name for name in families if not name.startswith("stateserve_")}

    assert all(name.startswith(("process_", "python_")) for name in foreign)
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "python_info"} <= foreign
    for name in families.keys() - foreign:
        assert re.fullmatch(r"stateserve_[a-z]+(_[a-z]+)*", name)
        assert ("second" in name) == (families[name].unit == "seconds"), name
        assert not re.search(r"_(ms|us|ns|total|count|sum|bucket)(_|$)", name), name
        assert families[name].documentation.endswith(".")


def test_the_docs_list_every_metric():
    """docs/metrics.md has exactly the server's metrics, with the labels that they have."""
    metrics = Metrics(lambda: (served(),), lambda: (("digits", 1, True),))
    metrics.loaded("digits")
    of_mar_models = TorchServeMetrics(Settings())
    of_mar_models.inferred("m", "1.0", 0.1, 0.2)
    metrics.add(of_mar_models)
    metrics.add(ProcessFigures())
    shown = {}
    for family in page(metrics, OPENMETRICS).values():
        if family.name.startswith("stateserve_"):
            name = family.name + "_total" * (family.type == "counter")
            shown[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    listed = re.findall(r"^\| `(stateserve_\w+)` \| (\w+) \| ([^|]*) \|", DOCS.read_text(), re.MULTILINE)

    assert {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in listed} == shown


def test_an_unloaded_version_takes_its_series_along():
    """A version that is gone has no series; one that is loaded again begins at 0."""
    models = {1: served(version=1), 2: served(version=2)}
    metrics = Metrics(lambda: tuple(models.values()))
    for one in models.values():
        answer(one.metrics, 0.5, 0.5, 0.5, 0.5)
    versions = [dict(labels).get("version") for name, labels in samples(metrics) if name != "stateserve_build_info"]
    assert {"1", "2"} <= set(versions)

    del models[1]
    versions = [labels for _, labels in samples(metrics) if {("model", "digits"), ("version", "1")} <= labels]
    assert versions == []

    models[1] = served(version=1)
    assert value(metrics, "stateserve_request_seconds_count", model="digits", version="1") == 0
    assert value(metrics, "stateserve_request_seconds_count", model="digits", version="2") == 1


def test_a_version_that_is_there_twice_is_shown_once():
    """While a version drains that was loaded again meanwhile, the later one has the series: none may be on the page twice."""
    old, new = served(), served()
    answer(new.metrics, 0.5, 0.5, 0.5, 0.5)
    body, _ = Metrics(lambda: (old, new)).text(None)

    assert body.count(b"stateserve_request_seconds_count{") == 1
    assert b'stateserve_request_seconds_count{model="digits",version="1"} 1.0' in body


def test_failures_before_a_model_was_found():
    """They have empty labels `model` and `version`, so that a sum over reasons has them too."""
    metrics = Metrics(tuple)
    metrics.request_failed("not_found")

    assert value(metrics, "stateserve_requests_failed_total", model="", version="", reason="not_found") == 1
    assert value(metrics, "stateserve_requests_failed_total", model="", version="", reason="bad_request") == 0


@pytest.mark.parametrize("count", [1, 3])
def test_reasons_are_a_closed_list(count):
    """A reason that is not on the list is counted as `other`, and makes no series."""
    one, metrics = served(), Metrics(lambda: (one,))
    for number in range(count):
        one.metrics.failed(f"surprise {number}")
        metrics.request_failed(f"surprise {number}")

    for model, version in (("digits", "1"), ("", "")):
        assert value(metrics, "stateserve_requests_failed_total", model=model, version=version, reason="other") == count
    reasons = {dict(labels)["reason"] for name, labels in samples(metrics) if name == "stateserve_requests_failed_total"}
    assert reasons == set(REASONS)


def test_loads_failed_loads_and_swaps():
    """Each load counts for its model; one that takes over from another version is a swap too."""
    metrics = Metrics(tuple)
    metrics.loaded("digits")
    metrics.loaded("digits", replaces=True)
    metrics.load_failed("digits")
    metrics.load_failed("broken")

    found = samples(metrics)
    counts = {
        (name.removeprefix("stateserve_"), model): found.get((name, frozenset({("model", model)})))
        for name in ("stateserve_loads_total", "stateserve_loads_failed_total", "stateserve_swaps_total")
        for model in ("digits", "broken")
    }
    assert counts == {
        ("loads_total", "digits"): 2,
        ("loads_total", "broken"): None,
        ("loads_failed_total", "digits"): 1,
        ("loads_failed_total", "broken"): 1,
        ("swaps_total", "digits"): 1,
        ("swaps_total", "broken"): None,
    }


def test_names_are_escaped():
    """A model's name may hold quotes and backslashes, and is read back as it is."""
    name = 'a "b" \\ c'
    for accept in (None, OPENMETRICS):
        assert any(("model", name) in labels for _, labels in samples(Metrics(lambda: (served(name),)), accept))


def test_applications_share_nothing():
    """Each has a registry of its own, and the library's global one has nothing of ours."""
    one, other = Metrics(tuple), Metrics(tuple)
    one.loaded("digits")

    assert b"digits" in one.text(None)[0]
    assert b"digits" not in other.text(None)[0]
    assert b"stateserve" not in prometheus_client.generate_latest()


def test_statistics_of_a_version():
    """The statistics extension's every field, in its units: nanoseconds, rows as inferences, versions as strings."""
    one = served("digits", 3)
    answer(one.metrics, 0.25, 0.5, 1.0, 2.0, rows=4, arrived_s=time.perf_counter() - 3.75)
    answer(one.metrics, 0.25, 0.5, 1.0, 2.0, rows=8, protocol="predictions")
    one.metrics.executed(12, 1.0)
    one.metrics.executed(12, 0.5)
    one.metrics.executed(1, 0.25)
    one.metrics.failed("deadline", 0.125)
    one.metrics.failed("engine", 0.5)
    now_ms = time.time() * 1e3

    (stats,) = statistics([one])["model_stats"]
    assert stats.pop("last_inference") == pytest.approx(now_ms, abs=1000)
    assert stats == {
        "name": "digits",
        "version": "3",
        "inference_count": 12,
        "execution_count": 3,
        "inference_stats": {
            "success": {"count": 2, "ns": 7_500_000_000},
            "fail": {"count": 2, "ns": 625_000_000},
            "queue": {"count": 2, "ns": 1_000_000_000},
            "compute_input": {"count": 2, "ns": 500_000_000},
            "compute_infer": {"count": 2, "ns": 2_000_000_000},
            "compute_output": {"count": 2, "ns": 4_000_000_000},
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "batch_stats": [
            {
                "batch_size": 1,
                "compute_input": {"count": 1, "ns": 0},
                "compute_infer": {"count": 1, "ns": 250_000_000},
                "compute_output": {"count": 1, "ns": 0},
            },
            {
                "batch_size": 12,
                "compute_input": {"count": 2, "ns": 0},
                "compute_infer": {"count": 2, "ns": 1_500_000_000},
                "compute_output": {"count": 2, "ns": 0},
            },
        ],
        "memory_usage": [],
    }


def test_statistics_before_the_first_request():
    """All fields are there, all are integers, and all are 0: a client reads them without asking whether they exist."""
    (stats,) = statistics([served()])["model_stats"]

    assert (stats["last_inference"], stats["inference_count"], stats["execution_count"]) == (0, 0, 0)
    assert set(stats["inference_stats"]) == {
        *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    }
    assert all(stat == {"count": 0, "ns": 0} and type(stat["ns"]) is int for stat in stats["inference_stats"].values())
    assert (stats["batch_stats"], stats["memory_usage"]) == ([], [])


def test_statistics_and_the_page_agree():
    """Both read the same totals, and reading one changes nothing in the other."""
    one = served()
    for _ in range(700):
        answer(one.metrics, 0.25, 0.5, 1.0, 2.0, rows=2)
    first = statistics([one])
    metrics = Metrics(lambda: (one,))

    assert value(metrics, "stateserve_queue_seconds_sum", model="digits", version="1") * 1e9 == 350_000_000_000
    assert (
        value(metrics, "stateserve_rows_total", model="digits", version="1") == first["model_stats"][0]["inference_count"] == 1400
    )
    again = statistics([one])["model_stats"][0]
    assert {**first["model_stats"][0], "last_inference": 0} == {**again, "last_inference": 0}
