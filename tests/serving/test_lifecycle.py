"""A server starts with what is sound, says what is not, and ends without losing a request."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy
from fastapi.testclient import TestClient

import serving.execution
import serving.server
from artifact.errors import ArtifactError
from artifact.manifest import read_manifest
from serving.app import create_app
from serving.errors import PortTaken, SettingsError
from serving.folders import model_names, version_folders
from serving.listeners import require_free, resolved
from serving.settings import Settings
from serving.torchserve.addresses import Address

PROJECT = Path(__file__).parents[2]
ROW = {"inputs": {"x": [[0, 0, 0, 0]]}}
THREAD = ("--execution", "thread")
MAX_RSS_KB = 150_000
"""Of a server with one small model: Python, NumPy, ONNX Runtime, FastAPI and granian."""


def damage(artifact):
    path = artifact / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def poison(artifact, rehash):
    """Golden outputs that no engine gives, under hashes that hold."""
    path = artifact / "golden.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    for name in arrays:
        if "/output/onnx/" in name:
            arrays[name] = arrays[name] + np.float32(0.01)
    path.write_bytes(safetensors.numpy.save(arrays))
    rehash(artifact)


@pytest.fixture
def half_broken(make_repository, mlp_artifact, slow_artifact, rehash):
    """A repository with a good model, two that fail their checks, and one that loads slowly."""
    models = {"good/1": mlp_artifact, "damaged/1": mlp_artifact, "poisoned/2": mlp_artifact, "slow/1": slow_artifact}
    root = make_repository(models)
    damage(root / "damaged" / "1")
    poison(root / "poisoned" / "2", rehash)
    return root


@pytest.fixture(scope="module")
def slow_artifact(write_artifact, counting_artifact, tmp_path_factory):
    """A model whose golden case takes longer than a third of a second, so that loading it takes longer than a whole one."""
    model = (counting_artifact / "model.onnx").read_bytes()
    directory = tmp_path_factory.mktemp("slow") / "slow" / "1"
    return write_artifact(directory, read_manifest(counting_artifact).signature, {"onnx": model}, {"rounds": np.array([700_000])})


def test_it_listens_first_and_loads_afterwards(start_server, half_broken, wait_for):
    """While models load the server is live and not ready; what is loaded answers; what fails its checks is told by reason."""
    with start_server(half_broken, wait=False) as server:
        wait_for(lambda: server.predict("good", ROW).status_code == 200)
        ready = server.get("/v2/health/ready")
        assert (ready.status_code, ready.json()["ready"], ready.json()["models"]["*"]) == (
            503,
            False,
            "the models are being loaded",
        )
        assert server.get("/v2/health/live").json() == {"live": True}
        answer = server.predict("slow", {"inputs": {"rounds": [3]}})
        assert (answer.status_code, answer.json()["message"]) == (503, "slow is being loaded")
        wait_for(lambda: server.get("/v2/models/slow/ready").status_code == 200)

        ready = server.get("/v2/health/ready")
        reasons = ready.json()["models"]
        assert (ready.status_code, ready.json()["ready"], sorted(reasons)) == (503, False, ["damaged", "poisoned"])
        assert f"{half_broken / 'damaged' / '1' / 'model.onnx'} was changed: " in reasons["damaged"]
        assert reasons["poisoned"].startswith("poisoned is not ready: version 2 failed its checks: golden case ")
        assert "disagrees on engine onnx: output logits" in reasons["poisoned"]
        assert ready.json()["error"] == f"{reasons['damaged']}; {reasons['poisoned']}"
        assert (server.get("/ping").status_code, server.get("/ping").json()) == (500, {"status": "Unhealthy"})
        for name in ("damaged", "poisoned"):
            answer = server.predict(name, ROW)
            assert (answer.status_code, answer.json()) == (503, {"code": 503, "type": "ModelNotReady", "message": reasons[name]})
            assert server.get(f"/v2/models/{name}/ready").json() == {"name": name, "ready": False, "error": reasons[name]}
        told = [line["message"] for line in server.log_lines() if line["level"] == "ERROR"]
        assert [message.partition(": ")[0] for message in told] == ["damaged version 1", "poisoned version 2", "not ready"]


def test_sigterm_while_models_load(start_server, make_repository, slow_artifact, wait_for):
    """A server that is told to end before it is ready ends well, when what it began to load is loaded."""
    with start_server(make_repository({"slow/1": slow_artifact}), wait=False) as server:
        wait_for(lambda: server.predict("slow", {}).json()["message"] == "slow is being loaded")
        assert server.stop() == 0
        assert [line for line in server.log_lines() if line["level"] != "INFO"] == []


def test_an_empty_repository(tmp_path):
    """Without a model the server is live, not ready, and says where it looked."""
    (tmp_path / "models" / "empty").mkdir(parents=True)
    with TestClient(create_app(Settings(repository=tmp_path / "models"))) as client:
        ready, ping, predicted = client.get("/v2/health/ready"), client.get("/ping"), client.post("/predictions/mlp", json=ROW)
        assert client.get("/v2/health/live").status_code == 200

    reason = "no model below models: it should hold <name>/<version>/"
    assert (ready.status_code, ready.json()) == (503, {"ready": False, "error": reason, "models": {"*": reason}})
    assert ping.status_code == 500
    assert (predicted.status_code, predicted.json()["message"]) == (404, "no model is called 'mlp'; there are: none")


@pytest.mark.parametrize("name", ["nonexist", "file"])
def test_a_repository_that_is_not_there(tmp_path, name):
    """A directory that is missing, or is a file, ends the command with 2 and names the option."""
    (tmp_path / "file").write_text("")
    done = run_server("--repository", name, "--port", "65533", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(
        f"error: the model repository {name} is not a directory; export there first, or say another --repository\n"
    )


def test_a_model_whose_loading_fails_otherwise(make_repository, mlp_artifact, monkeypatch):
    """Whatever loading one model raises, it alone is not ready, and the others answer."""
    root = make_repository({"good/1": mlp_artifact, "large/1": mlp_artifact})
    load = serving.execution.artifact.load

    def fail(directory, **options):
        if directory.parent.name == "large":
            raise MemoryError("cannot allocate 9 TB")
        return load(directory, **options)

    monkeypatch.setattr(serving.execution.artifact, "load", fail)
    with TestClient(create_app(Settings(repository=root))) as client:
        ready = client.get("/v2/health/ready").json()
        answers = [client.post(f"/predictions/{name}", json=ROW) for name in ("good", "large")]

    reason = "large is not ready: version 1 failed its checks: MemoryError: cannot allocate 9 TB"
    assert ready == {"ready": False, "error": reason, "models": {"large": reason}}
    assert [answer.status_code for answer in answers] == [200, 503]
    assert answers[1].json()["message"] == reason


def test_names_that_are_no_versions(tmp_path):
    """Files, hidden folders, temporary ones, and names that are no positive integer are no models and no versions."""
    names = ("1", "10", ".tmp-2-0a1b", "03", "v4", "-5", "6.0", "\u0667", "8 ", "latest")
    for name in (*(f"m/{name}" for name in names), ".hidden/1", "only-notes/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "m" / "9").write_text("a file")
    (tmp_path / "readme.txt").write_text("a file")

    assert model_names(tmp_path) == ["m", "only-notes"]
    assert {name: list(version_folders(tmp_path / name)) for name in model_names(tmp_path)} == {"m": [1, 10], "only-notes": []}


def test_artifacts_of_nonsense_harm_only_themselves(make_repository, mlp_artifact, rehash):
    """Whatever stands in a file, with hashes that hold, its model is not ready; no older version answers in its place, unsaid."""
    files = ("golden.safetensors", "parity.json", "model.onnx", "manifest.json")
    bad = {f"{name}-{index}": (name, data) for name in files for index, data in enumerate((b"", b"{}", b"garbage"))}
    root = make_repository({"good/1": mlp_artifact, "empty/1": mlp_artifact, **{f"{model}/1": mlp_artifact for model in bad}})
    for model, (name, data) in bad.items():
        (root / model / "1" / name).write_bytes(data)
        with contextlib.suppress(ArtifactError):
            rehash(root / model / "1")
    (root / "empty" / "2").mkdir()
    with TestClient(create_app(Settings(repository=root))) as client:
        reasons = client.get("/v2/health/ready").json()["models"]
        answers = {name: client.post(f"/predictions/{name}", json=ROW).status_code for name in ("good", *reasons)}

    assert reasons.keys() == {"empty", *bad}
    assert answers == {"good": 200, **dict.fromkeys(reasons, 503)}
    assert f"version 2 failed its checks: {root / 'empty' / '2'} has no readable manifest.json" in reasons["empty"]


def run_server(*flags, cwd):
    return subprocess.run(
        [sys.executable, "-m", "serving", *flags],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_port_that_is_taken(server, repository, tmp_path):
    """A second server on the same port ends with code 1 and says which port it is and what to do."""
    done = run_server("--repository", str(repository), "--port", str(server.port), cwd=tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: 127.0.0.1:{server.port} cannot be listened on: Address already in use; "
        "end what listens there, or choose another address\n"
    )
    assert server.get("/ping").status_code == 200


def test_a_taken_port_is_noticed_before_anything_is_loaded(server, repository, monkeypatch):
    """Nobody waits for models to load to learn that the port is taken."""
    monkeypatch.setattr(serving.server, "create_app", lambda _: pytest.fail("the application was made"))

    with pytest.raises(PortTaken):
        serving.server.serve(Settings(repository=repository, port=server.port))


@pytest.mark.parametrize(("host", "address"), [("localhost", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("::1", "::1")])
def test_a_host_has_an_address(host, address):
    """A name is as good as an address."""
    assert resolved(host) == address


def test_a_host_without_an_address():
    """A name that nobody knows is a wrong setting."""
    with pytest.raises(SettingsError, match=r"^host is 'nowhere.invalid', which has no address here: "):
        resolved("nowhere.invalid")


def test_an_address_that_is_not_ours():
    """An address of another machine is refused like a taken port."""
    with pytest.raises(PortTaken, match=r"^192\.0\.2\.1:8080 cannot be listened on: "):
        require_free(Address("http", "192.0.2.1", 8080))


def refused(server):
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_answers_what_was_accepted(start_server, make_repository, counting_artifact, wait_for):
    """SIGTERM while requests run: every one is answered, new ones are refused, the code is 0, and the port is free."""
    with start_server(make_repository({"counting/1": counting_artifact}), *THREAD) as server:
        expected = server.predict("counting", {"inputs": {"rounds": [int(0.1 * server.rounds_per_s)]}}).text
        with server.in_flight(3, 0.1) as connections:
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: refused(server))
            assert server.process.poll() is None

            answers = [server.answer_on(connection) for connection in connections]
            assert [(status, body) for status, _, body in answers] == [(200, expected)] * 3
            assert [headers["connection"] for _, headers, _ in answers] == ["close"] * 3
        assert server.process.wait(30) == 0
        require_free(Address("http", "127.0.0.1", server.port))


def test_the_drain_delay(start_server, make_repository, mlp_artifact, counting_artifact, wait_for):
    """After SIGTERM it is not ready and answers on, asking every client to close, for drain_delay_s; a second signal ends it.

    Who sends requests learns from the readiness, with some delay, that there should be no more of them.
    """
    root = make_repository({"mlp/1": mlp_artifact, "counting/1": counting_artifact})
    with start_server(root, "--drain-delay-s", "600", *THREAD) as server, server.in_flight(1, 30):
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.get("/v2/health/ready").status_code == 503)
        ready, live, predicted = server.get("/v2/health/ready"), server.get("/v2/health/live"), server.predict("mlp", ROW)

        assert ready.json() == {"ready": False, "error": "the server is about to end", "models": {}}
        assert [answer.status_code for answer in (live, predicted)] == [200, 200]
        assert [answer.headers["connection"] for answer in (ready, live, predicted)] == ["close"] * 3
        assert server.stop() == 1
        (line,) = (line for line in server.log_lines() if line["level"] == "ERROR")
        assert line["message"] == "requests were cut off at a second signal, or 30 s after the first"


def test_the_drain_delay_ends_by_itself(start_server, make_repository, counting_artifact):
    """When drain_delay_s is over, the server ends as it does without it: what is in flight is answered, and the code is 0."""
    root = make_repository({"counting/1": counting_artifact})
    with start_server(root, "--drain-delay-s", "0.3", *THREAD) as server, server.in_flight(1, 0.5) as (connection,):
        began = time.monotonic()

        assert server.stop() == 0
        assert time.monotonic() - began > 0.3
        assert server.answer_on(connection)[0] == 200


@pytest.mark.parametrize(("number", "drain_timeout_s"), [(signal.SIGTERM, "30"), (signal.SIGINT, "0")])
def test_an_idle_server_ends_at_once(start_server, make_repository, mlp_artifact, number, drain_timeout_s):
    """Ctrl-C is the same as SIGTERM; a client that keeps its connection open, and asks nothing, does not keep the server."""
    root = make_repository({"mlp/1": mlp_artifact})
    with (
        start_server(root, "--host", "localhost", "--drain-timeout-s", drain_timeout_s) as server,
        httpx.Client(verify=False) as idle,
    ):
        assert idle.get(f"{server.url}/ping").status_code == 200
        server.process.send_signal(number)

        assert server.process.wait(10) == 0
        assert {line["level"] for line in server.log_lines()} == {"INFO"}


def test_drain_timeout_s(start_server, make_repository, counting_artifact, wait_for):
    """What still runs, or still arrives, after drain_timeout_s is cut off, the log says so, and the code is 1."""
    root = make_repository({"counting/1": counting_artifact})
    with start_server(root, "--drain-timeout-s", "0.5", *THREAD) as server, server.connect() as upload:
        upload.sendall(b"POST /predictions/counting HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        wait_for(lambda: unread_bytes(server) == [0])
        with server.in_flight(1, 30) as (connection,):
            began = time.monotonic()

            assert server.stop() == 1
            assert time.monotonic() - began > 0.5
            for cut_off in (connection, upload):
                with contextlib.suppress(ConnectionResetError):
                    assert server.answer_on(cut_off)[0] is None
        (line,) = (line for line in server.log_lines() if line["level"] == "ERROR")
        assert line["message"] == "requests were cut off at a second signal, or 0.5 s after the first"
        require_free(Address("http", "127.0.0.1", server.port))


def unread_bytes(server):
    """What the kernel still holds for the server, of each of its connections that is established."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = "01"
    return [int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(f":{server.port:04X}") and row[3] == established]


