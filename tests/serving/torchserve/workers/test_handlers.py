"""Users' handlers, unmodified, in TorchServe's own worker."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import TensorProto, helper

from serving.torchserve.errors import InternalServerException
from serving.torchserve.jobs import Input, Job
from serving.torchserve.workers.host import socket_folder
from serving.torchserve.workers.workers import Parameters, Workers

CONFIG = b"minWorkers: 1\nhandler:\n  greeting: hello\n"
CLIENT = (("host", "localhost"), ("x-foo", "1"), ("content-type", "text/plain"), ("url_path", "a/b"), ("explain", "False"))
MAX_RESPONSE_BYTES = 2_000_000


class Real:
    """Workers by their models' names, on one loop."""

    def __init__(self, loop, host):
        self.loop, self.host, self.models = loop, host, {}

    def run(self, awaitable):
        async def whole():
            return await asyncio.wait_for(awaitable, 60)

        return self.loop.run(whole())

    def predict(self, name, *jobs):
        """Replies, or what was raised, of jobs that are asked for together."""

        async def ask():
            return await asyncio.gather(*(self.models[name].predict(one) for one in jobs), return_exceptions=True)

        return self.run(ask())

    def start(self, mars, **parameters):
        """Starts one worker of each, side by side; gives what was raised, by name."""

        async def scale():
            for name, mar in mars.items():
                self.models[name] = Workers(mar, name, Parameters(**parameters), self.host)
            outcomes = await asyncio.gather(*(self.models[name].scale(1, 1) for name in mars), return_exceptions=True)
            return dict(zip(mars, outcomes, strict=True))

        return self.run(scale())

    def end(self, *names):
        async def close():
            await asyncio.gather(*(self.models.pop(name).close() for name in names or list(self.models)))

        self.run(close())


def line_models():
    """y = 2x + 1 as a state dict, as TorchScript and as ONNX."""
    line = torch.nn.Linear(1, 1)
    with torch.no_grad():
        line.weight.fill_(2)
        line.bias.fill_(1)
    eager, script = io.BytesIO(), io.BytesIO()
    torch.save({f"line.{name}": tensor for name, tensor in line.state_dict().items()}, eager)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(line, torch.ones(1, 1)), script)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [1, 1], [2.0]),
            helper.make_tensor("b", TensorProto.FLOAT, [1], [1.0]),
        ],
    )
    onnx = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return eager.getvalue(), script.getvalue(), onnx.SerializeToString()


