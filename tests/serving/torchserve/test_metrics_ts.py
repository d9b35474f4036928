"""The metrics page and the metrics' log have TorchServe's form; `recorded/metrics.txt` is a page that TorchServe 0.12 wrote."""

import importlib.util
import logging
import re
import socket
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serving.errors import SettingsError
from serving.metrics import Metrics
from serving.settings import Settings
from serving.torchserve.metrics import metric_logs
from serving.torchserve.metrics.families import Declared, Family, java_number
from serving.torchserve.metrics.host_facts import gpu_facts, host_facts
from serving.torchserve.metrics.metric_logs import server_log, workers_log
from serving.torchserve.metrics.metrics import MAX_AUTO_DETECTED, Measuring, TorchServeMetrics
from serving.torchserve.metrics.metrics_config import default_metrics, read_metrics_config

RECORDED = (Path(__file__).parent / "recorded" / "metrics.txt").read_text()
THEIR_YAML = Path(importlib.util.find_spec("ts").origin).parent / "configs" / "metrics.yaml"  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
HOSTNAME = socket.gethostname()
HOST_FACTS = {
    "DiskUtilization": 46.8,
    "DiskUsage": 47.438961029052734,
    "CPUUtilization": 0.0,
    "DiskAvailable": 54.023319244384766,
    "MemoryAvailable": 21399.03125,
    "MemoryUtilization": 11.2,
    "MemoryUsed": 2706.1015625,
}


def counting(**settings):
    return TorchServeMetrics(Settings(**settings))


def families(page):
    """A page's families by name: the lines of each."""
    blocks = page.replace(f'ostname="{HOSTNAME}"', 'ostname="here"').split("# HELP ")[1:]
    return {block.split()[0]: block for block in blocks}


@pytest.fixture
def worker_lines(caplog):
    """A function that gives the lines which TorchServe's own library prints in a worker."""

    def lines(act):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it does not close its files
                from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

                cache = MetricsCacheYamlImpl(str(THEIR_YAML))
            cache.set_request_ids("8a2d852f-6cc9-49e8-943a-67b3af634182")
            vars(cache)["model_name"] = "m"
            act(cache)
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("[METRICS]")]

    return lines


def handler_s_metrics(cache):
    """What the handler behind the recorded page does."""
    from ts.metrics.dimension import Dimension
    from ts.metrics.metric_type_enum import MetricTypes

    cache.add_counter("MyCount", 2)
    cache.add_time("MyTime", 1.5, None, "ms")
    cache.add_size("MySize", 3, None, "MB")
    cache.add_percent("MyPercent", 4)
    cache.add_metric("MyMetric", 7, unit="count", dimensions=[Dimension("Foo", "bar")], metric_type=MetricTypes.GAUGE)
    cache.add_metric_to_cache("MyHist", "ms", ["ModelName", "Level"], MetricTypes.HISTOGRAM).add_or_update(12.5, ["m", "Model"])
    cache.add_time("PredictionTime", 0.21, None, "ms")


def test_the_page_is_torchserve_s(worker_lines):
    """After the same requests, the page has the same families as the recorded one, each with the same lines."""
    metrics = counting(metrics_mode="prometheus", model_metrics_auto_detect=True)
    for _ in range(5):
        metrics.answered(200)
    metrics.answered(404)
    metrics.worker_loaded("W-9000-m_1.0", 1.6094)
    metrics.worker_thread(0.0021)
    for version, count, latency_s, queue_s in ((None, 3, 0.024544399, 0.000789564), ("1.0", 1, 0.005142782, 0.000067114)):
        for _ in range(count):
            metrics.requested("m", version)
        metrics.inferred("m", version, queue_s, latency_s)
    for name, value in HOST_FACTS.items():
        metrics.host(name, value)
    for _ in range(4):
        assert all(
            metrics.worker_line(line.replace("PredictionTime.Milliseconds", "PredictionTime.ms"))
            for line in worker_lines(handler_s_metrics)
        )

    assert families(metrics.text().decode()) == families(RECORDED)


