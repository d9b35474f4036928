"""What is seen of a server while a load runs: its processes, its own numbers, the machine; and what cannot be seen."""

import contextlib
import getpass
import http.client
import http.server
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench.observed import Observer, cores, gpus, listening, machine, page
from bench.observed.cores import CoreTimes
from bench.observed.errors import NotSeen
from bench.observed.gpus import Reading
from bench.observed.processes import ServerProcesses
from bench.processes import free_port, started

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
BURNING = """\
import sys, time
while sys.stdin.readline():
    until = time.process_time() + 0.3
    while time.process_time() < until: pass
    print("burnt", flush=True)
"""
PARENT = """\
import signal, subprocess, sys
sys.stdin.readline()
if sys.argv[1] == "unwaited":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then adds a dead child's time to nobody's
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
if sys.argv[1] == "unwaited":
    child.stdout.readline()
    print("burnt", flush=True)
    sys.stdin.readline()
    child.stdin.close()
    child.stdout.read()
else:
    child.wait()
print("ended", flush=True)
sys.stdin.readline()
"""
LISTEN = """\
import socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
print("listens", flush=True)
sys.stdin.readline()
"""
PAGE = """\
# TYPE stateserve_build_info gauge
stateserve_build_info{{version="0.1.0"}} 1.0
process_start_time_seconds {started}
process_cpu_seconds_total {cpu}
process_resident_memory_bytes {rss}
stateserve_loads_total{{model="m"}} {loads}
stateserve_batch_rows_sum{{model="m",version="1"}} {rows}
stateserve_batch_rows_count{{model="m",version="1"}} {calls}
"""


def page_of(
    requests, *, started=7, cpu=1.0, rss=1000, loads=1, version="1", seconds=(0.001, 0.002, 0.003, 0.004)
) -> dict[page.Series, float]:
    """A page of ours after so many requests of two rows, four of which shared a call."""
    text = PAGE.format(started=started, cpu=cpu, rss=rss, loads=loads, rows=requests * 2, calls=requests / 4)
    for name, each_s in zip(("decode", "queue", "infer", "encode", "request"), (*seconds, sum(seconds)), strict=True):
        text += f'stateserve_{name}_seconds_sum{{model="m",version="1"}} {each_s * requests}\n'
        text += f'stateserve_{name}_seconds_count{{model="m",version="1"}} {requests}\n'
    return dict(page.parse(text.replace('version="1"', f'version="{version}"')) or {})


@contextlib.contextmanager
def child(code, *arguments):
    """A Python process, told and heard by lines."""
    command = [sys.executable, "-u", "-c", code, *map(str, arguments)]  # what it says is heard at once
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: Any):
    """The next line that a child says."""
    return process.stdout.readline().strip()


def told(process: Any):
    """Lets a child go on, and gives what it says next."""
    process.stdin.write("\n")
    process.stdin.flush()
    return heard(process)


