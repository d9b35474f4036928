"""KServe's own REST client against a real server.

The package cannot be installed beside what the server is tested with: `make clients` gives it an environment of its own, where
these tests run; elsewhere they are skipped. The server runs in the project's environment.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

kserve = pytest.importorskip("kserve", reason="`make clients` runs this, in an environment of its own")

PROJECT = Path(__file__).parents[2]
PYTHON = PROJECT / ".venv" / "bin" / "python"
DEADLINE_S = 60
X = np.array([[0.1, 0.2, -0.3, 4], [1, -1, 0.5, 0]], np.float32)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Where a server of the project's environment answers."""
    folder = tmp_path_factory.mktemp("served")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([PYTHON, PROJECT / "tests" / "make_mlp.py", folder], env=environment, check=True, timeout=DEADLINE_S)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--repository", folder / "repository", "--port", str(port)]
    process = subprocess.Popen([PYTHON, "-m", "serving", *flags], cwd=folder, env=environment)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@pytest.fixture(scope="module")
def ask(url):
    """A function that calls a method of the client: `ask("infer", request, model_name="mlp")`."""

    async def make():
        return kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))

    with asyncio.Runner() as runner:
        client = runner.run(make())

        def ask(method, *arguments, **options):
            return runner.run(getattr(client, method)(url, *arguments, **options))

        wait_until_ready(ask)
        yield ask
        runner.run(client.close())


def wait_until_ready(ask):
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        with contextlib.suppress(Exception):  # it does not listen yet, or loads
            ask("is_server_ready")
            return
        time.sleep(0.05)
    pytest.fail("the server is not ready")


def request(*, binary=False, **options):
    made = kserve.InferInput("x", list(X.shape), "FP32")
    made.set_data_from_numpy(X, binary_data=binary)
    return kserve.InferRequest("mlp", [made], **options)


def logits(ask, **options):
    output = ask("infer", request(**options), model_name="mlp").get_output_by_name("logits")
    return output.as_numpy()


def test_health(ask):
    """The server and its models are ready and live in the words that the client reads."""
    assert [ask("is_server_ready"), ask("is_server_live"), ask("is_model_ready", "mlp")] == [True, True, True]
    assert ask("is_model_ready", "resnet") is False


def test_an_inference_in_json(ask):
    """The client's request is answered under its id, with rows in the order that it sent."""
    answer = ask("infer", request(request_id="7"), model_name="mlp")
    (output,) = answer.outputs

    assert (answer.id, answer.model_name, output.name, output.datatype, output.shape) == ("7", "mlp", "logits", "FP32", [2, 3])
    assert output.as_numpy().shape == (2, 3)


def test_a_dictionary(ask):
    """A request that is no object of the client's but JSON is answered too."""
    body = {"inputs": [{"name": "x", "shape": list(X.shape), "datatype": "FP32", "data": X.tolist()}]}
    answer = ask("infer", body, model_name="mlp")

    assert answer.outputs[0].as_numpy().tobytes() == logits(ask).tobytes()


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("parameters", [None, {"binary_data_output": False}, {"binary_data_output": True}])
def test_binary_tensors(ask, binary, parameters):
    """Inputs and outputs may be JSON or binary, and the numbers are the same to the last bit."""
    assert logits(ask, binary=binary, parameters=parameters).tobytes() == logits(ask).tobytes()


def test_requested_outputs(ask):
    """One output can be asked for as binary data."""
    wanted = [kserve.protocol.infer_type.RequestedOutput("logits", {"binary_data": True})]

    assert logits(ask, request_outputs=wanted).tobytes() == logits(ask).tobytes()


def test_an_error(ask):
    """A refusal is the client's exception, and says what is wrong."""
    with pytest.raises(Exception, match=r"no model is called 'resnet'; there are: mlp, '404 Not Found'"):
        ask("infer", request(), model_name="resnet")
    body = {"inputs": [{"name": "x", "shape": [1, 5], "datatype": "FP32", "data": [0] * 5}]}
    with pytest.raises(Exception, match=r'input "x" has shape \[1, 5\]; the signature says \[batch, 4\], \'400 Bad Request\''):
        ask("infer", body, model_name="mlp")