def test_the_page_can_be_read():
    """Prometheus' own parser reads the page, names with odd characters included."""
    metrics = counting(metrics_mode="prometheus")
    metrics.requested('a"b\\c', "1\n0")
    found = {family.name: family for family in text_string_to_metric_families(metrics.text().decode())}

    [sample] = found["ts_inference_requests"].samples
    assert (sample.labels["model_name"], sample.labels["model_version"], sample.value) == ('a"b\\c', "1\n0", 1.0)


def test_names():
    """`name[]` chooses samples by their names, of our own families too; what has none of them is not there."""
    own = b'# HELP a A.\n# TYPE a summary\na_count 1.0\na_sum 1.0\n# HELP b B.\n# TYPE b gauge\nb{c="d"} 2.0\n'
    metrics = TorchServeMetrics(Settings(metrics_mode="prometheus"), lambda: own)
    metrics.answered(200)

    assert metrics.text(["Requests2XX", "Requests4XX", "nope"]).decode() == (
        "# HELP Requests2XX Torchserve prometheus counter metric with unit: Count\n# TYPE Requests2XX counter\n"
        f'Requests2XX{{Level="Host",Hostname="{HOSTNAME}",}} 1.0\n'
    )
    assert metrics.text(["a_sum"]) == b"# HELP a A.\n# TYPE a summary\na_sum 1.0\n"
    assert metrics.text(["b"]) == b'# HELP b B.\n# TYPE b gauge\nb{c="d"} 2.0\n'
    assert metrics.text([""]) == b""


def test_one_sample_of_a_histogram(worker_lines):
    """Of a histogram, its sum can be asked for alone."""
    metrics = counting(metrics_mode="prometheus", model_metrics_auto_detect=True)
    for line in worker_lines(handler_s_metrics):
        metrics.worker_line(line)

    assert metrics.text(["MyHist_sum", "MyHist"]).decode().splitlines()[1:] == [
        "# TYPE MyHist histogram",
        f'MyHist_sum{{ModelName="m",Level="Model",Hostname="{HOSTNAME}",}} 12.5',
    ]


def test_the_log(worker_lines, caplog):
    """In mode `log` the page has our own families alone, and the log TorchServe's lines."""
    metrics = TorchServeMetrics(Settings(model_metrics_auto_detect=True), lambda: b"ours\n")
    from_worker = worker_lines(handler_s_metrics)
    caplog.clear()
    with caplog.at_level(logging.INFO, server_log.name), caplog.at_level(logging.INFO, workers_log.name):
        metrics.answered(200)
        metrics.requested("m", None)
        metrics.inferred("m", None, 0.000207753, 0.026471593)
        metrics.worker_loaded("W-9000-m_1.0", 2.0506)
        metrics.host("CPUUtilization", 100.0)
        metrics.host("GPUUtilization", 3, "0")
        for line in (from_worker[0], from_worker[4], from_worker[5]):
            assert metrics.worker_line(line)
    told = [(record.name, re.sub(r"timestamp:\d+$", "timestamp:T", record.getMessage())) for record in caplog.records]
    of_model = "#model_name:m,model_version:default"
    asked = "requestID:8a2d852f-6cc9-49e8-943a-67b3af634182"

    assert metrics.text() == b"ours\n"
    assert [line for name, line in told if name == server_log.name] == [
        f"Requests2XX.Count:1.0|#Level:Host|#hostname:{HOSTNAME},timestamp:T",
        f"ts_inference_requests_total.Count:1.0|{of_model}|#hostname:{HOSTNAME},timestamp:T",
        f"ts_inference_latency_microseconds.Microseconds:26471.593|{of_model}|#hostname:{HOSTNAME},timestamp:T",
        f"ts_queue_latency_microseconds.Microseconds:207.753|{of_model}|#hostname:{HOSTNAME},timestamp:T",
        f"QueueTime.Milliseconds:0.0|#Level:Host|#hostname:{HOSTNAME},timestamp:T",
        f"WorkerLoadTime.Milliseconds:2050.0|#WorkerName:W-9000-m_1.0,Level:Host|#hostname:{HOSTNAME},timestamp:T",
        f"CPUUtilization.Percent:100.0|#Level:Host|#hostname:{HOSTNAME},timestamp:T",
        f"GPUUtilization.Percent:3.0|#Level:Host,DeviceId:0|#hostname:{HOSTNAME},timestamp:T",
    ]
    assert [line for name, line in told if name == workers_log.name] == [
        f"MyCount.Count:2.0|#ModelName:m,Level:Model|#hostname:{HOSTNAME},{asked},timestamp:T",
        f"MyMetric.Count:7.0|#Foo:bar,ModelName:m,Level:Model|#hostname:{HOSTNAME},{asked},timestamp:T",
        f"MyHist.Milliseconds:12.5|#ModelName:m,Level:Model|#hostname:{HOSTNAME},requestID:null,timestamp:T",
    ]