@contextlib.contextmanager
def answering(status, content=b""):
    """A server in this process that answers everything so: its port."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_request(self, code="-", size="-"):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def observed(*place, during=lambda: None) -> Any:
    """What an observer saw while something was done."""
    observer = Observer(*place)
    observer.prepare()
    observer.began()
    during()
    observer.window_ended()
    return observer.ended()


@pytest.fixture(scope="module")
def ours(mlp_artifact, tmp_path_factory):
    flags = ("--repository", str(mlp_artifact.parents[1]))
    with started("serving", *flags, folder=tmp_path_factory.mktemp("ours"), ready="/v2/health/ready") as running:
        yield running


def ask(port, requests, rows=2):
    """So many requests on one connection; their mean latency in milliseconds."""
    connection, took_s = http.client.HTTPConnection("127.0.0.1", port), []
    body = json.dumps({"inputs": {"x": [[0.5, 1.0, -1.0, 2.0]] * rows}})
    for _ in range(requests):
        began = time.perf_counter()
        connection.request("POST", "/predictions/mlp", body, {"Content-Type": "application/json"})
        assert connection.getresponse().read().startswith(b'{"model_name"')
        took_s.append(time.perf_counter() - began)
    connection.close()
    return statistics.fmean(took_s) * 1e3


def test_the_parts_of_a_request_are_its_whole(ours):
    """The stages and the client's share add up to the mean latency that clients saw; rows per call are those that were sent."""
    client_ms = []
    seen = observed("127.0.0.1", ours.port, "mlp", during=lambda: client_ms.append(ask(ours.port, 300)))
    stages = seen.stages(client_ms[0])

    assert seen.counted.whole_ms == pytest.approx(stages.decode + stages.queue + stages.infer + stages.encode, rel=1e-3)
    assert seen.counted.whole_ms + stages.client == pytest.approx(client_ms[0])
    assert (stages.rows_per_call, stages.client > 0, stages.infer > 0) == (2.0, True, True)
    assert (seen.server.processes, seen.is_local, seen.notes) == (1, True, ())
    assert 0 < seen.server.cpu_s < 60
    assert seen.server.rss_bytes > 30e6
    assert 0 <= seen.machine_busy <= 1


def test_an_observer_sees_one_load_after_the_other(ours):
    """What one observation saw is not in the next; a version that was not asked has no stages, nor has a load without answers."""
    found = [
        observed("localhost", ours.port, "mlp", version, ours.pid, during=partial(ask, ours.port, requests, rows)).stages(1.0)
        for version, requests, rows in (("1", 3, 4), ("1", 5, 8), (None, 1, 2), ("7", 4, 1))
    ]
    assert [stages and stages.rows_per_call for stages in found] == [4.0, 8.0, 2.0, None]
    assert observed("localhost", ours.port, "mlp").stages(1.0) is None
    assert observed("localhost", ours.port, None, during=partial(ask, ours.port, 1)).stages(1.0) is None


def test_nothing_begun_is_nothing_seen():
    """A load that was stopped in its warm-up has no observation, and the report is told so."""
    seen = Observer("127.0.0.1", 9, "mlp").ended()

    assert (seen.server, seen.machine_busy, seen.stages(1.0)) == (None, None, None)
    assert seen.notes == ("Nothing was observed: the measured window had not begun.",)


def test_a_load_that_died_in_its_warm_up_leaves_nothing_behind(monkeypatch):
    """Prepared and never begun: no observation, no thread, and NVML is left."""
    is_open = []

    @contextlib.contextmanager
    def opened():
        is_open.append(True)
        yield None
        is_open.pop()

    monkeypatch.setattr(gpus, "nvml", opened)
    observer, before = Observer("127.0.0.1", 9, None, None, os.getpid()), threading.active_count()
    observer.prepare()
    assert is_open == [True]
    observer.window_ended()
    assert observer.ended().notes == ("Nothing was observed: the measured window had not begun.",)
    assert (is_open, threading.active_count()) == ([], before)


def test_what_is_used_outside_the_window_is_not_counted():
    """CPU seconds are those between `began` and `window_ended`; the server's processes are looked for once."""
    with child(BURNING) as process:
        observer: Any = Observer("127.0.0.1", 9, None, None, process.pid)
        observer.prepare()
        assert told(process) == "burnt"
        observer.began()
        observer.window_ended()
        assert told(process) == "burnt"
        assert observer.ended().server.cpu_s < 0.1
        roots = observer._roots
        observer.began()
        assert told(process) == "burnt"
        assert observer.ended().server.cpu_s >= 0.28
        assert observer._roots is roots


def test_a_server_elsewhere_tells_of_itself(ours, monkeypatch):
    """Where its processes cannot be seen, our server's metrics say what it used, and a note says that they did."""
    monkeypatch.setattr(listening, "is_here", lambda _: False)
    seen = observed("127.0.0.1", ours.port, "mlp", during=partial(ask, ours.port, 5))
    said = (
        "The server's CPU time and memory are by its own metrics, its time that of the warm-up, too, its memory at the beginning "
        "and the end only: "
    )

    assert (seen.server.processes, seen.is_local, seen.gpus) == (1, False, ())
    assert seen.server.rss_bytes == pytest.approx(psutil.Process(ours.pid).memory_info().rss, rel=0.3)
    assert seen.notes == (f"{said}127.0.0.1 is not this machine.",)


