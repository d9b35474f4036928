"""A server of several processes is one server: one answer to every question, one set of numbers, one end."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
import pytest
import uvloop

from serving.errors import SettingsError
from serving.metrics import VersionMetrics
from serving.processes import children
from serving.processes.back_off import BackOff
from serving.processes.children import ProcessEnded, ProcessFailed
from serving.processes.handed_on import HandedHeaders
from serving.processes.merged import NOTHING, Told, summed
from serving.processes.spread import Machine, devices, spread
from serving.processes.watch import Patience, end_when_silent
from serving.settings import ModelSettings, Settings

ROW = {"inputs": {"x": [[0, 0, 0, 0]]}}
TWO = ("--frontends", "2")
OF_THEIR_OWN = (*TWO, "--execution", "process", "--instances", "2")
IN_PROCESSES = ("--frontends", "1", "--execution", "process")


def processes_of(server):
    return psutil.Process(server.process.pid).children(recursive=True)


def names(process):
    command = process.cmdline()
    return command[command.index("-m") + 1].rpartition(".")[2] if "-m" in command else ""


def one_of(server, kind):
    return next(process for process in processes_of(server) if names(process) == kind)


def have_gone(processes, timeout_s=30):
    _, alive = psutil.wait_procs(processes, timeout=timeout_s)
    return not alive


# How many processes there are.


def told(cores=4, gpus=0, numbers=None, **settings):
    return str(spread(Settings(**settings), Machine(cores, numbers or tuple(range(cores)), gpus)))


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("one process: there is 1 core", {"cores": 1}),
        ("one process: there are 3 cores", {"cores": 3}),
        ("one process: there are 7 cores", {"cores": 7}),
        ("2 front ends on cores 0-3 and 4-7: one for each 4 of 8 cores, at most 8", {"cores": 8}),
        ("8 front ends: one for each 4 of 40 cores, at most 8", {"cores": 40, "pin_frontends": "off"}),
        ("2 front ends on cores 0 and 1: GPUs want to be fed, and there are 2 cores", {"cores": 2, "gpus": 1}),
        ("one process: there are 2 cores", {"cores": 2, "gpus": 1, "device": "cpu"}),
        ("2 front ends: GPUs want to be fed, and there are 2 cores", {"cores": 2, "device": "cuda:0", "pin_frontends": "off"}),
        ("one process: frontends=1 is set", {"cores": 16, "frontends": 1}),
        ("1 front end: frontends=1 is set", {"cores": 16, "frontends": 1, "gpus": 1}),
        ("1 front end: there are 2 cores", {"cores": 2, "execution": "process"}),
        ("1 front end: there are 2 cores", {"cores": 2, "model_settings": {"mlp": ModelSettings(execution="process")}}),
        ("2 front ends on cores 0 and 1: frontends=2 is set", {"cores": 2, "frontends": 2}),
        ("3 front ends on cores 0, 2 and 3+5: frontends=3 is set", {"frontends": 3, "numbers": (0, 2, 3, 5)}),
        ("3 front ends: frontends=3 is set", {"cores": 2, "frontends": 3}),
        ("2 front ends: frontends=2 is set", {"cores": 1, "numbers": (0, 1), "frontends": 2}),
        (
            "2 front ends on cores 0 and 1: frontends=2 is set",
            {"cores": 1, "numbers": (0, 1), "frontends": 2, "pin_frontends": "on"},
        ),
        (
            "one process: processes cannot share a Unix socket (inference_address)",
            {"inference_address": "unix:/tmp/s", "cores": 16},
        ),
    ],
)
def test_how_many_processes(expected, found):
    """As many as are set; else one for small machines, and front ends by cores, and at least two for GPUs."""
    assert told(**found) == expected


def test_a_model_store_is_served_by_one_process(tmp_path):
    """Archives have TorchServe's workers beside one server process; a store that is not there has none."""
    tokens_off = {"disable_token_authorization": True, "cores": 16}
    assert (
        told(model_store=tmp_path, **tokens_off)
        == "one process: a model store's archives have processes of their own beside the server's"
    )
    assert told(model_store=tmp_path / "none", **tokens_off).startswith("4 front ends")
    assert told(model_store=tmp_path / "none", cores=16).startswith(
        "one process: the tokens of predictions are looked at by one process"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"frontends": 2, "inference_address": "unix:/tmp/s"},
            "frontends is 2, and processes cannot share a Unix socket (inference_address): one process only",
        ),
        (
            {"frontends": 2, "model_store": Path(__file__).parent},
            "frontends is 2, and a model store's archives have processes of their own beside the server's: one process only",
        ),
        (
            {"model_settings": {"mlp": ModelSettings(execution="process")}, "inference_address": "unix:/tmp/s"},
            "execution of mlp is process, and processes cannot share a Unix socket (inference_address): one process only",
        ),
        (
            {"frontends": 5, "pin_frontends": "on"},
            "pin_frontends is on, and there are 4 cores for 5 front ends: it should be auto or off",
        ),
    ],
)
def test_what_is_not_possible(settings, message):
    """Several processes that are asked for and cannot be are an error, and nothing is changed in silence."""
    with pytest.raises(SettingsError) as raised:
        told(**settings)
    assert str(raised.value) == message


