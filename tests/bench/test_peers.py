"""Peers: their numbers are the engine's, in every protocol that they take; what is missing is named. Nothing here is timed."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import artifact
from bench import payloads
from bench.errors import NotAsked, PeerMissing
from bench.peers import PEERS, chosen
from bench.peers.fastapi import filling_calls
from bench.peers.fastapi_app import app
from bench.peers.fastapi_app.batching import Batching
from bench.peers.peer import most_rows

PLAIN, JOINING = PEERS["fastapi"]
TORCHSERVE, TORCHSERVE_JOINING = PEERS["torchserve"]
WRITERS = {
    "oip-binary": payloads.oip_binary,
    "oip-json": payloads.oip_json,
    "predictions-json": payloads.predictions_json,
    "predictions-npy": payloads.predictions_npy,
    "predictions-raw": payloads.raw,
}
FAILS = 7


@pytest.fixture(scope="module")
def loaded(mlp_artifact):
    return artifact.load(mlp_artifact, engine="onnx", threads=1)


@pytest.fixture(scope="module")
def started(mlp_artifact, tmp_path_factory):
    """Both FastAPI peers, each under its peer."""
    folder, core = tmp_path_factory.mktemp("peers"), {min(os.sched_getaffinity(0))}
    with (
        PLAIN.start(mlp_artifact, folder / "plain", 1, 1, core) as plain,
        JOINING.start(mlp_artifact, folder / "joining", 1, 2, core) as joining,
    ):
        yield {PLAIN.key: plain, JOINING.key: joining}


def row(number):
    """Inputs of one row, which no other number has."""
    return {"x": np.array([[number / 16, -1, 0.5, 2]], np.float32)}


def answer(running, peer, loaded, protocol, inputs):
    """What a peer answers to a protocol's body."""
    status, headers, content = running.post(peer.path(protocol, "mlp"), WRITERS[protocol](inputs))
    assert status == 200, content
    return payloads.read_answer(protocol, headers, content, loaded.signature.outputs)["logits"]