@pytest.mark.parametrize(("status", "content"), [(404, b""), (200, b"# TYPE up gauge\nup 1.0\n"), (200, b"{not metrics")])
def test_other_servers_have_no_stages_and_no_notes(status, content):
    """A server without our metrics is observed from outside only, in silence."""
    with answering(status, content) as port:
        seen = observed("127.0.0.1", port, "mlp", None, os.getpid())

    assert (seen.stages(1.0), seen.notes, seen.server.processes >= 1) == (None, (), True)


@pytest.mark.parametrize(
    ("status", "content", "why"),
    [
        (401, b"", "GET /metrics is not allowed: status 401"),
        (200, b'stateserve_build_info{version="1', "GET /metrics is no page for Prometheus: "),
    ],
)
def test_metrics_that_cannot_be_read_are_told(status, content, why):
    """A page that needs a token, or one that is cut off, is named in a note."""
    with answering(status, content) as port:
        (note,) = observed("127.0.0.1", port, "mlp").notes

    assert note.startswith(f"The stages of a request are not known: {why}")


def test_what_was_seen_of_a_server_that_died_is_kept():
    """Its processes' time and memory stay; what could not be asked any more is told."""
    port = free_port()

    def die():
        process.kill()
        process.wait()

    with child(f"import http.server; http.server.test(bind='127.0.0.1', port={port})") as process:
        assert heard(process).startswith("Serving HTTP")
        seen = observed("127.0.0.1", port, "mlp", during=die)

    assert seen.server.rss_bytes > 5e6
    assert seen.notes == (
        "The stages of a request are not known: GET /metrics was not answered: [Errno 111] Connection refused.",
    )


@pytest.mark.parametrize("end", ["waited", "unwaited"])
def test_the_time_of_a_grandchild_that_ended_still_counts(end):
    """CPU seconds are those of all descendants, and never fewer than before: of the too short to be seen, or never waited for."""
    code = BURN if end == "waited" else BURN + "print('burnt', flush=True)\ninput()\n"
    with child(PARENT, end, code) as process:
        seen = ServerProcesses([psutil.Process(process.pid)])
        if end == "unwaited":
            assert told(process) == "burnt"
            seen.sample()
            assert seen.use.processes == 2
            assert seen.use.rss_bytes > psutil.Process(process.pid).memory_info().rss
        assert told(process) == "ended"
        while psutil.Process(process.pid).children():
            pass
        seen.sample()
        before = seen.use.cpu_s
        process.kill()
        process.wait()
        seen.sample()

    assert before >= 0.28  # the kernel counts in ticks of 10 ms
    assert seen.use.cpu_s == before


def test_all_that_share_a_port_are_the_server():
    """Two processes on one port (SO_REUSEPORT) are both found; a process is found by every name of this machine."""
    port = free_port()
    with child(LISTEN, port) as first, child(LISTEN, port) as second:
        assert {heard(first), heard(second)} == {"listens"}
        pids = [sorted(process.pid for process in listening.serving(host, port)) for host in ("127.0.0.1", "localhost")]

        assert pids == [sorted([first.pid, second.pid])] * 2


def test_a_worker_that_inherited_its_socket_is_not_a_root():
    """Of a process and its child on one socket, the parent is the server: its descendants are counted anyway."""
    code = LISTEN.replace('print("listens"', 'import os\nchild = os.fork()\nif child: print("listens"')
    port = free_port()
    with child(code, port) as process:
        assert heard(process) == "listens"
        assert [found.pid for found in listening.serving("127.0.0.1", port)] == [process.pid]
        assert len(psutil.Process(process.pid).children()) == 1