def test_the_legacy_mode():
    """In mode `legacy` the page has the three counters of predictions, and no other family of TorchServe's."""
    metrics = counting(metrics_mode="legacy")
    metrics.answered(200)
    metrics.requested("f", None)

    assert families(metrics.text().decode()).keys() == {
        "ts_inference_requests_total",
        "ts_inference_latency_microseconds",
        "ts_queue_latency_microseconds",
    }
    assert metrics.text().decode().count("\nts_inference_requests_total{") == 1


def test_the_files(tmp_path):
    """With a folder, ts_metrics.log and model_metrics.log are written in TorchServe's form; without one, nothing is."""
    metrics = counting()
    metric_logs.configure(tmp_path / "logs")
    try:
        metrics.answered(503)
        [line] = (tmp_path / "logs" / "ts_metrics.log").read_text().splitlines()
    finally:
        metric_logs.configure(None)
    metrics.answered(503)

    pattern = (
        rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{{3}} - Requests5XX.Count:1.0\|#Level:Host\|#hostname:{HOSTNAME},timestamp:\d+"
    )
    assert re.fullmatch(pattern, line)
    assert len((tmp_path / "logs" / "ts_metrics.log").read_text().splitlines()) == 1
    assert not (tmp_path / "logs" / "model_metrics.log").exists()


def test_undeclared_metrics_of_workers(worker_lines):
    """Without model_metrics_auto_detect, metrics that no metrics.yaml declares do not count."""
    metrics = counting(metrics_mode="prometheus")

    assert not any(metrics.worker_line(line) for line in worker_lines(handler_s_metrics)[:-1])
    assert "MyCount" not in metrics.text().decode()


@pytest.mark.parametrize(
    "line",
    [
        "[METRICS]",
        "[METRICS]Failed to update metric with name:MyCount and dimensions: Level:Model with value: -1: no",
        "[METRICS]My-Count.Count:1|#Level:Model|#type:COUNTER|#hostname:h,1",
        "[METRICS]MyCount.Count:one|#Level:Model|#type:COUNTER|#hostname:h,1",
        "[METRICS]MyCount.Count:1e|#Level:Model|#type:COUNTER|#hostname:h,1",
        "[METRICS]MyCount.Count:1|#A-B:Model|#type:COUNTER|#hostname:h,1",
        "[METRICS]MyCount.Count:1|#A:1,A:2|#type:COUNTER|#hostname:h,1",
        "[METRICS]MyCount.Count:1|#Hostname:h|#type:COUNTER|#hostname:h,1",
        "[METRICS]MyCount.Count:1|#Level:Model|#type:SUMMARY|#hostname:h,1",
        "[METRICS]MyCount.Count:-1|#Level:Model|#type:COUNTER|#hostname:h,1",
        "[METRICS]Requests2XX.Count:1|#Level:Model|#type:COUNTER|#hostname:h,1",
        "[METRICS]PredictionTime.ms:1|#ModelName:m|#type:GAUGE|#hostname:h,1",
    ],
)
def test_lines_that_do_not_count(line):
    """A line that is no metric, does not fit its declaration, or would break the page, is passed over."""
    metrics = counting(metrics_mode="prometheus", model_metrics_auto_detect=True)

    assert not metrics.worker_line(line)
    assert not list(text_string_to_metric_families(metrics.text(["MyCount", "Requests2XX", "PredictionTime"]).decode()))


