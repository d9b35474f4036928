"""A packaged artifact behind the real TorchServe: the answers are our server's, and what is damaged is not served."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.numpy
from packaged_requests import REQUESTS, ROWS, mlp, require_same

from bench.processes import free_port, server_environment, started
from serving.torchserve.packed.package import package

PROJECT = Path(__file__).parents[2]
DEADLINE_S = 120
SETTINGS = """
inference_address=http://127.0.0.1:{inference}
management_address=http://127.0.0.1:{management}
metrics_address=http://127.0.0.1:{metrics}
initial_worker_port={worker}
enable_model_api=true
disable_token_authorization=true
default_workers_per_model=1
number_of_netty_threads=2
"""

pytestmark = [
    pytest.mark.torchserve,
    pytest.mark.skipif(
        shutil.which("java") is None, reason="the real TorchServe needs Java 17, and `java` is not installed here"
    ),
]


@dataclass(frozen=True)
class TorchServe:
    """The real server: its ports, its model store, and its log."""

    inference: int
    management: int
    store: Path
    log: Path

    def register(self, mar, name, **parameters):
        """Registers an archive with one worker, and waits for it: status, and the answer's JSON."""
        query = urllib.parse.urlencode(
            {"url": mar.name, "model_name": name, "initial_workers": 1, "synchronous": "true", **parameters}
        )
        status, _, body = ask(self.management, "POST", f"/models?{query}")
        return status, json.loads(body)


def ask(port, method, path, body=b"", headers=None):
    """Status, headers (names in lower case) and body of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def answers(port):
    with contextlib.suppress(OSError, http.client.HTTPException):
        return ask(port, "GET", "/ping")[0] == 200
    return False


@pytest.fixture(scope="module")
def torchserve(tmp_path_factory):
    """The real server, with this project's config.properties and addresses of its own; it has no model yet."""
    folder = tmp_path_factory.mktemp("ts")
    store = folder / "store"
    store.mkdir()
    ports = {name: free_port() for name in ("inference", "management", "metrics", "worker")}
    config = folder / "config.properties"
    config.write_text((PROJECT / "config.properties").read_text() + SETTINGS.format(**ports))
    command = [Path(sys.executable).with_name("torchserve"), "--start", "--foreground", "--ncs", "--model-store", store]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**server_environment(), "TMPDIR": str(folder), "TEMP": str(folder), "PATH": path}
    del environment["PYTHONPATH"]
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--ts-config", config],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: answers(ports["inference"]), process, log)
        yield TorchServe(ports["inference"], ports["management"], store, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Java, and the workers that it started
        process.wait(DEADLINE_S)


def wait_for(condition, process, log):
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def repository(mlp_artifact, tmp_path_factory):
    """One artifact under two names, one for each format that TorchServe's hosts run."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("onnx", "torchscript"):
        shutil.copytree(mlp_artifact, root / name / "1")
    return root


@pytest.fixture(scope="module")
def served(torchserve, repository):
    """The real server with the archive of each format."""
    for name in ("onnx", "torchscript"):
        made = package(repository / name / "1", torchserve.store, name)
        registered = torchserve.register(made.path, name)
        assert registered == (200, {"status": f'Model "{name}" Version: 1 registered with 1 initial workers'}), registered
    return torchserve


@pytest.fixture(scope="module")
def ours(repository, tmp_path_factory):
    """Our server with the same artifacts, each on the engine that its name says."""
    settings = json.dumps({"torchscript": {"engine": "torchscript"}})
    arguments = ("--repository", str(repository), "--model-settings", settings)
    with started("serving", *arguments, folder=tmp_path_factory.mktemp("ours"), ready="/v2/health/ready") as running:
        yield running


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_answers_are_equal(served, ours, name):
    """The same requests get from both servers the same status, content type, and body, from each format; by version too."""
    asked = {title: request for title, request in REQUESTS.items() if request.model == "mlp"}
    for title, request in asked.items():
        both = [
            ask(port, "POST", f"/predictions/{name}/1", request.body, request.headers) for port in (ours.port, served.inference)
        ]
        require_same(title, *both)
    assert len(asked) > 50


def test_a_batch_of_torchserve(served, repository, ours):
    """Requests that TorchServe joins are answered as alone, in npy and JSON, and those that are wrong fail alone."""
    made = package(repository / "onnx" / "1", served.store / "joined.mar")
    assert served.register(made.path, "joined", batch_size=8, max_batch_delay=2000)[0] == 200
    asked = [mlp({"inputs": [row.tolist()]}) for row in ROWS[:6]] + [mlp({"inputs": [[9, 0, 0, 0]]}), mlp(b"{")]
    found = {}

    def one(index):
        found[index] = ask(served.inference, "POST", "/predictions/joined", asked[index].body, asked[index].headers)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)

    assert [found[index][0] for index in range(8)] == [200] * 6 + [400] * 2
    for index in range(6):
        expected = ask(ours.port, "POST", "/predictions/onnx", asked[index].body, asked[index].headers)[2]
        logits, alone = (json.loads(body)["outputs"]["logits"][0] for body in (found[index][2], expected))
        assert logits == pytest.approx(alone, rel=1e-5, abs=1e-6)  # a joined call may differ in its last bits
    assert [json.loads(found[index][2])["type"] for index in (6, 7)] == ["InvalidInput", "BadRequest"]


def damaged(source, target, change):
    """The archive, with one member passed through `change(name, bytes)`."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for entry in before.infolist():
            after.writestr(entry, change(entry.filename, before.read(entry)))
    return target


def with_another_model_file(name, data):
    return data[:-1] + b"\0" if name.endswith("model.onnx") else data


@pytest.fixture
def with_other_golden_cases(repository, rehash, tmp_path):
    """An archive whose golden cases the engine does not answer as recorded; every hash is right."""
    copy = shutil.copytree(repository / "onnx" / "1", tmp_path / "poisoned" / "1")
    path = copy / "golden.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays[next(key for key in sorted(arrays) if "/output/onnx/" in key)].flat[0] += 1
    path.write_bytes(safetensors.numpy.save(arrays))
    rehash(copy)
    return copy


def test_a_changed_model_file_is_not_served(served, repository, tmp_path):
    """TorchServe fails to start the worker of an archive whose model file was changed, and its log says which file."""
    made = package(repository / "onnx" / "1", tmp_path)
    mar = damaged(made.path, served.store / "changed.mar", with_another_model_file)

    refused(served, mar, "model.onnx was changed: ")


def test_golden_cases_that_disagree_are_not_served(served, with_other_golden_cases):
    """TorchServe fails to start the worker of an archive whose golden cases give other numbers, and its log says so."""
    made = package(with_other_golden_cases, served.store)

    refused(served, made.path, "GoldenMismatch: golden case ")


def refused(served, mar, words):
    status, answer = served.register(mar, mar.stem, startup_timeout=20)

    assert (status, answer["type"], answer["message"]) == (
        500,
        "InternalServerException",
        f"Failed to start workers for model {mar.stem} version: 1",
    )
    assert words in served.log.read_text()
    assert ask(served.inference, "POST", f"/predictions/{mar.stem}")[0] == 404