def test_devices():
    """Whatever GPUs are named count; none are taken where there are none."""
    assert [devices("auto", 0), devices("auto", 2), devices("cpu", 2)] == [("cpu",), ("cuda:0", "cuda:1"), ("cpu",)]
    assert [devices("cuda", 0), devices("cuda:3,cuda:1", 0)] == [("cuda:0",), ("cuda:3", "cuda:1")]


def test_the_command_refuses_what_is_not_possible(tmp_path):
    """The exit code is that of a wrong setting, and nothing was started."""
    command = [sys.executable, "-m", "serving", "--frontends", "2", "--inference-address", "unix:/tmp/none/s"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: frontends is 2, and processes cannot share a Unix socket (inference_address): one process only\n"
    )


# Children.

STAND_IN = """
import asyncio, socket, sys
from serving.processes.link import Link
async def main():
    link = Link(socket.socket(fileno=int(sys.argv[1])))
    while (message := await link.receive()) is not None:
        head = message.head
        match head["kind"]:
            case "fail": link.send({"kind": "failed", "ask": head["ask"], "error": "it is too much", "type": "Exhausted"})
            case "trouble": link.send({"kind": "trouble", "error": "no strength"}); link.close(); sys.exit(1)
            case "stop": return
            case "mute": pass
            case "compute":
                while True: pass
            case kind: link.send({"kind": kind, "ask": head.get("ask")})
asyncio.run(main())
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that runs a coroutine of a child that does what it is told."""
    (tmp_path / "stand_in_child.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    heard = []

    def run(work):
        async def main():
            child = await children.start("stand_in_child", "child 1", lambda _, message: heard.append(message.head))
            try:
                return await work(child)
            finally:
                child.kill()
                await child.ended

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())

    return run


def test_a_child_that_answers(stand_in):
    """Questions have their own answers; a failure is an error with its text and kind; an end is told to whoever waits."""

    async def work(child):
        first, second = await asyncio.gather(child.ask({"kind": "one"}), child.ask({"kind": "two"}))
        with pytest.raises(ProcessFailed, match=r"^it is too much$") as failed:
            await child.ask({"kind": "fail"})
        named = await child.ask({"kind": "three"}, answers=("three", "four"))
        with pytest.raises(ProcessEnded, match=r"^child 1 ended with exit code 1: no strength$"):
            await child.ask({"kind": "trouble"})
        with pytest.raises(ProcessEnded, match=r"^child 1 has ended$"):
            await child.ask({"kind": "one"})
        return first["kind"], second["kind"], failed.value.kind, named["kind"]

    assert stand_in(work) == ("one", "two", "Exhausted", "three")


def test_a_child_that_does_not_answer(stand_in):
    """It is ended, and its end told with the signal; one that is stopped ends by itself."""

    async def mute(child):
        with pytest.raises(ProcessEnded, match=r"^child 1 did not answer for 0.2 s, and was ended$"):
            await child.ask({"kind": "mute"}, timeout_s=0.2)
        await child.ended
        return child.how_it_ended()

    async def stopped(child):
        await child.ask({"kind": "one"})
        await child.stop(30)
        return child.how_it_ended()

    assert stand_in(mute) == "did not answer for 0.2 s, and was ended"
    assert stand_in(stopped) == "ended with exit code 0"


