"""Real servers: a process of its own on a free port, ended by its own process id."""

import contextlib
import os
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

from artifact.signature import Signature, TensorSpec

PROJECT = Path(__file__).parents[2]
START_DEADLINE_S = 30
END_DEADLINE_S = 60


@dataclass
class Running:
    """A server process, and where it listens."""

    process: subprocess.Popen
    port: int
    log: Path

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def get(self, path):
        return httpx.get(self.url + path, timeout=30)

    def predict(self, model, body, **options):
        content = {"content": body} if isinstance(body, (bytes, str)) else {"json": body}
        return httpx.post(f"{self.url}/predictions/{model}", **content, timeout=60, **options)

    def stop(self):
        """The exit code after a SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(END_DEADLINE_S)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory):
    """A context manager that starts a server, waits until it answers, and ends it."""

    @contextlib.contextmanager
    def start(repository, *flags, program=("-m", "serving")):
        port, log = free_port(), tmp_path_factory.mktemp("server") / "log.txt"
        command = [sys.executable, *program, "--repository", str(repository), "--port", str(port), *flags]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STATESERVE_")}
        with log.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=log.parent,
                env={**environment, "PYTHONPATH": str(PROJECT)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            running = Running(process, port, log)
            wait_until_it_answers(running)
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(END_DEADLINE_S)

    return start


def wait_until_it_answers(running):
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and running.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            running.get("/v2/health/ready")
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
def make_repository(tmp_path_factory):
    """A function that copies artifacts into a new repository: `{"name/version": artifact}`."""

    def make(artifacts):
        root = tmp_path_factory.mktemp("repository")
        for place, artifact in artifacts.items():
            shutil.copytree(artifact, root / place)
        return root

    return make


@pytest.fixture(scope="session")
def repository(make_repository, mlp_artifact, counting_artifact):
    return make_repository({"mlp/1": mlp_artifact, "counting/7": counting_artifact})


@pytest.fixture(scope="session")
def server(start_server, repository):
    """One server for all tests that only ask."""
    with start_server(repository, "--max-body-bytes", "100000") as running:
        yield running