@given(st.text())
def test_any_line(text):
    """No line of a worker raises an error, whatever a handler prints."""
    metrics = counting(metrics_mode="prometheus", model_metrics_auto_detect=True)

    metrics.worker_line(f"[METRICS]{text}")
    metrics.worker_line(f"[METRICS]a.Count:1|#b:{text}|#type:GAUGE|#hostname:h,1")
    list(text_string_to_metric_families(metrics.text().decode()))


def test_made_up_names_do_not_fill_the_memory():
    """A handler that makes up metrics is listened to up to a number of them."""
    metrics = counting(metrics_mode="prometheus", model_metrics_auto_detect=True)
    lines = [f"[METRICS]m{number}.Count:1|#a:b|#type:GAUGE|#hostname:h,1" for number in range(MAX_AUTO_DETECTED + 1)]

    assert sum(map(metrics.worker_line, lines)) == MAX_AUTO_DETECTED - len(default_metrics().workers)


def test_a_metrics_yaml_of_one_s_own(tmp_path):
    """metrics_config replaces what is declared: names, units, dimensions and kinds, histograms included."""
    path = tmp_path / "metrics.yaml"
    path.write_text(
        'dimensions:\n  - &host "Machine"\n  - &level "Level"\n'
        "ts_metrics:\n  histogram:\n    - name: QueueTime\n      unit: ms\n      dimensions: [*level, *host]\n"
        "model_metrics:\n  counter:\n    - name: Seen\n      unit: things\n      dimensions: [*level]\n"
    )
    metrics = counting(metrics_mode="prometheus", metrics_config=path)
    metrics.answered(200)
    metrics.inferred("m", None, 0.0041, 1.0)
    assert metrics.worker_line("[METRICS]Seen.things:2|#Level:Model|#type:COUNTER|#hostname:h,1700000000,abc")
    page = metrics.text().decode()

    assert families(page).keys() == {"QueueTime", "Seen"}
    assert f'QueueTime_bucket{{Level="Host",Machine="{HOSTNAME}",le="5.0",}} 1.0\n' in page
    assert f'QueueTime_sum{{Level="Host",Machine="{HOSTNAME}",}} 4.0\n' in page
    assert "# HELP Seen Torchserve prometheus counter metric with unit: things\n" in page
    assert 'Seen{Level="Model",Hostname="h",} 2.0\n' in page