def words_files(definition):
    """What a text classifier's archive holds: "good" and "bad" are what they say, and a pair of words is one more word."""
    weights, vocabulary = io.BytesIO(), io.BytesIO()
    torch.save({"embedding.weight": torch.tensor([[0.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])}, weights)
    torch.save({"very": 0, "good": 1, "bad": 2, "very good": 3, "very bad": 4}, vocabulary)
    return {
        "model.pt": weights.getvalue(),
        "source_vocab.pt": vocabulary.getvalue(),
        "index_to_name.json": b'{"0": "no", "1": "yes"}',
        "text_model.py": definition,
    }


@pytest.fixture(scope="module")
def real(loop, new_heard, real_host, make_mar, handlers):
    """One worker of each kind of handler."""
    variables = {"STATESERVE_SECRET": "1", "HIDDEN_ONE": "1", "SHOWN_ONE": "1", "PYTHONPATH": "/of/the/user"}
    host = real_host(
        new_heard(),
        max_response_bytes=MAX_RESPONSE_BYTES,
        hidden_variables="HIDDEN_.*",
        variables={**os.environ, **variables},
    )
    running = Real(loop, host)
    eager, script, onnx = line_models()
    definition = (handlers / "eager_model.py").read_bytes()
    own = {
        "omnibus": make_mar("omnibus", "omnibus.py", {"config.yaml": CONFIG}, configFile="config.yaml"),
        "function": make_mar("function", "function.py"),
        "named": make_mar("named", "named.py:answer"),
    }
    lines = {
        "eager": make_mar(
            "eager",
            "base_handler",
            {"model.pt": eager, "eager_model.py": definition},
            serializedFile="model.pt",
            modelFile="eager_model.py",
        ),
        "script": make_mar("script", "base_handler", {"model.pt": script}, serializedFile="model.pt"),
        "onnx": make_mar("onnx", "onnx_line.py", {"model.onnx": onnx}, serializedFile="model.onnx"),
    }
    words = words_files((handlers / "text_model.py").read_bytes())
    own["text"] = make_mar("text", "text_classifier", words, serializedFile="model.pt", modelFile="text_model.py")
    try:
        outcomes = {**running.start(own, batch_size=4), **running.start(lines, envelope="body")}
        assert outcomes == dict.fromkeys(outcomes, True)
        yield running
    finally:
        running.end()
        host.close()


@pytest.fixture(scope="module")
def ask(real, job):
    """One job's JSON, of the omnibus handler."""

    def ask(body, **more):
        (reply,) = real.predict("omnibus", job(body, **more))
        return json.loads(reply.body)

    return ask


def failure(outcome):
    assert isinstance(outcome, InternalServerException)
    return str(outcome), outcome.status


@pytest.mark.parametrize(("text", "label"), [("Very <b>good</b>!", "yes"), ("very BAD.", "no")])
def test_default_text_classifier(real, job, text, label):
    """TorchServe's own handler for texts cleans a text, looks its words up, and tells a probability for each name."""
    (reply,) = real.predict("text", job(text))
    told = json.loads(reply.body)
    assert max(told, key=told.get) == label
    assert told[label] == pytest.approx(0.8808, abs=1e-4)


@pytest.mark.parametrize("name", ["function", "named"])
def test_function_is_an_entry(real, job, name):
    """A function called `handle`, or one that is named, is called once to initialize, and then for every batch."""
    (reply,) = real.predict(name, job())
    assert json.loads(reply.body)["style"] == name
    assert reply.status == 200
    assert reply.content_type == ""


@pytest.mark.parametrize("name", ["eager", "script", "onnx"])
def test_base_handler_runs_models(real, job, name):
    """The base handler loads a state dict with its definition, TorchScript and ONNX, without a line of the user's."""
    replies = real.predict(name, job("[3.0]", "application/json"))
    assert [json.loads(reply.body) for reply in replies] == [[7.0]]


def test_batch_is_what_came_together(real, job):
    """Requests that came together reach the handler as one batch, and each gets its own reply."""
    replies = [json.loads(reply.body) for reply in real.predict("omnibus", *(job(f"x{number}") for number in range(4)))]
    assert replies == [{"echo": f"x{number}", "batch": 4} for number in range(4)]


def test_each_item_has_its_status_and_headers(real, job):
    """Status, phrase, content type and headers are those that the handler sets for each request of a batch."""
    first, second, third = real.predict("omnibus", job("status 404"), job("x"), job("status 201"))
    assert (first.status, first.phrase, first.content_type, dict(first.headers)["dummy"]) == (404, "As Told", "text/x-told", "1")
    assert (second.status, second.content_type, second.headers) == (200, "", [])
    assert (third.status, third.body) == (201, b"status 201")


def test_bytes_and_tensors_are_bodies(real, job):
    """Bytes come as they are, a tensor as torch.save writes it."""
    raw, tensor = real.predict("omnibus", job("bytes"), job("tensor"))
    assert raw.body == bytes(range(256))
    assert torch.equal(torch.load(io.BytesIO(tensor.body), weights_only=True), torch.ones(2))


def test_inputs_are_decoded_by_their_content_type(real):
    """Text is a str, JSON an object, anything else bytes; each field of a form is one key."""
    inputs = (Input("body", "text/plain", b"row"), Input("data", "application/json", b'{"a": 1}'), Input("file", "", b"raw"))
    (reply,) = real.predict("omnibus", Job("1", (), inputs))
    assert json.loads(reply.body) == {
        "body": ["str", "row"],
        "data": ["dict", "{'a': 1}"],
        "file": ["bytearray", "bytearray(b'raw')"],
    }


@pytest.mark.parametrize("name", ["X-Foo", "x-foo", "X-FOO"])
def test_headers_are_found_in_any_spelling(ask, name):
    """A handler finds a header however it spells its name; TorchServe's asks for the client's own spelling."""
    value, everything = ask(f"header {name}", headers=CLIENT)
    assert value == "1"
    assert everything["Content-Type"] == "text/plain"
    assert everything["url_path"] == "a/b"
    assert everything["explain"] == "False"


def test_missing_header_is_none(ask):
    """A header that was not sent is None."""
    assert ask("header X-Missing", headers=CLIENT)[0] is None


def test_context_says_what_torchserve_says(ask):
    """Name, folder, batch size, request id, manifest and model-config.yaml are in the context."""
    found = ask("context")
    assert found["name"] == "omnibus"
    assert found["batch_size"] == 4
    assert found["gpu_id"] is None
    assert found["server_name"] == "MMS"
    assert found["limit_max_image_pixels"] is True
    assert found["yaml"] == {"minWorkers": 1, "handler": {"greeting": "hello"}}
    assert found["manifest"] == "omnibus.py"
    assert Path(found["model_dir"], "omnibus.py").is_file()


def test_describe_asks_the_handler(real):
    """customized=true gives what the handler says when it is asked with the header describe."""
    assert real.run(real.models["omnibus"].describe()) == {"described": True}


def test_surroundings_are_torchserves(ask):
    """The worker runs in its archive's folder, which is first where it looks for modules; our own variables are hidden."""
    found = ask("process")
    assert found["cwd"] == found["path"][0] == ask("context")["model_dir"]
    assert "/of/the/user" in found["path"]
    assert not [entry for entry in found["path"] if "child" in entry or entry == str(Path.cwd())]
    assert found["argv"][0].endswith("model_service_worker.py")
    environment = found["environment"]
    assert environment["SHOWN_ONE"] == "1"
    assert not {"STATESERVE_SECRET", "HIDDEN_ONE"} & environment.keys()
    assert environment["TS_DECODE_INPUT_REQUEST"] == "true"
    assert int(environment["OMP_NUM_THREADS"]) == int(environment["MKL_NUM_THREADS"]) >= 1


def test_streams_of_a_batch(real, job):
    """What the handler sends before it is done comes in parts, to each request its own."""
    replies = real.predict("omnibus", job("stream 3"), job("x"))
    parts = [[reply.body, *real.run(parts_of(reply))] for reply in replies]
    assert parts == [[f"{index}:{part}".encode() for part in ("0 ", "1 ", "2 ", "end")] for index in range(2)]


async def parts_of(reply):
    return [part async for part in reply.more]


def test_stream_that_fails(real, job):
    """A handler that fails in the midst of a stream breaks it off with its error."""
    (reply,) = real.predict("omnibus", job("streamfail 2"))
    with pytest.raises(InternalServerException, match=r"^Prediction failed$"):
        real.run(parts_of(reply))


@pytest.mark.parametrize(
    ("body", "message", "status"),
    [
        ("memory", "Out of resources", 507),
        ("cuda", "Out of resources", 507),
        ("raise", "Prediction failed", 503),
        ("prediction 599", "as the handler says", 599),
        ("prediction 413", "as the handler says", 507),
        ("length", "number of batch response mismatched", 503),
        ("dict", "Invalid model predict output", 503),
        ("unserialisable", "Unsupported model output data type.", 503),
    ],
)
def test_failures_of_handlers(real, job, body, message, status):
    """Every request of the batch gets TorchServe's message and status; the worker goes on."""
    outcomes = real.predict("omnibus", job(body), job("x"))
    assert [failure(outcome) for outcome in outcomes] == [(message, status)] * 2
    (reply,) = real.predict("omnibus", job("x"))
    assert reply.status == 200


def test_traceback_is_in_the_log(real, job, caplog):
    """The error names the traceback's id, under which the log has all of it; the message is TorchServe's."""
    (error,) = real.predict("omnibus", job("raise a reason"))
    (told,) = [record for record in caplog.records if getattr(record, "traceback_id", "") == error.traceback_id]
    assert told.getMessage() == "ValueError: because of a reason"
    assert "KeyError: 'cause'" in told.traceback
    assert told.traceback.endswith("ValueError: because of a reason\n\tand a second line")
    assert (told.name, told.model, told.version, told.worker) == ("stateserve.model", "omnibus", "1.0", "9000")


def test_large_values_pass(ask):
    """Megabytes go both ways."""
    assert ask("y" * (MAX_RESPONSE_BYTES // 2))["echo"] == "y" * (MAX_RESPONSE_BYTES // 2)


def test_metrics_of_handlers_are_told(real, job):
    """A handler's own metrics, and the worker's, reach who counts them."""
    lines = real.host.metrics.lines
    real.predict("omnibus", job("metric"))
    assert any(line.startswith("[METRICS]Wanted.") for line in lines)
    assert any(line.startswith("[METRICS]PredictionTime.") for line in lines)


def test_printing_does_not_block(real, job, caplog):
    """A handler that prints megabytes is answered; what it logs is in our log."""
    caplog.set_level("INFO", "stateserve.model")
    (reply,) = real.predict("omnibus", job("print 20000"))
    assert reply.body == b"printed"


def test_deaths(real, job):
    """Exit 137 and SIGKILL are 507, other ends 500; the next worker is there at once, and what the handler started is gone."""
    (reply,) = real.predict("omnibus", job("child"))
    grandchild = json.loads(reply.body)["pid"]
    for body, status in (("exit 137", 507), ("exit 3", 500), ("kill SIGSEGV", 500), ("kill SIGKILL", 507)):
        died, waited = real.predict("omnibus", job(body)), real.predict("omnibus", job("x"))
        assert [failure(outcome) for outcome in died] == [("Worker died.", status)]
        assert [json.loads(reply.body)["echo"] for reply in waited] == ["x"]
    assert not is_running(grandchild)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_failed_starts(real, make_mar):
    """What keeps a handler from loading fails the start: 507 for want of memory, else 500, with the traceback's id."""
    hows = {"value": b"a reason", "memory": b"memory", "cuda": b"cuda"}
    mars = {
        "import": make_mar("import", "import_error.py"),
        "classes": make_mar("classes", "two_classes.py"),
        "missing": make_mar("missing", "of_nobody.py"),
        **{name: make_mar(name, "init_error.py", {"how.txt": how}) for name, how in hows.items()},
    }
    outcomes = real.start(mars)
    real.end(*mars)
    statuses = {"memory": 507, "cuda": 507}
    for name, outcome in outcomes.items():
        assert failure(outcome) == (f"Failed to start workers for model {name} version: 1.0", statuses.get(name, 500))
        assert outcome.traceback_id is not None


def test_slow_start_fails(real, make_mar):
    """A handler that does not initialize within startupTimeout fails the start."""
    outcomes = real.start({"slow": make_mar("slow", "init_error.py", {"how.txt": b"slow"})}, startup_timeout_s=0.2)
    real.end("slow")
    assert failure(outcomes["slow"]) == ("Failed to start workers for model slow version: 1.0", 500)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not end children with their parent")
def test_killed_server_leaves_no_worker(make_mar):
    """A worker in the midst of a batch ends with its server, even if that is killed."""
    server = textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        sys.path[:0] = [sys.argv[1], sys.argv[2]]
        from conftest import Heard, job
        from serving.torchserve.workers.host import WorkerHost, socket_folder, torchserve_folder
        from serving.torchserve.archives.mar import unpack
        from serving.torchserve.workers.workers import Parameters, Workers

        async def main():
            host = WorkerHost(socket_folder(), Heard(), torchserve_folder() / "configs" / "metrics.yaml")
            workers = Workers(unpack(Path(sys.argv[3]), Path(sys.argv[4])), "m", Parameters(), host)
            await workers.scale(1, 1)
            asking = asyncio.ensure_future(workers.predict(job("sleep 600")))
            await asyncio.sleep(0.05)
            print(workers.infos()[0].pid, host.sockets.path, flush=True)
            await asking

        asyncio.run(main())
    """)
    mar = make_mar("m", "omnibus.py")
    paths = [Path.cwd(), Path(__file__).parent, mar.directory, mar.directory.parent]
    with subprocess.Popen([sys.executable, "-c", server, *map(str, paths)], stdout=subprocess.PIPE, text=True) as process:
        stdout: Any = process.stdout
        pid, sockets = stdout.readline().split()
        assert is_running(int(pid))
        process.send_signal(signal.SIGKILL)
    while is_running(int(pid)):
        pass
    assert Path(sockets).is_dir()
    socket_folder().remove()  # whoever comes next clears up
    assert not Path(sockets).exists()