def test_a_child_that_is_stuck(stand_in):
    """One that is silent and does nothing is ended soon; one that computes is given longer; one that answers is left alone."""

    async def stopped(child):
        await child.ask({"kind": "one"})
        os.kill(child.pid, signal.SIGSTOP)
        await end_when_silent(child, Patience(0.05, idle_s=0.3, busy_s=60))
        return child.how_it_ended()

    async def busy(child):
        child.tell({"kind": "compute"})
        await end_when_silent(child, Patience(0.2, idle_s=0.6, busy_s=1))
        return child.how_it_ended()

    async def answering(child):
        watching = asyncio.create_task(end_when_silent(child, Patience(0.01, idle_s=30, busy_s=60)))
        for _ in range(50):
            await child.ask({"kind": "one"})
        assert not watching.done()
        await child.stop(30)
        await watching
        return child.how_it_ended()

    assert stand_in(stopped).startswith("answered nothing for 0.3")
    assert stand_in(busy).startswith("answered nothing for 1")
    assert stand_in(answering) == "ended with exit code 0"


def test_pauses_before_another():
    """At once at first; longer each time for one that never becomes ready; soon for one that had been."""
    back_off = BackOff()
    assert [back_off.pause_s(0.1, was_ready=False) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert [back_off.pause_s(0.1, was_ready=True), back_off.pause_s(0.1, was_ready=False)] == [1, 1]
    assert [back_off.pause_s(100, was_ready=True), back_off.pause_s(5, was_ready=True)] == [0, 0]
    assert [back_off.pause_s(5, was_ready=True) for _ in range(5)] == [1] * 5


# What several counted.


def counted(requests, rows, failures):
    metrics = VersionMetrics("m", 1)
    for number in range(requests):
        metrics.answered((0, rows, 0.0, 1e-4, 2e-4, 3e-3 * (number + 1), 4e-3 * (number + 1)))
        metrics.executed(rows, 1e-3)
    for _ in range(failures):
        metrics.failed("queue_full", 0.5)
    return metrics.totals()


def test_sums():
    """Everything adds up: requests, rows, failures, each bucket, calls of each size; the latest answer is the latest of all."""
    one, other = counted(3, 2, 1), counted(5, 4, 0)
    both = summed([one, other])

    assert (both.answered["oip"], both.rows, both.failed["queue_full"], both.failed_s) == (8, 26, 1, 0.5)
    assert list(both.whole.within) == [a + b for a, b in zip(one.whole.within, other.whole.within, strict=True)]
    assert {rows: calls.count for rows, calls in both.calls.items()} == {2: 3, 4: 5}
    assert both.stages["infer"].sum_s == pytest.approx(one.stages["infer"].sum_s + other.stages["infer"].sum_s)
    assert both.last_s == max(filter(None, (one.last_s, other.last_s)))
    assert summed([]) == NOTHING


def test_what_a_process_told_last_stays():
    """A process that begins anew under the name of one that ended adds to what that one did; its gauges are gone with it."""
    told_of = Told()
    told_of.tell("front end 1", counted(3, 2, 1), in_flight=2, queued_rows=4)
    told_of.tell("front end 2", counted(1, 1, 0), in_flight=1, queued_rows=0)
    assert (told_of.totals().answered["oip"], told_of.in_flight, told_of.queued_rows) == (4, 3, 4)
    told_of.ended("front end 1")
    assert (told_of.totals().answered["oip"], told_of.in_flight, told_of.queued_rows) == (4, 1, 0)
    told_of.tell("front end 1", counted(2, 2, 0), in_flight=0, queued_rows=0)
    told_of.ended("front end 1")
    told_of.ended("front end 1")
    assert told_of.totals().answered["oip"] == 6


def test_headers():
    """As granian has them: the first of repeated ones where one is asked for, and all of them in order."""
    headers = HandedHeaders([("a", "1"), ("b", "2"), ("a", "3")])
    assert (headers.get("a"), headers.get("c"), "b" in headers) == ("1", None, True)
    assert headers.items() == [("a", "1"), ("b", "2"), ("a", "3")]


# The whole server.


@pytest.fixture(scope="module")
def root(make_repository, mlp_artifact, counting_artifact):
    return make_repository({"mlp/1": mlp_artifact, "mlp/2": mlp_artifact, "counting/7": counting_artifact})


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(TWO, id="in the front ends"),
        pytest.param(OF_THEIR_OWN, id="in processes", marks=pytest.mark.processes),
    ],
)
def server(request, start_server, root):
    """One server for each way, for all tests that leave it as it was; the port of counting's calls is a process anyway."""
    labels = json.dumps(
        {"counting": {"execution": "process"}, "mlp": {"execution": "process" if len(request.param) > 2 else "auto"}}
    )
    with start_server(root, *request.param, "--model-settings", labels, "--access-log") as running:
        yield running