def test_an_address_that_is_not_seen_is_told():
    """Messages say why there are no processes: another machine, or nobody who listens."""
    with pytest.raises(NotSeen, match=r"^198\.51\.100\.7 is not this machine$"):
        listening.serving("198.51.100.7", 80)
    port = free_port()
    with pytest.raises(NotSeen, match=rf"^no process that is seen from here listens on ::1:{port}; it may run in a container$"):
        listening.serving("::1", port)
    assert not listening.is_here("no-such-host.invalid")
    assert all(listening.is_here(host) for host in ("0.0.0.0", "127.0.0.9", "::1", "localhost"))


def test_a_process_that_ended_is_told():
    """A process id of nobody becomes a note, and the observation goes on."""
    with child("") as process:
        process.wait()
    with answering(404) as port:
        seen = observed("127.0.0.1", port, None, None, process.pid)

    assert seen.server is None
    assert seen.notes == (f"The server's CPU time and memory are not known: the server's process {process.pid} has ended.",)


def test_means_are_over_the_requests_between_two_readings():
    """What was counted before is not in them; without a version, all versions are."""
    before, after = page_of(100), page_of(150, seconds=(0.002, 0.002, 0.004, 0.004))
    two_versions = page_of(10) | page_of(30, version="2", seconds=(0.005, 0.002, 0.003, 0.004))
    found: Any = page.counted(before, after, "m", None)
    two: Any = page.counted(page_of(0), two_versions, "m", None)

    assert found.stages_ms == pytest.approx({"decode": 4.0, "queue": 2.0, "infer": 6.0, "encode": 4.0})
    assert (found.whole_ms, found.rows_per_call) == (pytest.approx(16), 8.0)
    assert two.stages_ms["decode"] == pytest.approx(4.0)
    assert found.stages(20.0).client == pytest.approx(4.0)
    assert found.stages(15.0).client == 0
    assert page.counted(before, before, "m", "1") is None
    assert page.counted(before, after, "other", None) is None


@pytest.mark.parametrize("after", [page_of(200, loads=2), page_of(50), page_of(200, version="2")])
def test_a_model_that_was_loaded_anew_has_no_stages(after):
    """Counters that began again, whether they have passed their old values or not, are never subtracted."""
    with pytest.raises(NotSeen, match=r"^m was loaded anew while it was measured: its counters began again$"):
        page.counted(page_of(100), after, "m", None)


def test_two_processes_behind_an_address_are_not_one():
    """Readings of different processes have no difference."""
    for differ in (lambda old, new: page.counted(old, new, "m", None), page.process_use):
        with pytest.raises(
            NotSeen, match=r"^two readings of the server's metrics are of two processes: it was started anew, or "
        ):
            differ(page_of(100), page_of(200, started=8))


def test_a_process_tells_what_it_used():
    """CPU seconds are the difference, memory is the greater of two readings; where it does not say, nor do we."""
    used = page.process_use(page_of(1, cpu=2.5, rss=3000), page_of(9, cpu=4.0, rss=2000))
    silent = {series: value for series, value in page_of(1).items() if not series[0].startswith("process_")}

    assert (used.cpu_s, used.rss_bytes, used.processes) == (1.5, 3000, 1)
    with pytest.raises(NotSeen, match=r"^the server's metrics do not tell its CPU time and memory$"):
        page.process_use(silent, silent)


def test_busy_is_what_was_not_idle():
    """Of 100 ticks, 30 of them idle, 70 % were busy; no tick, or no count, is no share."""
    assert cores.busy_share(CoreTimes(1000, 500), CoreTimes(1100, 530)) == pytest.approx(0.7)
    assert cores.busy_share(CoreTimes(1000, 500), CoreTimes(1100, 499)) == 1
    assert cores.busy_share(CoreTimes(1000, 500), CoreTimes(1000, 500)) is None
    assert cores.busy_share(None, CoreTimes(1000, 500)) is None
    assert 0 <= machine.load_before(0.02) <= 1