BLOCKED = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxscript", "yaml"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
runpy.run_module("serving", run_name="__main__", alter_sys=True)
"""


def test_serving_needs_neither_torch_nor_onnx(start_server, repository, server):
    """A server that can import no torch, onnx, onnxscript or yaml starts, is ready, and gives the same answers."""
    with start_server(repository, program=("-c", BLOCKED)) as blocked:
        assert blocked.get("/v2/health/ready").status_code == 200
        assert blocked.predict("mlp", ROW).json() == server.predict("mlp", ROW).json()


def test_the_blocker_blocks():
    """The blocker of the test above would be felt."""
    code = BLOCKED.replace('runpy.run_module("serving", run_name="__main__", alter_sys=True)', "import torch")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr


def test_an_onnx_server_is_small(start_server, make_repository, mlp_artifact):
    """A server whose model is ONNX has no torch in its process, though it is installed, and takes less than 150 MB."""
    with start_server(make_repository({"mlp/1": mlp_artifact})) as server:
        assert server.predict("mlp", ROW).status_code == 200

        assert libraries(server) & {"libtorch", "onnxruntime"} == {"onnxruntime"}
        assert rss_kb(server) < MAX_RSS_KB


def test_a_torchscript_server(start_server, make_repository, mlp_artifact, server):
    """engine=torchscript runs the artifact's TorchScript, in torch, to the same answers."""
    with start_server(make_repository({"mlp/1": mlp_artifact}), "--engine", "torchscript") as torch_server:
        answer, expected = (each.predict("mlp", ROW).json()["outputs"]["logits"] for each in (torch_server, server))

        np.testing.assert_allclose(answer, expected, rtol=1e-5)
        assert torch_server.get("/v2/models/mlp").json()["platform"] == "pytorch_torchscript"
        assert "libtorch" in libraries(torch_server)


def libraries(server):
    """Which of the engines' libraries are in the server's process."""
    return set(re.findall("libtorch|onnxruntime", Path(f"/proc/{server.process.pid}/maps").read_text()))


def rss_kb(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (found,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found)


def test_the_repository_is_only_read(server, repository, artifacts):
    """A server that answered, unloaded and loaded wrote nothing into its repository."""
    assert server.predict("mlp", ROW).status_code == 200
    for what in ("unload", "load"):
        assert server.request("POST", f"/v2/repository/models/spare/{what}").status_code == 200

    assert {place: contents(repository / place) for place in artifacts} == {
        place: contents(artifacts[place]) for place in artifacts
    }
    assert sorted(path.name for path in repository.iterdir()) == sorted(place.partition("/")[0] for place in artifacts)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}
