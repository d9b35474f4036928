"""A server starts with what is sound, says what is not, and ends without losing a request."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy

import serving.model
import serving.server
from artifact.errors import ArtifactError
from serving.errors import ModelNotReady, NoRepository, PortTaken
from serving.repository import load_repository, newest_versions
from serving.server import require_free
from serving.settings import Settings

PROJECT = Path(__file__).parents[2]
ROW = {"inputs": {"x": [[0, 0, 0, 0]]}}
ROUNDS_PER_S = 2_000_000
"""More than any processor does of the counting model: a call of this many rounds takes longer than a second."""


def damage(artifact):
    path = artifact / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def poison(rehash):
    def change(artifact):
        path = artifact / "golden.safetensors"
        arrays = safetensors.numpy.load(path.read_bytes())
        for name in arrays:
            if "/output/onnx/" in name:
                arrays[name] = arrays[name] + np.float32(0.01)
        path.write_bytes(safetensors.numpy.save(arrays))
        rehash(artifact)

    return change


def test_models_that_fail_their_checks(start_server, make_repository, mlp_artifact, poison):
    """A damaged artifact and one that fails its golden cases make the server not ready, by reason; the others still answer."""
    root = make_repository({"good/1": mlp_artifact, "damaged/1": mlp_artifact, "poisoned/2": mlp_artifact})
    damage(root / "damaged" / "1")
    poison(root / "poisoned" / "2")
    with start_server(root) as server:
        ready = server.get("/v2/health/ready")
        reasons = ready.json()["models"]

        assert (ready.status_code, ready.json()["ready"], sorted(reasons)) == (503, False, ["damaged", "poisoned"])
        assert f"{root / 'damaged' / '1' / 'model.onnx'} was changed: " in reasons["damaged"]
        assert reasons["poisoned"].startswith("golden case ")
        assert "disagrees on engine onnx: output logits" in reasons["poisoned"]
        assert ready.json()["error"] == f"{reasons['damaged']}; {reasons['poisoned']}"
        assert (server.get("/ping").status_code, server.get("/ping").json()) == (500, {"status": "Unhealthy"})
        assert server.get("/v2/health/live").status_code == 200
        for name, version in (("damaged", 1), ("poisoned", 2)):
            answer = server.predict(name, ROW)
            message = f"model {name} version {version} is not ready: {reasons[name]}"
            assert (answer.status_code, answer.json()) == (503, {"code": 503, "type": "ModelNotReady", "message": message})
        assert server.predict("good", ROW).status_code == 200


def test_an_empty_repository(start_server, tmp_path):
    """Without a model the server is live, not ready, and says where it looked."""
    (tmp_path / "models" / "empty").mkdir(parents=True)
    with start_server(tmp_path / "models") as server:
        assert server.get("/v2/health/live").status_code == 200
        ready = server.get("/v2/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "error": "no model below models", "models": {}})
        assert server.get("/ping").status_code == 500
        assert server.predict("mlp", ROW).json()["message"] == "no model is called 'mlp'; there are: none"
        told = f"no model below {tmp_path / 'models'}: it holds no <name>/<version>/ (say the folder that holds the names)"
        assert told in server.log.read_text()


def test_a_repository_that_is_not_there(tmp_path):
    """A directory that is missing, or is a file, ends the command with 2 and names the option."""
    (tmp_path / "file").write_text("")
    for name in ("nonexist", "file"):
        done = subprocess.run(
            [sys.executable, str(PROJECT / "stateserve.py"), "serve", "--repository", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.endswith(
            f"error: the model repository {name} is not a directory; export there first, or say another --repository\n"
        )


def test_a_model_whose_loading_fails_otherwise(make_repository, mlp_artifact, monkeypatch):
    """Whatever loading one model raises, it alone is not ready, and the others answer."""
    root = make_repository({"good/1": mlp_artifact, "large/1": mlp_artifact})
    load = serving.model.artifact.load

    def fail(directory, **options):
        if directory.parent.name == "large":
            raise MemoryError("cannot allocate 9 TB")
        return load(directory, **options)

    monkeypatch.setattr(serving.model.artifact, "load", fail)

    loaded = load_repository(root, threads=1)

    assert not loaded.ready
    assert [(model.name, model.reason) for model in loaded.not_ready()] == [("large", "MemoryError: cannot allocate 9 TB")]
    with pytest.raises(ModelNotReady, match=r"^model large version 1 is not ready: MemoryError: cannot allocate 9 TB$"):
        loaded.model("large").predict({})
    assert loaded.model("good").predict({"x": np.zeros((1, 4), np.float32)})["logits"].shape == (1, 3)


def test_the_newest_version(make_repository, mlp_artifact, counting_artifact):
    """Of each model the largest number is served, 10 before 9."""
    root = make_repository({"a/1": counting_artifact, "a/9": counting_artifact, "a/10": mlp_artifact, "b/3": counting_artifact})
    loaded = load_repository(root, threads=1)

    assert {name: (model.version, model.reason) for name, model in loaded.models.items()} == {"a": (10, None), "b": (3, None)}
    assert loaded.model("a").ready().signature.outputs[0].name == "logits"
    assert loaded.ready


def test_names_that_are_no_versions(tmp_path):
    """Files, hidden folders, temporary ones, and names that are no positive integer are no models and no versions."""
    for name in (
        "m/1",
        "m/.tmp-2-0a1b",
        "m/03",
        "m/v4",
        "m/-5",
        "m/6.0",
        "m/\u0667",
        "m/8 ",
        "m/latest",
        ".hidden/1",
        "only-notes/x",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "m" / "9").write_text("a file")
    (tmp_path / "readme.txt").write_text("a file")

    assert list(newest_versions(tmp_path)) == [("m", 1, tmp_path / "m" / "1")]
    for wrong in ("nowhere", "readme.txt"):
        with pytest.raises(NoRepository, match="is not a directory; export there first, or say another --repository"):
            load_repository(tmp_path / wrong, threads=1)


def test_a_version_without_a_manifest_is_not_passed_over(make_repository, mlp_artifact):
    """A numbered folder that is no artifact is a version that failed: an older one is not served in its place, unsaid."""
    root = make_repository({"mlp/1": mlp_artifact})
    (root / "mlp" / "2").mkdir()
    model = load_repository(root, threads=None).model("mlp")

    assert model.version == 2
    assert str(model.reason).startswith(f"{root / 'mlp' / '2'} has no readable manifest.json")


@pytest.mark.parametrize("name", ["golden.safetensors", "parity.json", "model.onnx", "manifest.json"])
@pytest.mark.parametrize("data", [b"", b"{}", b"garbage"])
def test_an_artifact_of_nonsense_harms_only_itself(make_repository, mlp_artifact, rehash, name, data):
    """Whatever stands in a file, with hashes that hold, its model is not ready and the repository is loaded."""
    root = make_repository({"good/1": mlp_artifact, "bad/1": mlp_artifact})
    (root / "bad" / "1" / name).write_bytes(data)
    with contextlib.suppress(ArtifactError):
        rehash(root / "bad" / "1")
    loaded = load_repository(root, threads=1)

    assert [model.name for model in loaded.not_ready()] == ["bad"]
    assert loaded.model("good").ready()


def run_server(*flags, cwd, env=None):
    return subprocess.run(
        [sys.executable, "-m", "serving", *flags],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **(env or {})},
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
        "end what listens there, or choose another --port\n"
    )
    assert server.get("/ping").status_code == 200


def test_a_taken_port_is_noticed_before_anything_is_loaded(server, repository, monkeypatch):
    """Nobody waits for models to load to learn that the port is taken."""
    monkeypatch.setattr(serving.server, "create_app", lambda _: pytest.fail("the application was made"))

    with pytest.raises(PortTaken):
        serving.server.serve(Settings(repository=repository, port=server.port))


def test_a_port_that_is_taken_while_models_load(repository, monkeypatch):
    """It is looked at once more when the models are there: granian would share it without a word."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        checked = []

        def free_at_first(host, port):
            checked.append(port)
            if len(checked) > 1:
                require_free(host, port)

        monkeypatch.setattr(serving.server, "require_free", free_at_first)
        with pytest.raises(PortTaken, match=rf"^127\.0\.0\.1:{port} cannot be listened on: Address already in use"):
            serving.server.serve(Settings(repository=repository, port=port))
    assert checked == [port, port]


