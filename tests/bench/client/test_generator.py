"""A whole load: processes that begin together, tell how they are doing, and leave nothing behind."""

import asyncio
import errno
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench import generator
from bench.client import plan
from bench.client.arrivals import poisson
from bench.client.exhausted import require_not_exhausted
from bench.client.load import Load, Outcome, Request
from bench.errors import ProcessFailed, ServerGone
from bench.processes import free_port, server_environment

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POST = Request(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n", rows=3)
DEADLINE_S = 20
STALL_S = 0.2
SEEDS = ((1, 7367), (2, 1694))
"""Processes, and a seed of which no answer is due near an edge of the window."""


class Watched:
    """Keeps what a watcher is told; `at_window` is called when the window begins."""

    def __init__(self, at_window=lambda: None):
        self.at_window, self.began, self.ended, self.progress = at_window, 0, [], []

    def window_began(self):
        self.began += 1
        self.began_s = time.monotonic()
        self.at_window()

    def window_ended(self):
        self.ended.append(time.monotonic())

    def progressed(self, progress):
        self.progress.append(progress)


def load_on(server, connections=1, duration_s=0.3, **changes):
    return Load("127.0.0.1", server.port, [POST], connections, duration_s, **changes)


async def ok(_number):
    return OK


def test_processes_share_a_load(answering, tmp_path):
    """Connections and rate are split, and what each measured is put together: two processes, three connections."""
    server, watched = answering(ok), Watched()
    load = load_on(server, 3, 0.4, warmup_s=0.1, rate_per_s=400.0, processes=2)
    outcome = generator.fire(load, tmp_path, watched)
    plans = [plan.read(tmp_path / f"plan-{place}.json") for place in range(2)]

    assert [(one.connections, round(one.rate_per_s or 0)) for one in plans] == [(2, 267), (1, 133)]
    assert server.connections == 3 + 1  # one asked whether anybody listens
    assert outcome.offered == len(outcome.latencies_s) == len(outcome.answered_s)
    assert outcome.offered == pytest.approx(160, abs=60)  # 400/s for 0.4 s; more than four standard deviations
    assert outcome.rows == 3 * outcome.offered
    assert np.all(np.diff(outcome.answered_s) >= 0)
    assert outcome.sent_bytes == len(POST.content) * outcome.offered
    assert (outcome.seconds, outcome.errors) == (pytest.approx(0.4), {})
    assert 0 < outcome.client_busy < 1
    assert (watched.began, len(watched.ended), watched.progress[0].phase) == (1, 1, "warm-up")


@pytest.mark.parametrize(("processes", "seed"), SEEDS)
def test_answers_in_the_window_are_counted_whenever_they_were_due(answering, tmp_path, processes, seed):
    """A server that takes 400 ms keeps the rate: as many answers come in the window as were due in one 400 ms earlier."""

    async def answer(_number):
        await asyncio.sleep(0.4)
        return OK

    load = load_on(answering(answer), 64, 0.8, warmup_s=0.5, rate_per_s=30.0, processes=processes, seed=seed)
    watched = Watched()
    outcome = generator.fire(load, tmp_path, watched)
    due_s = np.concatenate([poisson(30 / processes, 1.3, (seed, place)) for place in range(processes)])

    assert outcome.in_time == np.count_nonzero((due_s >= 0.1) & (due_s < 0.9))
    assert outcome.in_time > 1.5 * np.count_nonzero(outcome.answered_s < 0.8)
    assert (outcome.waited, len(watched.ended)) == (0, 1)
    assert watched.ended[0] - watched.began_s == pytest.approx(0.8, abs=0.2)  # and not after the late answers, 0.4 s later


def test_an_open_loop_shows_a_stall_that_a_closed_loop_hides(answering, tmp_path):
    """The server answers nobody between 0.2 and 0.4 s: a third of the requests waits for it, but a closed loop asks only once."""
    stall_s = [0.0, 0.0]

    async def answer(_number):
        now_s = time.monotonic()
        if stall_s[0] <= now_s < stall_s[1]:
            await asyncio.sleep(stall_s[1] - now_s)
        return OK

    def p50_and_p99_ms(load):
        def begins():
            stall_s[0] = time.monotonic() + STALL_S
            stall_s[1] = stall_s[0] + STALL_S

        latencies_ms = generator.fire(load, tmp_path, Watched(begins)).latencies_s * 1e3
        return np.quantile(latencies_ms, (0.5, 0.99, 1))

    server = answering(answer)
    p50, p99, longest = p50_and_p99_ms(load_on(server, 1, 0.6))
    assert p50 < p99 < 100
    assert longest > 190
    p50, p99, longest = p50_and_p99_ms(load_on(server, 4, 0.6, rate_per_s=500.0))
    assert p50 < 100
    assert 150 < p99 <= longest < 350


def test_a_server_that_dies_ends_the_load(answering, tmp_path, monkeypatch):
    """The message says how it failed; what was measured by then comes with it."""
    monkeypatch.setattr(generator, "GONE_S", 0.5)
    server = answering(ok)
    watched = Watched(lambda: server.loop.call_soon_threadsafe(server.loop.call_later, 0.3, server.die))
    with pytest.raises(ServerGone) as caught:
        generator.fire(load_on(server, 4, 20.0), tmp_path, watched)
    assert str(caught.value) == f"127.0.0.1:{server.port} has not answered for 0.5 s: connect refused; look into its log"
    outcome = caught.value.outcome
    assert isinstance(outcome, Outcome)
    assert 0.7 < outcome.seconds < 10
    assert outcome.answered_s.max() < 0.5
    assert set(outcome.errors) <= {"connection closed", "connect refused"}
    assert outcome.offered == len(outcome.latencies_s) + sum(outcome.errors.values())
    assert outcome.in_time == len(outcome.latencies_s)
    assert (watched.began, len(watched.ended)) == (1, 1)


def test_a_server_that_is_not_there_takes_no_load(tmp_path):
    """It is said before any process is started."""
    port = free_port()
    with pytest.raises(ServerGone) as caught:
        generator.fire(Load("127.0.0.1", port, [POST], 1, 1.0), tmp_path, Watched())
    assert str(caught.value) == f"127.0.0.1:{port} takes no connection: Connection refused; is the server running there?"


def test_a_process_that_fails_says_why(answering, tmp_path):
    """Its last words are in the message."""
    (tmp_path / "arrays-0.npz").mkdir()  # where it wants to write a file
    with pytest.raises(ProcessFailed, match=r"^a process of the load generator ended with code 1: (.|\n)*IsADirectoryError"):
        generator.fire(load_on(answering(ok), duration_s=0.1), tmp_path, Watched())


def test_too_few_descriptors_are_not_the_servers_fault(answering, tmp_path):
    """The message says how many were opened, what the limit is, and what to do."""
    script = (
        "import resource; from bench import generator; from bench.client.load import Load, Request; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        f"load = Load('127.0.0.1', {answering(ok).port}, [Request({POST.content!r}, 1)], 100, 1.0)\n"
        f"generator.fire(load, Path({str(tmp_path)!r}), None)\n"
    )
    command = [sys.executable, "-c", script]
    found = subprocess.run(
        command, env=server_environment(), stderr=subprocess.PIPE, text=True, check=False, timeout=DEADLINE_S
    ).stderr.splitlines()[-1]
    assert re.fullmatch(
        r"bench\.errors\.ProcessFailed: the load generator, with \d\d connections open, cannot open another: Too many open files "
        r"\(ulimit -n is 64\); raise the limit \(ulimit -n\), spread the load over more processes, or ask for fewer connections",
        found,
    )


def test_too_few_ports_are_not_the_servers_fault():
    """Whatever else goes wrong with a connection may be."""
    require_not_exhausted(errno.ECONNREFUSED, 5)
    with pytest.raises(ProcessFailed) as caught:
        require_not_exhausted(errno.EADDRNOTAVAIL, 28_000)
    assert str(caught.value) == (
        "the load generator, with 28,000 connections open, cannot open another: Cannot assign requested address; no local port "
        "is left: ask for fewer connections or a lower rate, or widen net.ipv4.ip_local_port_range; a server that closes after "
        "each answer uses up a port for a minute every time"
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_its_parent(answering, tmp_path, how):
    """Killed, or interrupted: its processes end with it."""
    script = (
        "import os, sys; from bench import generator; from bench.client.load import Load, Request\n"
        "class Watched:\n"
        "    def window_began(self): print(open(f'/proc/self/task/{os.getpid()}/children').read(), flush=True)\n"
        "    def window_ended(self): pass\n"
        "    def progressed(self, progress): pass\n"
        f"load = Load('127.0.0.1', {answering(ok).port}, [Request({POST.content!r}, 1)], 2, 60.0, processes=2)\n"
        f"from pathlib import Path; generator.fire(load, Path({str(tmp_path)!r}), Watched())\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, env=server_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        children = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]
        parent.send_signal(how)
        parent.wait(DEADLINE_S)
    assert len(children) == 2
    for child in children:
        assert select.select([child], [], [], DEADLINE_S)[0], "it runs on"
        os.close(child)


def test_a_summary_is_made_of_latencies_that_were_measured():
    """Nearest rank; the curve goes from the least to the most, as far as so many requests can tell."""
    latencies_s = np.arange(1, 1001)[::-1] / 1000
    outcome = Outcome(1.0, 1000, latencies_s, latencies_s, 1000, {}, 0, 0, 0.1)
    found = generator.summary(outcome)
    assert found is not None
    assert (found.mean, found.p50, found.p90, found.p99, found.p999, found.max) == (500.5, 500, 900, 990, 999, 1000)
    assert (found.curve[0], found.curve[-1]) == ((0.0, 1.0), (1.0, 1000.0))
    assert [share for share, _ in found.curve] == sorted({share for share, _ in found.curve})
    assert 0.999 <= found.curve[-2][0] < 1


def test_a_summary_of_nothing_is_none():
    """No latency is no zero."""
    nothing = np.array([])
    assert generator.summary(Outcome(1.0, 0, nothing, nothing, 0, {}, 0, 0, 0.1)) is None


def test_no_file_of_the_generator_can_hold_code(answering, tmp_path):
    """Plans are JSON, bodies are bytes, and the arrays are read without pickle."""
    generator.fire(load_on(answering(ok), duration_s=0.1), tmp_path, Watched())
    kinds = {path.name: path for path in tmp_path.iterdir()}
    assert set(kinds) == {"plan-0.json", "plan-0.log", "request-0", "arrays-0.npz"}
    assert json.loads(kinds["plan-0.json"].read_text())["connections"] == 1
    assert Path(kinds["request-0"]).read_bytes() == POST.content
    with np.load(kinds["arrays-0.npz"], allow_pickle=False) as arrays:
        assert set(arrays) == {"latencies_s", "answered_s"}