def test_the_machine_is_told_and_not_its_owner():
    """The facts have what decides speed, and neither a host's nor a user's name, nor a path."""
    facts = machine.facts()
    text = json.dumps(facts)

    assert {"cpu", "isa", "cores", "machine_cores", "memory_bytes", "memory_limit_bytes", "kernel", "gpus", "gpu_driver"} <= set(
        facts
    )
    assert {"granian", "uvloop", "orjson", "pysimdjson", "fastapi", "onnxruntime"} <= set(facts["packages"])
    assert facts["memory_bytes"] == psutil.virtual_memory().total
    assert not any(f'"{word}"' in text for word in (socket.gethostname(), getpass.getuser()))
    assert str(Path.home()) not in text


def test_without_a_gpu_nothing_is_seen():
    """No library, no driver or no GPU is no error."""
    with gpus.nvml() as library:
        if library is not None:
            pytest.skip("there is an NVIDIA driver here")
    assert gpus.uses([], {1}) == ()


class Refused(Exception):
    """What NVML raises where a GPU does not tell."""


def recorded(gpu, percent, milliwatts, used, pids):
    return SimpleNamespace(gpu=gpu, percent=percent, milliwatts=milliwatts, used=used, pids=pids)


def library_of(*state):
    """NVML's functions over recorded numbers; a GPU that is None refuses them."""

    def power(gpu):
        if gpu.milliwatts is None:
            raise Refused
        return gpu.milliwatts

    return SimpleNamespace(
        NVMLError=Refused,
        nvmlDeviceGetCount=lambda: len(state),
        nvmlDeviceGetHandleByIndex=lambda index: state[index],
        nvmlDeviceGetName=lambda gpu: gpu.gpu,
        nvmlDeviceGetUtilizationRates=lambda gpu: SimpleNamespace(gpu=gpu.percent, memory=0),
        nvmlDeviceGetPowerUsage=power,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(total=10**10, used=gpu.used),
        nvmlDeviceGetComputeRunningProcesses=lambda gpu: [SimpleNamespace(pid=pid) for pid in gpu.pids],
    )


def test_gpus_are_read_and_averaged():
    """Utilisation and power are means, memory is the most; percent and milliwatts become shares and watts."""
    first = library_of(recorded("A", 50, 100_000, 10, [5]), recorded("B", 0, 50_000, 1, []), recorded("C", 0, None, 1, []))
    second = library_of(recorded("A", 100, 300_000, 30, []), recorded("B", 0, 50_000, 1, []), recorded("C", 0, None, 1, []))
    readings = [*gpus.read(first), *gpus.read(second)]
    (mine,), everyone = gpus.uses(readings, {5, 6}), gpus.uses(readings, {6})

    assert readings[0] == Reading(0, "A", 0.5, 100.0, 10, frozenset({5}))
    assert (mine.name, mine.utilisation, mine.power_w, mine.memory_bytes) == ("A", 0.75, 200.0, 30)
    assert [gpu.name for gpu in everyone] == ["A", "B"]
    assert (gpus.are_told(readings, {5, 6}), gpus.are_told(readings, {6})) == (True, False)


def test_gpus_of_which_no_user_is_known_are_told_apart(monkeypatch):
    """Where the server's processes are not found on a GPU, all are shown, and a note says what that means."""
    notes = []
    for pid in (os.getpid(), 0):
        library = library_of(recorded("A", 50, 100_000, 10, [pid]))
        monkeypatch.setattr(gpus, "nvml", partial(contextlib.nullcontext, library))
        seen = observed("127.0.0.1", 9, None, None, os.getpid())
        assert [gpu.name for gpu in seen.gpus] == ["A"]
        notes.append(seen.notes)

    said = (
        "No process of the server is seen on a GPU (in a container, the driver may tell other process ids, or none): all GPUs "
        "are shown, and other processes' use may be in it."
    )
    assert notes == [(), (said,)]