def predicted(server, model="mlp", body=ROW, count=1):
    """Each on a connection of its own: the kernel spreads connections over the front ends."""
    return [server.predict(model, body) for _ in range(count)]


def test_it_answers(server):
    """Predictions in both protocols, by both names of a version, from front ends that one port spreads connections over."""
    assert {answer.status_code for answer in predicted(server, count=20)} == {200}
    answers = [server.predict(name, ROW) for name in ("mlp", "mlp/2")]
    assert answers[0].json()["outputs"] == answers[1].json()["outputs"]
    oip = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}]}
    assert server.request("POST", "/v2/models/mlp/infer", json=oip).status_code == 200
    assert server.predict("counting", {"inputs": {"rounds": [3]}}).status_code == 200


def test_what_is_not_served_is_told_as_ever(server):
    """What no front end knows is answered by the process that knows why."""
    unknown, version = server.predict("none", ROW), server.predict("mlp/1", ROW)
    assert (unknown.status_code, unknown.json()["message"]) == (404, "no model is called 'none'; there are: counting, mlp")
    assert version.status_code == 404
    assert version.json()["message"].startswith(
        "version 1 of mlp is not chosen by the version policy latest:1; versions served: 2"
    )


def test_labels(start_server, make_repository, classes_artifact):
    """The names of classes are in the configuration, whichever process runs the model."""
    for execution in ("thread", "process"):
        settings = json.dumps({"classes": {"execution": execution}})
        with start_server(make_repository({"classes/1": classes_artifact}), "--model-settings", settings) as running:
            told = running.get("/v2/models/classes/config").json()["parameters"]["labels"]["string_value"]
            assert json.loads(told) == {"scores": ["ant", "bee", "cat", "dog", "emu"]}


