"""Real servers: a process of its own on a free port, ended by its own process id."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper
from prometheus_client.parser import text_string_to_metric_families

from artifact.signature import Dim, Signature, TensorSpec
from bench.processes import free_port, server_environment

DEADLINE_S = 60
PLAIN = {"timeout": DEADLINE_S, "verify": False, "trust_env": False}
"""For httpx, which would otherwise read the certificates of all authorities before each request: 40 ms."""
ROUNDS_PER_S = 2_000_000
"""More than any processor does of the counting model: a call of this many rounds takes longer than a second."""
IN_A_THREAD = ("--model-settings", json.dumps({"counting": {"execution": "thread"}}))
"""The counting model's golden cases are short, and what a request of ours asks for is not: nobody can measure that."""


@dataclass
class Running:
    """A server process, and where it listens."""

    process: subprocess.Popen
    port: int
    log: Path
    rounds_per_s: int = ROUNDS_PER_S

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def request(self, method, path, **options):
        return httpx.request(method, self.url + path, **PLAIN, **options)

    def get(self, path):
        return self.request("GET", path)

    def predict(self, model, body, **options):
        content = {"content": body} if isinstance(body, (bytes, str)) else {"json": body}
        return self.request("POST", f"/predictions/{model}", **content, **options)

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def log_lines(self):
        whole, _, _ = self.log.read_text().rpartition("\n")  # the last line may just be being written
        return [json.loads(line) for line in whole.splitlines()]

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    @staticmethod
    def answer_on(connection):
        """Status, headers and body of what is sent until the server closes; a status of None where nothing is."""
        data = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = data.decode().partition("\r\n\r\n")
        status, *headers = head.split("\r\n")
        return int(status.split()[1]) if status else None, dict(line.lower().split(": ", 1) for line in headers), body

    @contextlib.contextmanager
    def in_flight(self, count, seconds, **headers):
        """Connections on each of which a request waits for its answer; the engine takes longer than so many seconds for each."""
        before = self.metric("stateserve_requests_in_flight", model="counting")
        body = b'{"inputs": {"rounds": [%d]}}' % (seconds * ROUNDS_PER_S)
        more = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
        head = b"POST /predictions/counting HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (more, len(body))
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(self.connect()) for _ in range(count)]
            for connection in connections:
                connection.sendall(head + body)
            wait_for(lambda: self.metric("stateserve_requests_in_flight", model="counting") == before + count)
            yield connections

    def stop(self):
        """The exit code after a SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def wait_for(condition):
    """Waits until it is so; fails where it does not become so."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="session", name="wait_for")
def wait_for_fixture():
    return wait_for


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    """A context manager that starts a server, waits until it listens, and has tried to load every model, and ends it.

    With `wait=False` models may still be loading.
    """

    @contextlib.contextmanager
    def start(repository, *flags, program=("-m", "serving"), wait=True, port=None):
        port, log = port or free_port(), tmp_path_factory.mktemp("server") / "log.txt"
        command = [sys.executable, *program, "--repository", str(repository), "--port", str(port), *flags]
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=log.parent,
                env=server_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            running = Running(process, port, log)
            wait_until_it_answers(running, loaded=wait)
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE_S)

    return start


def wait_until_it_answers(running, *, loaded):
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and running.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            reasons = running.get("/ready").json().get("models", {})
            if not loaded or "the models are being loaded" not in reasons.values():
                return
        time.sleep(0.02)
    pytest.fail(f"the server did not start: {running.log.read_text()}")


def counting_model():
    """`rounds` turns of a loop, each a little work: how long a call takes is for the request to say."""
    value = ("v", TensorProto.FLOAT, [1])
    goes_on = ("on", TensorProto.BOOL, [])

    def info(spec, suffix):
        return helper.make_tensor_value_info(spec[0] + suffix, *spec[1:])

    body = helper.make_graph(
        [helper.make_node("Sin", ["v_in"], ["v_out"]), helper.make_node("Identity", ["on_in"], ["on_out"])],
        "turn",
        [helper.make_tensor_value_info("turn", TensorProto.INT64, []), info(goes_on, "_in"), info(value, "_in")],
        [info(goes_on, "_out"), info(value, "_out")],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "", "one"], ["y"], body=body)],
        "counting",
        [helper.make_tensor_value_info("rounds", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture(scope="session")
def counting_artifact(write_artifact, tmp_path_factory):
    """A model with an integer input, whose call takes as long as the request says (about 0.7 µs a round)."""
    signature = Signature((TensorSpec("rounds", "int64", (1,), (0, 10**9)),), (TensorSpec("y", "float32", (1,)),))
    directory = tmp_path_factory.mktemp("counting") / "counting" / "1"
    return write_artifact(directory, signature, {"onnx": counting_model()}, {"rounds": np.array([3])})


@pytest.fixture(scope="session")
def classes_artifact(write_artifact, tmp_path_factory):
    """A model that gives back what it gets, as scores of five classes that have names."""
    shape = ["batch", 5]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["scores"])],
        "classes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 5)),),
        (TensorSpec("scores", "float32", ("batch", 5), labels="labels.txt"),),
        {"batch": Dim(1, 8)},
    )
    directory = tmp_path_factory.mktemp("classes") / "classes" / "1"
    inputs = {"x": np.arange(5, dtype=np.float32)[None]}
    return write_artifact(directory, signature, {"onnx": model}, inputs, labels="ant\nbee\ncat\ndog\nemu\n")


@pytest.fixture(scope="session")
def make_repository(tmp_path_factory):
    """A function that copies artifacts into a new repository: `{"name/version": artifact}`."""

    def make(artifacts):
        root = tmp_path_factory.mktemp("repository")
        for place, artifact in artifacts.items():
            shutil.copytree(artifact, root / place)
        return root

    return make


@pytest.fixture(scope="session")
def artifacts(mlp_artifact, counting_artifact, classes_artifact):
    return {"mlp/1": mlp_artifact, "counting/7": counting_artifact, "classes/2": classes_artifact, "spare/1": mlp_artifact}


@pytest.fixture(scope="session")
def repository(make_repository, artifacts):
    return make_repository(artifacts)


@pytest.fixture(scope="session")
def server(start_server, repository):
    """One server for all tests that only ask."""
    with start_server(
        repository, "--max-body-bytes", "100000", "--max-queue-rows", "128", "--access-log", *IN_A_THREAD
    ) as running:
        yield running