def all_answers(running, peer, loaded, protocol, count):
    """The answers to so many requests at once, by the row's number."""
    found = {}

    def ask(number):
        found[number] = answer(running, peer, loaded, protocol, row(number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def require_own_rows(found, loaded, count):
    assert sorted(found) == list(range(count))
    for number, logits in found.items():
        assert logits == pytest.approx(loaded.run(row(number))["logits"].ravel(), abs=1e-5)


@pytest.mark.parametrize("protocol", WRITERS)
@pytest.mark.parametrize("peer", PEERS["fastapi"], ids=lambda peer: peer.key)
def test_fastapi_answers_the_engines_numbers(started, loaded, peer, protocol):
    """A peer takes the very body that our server takes, one row or more, and answers in the same form."""
    inputs = {"x": np.concatenate([row(number)["x"] for number in range(3)])}
    expected = loaded.run(inputs)["logits"].ravel()

    assert answer(started[peer.key], peer, loaded, protocol, inputs) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("peer", PEERS["fastapi"], ids=lambda peer: peer.key)
def test_each_client_of_fastapi_gets_its_own_rows(started, loaded, peer):
    """Requests that come at once are not mixed up, joined or not."""
    require_own_rows(all_answers(started[peer.key], peer, loaded, "oip-binary", 40), loaded, 40)


@pytest.mark.parametrize(
    ("protocol", "body", "said"),
    [
        ("predictions-json", b'{"inputs": {"x": [[1, 2, 3]]}}', b"has shape [1, 3]; the signature says [batch, 4]"),
        ("predictions-json", b'{"inputs": {"y": [[1, 2, 3, 4]]}}', b"KeyError: 'y'"),
        ("predictions-json", b'{"inputs": {"x": [[1, 2], [3]]}}', b"inhomogeneous shape"),
        ("predictions-json", b'{"inputs": 7}', b"valid dictionary"),
        ("predictions-raw", b"1234567", b"buffer size must be a multiple of element size"),
    ],
)
@pytest.mark.parametrize("peer", PEERS["fastapi"], ids=lambda peer: peer.key)
def test_fastapi_refuses_what_does_not_fit(started, peer, protocol, body, said):
    """A peer checks shapes and names too, as any server must."""
    headers = {"Content-Type": "application/json"} if protocol == "predictions-json" else {}
    status, _, content = started[peer.key].post(peer.path(protocol, "mlp"), payloads.Body(body, headers))

    assert (status, said in content.replace(b"\\", b"")) == (422, True), content


def test_a_peer_runs_where_it_is_told(started):
    """It has the cores that it is given, and no others."""
    core = {min(os.sched_getaffinity(0))}

    assert [os.sched_getaffinity(running.pid) for running in started.values()] == [core, core]


def test_a_peer_ends_with_what_stops_us(mlp_artifact, tmp_path):
    """Whatever ends the block, Ctrl-C too, ends the process."""
    pids = []
    with suppress(KeyboardInterrupt), PLAIN.start(mlp_artifact, tmp_path, 1, 1, None) as running:
        pids.append(running.pid)
        raise KeyboardInterrupt

    assert [Path(f"/proc/{pid}").exists() for pid in pids] == [False]


KILLED = """
import os, signal, sys
from pathlib import Path
from bench.peers import PEERS

kind, artifact, folder = sys.argv[1:]
with PEERS[kind][0].start(Path(artifact), Path(folder), 1, 1, None) as running:
    print(running.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_beside(kind, mlp_artifact, folder):
    """The process id of a peer whose starter was killed hard."""
    command = [sys.executable, "-c", KILLED, kind, str(mlp_artifact), str(folder)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=False).stdout)


def require_soon(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_peer_ends_with_us_when_we_are_killed(mlp_artifact, tmp_path):
    """Nobody is left to end it, and it ends."""
    pid = killed_beside("fastapi", mlp_artifact, tmp_path)

    require_soon(lambda: not runs(pid))


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def joined_calls(requests, max_rows):
    """What `Batching` gives to arrays that come at once, doubled, or the message of an error; and the rows of its calls."""
    rows = []

    def double(inputs):
        rows.append(len(inputs["x"]))
        if rows[-1] == FAILS:
            raise ValueError(f"a call with {FAILS} rows")
        return {"y": inputs["x"] * 2}

    async def ask(batching, array):
        try:
            return (await batching.run({"x": array}))["y"].tolist()
        except ValueError as error:
            return str(error)

    async def run():
        batching = Batching(double, max_rows, 0.005)
        gathering = asyncio.create_task(batching.gather())
        try:
            return await asyncio.gather(*(ask(batching, array) for array in requests))
        finally:
            gathering.cancel()

    return asyncio.run(run()), rows


def test_requests_are_joined_by_rows():
    """Requests that wait are one call, up to the most rows; one that does not fit any more is the next call's first."""
    requests = [np.full((rows, 2), number) for number, rows in enumerate((1, 2, 3, 1, 4))]
    answers, rows = joined_calls(requests, 6)

    assert rows == [6, 5]
    assert answers == [(2 * one).tolist() for one in requests]


def test_other_shapes_are_other_calls():
    """Requests whose rows have another shape are not joined."""
    requests = [np.ones((1, 2)), np.ones((2, 3)), np.ones((1, 2))]
    answers, rows = joined_calls(requests, 8)

    assert rows == [2, 2]
    assert answers == [(2 * one).tolist() for one in requests]


def test_batches_run_at_once():
    """With two calls at once, the second batch does not wait for the first to end."""
    both = threading.Barrier(2, timeout=30)

    def wait(inputs):
        both.wait()
        return {"y": inputs["x"]}

    async def run():
        batching = Batching(wait, 1, 0.005, 2)
        gathering = asyncio.create_task(batching.gather())
        answers = await asyncio.gather(*(batching.run({"x": np.full((1, 1), number)}) for number in range(4)))
        gathering.cancel()
        return [one["y"].item() for one in answers]

    assert asyncio.run(run()) == [0, 1, 2, 3]


def test_a_failed_call_is_told_to_all_its_requests():
    """A call that fails fails its requests, and the next batch runs."""
    answers, rows = joined_calls([np.ones((5, 1)), np.ones((2, 1)), np.ones((1, 1))], FAILS)

    assert answers == ["a call with 7 rows", "a call with 7 rows", [[2.0]]]
    assert rows == [7, 1]


def test_a_contender_says_how_it_runs(mlp_artifact):
    """What stands in the results names versions and settings."""
    plain = PLAIN.contender(mlp_artifact, 2, 3, None)
    joining = TORCHSERVE_JOINING.on("torchscript", "cpu").contender(mlp_artifact, 2, 1, {0, 1})

    assert (plain.title, plain.settings["threads"], plain.settings["access log"]) == ("FastAPI", "2", "off")
    assert JOINING.contender(mlp_artifact, 2, 3, None).settings["calls at once"] == "3"
    assert {"python", "fastapi", "uvicorn", "HTTP parser"} <= set(plain.settings)
    assert {name: joining.settings[name] for name in ("minWorkers", "batchSize", "maxBatchDelay", "threads", "access log")} == {
        "minWorkers": "2",
        "batchSize": "16",
        "maxBatchDelay": "5",
        "threads": "1",
        "access log": "off",
    }


@pytest.mark.parametrize(
    ("threads", "instances", "cores", "calls"), [(1, 1, 8, 8), (3, 1, 8, 2), (8, 1, 2, 1), (4, 3, 8, 3), (None, 1, 8, 1)]
)
def test_long_calls_fill_the_cores(threads, instances, cores, calls):
    """FastAPI as it comes runs as many long calls at once as fill the cores, and no fewer than our server."""
    assert filling_calls(threads, instances, cores) == calls


def test_long_calls_run_in_threads(loaded, monkeypatch):
    """A call that is not short leaves the event loop, and its answer is its own."""
    monkeypatch.setattr(app, "_SHORT_CALL_S", 0)
    calls = app.calls_at_once(loaded, 1, 2)

    async def ask():
        run = app.one_by_one(loaded, calls)
        return await asyncio.gather(*(run(row(number)) for number in range(8)))

    found = {number: outputs["logits"].ravel() for number, outputs in enumerate(asyncio.run(ask()))}
    assert calls >= 2
    require_own_rows(found, loaded, 8)


def test_every_peer_joins_as_many_rows(mlp_artifact):
    """With batching, each joins up to the model's largest batch, and at most 32 rows."""
    signature = artifact.read_manifest(mlp_artifact).signature
    larger = {name: replace(dim, max=512) for name, dim in signature.dims.items()}

    assert [most_rows(signature), most_rows(replace(signature, dims=larger))] == [16, 32]
    assert JOINING.contender(mlp_artifact, 1, 1, None).settings["max_rows"] == "16"


def test_a_containers_quota_counts(monkeypatch, mlp_artifact):
    """Of 64 cores that are seen, a quota of two starts two workers."""
    monkeypatch.setattr("bench.peers.peer.cores", lambda: 2)

    assert TORCHSERVE.contender(mlp_artifact, 1, 1, range(64)).settings["minWorkers"] == "2"
    assert PLAIN.contender(mlp_artifact, 1, 1, range(64)).settings["calls at once"].startswith("2, or 1 on the event loop")


def test_names_stand_for_contenders():
    """Each peer is measured as it comes and with batching; a name that is none is told."""
    assert [peer.key for peer in chosen(["torchserve", "fastapi"])] == [
        "torchserve",
        "torchserve-batching",
        "fastapi",
        "fastapi-batching",
    ]
    with pytest.raises(PeerMissing, match=r"^--against triton: there is no such peer; there are fastapi, torchserve$") as caught:
        chosen(["fastapi", "triton"])
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("peer", "protocol", "taken"),
    [
        (PLAIN, "predictions-image", "oip-binary, oip-json, predictions-json, predictions-npy, predictions-raw"),
        (TORCHSERVE, "oip-binary", "predictions-json, predictions-npy, predictions-raw"),
    ],
)
def test_a_protocol_that_a_peer_does_not_take_is_told(peer, protocol, taken):
    """Which protocols it takes stands in the message."""
    with pytest.raises(NotAsked) as caught:
        peer.path(protocol, "mlp")
    assert str(caught.value) == (
        f"{peer.title} does not take {protocol}; it takes {taken}: choose one of them, or leave it out of --against"
    )


def without(monkeypatch, *modules):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def test_fastapi_names_what_is_missing(monkeypatch):
    """Without uvicorn, the message has its install line."""
    PLAIN.require_installed()
    without(monkeypatch, "uvicorn")

    with pytest.raises(PeerMissing) as caught:
        JOINING.require_installed()
    assert str(caught.value) == "--against fastapi needs uvicorn, which is not installed: pip install 'stateserve[bench]'"


def test_torchserve_names_what_is_missing(monkeypatch):
    """Without TorchServe and Java, both are named, each with its install line."""
    without(monkeypatch, "ts")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)

    with pytest.raises(PeerMissing) as caught:
        TORCHSERVE.require_installed()
    assert str(caught.value) == (
        "--against torchserve needs what is not installed here: torchserve: pip install 'stateserve[torchserve]'; "
        "Java 11 or newer: apt-get install openjdk-17-jre-headless"
    )