def test_an_address_that_is_not_ours():
    """An address of another machine is refused like a taken port."""
    with pytest.raises(PortTaken, match=r"^192\.0\.2\.1:8080 cannot be listened on: "):
        require_free("192.0.2.1", 8080)


def wait_for(condition, deadline_s=30):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def requests_in_flight(server, count, rounds):
    """Connections on each of which the server has read a whole request, and not yet answered it."""
    body = b'{"inputs": {"rounds": [%d]}}' % rounds
    head = b"POST /predictions/counting HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60)) for _ in range(count)
        ]
        for connection in connections:
            connection.sendall(head + body)
        wait_for(lambda: unread_bytes(server) == [0] * count)
        yield connections


def unread_bytes(server):
    """What the kernel still holds for the server, of each of its connections that is established."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = "01"
    return [int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(f":{server.port:04X}") and row[3] == established]


def answer_on(connection):
    """Status and body of the answer, read until the server closes."""
    data = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else None, body


def test_sigterm_answers_what_was_accepted(start_server, repository):
    """SIGTERM while requests run: every one is answered, new ones are refused, the code is 0, and the port is free."""
    with start_server(repository) as server:
        expected = server.predict("counting", {"inputs": {"rounds": [ROUNDS_PER_S // 4]}}).content
        with requests_in_flight(server, 6, ROUNDS_PER_S // 4) as connections:
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: refused(server))
            assert server.process.poll() is None

            assert [answer_on(connection) for connection in connections] == [(200, expected)] * 6
        assert server.process.wait(30) == 0
        require_free("127.0.0.1", server.port)


def refused(server):
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_with_connections_that_are_kept_alive(start_server, repository):
    """A client that keeps its connection open, and asks nothing, does not keep the server."""
    with start_server(repository) as server, httpx.Client(base_url=server.url) as idle:
        assert idle.get("/ping").status_code == 200
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 10


def test_sigint_ends_it_too(start_server, repository):
    """Ctrl-C is the same as SIGTERM."""
    with start_server(repository) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log.read_text()


def test_drain_timeout_s(start_server, repository):
    """Requests that still run after drain_timeout_s are cut off, the log says so, and the code is 1."""
    with (
        start_server(repository, "--drain-timeout-s", "1") as server,
        requests_in_flight(server, 1, 30 * ROUNDS_PER_S) as connections,
    ):
        started = time.monotonic()
        code = server.stop()
        took = time.monotonic() - started

        assert code == 1
        assert 0.9 < took < 8
        with contextlib.suppress(ConnectionResetError):
            assert answer_on(connections[0]) == (None, b"")
        assert "requests were cut off: they still ran when drain_timeout_s was over (1 s)" in server.log.read_text()
        require_free("127.0.0.1", server.port)


def test_a_drain_timeout_of_nothing_still_ends_an_idle_server_well(start_server, repository):
    """With drain_timeout_s 0 and nothing in flight there is nothing to cut off."""
    with start_server(repository, "--drain-timeout-s", "0") as server:
        assert server.stop() == 0


def test_an_upload_that_never_ends_does_not_keep_the_server(start_server, repository):
    """A client that stops in the middle of its body is waited for as long as any other, and no longer."""
    with (
        start_server(repository, "--drain-timeout-s", "1") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection,
    ):
        connection.sendall(b"POST /predictions/mlp HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        wait_for(lambda: unread_bytes(server) == [0])
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 8


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
        assert blocked.stop() == 0


def test_the_blocker_blocks():
    """The blocker of the test above would be felt."""
    code = BLOCKED.replace('runpy.run_module("serving", run_name="__main__", alter_sys=True)', "import torch")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr


def test_the_repository_is_only_read(server, repository):
    """A server writes nothing into its repository."""
    names = sorted(str(path.relative_to(repository)) for path in repository.rglob("*") if path.is_file())

    assert server.get("/ping").status_code == 200
    assert not [name for name in names if not name.startswith(("mlp/1/", "counting/7/"))]
    copied = shutil.copytree(repository, repository.parent / f"{repository.name}-copy")
    assert load_repository(copied, None).ready