def test_our_table_is_torchserve_s_file():
    """What is declared where nothing is said is what TorchServe's own metrics.yaml declares."""
    theirs = read_metrics_config(THEIR_YAML)
    ours = default_metrics()

    assert set(ours.server) == set(theirs.server)
    assert set(ours.workers) == set(theirs.workers)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ts_metrics: [", "cannot be read: while parsing a flow node"),
        ("!!python/object/apply:os.system [true]", "cannot be read: could not determine a constructor"),
        ("ts_metrics:\n  timer: []\n", "is not as TorchServe's metrics.yaml: ts_metrics.timer: Extra inputs are not permitted"),
        (
            "model_metrics:\n  gauge:\n    - name: a b\n      unit: ms\n",
            "is not as TorchServe's metrics.yaml: model_metrics.gauge.0.name: String should match pattern",
        ),
    ],
)
def test_wrong_metrics_yaml(tmp_path, text, problem):
    """A metrics.yaml that is none ends the start with what is wrong in it, and runs nothing."""
    path = tmp_path / "metrics.yaml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=re.escape(f"metrics_config={path} {problem}")):
        counting(metrics_config=path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8, "8.0"),
        (0.001, "0.001"),
        (0.00021, "2.1E-4"),
        (1e-10, "1.0E-10"),
        (9999999.5, "9999999.5"),
        (10000000, "1.0E7"),
        (-123456789.25, "-1.2345678925E8"),
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (float("inf"), "+Inf"),
        (float("-inf"), "-Inf"),
        (float("nan"), "NaN"),
    ],
)
def test_numbers(value, text):
    """Numbers are written as Java writes a double."""
    assert java_number(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_exact(value):
    """Whatever the number, its text is read back as the same number."""
    assert float(java_number(value)) == value


def test_a_counter_does_not_fall():
    """A counter takes nothing below 0, and nothing that is no number."""
    family = Family(Declared("a", "counter", "Count", ()))

    assert not family.add((), -1.0)
    assert not family.add((), float("nan"))
    assert list(family.lines(["a"])) == []


def test_our_own_histograms():
    """Latency and waiting of .mar models are histograms on our own page, by model and version."""
    page = Metrics(tuple)
    metrics = TorchServeMetrics(Settings(), lambda: page.text(None)[0])
    page.add(metrics)
    for latency_s in (0.002, 0.02, 20.0):
        metrics.inferred("m", None, 0.0001, latency_s)
    found = {family.name: family.samples for family in text_string_to_metric_families(metrics.text().decode())}
    samples = {
        (sample.name, sample.labels.get("le")): sample.value
        for name in ("stateserve_mar_request_seconds", "stateserve_mar_queue_seconds")
        for sample in found[name]
        if {"model": "m", "version": "default"}.items() <= sample.labels.items()
    }

    assert samples["stateserve_mar_request_seconds_bucket", "0.0025"] == 1
    assert samples["stateserve_mar_request_seconds_bucket", "0.025"] == 2
    assert samples["stateserve_mar_request_seconds_bucket", "+Inf"] == 3
    assert samples["stateserve_mar_request_seconds_count", None] == 3
    assert samples["stateserve_mar_request_seconds_sum", None] == pytest.approx(20.022)
    assert samples["stateserve_mar_queue_seconds_bucket", "0.0001"] == 3
    assert "stateserve_build_info" in found


def test_this_machine_is_measured(wait_for):
    """What is measured of the machine is there soon after the start, and no thread is left after the end."""
    metrics = counting(metrics_mode="prometheus")
    measuring = Measuring(metrics, 60)
    measuring.start()
    wait_for(lambda: b"\nMemoryUtilization{" in metrics.text())
    measuring.close()
    measuring._thread.join(10)

    assert not measuring._thread.is_alive()
    assert {name for name in HOST_FACTS if f"\n{name}{{" in metrics.text().decode()} == HOST_FACTS.keys()


def test_facts():
    """Shares are percentages, and amounts are not negative."""
    facts = {fact.name: fact.value for fact in host_facts()}

    assert facts.keys() == HOST_FACTS.keys()
    assert all(0 <= value <= 100 for name, value in facts.items() if name.endswith("Utilization"))
    assert min(facts.values()) >= 0


@pytest.mark.parametrize(
    ("printed", "found"),
    [
        (
            "0, 12, 1024, 4096\n1, [N/A], 512, 1024\n",
            [
                ("GPUUtilization", 12.0, "0"),
                ("GPUMemoryUsed", 1024.0, "0"),
                ("GPUMemoryUtilization", 25.0, "0"),
                ("GPUMemoryUsed", 512.0, "1"),
                ("GPUMemoryUtilization", 50.0, "1"),
            ],
        ),
        ("", []),
    ],
)
def test_gpus(tmp_path, monkeypatch, printed, found):
    """Each GPU's facts are read from nvidia-smi; what it does not tell is left out."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{printed}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    assert [(fact.name, fact.value, fact.device) for fact in gpu_facts()] == found


def test_no_gpus(tmp_path, monkeypatch):
    """Without nvidia-smi, or where it fails, there are no facts."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(gpu_facts()) == []

    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert list(gpu_facts()) == []