def test_java_that_is_too_old_is_missing(monkeypatch, tmp_path):
    """Java 8 is told by its version; the one of JAVA_HOME is asked, as TorchServe does."""
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_292\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))

    with pytest.raises(PeerMissing) as caught:
        TORCHSERVE.require_installed()
    assert str(caught.value) == (
        "--against torchserve needs what is not installed here: "
        "Java 11 or newer (it is 1.8.0): apt-get install openjdk-17-jre-headless"
    )


@pytest.mark.torchserve
def test_torchserve_answers_the_engines_numbers(mlp_artifact, loaded, tmp_path):
    """Both run side by side and answer the engine's numbers in each protocol, every client its own rows; nothing is left."""
    TORCHSERVE.require_installed()
    groups = set()
    with (
        suppress(KeyboardInterrupt),
        TORCHSERVE.start(mlp_artifact, tmp_path / "plain", 1, 1, None) as plain,
        TORCHSERVE_JOINING.start(mlp_artifact, tmp_path / "joining", 1, 1, None) as joining,
    ):
        for peer, running in ((TORCHSERVE, plain), (TORCHSERVE_JOINING, joining)):
            for protocol in ("predictions-json", "predictions-npy", "predictions-raw"):
                expected = loaded.run(row(3))["logits"].ravel()
                assert answer(running, peer, loaded, protocol, row(3)) == pytest.approx(expected, abs=1e-6)
            require_own_rows(all_answers(running, peer, loaded, "predictions-raw", 40), loaded, 40)
        groups |= {plain.pid, joining.pid}
        assert len(members(groups)) > 2 * 3  # a launcher, Java and a worker each, at least
        raise KeyboardInterrupt

    assert members(groups) == []


@pytest.mark.torchserve
def test_torchserve_ends_with_us_when_we_are_killed(mlp_artifact, tmp_path):
    """Java and its workers end too."""
    group = killed_beside("torchserve", mlp_artifact, tmp_path)

    require_soon(lambda: members({group}) == [])


def members(groups):
    """The processes of these groups that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) in groups and state != "Z":
                found.append(stat)
    return found