def test_every_other_page(server):
    """Documentation, metadata, configuration, health, whichever front end is asked; request ids are kept."""
    for path in ("/docs", "/openapi.json", "/v2", "/v2/models", "/v2/models/mlp", "/v2/health/live", "/v2/health/ready", "/ping"):
        assert server.get(path).status_code == 200, path
    assert server.request("GET", "/v2", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    config = server.get("/v2/models/counting/config").json()
    assert config["parameters"]["device"]["string_value"] == "cpu"
    assert config["parameters"]["execution"]["string_value"].partition("; ")[0] in {
        "in 1 engine process on cpu",
        "in 2 engine processes on cpu",
    }
    assert server.get("/docs/assets/swagger-ui.css").status_code == 200
    assert "/predictions/mlp" in server.get("/openapi.json").json()["paths"]


def test_the_numbers_add_up(server):
    """What clients counted is what the page says, over all processes; and the statistics say the same."""
    before = {
        name: server.metric(f"stateserve_{name}", model="mlp")
        for name in ("requests_answered_total", "rows_total", "request_seconds_count", "batch_rows_sum", "requests_failed_total")
    }
    threads = [threading.Thread(target=predicted, args=(server,), kwargs={"count": 25}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = {answer.status_code for answer in predicted(server, body={"inputs": {"x": [[0]]}}, count=3)}
    after = {name: server.metric(f"stateserve_{name}", model="mlp") for name in before}

    assert refused == {400}
    assert {name: after[name] - before[name] for name in before} == {
        "requests_answered_total": 100,
        "rows_total": 100,
        "request_seconds_count": 100,
        "batch_rows_sum": 100,
        "requests_failed_total": 3,
    }
    statistics = server.get("/v2/models/mlp/stats").json()["model_stats"][0]
    assert statistics["inference_count"] == after["rows_total"]
    assert statistics["inference_stats"]["success"]["count"] == after["requests_answered_total"]
    assert (
        sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in statistics["batch_stats"])
        == after["batch_rows_sum"]
    )
    other_page = httpx.get(f"http://127.0.0.1:{server.port + 2}/metrics", trust_env=False, timeout=30).text
    line = f'stateserve_rows_total{{model="mlp",version="2"}} {after["rows_total"]}'
    assert line in other_page


def test_requests_without_a_model_are_counted_once(server):
    """Whichever process refused them."""
    before = server.metric("stateserve_requests_failed_total", model="", reason="not_found")
    predicted(server, "none", count=7)
    assert server.metric("stateserve_requests_failed_total", model="", reason="not_found") == before + 7


def test_requests_in_flight(server):
    """The gauge is of all front ends; a request in flight is in one of them."""
    with server.in_flight(3, 1) as connections:
        for connection in connections:
            connection.close()


def test_the_processes_are_told(server):
    """The page says how many there are, and what each takes; every line of the log says whose it is."""
    predicted(server, count=20)
    kinds = Counter(names(process) for process in processes_of(server))
    assert kinds["frontend"] == server.metric("stateserve_processes", kind="front end") == 2
    assert kinds["engine"] == server.metric("stateserve_processes", kind="engine")
    assert server.metric("stateserve_processes", kind="control") == 1
    page = server.get("/metrics").text
    for process in ("control", "front end 1", "front end 2"):
        assert server.metric("stateserve_process_resident_bytes", process=process) > 10e6
        assert f'process="{process}"' in page
    assert {line.get("process") for line in server.log_lines()} >= {"control", "front end 1", "front end 2"}


def test_loading_and_labels(server):
    """Whatever changes is so for the very next request, in every front end."""

    def repository(method, path, **options):
        return server.request(method, f"/v2/repository/models/mlp{path}", **options).status_code

    def codes(model):
        return {answer.status_code for answer in predicted(server, model, count=8)}

    assert repository("POST", "/load", json={"parameters": {"version": 1}}) == 200
    assert (codes("mlp/1"), codes("mlp/2"), codes("mlp")) == ({200}, {200}, {200})
    assert repository("PUT", "/labels/stable", json={"version": 1}) == 200
    assert codes("mlp/stable") == {200}
    assert repository("DELETE", "/labels/stable") == 200
    assert codes("mlp/stable") == {404}
    assert repository("POST", "/unload") == 200
    assert (codes("mlp"), server.get("/v2/models/mlp").status_code) == ({404}, 404)
    assert repository("POST", "/load") == 200
    assert (codes("mlp"), codes("mlp/1")) == ({200}, {404})


def test_the_clients_own_address_counts(server):
    """Who may load is decided by where the request came from, not by the process that handed it on."""
    path = "/v2/repository/models/mlp/load"
    assert server.request("POST", path, headers={"x-forwarded-for": "192.0.2.7"}).status_code == 403
    assert server.request("POST", path, headers={"origin": "http://evil.example"}).status_code == 403
    logged = [line for line in server.log_lines() if line.get("path") == path and line.get("status") == 403]
    assert {line["process"] for line in logged} == {"control"}


@pytest.mark.processes
def test_a_version_that_fails_its_checks(start_server, make_repository, mlp_artifact, wait_for):
    """It takes nobody's place, in no front end; the reason is the one that its engine process told. A good one is polled in."""
    root = make_repository({"mlp/1": mlp_artifact})
    with start_server(root, *TWO, "--poll-interval-s", "0.2") as server:
        copied = root / "mlp" / "2"
        make = subprocess.run(["cp", "-r", str(root / "mlp" / "1"), str(copied)], check=True)
        assert make.returncode == 0
        wait_for(lambda: server.get("/v2/models/mlp").json()["versions"] == ["2"])
        broken = root / "mlp" / "3"
        subprocess.run(["cp", "-r", str(copied), str(broken)], check=True)
        model = bytearray((broken / "model.onnx").read_bytes())
        model[len(model) // 2] ^= 1
        (broken / "model.onnx").write_bytes(model)
        wait_for(lambda: "version 3 failed its checks" in str(server.get("/ready").json().get("warnings")))
        assert {answer.status_code for answer in predicted(server, count=10)} == {200}
        assert server.get("/v2/models/mlp").json()["versions"] == ["2"]
        loaded = server.request("POST", "/v2/repository/models/mlp/load")
        assert loaded.status_code == 400
        assert f"{broken / 'model.onnx'} was changed" in loaded.json()["error"]


def port_is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


@pytest.fixture(scope="module")
def counting(make_repository, counting_artifact):
    return make_repository({"counting/1": counting_artifact})


def test_sigterm_answers_what_was_accepted(start_server, counting):
    """SIGTERM while requests run: every one is answered, the code is 0, no process is left, and the port is free."""
    with start_server(counting, *IN_PROCESSES) as server:
        all_of_them = processes_of(server)
        with server.in_flight(3, 0.1) as connections:
            server.process.send_signal(signal.SIGTERM)
            answers = [server.answer_on(connection) for connection in connections]
            assert server.process.wait(30) == 0
        assert [status for status, _, _ in answers] == [200] * 3
        assert have_gone(all_of_them)
        assert port_is_free(server.port)
        assert [line for line in server.log_lines() if line["level"] == "ERROR"] == []


@pytest.mark.processes
def test_while_it_drains(start_server, counting, wait_for):
    """For the drain's delay it answers on, closes connections, and says through its front ends that it is not ready."""
    with start_server(counting, *IN_PROCESSES, "--drain-delay-s", "60") as server:
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.get("/ready").status_code == 503)
        answer = server.predict("counting", {"inputs": {"rounds": [3]}})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert server.get("/ready").json()["error"] == "the server is about to end"
        server.process.send_signal(signal.SIGTERM)  # the second: it does not wait for the rest of the delay
        assert server.process.wait(30) == 1


@pytest.mark.processes
def test_a_second_signal_ends_at_once(start_server, counting, wait_for):
    """What still runs is cut off, the code is 1, and no process is left."""
    with start_server(counting, *IN_PROCESSES) as server:
        all_of_them = processes_of(server)
        with server.in_flight(1, 60):
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: any(line["message"].startswith("ending: ") for line in server.log_lines()))
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 1
        assert have_gone(all_of_them)


@pytest.mark.processes
def test_nothing_outlives_control(start_server, counting):
    """kill -9 of the process that the user started leaves no process and no port, also while an engine computes."""
    with start_server(counting, *IN_PROCESSES) as server:
        all_of_them = processes_of(server)
        assert {names(process) for process in all_of_them} == {"frontend", "engine"}
        with server.in_flight(1, 60):
            server.process.kill()
            assert have_gone(all_of_them)
        assert port_is_free(server.port)


@pytest.mark.processes
def test_a_front_end_that_ends_is_replaced(start_server, make_repository, mlp_artifact, wait_for):
    """Another takes its place with all that is served; counters go on from where they were."""
    with start_server(make_repository({"mlp/1": mlp_artifact}), *TWO) as server:
        predicted(server, count=20)
        assert server.metric("stateserve_requests_answered_total", model="mlp") == 20  # so it is told
        one_of(server, "frontend").kill()
        wait_for(lambda: restarts(server, "front end") == 1)
        wait_for(lambda: any("listens again" in line["message"] for line in server.log_lines()))
        wait_for(lambda: len({answer.status_code for answer in predicted(server, count=10)} - {200}) == 0)
        assert server.metric("stateserve_requests_answered_total", model="mlp") >= 30
        assert any(
            line["message"].endswith("was ended by SIGKILL; another is started now") and line["process"] == "control"
            for line in server.log_lines()
        )


def restarts(server, kind):
    with contextlib.suppress(httpx.TransportError):
        return server.metric("stateserve_process_restarts_total", kind=kind)
    return None


@pytest.mark.processes
def test_an_engine_process_that_ends_is_replaced(start_server, make_repository, mlp_artifact, wait_for):
    """While there is none the model is not ready, and says why; then it is again, and counters never went back."""
    with start_server(make_repository({"mlp/1": mlp_artifact}), *IN_PROCESSES) as server:
        predicted(server, count=5)
        assert server.metric("stateserve_executions_total", model="mlp") == 5
        engine = one_of(server, "engine")
        engine.send_signal(signal.SIGSTOP)  # until its end it answers nothing: there is time to ask
        engine.kill()
        wait_for(lambda: server.get("/ready").status_code == 503 or restarts(server, "engine") == 1)
        wait_for(lambda: server.get("/ready").status_code == 200)
        wait_for(lambda: server.predict("mlp", ROW).status_code == 200)
        assert server.metric("stateserve_executions_total", model="mlp") >= 6
        lines = [line["message"] for line in server.log_lines()]
        assert "mlp version 1: engine 1 was ended by SIGKILL; another is started now" in lines
        assert "mlp version 1: engine 2 took its place" in lines


@pytest.mark.processes
def test_a_model_without_an_engine_process(start_server, make_repository, mlp_artifact, wait_for):
    """Its files are gone, so nothing can take its engine's place: it says so, and is ready again when they are back."""
    root = make_repository({"mlp/1": mlp_artifact})
    with start_server(root, *IN_PROCESSES) as server:
        (root / "mlp").rename(root / ".away")
        one_of(server, "engine").kill()
        wait_for(lambda: "has no engine process: " in str(server.get("/ready").json().get("error")))
        assert server.get("/v2/models/mlp/ready").status_code == 503
        refused = server.predict("mlp", ROW)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        (root / ".away").rename(root / "mlp")
        wait_for(lambda: server.get("/ready").status_code == 200)
        wait_for(lambda: server.predict("mlp", ROW).status_code == 200)


@pytest.mark.processes
def test_processes_that_are_stuck_are_replaced(start_server, make_repository, mlp_artifact):
    """A front end and an engine process that are stopped answer nothing: they are ended, and others take their places."""
    root = make_repository({"mlp/1": mlp_artifact})
    with start_server(root, *OF_THEIR_OWN) as server:
        predicted(server, count=10)
        assert server.metric("stateserve_requests_answered_total", model="mlp") == 10  # so it is told
        stuck = [one_of(server, kind) for kind in ("frontend", "engine")]
        for process in stuck:
            process.send_signal(signal.SIGSTOP)
        assert have_gone(stuck, 60)
        began = time.monotonic()
        while time.monotonic() - began < 60 and len(told_of(server, "listens again", "took its place")) < 2:
            time.sleep(0.05)
        assert len(told_of(server, "answered nothing for 30 s, and was ended; another is started now")) == 2
        assert {answer.status_code for answer in predicted(server, count=10)} == {200}
        assert server.metric("stateserve_requests_answered_total", model="mlp") == 20


@pytest.mark.processes
def test_a_front_end_without_a_version(start_server, make_repository, mlp_artifact, wait_for):
    """A front end that begins while a version's files are away has it when they are back; until then everybody is told why."""
    root = make_repository({"mlp/1": mlp_artifact})
    with start_server(root, *TWO) as server:
        (root / "mlp").rename(root / ".away")
        one_of(server, "frontend").kill()
        wait_for(lambda: told_of(server, "listens again"))
        assert "could not be loaded by front end" in server.get("/ready").json()["warnings"]["mlp"]
        answers = predicted(server, count=40)
        assert {answer.status_code for answer in answers} == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert str(root / "mlp" / "1") in refused.json()["message"]
        (root / ".away").rename(root / "mlp")
        wait_for(lambda: "warnings" not in server.get("/ready").json())
        assert {answer.status_code for answer in predicted(server, count=40)} == {200}


@pytest.mark.processes
def test_ends_while_nothing_can_be_replaced(start_server, make_repository, mlp_artifact, wait_for):
    """SIGTERM while a front end that keeps ending is waited with, and an engine that cannot be had: all end at once, code 0."""
    root = make_repository({"mlp/1": mlp_artifact})
    with start_server(root, *OF_THEIR_OWN) as server:
        (root / "mlp").rename(root / ".away")
        one_of(server, "engine").kill()
        for count in (1, 2):
            one_of(server, "frontend").kill()
            wait_for(lambda count=count: len(told_of(server, "started now", "started in 1 s")) > count)
        all_of_them = processes_of(server)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 20
        assert have_gone(all_of_them)


def told_of(server, *ends):
    return [line for line in server.log_lines() if line["message"].endswith(ends)]


@pytest.mark.processes
def test_ends_while_it_starts(start_server, counting, wait_for):
    """SIGTERM before anything is loaded ends all of it, too."""
    with start_server(counting, *OF_THEIR_OWN, wait=False) as server:
        assert server.stop() == 0
        wait_for(lambda: port_is_free(server.port))


@pytest.mark.processes
def test_time_is_not_lost_at_the_end(start_server, counting):
    """A server that has nothing to answer ends soon, whatever it was given to end."""
    with start_server(counting, *OF_THEIR_OWN, "--drain-timeout-s", "60") as server:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 30
