"""The whole load test, by its command: what it writes, and how it ends where it cannot go on."""

import csv
import http.server
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bench import results

PROJECT = Path(__file__).parents[2]
SHORT = ("--duration", "0.4", "--warmup", "0.1", "--rounds", "1")


def _bench(*words, cwd):
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-m", "bench", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)


def _found(out) -> Any:
    return results.read(out / "results.json")


def _started(*command, **options) -> Any:
    return subprocess.Popen([sys.executable, *command], text=True, **options)


@pytest.fixture(scope="module")
def whole(served, tmp_path_factory):
    """A test of model `one` with closed loops, an open loop, a target and the engine alone; and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    artifact = next(folder.parent.glob("served*/repository/one/3"))
    load = ("--concurrency", "1,4", "--rate", "200", "--slo", "p50=50ms", "--bound", artifact)
    ended = _bench("--url", f"http://127.0.0.1:{served.port}", "--model", "one", *load, *SHORT, cwd=folder)
    return ended, folder / "bench_report"


def test_a_whole_test_ends_with_0_and_writes_three_files(whole):
    """The folder's default name is bench_report; the last line says where the report lies."""
    ended, out = whole
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "results.csv", "results.json"]
    assert ended.stdout.splitlines()[-1] == "bench_report/report.html"


def test_every_load_is_in_the_results(whole):
    """Requests, rows, latencies, the server's use and the split of time; every request that was due has an end."""
    found = _found(whole[1])
    assert found.complete
    assert found.stopped_by is None
    assert [case.load for case in found.cases] == [
        ("stateserve", "closed", 1, None),
        ("stateserve", "closed", 4, None),
        ("stateserve", "open", 256, 200.0),
    ]
    for case in found.cases:
        (one,) = case.rounds
        assert one.requests == one.rows == one.offered > 10
        assert not one.errors
        assert 0 < one.latency_ms.p50 <= one.latency_ms.p99 <= one.latency_ms.max
        assert one.server.cpu_s > 0
        assert one.server.rss_bytes > 10e6
        assert one.stages_ms.infer > 0
        assert one.stages_ms.rows_per_call >= 1


def test_the_limits_are_in_the_results(whole):
    """The engine alone at every batch size, with the server's threads; and the highest rate that holds the target."""
    found = _found(whole[1])
    assert [point.rows for point in found.bound.points] == list(range(1, 17))
    assert found.bound.threads == int(found.model.facts["threads"])
    assert found.slo.highest_per_s is not None
    assert found.slo.probes[-1].held


def test_the_csv_has_a_line_for_every_load(whole):
    """One for each round of each case, beside the line of names."""
    with (whole[1] / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3


def test_compare_says_what_changed_and_exits_with_1_beyond_the_tolerance(whole, served, tmp_path):
    """Against results that claim ten times the throughput, the new ones are worse."""
    was = _found(whole[1])
    rounds = {id(case): [one.model_copy(update={"in_time": one.in_time * 10}) for one in case.rounds] for case in was.cases}
    better = [case.model_copy(update={"rounds": rounds[id(case)]}) for case in was.cases]
    results.write(was.model_copy(update={"cases": better}), tmp_path / "old.json")
    words = ("--url", f"http://127.0.0.1:{served.port}", "--model", "one", "--concurrency", "1,4")
    ended = _bench(*words, *SHORT, "--compare", "old.json", "--tolerance", "0.5", cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    assert "requests/s" in ended.stdout


def test_a_wrong_url_is_said_at_once(tmp_path):
    """Nothing is written."""
    ended = _bench("--url", "http://127.0.0.1:9", "--model", "m", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert "127.0.0.1:9" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_no_server_at_all_is_a_usage_error(tmp_path):
    """The message says both ways to name one."""
    ended = _bench(cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: say which server: --url http://127.0.0.1:8080, or --bound ARTIFACT to start ours on an artifact\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "nobody"), "has no model 'nobody'; it has: "),
        (("--model", "broken"), "is not ready at "),
        (("--model", "one", "--rows", "17"), "--rows 17: the model allows 1 to 16 rows in a request"),
        (("--model", "one", "--protocol", "grpc"), "--protocol grpc: there are oip-binary, "),
        (("--model", "one", "--input", "x.json"), "x.json"),
        (("--model", "one", "--against", "triton"), "--against triton: there is no such peer; there are fastapi, torchserve"),
        (("--model", "one", "--against", "fastapi"), "--against starts others with the same model: say where its artifact lies"),
        (("--model", "one", "--concurrency", "0", "--slo", "p99=1ms"), "--slo and --rate sweep begin at what a closed loop"),
        (("--model", "one", "--out", "x.json"), "x.json is not a folder that can be written; give another"),
        (("--model", "one", "--bound", "nowhere"), "nowhere has no readable manifest.json"),
        (
            ("--model", "one", "--compare", "bench_report/results.json"),
            "is what this test will write: keep the old one elsewhere",
        ),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_measured(served, tmp_path, words, said):
    """Exit code 2, a message, and no folder."""
    (tmp_path / "x.json").write_text('{"inputs": {"x": [[1, 2]]}}')
    ended = _bench("--url", f"http://127.0.0.1:{served.port}", *words, *SHORT, cwd=tmp_path)
    assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr
    assert not (tmp_path / "bench_report").exists()


class _Dying(http.server.BaseHTTPRequestHandler):
    """Answers thirty requests, then the process ends: see `test_a_server_that_dies…`."""

    protocol_version = "HTTP/1.1"
    answered = 0

    def do_GET(self):
        type(self).answered += 1
        if type(self).answered > 30:
            os._exit(1)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_request(self, code="-", size="-"):
        """Says nothing."""


def test_a_server_that_dies_in_the_middle_leaves_what_was_measured(tmp_path):
    """Exit code 1, the reason on stderr, and in a report that says that it is incomplete."""
    server = _started(__file__, stdout=subprocess.PIPE)
    try:
        port = int(server.stdout.readline())
        ended = _bench("--raw", "--url", f"http://127.0.0.1:{port}/", "--concurrency", "2,4", *SHORT, cwd=tmp_path)
    finally:
        server.kill()
        server.communicate()
    assert ended.returncode == 1
    assert f"error: 127.0.0.1:{port}" in ended.stderr
    found = _found(tmp_path / "bench_report")
    assert not found.complete
    assert found.stopped_by in ended.stderr
    assert found.cases[0].rounds[0].requests > 0
    assert "ncomplete" in (tmp_path / "bench_report" / "report.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_test_keeps_what_was_measured(served, tmp_path, number):
    """Ctrl-C and SIGTERM end it at once; the report is written."""
    words = ("--url", f"http://127.0.0.1:{served.port}", "--model", "one", "--concurrency", "1,2", "--duration", "0.3")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = ("-m", "bench", *words, "--warmup", "0", "--rounds", "100")
    process = _started(*command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE)
    try:
        while "requests/s" not in process.stderr.readline():
            pass
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 128 + number, said
    found = _found(tmp_path / "bench_report")
    assert (found.complete, found.stopped_by) == (False, "it was interrupted")
    assert found.cases
    assert (tmp_path / "bench_report" / "report.html").exists()


if __name__ == "__main__":
    dying = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Dying)
    sys.stdout.write(f"{dying.server_port}\n")
    sys.stdout.flush()
    threading.Thread(target=dying.serve_forever).run()
