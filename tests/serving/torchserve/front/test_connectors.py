"""Where the server listens, what it answers there, and which tokens it asks for."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from bench.processes import free_port, server_environment
from serving.errors import PortTaken, SettingsError
from serving.listeners import claimed, listeners_of, require_free
from serving.settings import Settings
from serving.torchserve.addresses import Address

FORBIDDEN = (400, "InvalidKeyException", "Token Authorization failed. Token either incorrect, expired, or not provided correctly")
UNAUTHENTIC = (
    400,
    "InvalidKeyException",
    "Token Authentication failed. Token either incorrect, expired, or not provided correctly",
)
NOT_FOUND = (404, "ResourceNotFoundException", "Requested resource is not found, please refer to API document.")
NOT_ALLOWED = (405, "MethodNotAllowedException", "Requested method is not allowed, please refer to API document.")


def keys_of(running):
    found = json.loads((running.log.parent / "key_file.json").read_text())
    return {name.lower(): {"Authorization": f"Bearer {entry['key']}"} for name, entry in found.items()} | {"none": {}}


def outcome(answer):
    """Code, type and message of an error; the status of anything else."""
    if answer.status_code < 400:
        return answer.status_code
    told = answer.json()
    return told["code"], told["type"], told["message"]


@pytest.fixture(scope="module")
def with_tokens(start, empty_store, mlp_artifact):
    """A server on three ports that asks for tokens, as it does where nothing is said."""
    with start(empty_store, "--body-timeout-s", "1", artifacts={"mlp/1": mlp_artifact}) as running:
        yield running


@pytest.fixture(scope="module")
def single_port(start, empty_store):
    """The same on one port."""
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    with start(empty_store, "--inference-address", where, "--management-address", where, port=port) as running:
        yield running


@pytest.mark.parametrize(
    ("connector", "key", "path", "found"),
    [
        (0, "none", "/ping", FORBIDDEN),
        (0, "management", "/ping", FORBIDDEN),
        (0, "api", "/ping", FORBIDDEN),
        (0, "inference", "/ping", 200),
        (0, "none", "/predictions/nope", FORBIDDEN),
        (0, "none", "/nope", FORBIDDEN),
        (0, "inference", "/nope", NOT_FOUND),
        (0, "api", "/token?type=inference", FORBIDDEN),
        (0, "none", "/", NOT_ALLOWED),
        (0, "none", "/api-description", 200),
        (1, "none", "/models", FORBIDDEN),
        (1, "inference", "/models", FORBIDDEN),
        (1, "management", "/models", 200),
        (1, "none", "/nope", FORBIDDEN),
        (1, "management", "/token?type=inference", UNAUTHENTIC),
        (1, "api", "/token?type=nothing", UNAUTHENTIC),
        (1, "none", "/api-description", 200),
        (2, "none", "/metrics", 200),
        (2, "none", "/nope", NOT_FOUND),
    ],
)
def test_tokens(with_tokens, connector, key, path, found):
    """Each connector has its own, asked for even where nothing is; descriptions and metrics are everybody's."""
    url = f"http://127.0.0.1:{with_tokens.port + connector}{path}"

    assert outcome(httpx.get(url, headers=keys_of(with_tokens)[key], trust_env=False)) == found


@pytest.mark.parametrize("header", ["Bearer", "bearer {key}", "{key}", "Bearer {key} x", "Basic {key}", "Bearer é"])
def test_headers_that_hold_no_token(with_tokens, header):
    """Nothing but `Bearer KEY` does."""
    key = keys_of(with_tokens)["inference"]["Authorization"].removeprefix("Bearer ")
    headers = {"Authorization": header.format(key=key).encode()}

    assert outcome(httpx.get(f"{with_tokens.url}/ping", headers=headers, trust_env=False)) == FORBIDDEN


@pytest.mark.parametrize(
    ("method", "path", "asks"),
    [
        ("POST", "/predictions/mlp", True),
        ("POST", "/v2/models/mlp/infer", True),
        ("GET", "/v2/models", True),
        ("POST", "/v2/repository/index", True),
        ("GET", "/docs", False),
        ("GET", "/openapi.json", False),
        ("GET", "/metrics", False),
        ("GET", "/ready", False),
        ("GET", "/v2/health/live", False),
        ("GET", "/v2/health/ready", False),
    ],
)
def test_artifacts_and_tokens(with_tokens, method, path, asks):
    """What asks an artifact needs the token of predictions; descriptions, health and metrics need none."""
    body = {"mlp": {"inputs": {"x": [[0, 0, 0, 0]]}}, "infer": {"inputs": [TENSOR]}}.get(path.rpartition("/")[2])
    content = None if body is None else json.dumps(body)
    url, key = with_tokens.url + path, keys_of(with_tokens)["inference"]
    without = httpx.request(method, url, content=content, trust_env=False)
    allowed = httpx.request(method, url, content=content, headers=key, trust_env=False)

    assert allowed.status_code == 200
    assert outcome(without) == (FORBIDDEN if asks else 200)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/models/mlp/load"),
        ("POST", "/v2/repository/models/nope/unload"),
        ("PUT", "/v2/repository/models/mlp/labels/stable"),
        ("DELETE", "/v2/repository/models/mlp/labels/stable"),
    ],
)
def test_changing_what_is_served_needs_the_token_of_management(with_tokens, method, path):
    """Who may ask for predictions may not load and unload artifacts, or label their versions."""
    url, keys = with_tokens.url + path, keys_of(with_tokens)

    for key in ("none", "inference", "api"):
        assert outcome(httpx.request(method, url, headers=keys[key], trust_env=False)) == FORBIDDEN
    allowed = httpx.request(method, url, content="1", headers=keys["management"], trust_env=False)
    assert "Token" not in allowed.text


TENSOR = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}


def test_no_body_is_awaited_from_whoever_has_no_token(with_tokens):
    """Who may not ask is refused before the body is there: nothing of it is held."""
    with socket.create_connection(("127.0.0.1", with_tokens.port), timeout=10) as client:
        client.sendall(b"POST /predictions/nope HTTP/1.1\r\nHost: here\r\nContent-Length: 1000000\r\n\r\nx")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_a_new_token(with_tokens):
    """The key that asks for keys makes a new one, and the one before it opens nothing any more."""
    before = keys_of(with_tokens)
    answer = httpx.get(f"http://127.0.0.1:{with_tokens.port + 1}/token?type=inference", headers=before["api"], trust_env=False)
    after = keys_of(with_tokens)

    assert (answer.status_code, answer.text) == (200, "\n")
    ping = f"{with_tokens.url}/ping"
    assert outcome(httpx.get(ping, headers=before["inference"], trust_env=False)) == FORBIDDEN
    assert outcome(httpx.get(ping, headers=after["inference"], trust_env=False)) == 200
    assert after["management"] == before["management"]


@pytest.mark.parametrize(
    ("key", "path", "found"),
    [
        ("none", "/ping", FORBIDDEN),
        ("none", "/models", FORBIDDEN),
        ("none", "/metrics", FORBIDDEN),
        ("none", "/api-description", 200),
        ("inference", "/ping", 200),
        ("inference", "/models/nope/1.0", NOT_FOUND),
        ("inference", "/models", FORBIDDEN),
        ("inference", "/metrics", FORBIDDEN),
        ("inference", "/v1/models/nope", FORBIDDEN),
        ("inference", "/nope", FORBIDDEN),
        ("inference", "/token?type=inference", UNAUTHENTIC),
        ("management", "/models", FORBIDDEN),
        ("api", "/token?type=inference", FORBIDDEN),
    ],
)
def test_tokens_on_a_single_port(single_port, key, path, found):
    """As in TorchServe, what is management's needs two tokens in one header, so that nothing passes."""
    assert outcome(httpx.get(single_port.url + path, headers=keys_of(single_port)[key], trust_env=False)) == found


def test_one_port_for_all(start, model_store):
    """Without tokens, one port answers it all: what has four parts and begins with models is inference's, and unknown to it."""
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    flags = ("--models", "told.mar", "--inference-address", where, "--management-address", where, "--enable-model-api")
    flags += (
        "--disable-token-authorization",
        "--ts-open-inference-protocol",
        "--json-content-type",
        "--metrics-mode",
        "prometheus",
    )
    with start(model_store, *flags, port=port) as running:
        found = {
            path: outcome(running.get(path))
            for path in ("/ping", "/models", "/models/told", "/models/told/1.0", "/models/told/all", "/v1/models/told", "/nope")
        }
        assert found == {
            **dict.fromkeys(("/ping", "/models", "/models/told", "/v1/models/told"), 200),
            **dict.fromkeys(("/models/told/1.0", "/models/told/all", "/nope"), NOT_FOUND),
        }
        assert running.request("PUT", "/models/told/1.0/set-default").status_code == 200
        both = running.request("OPTIONS", "/").json()["paths"]
        assert {"/ping", "/models", "/metrics"} <= set(both)
        assert "Requests2XX{" in running.get("/metrics").text
        assert running.request("POST", "/invocations", json={"answer": "the only one"}).text == "the only one"
        _test_open_inference_protocol(running)
        _test_json_content_type(running)
        (line,) = (
            line["message"] for line in running.log_lines() if "listening" in line["message"] and str(port) in line["message"]
        )
        assert line == f"Inference, management API listening on {where}"


def _test_open_inference_protocol(running):
    """The little of it that TorchServe has is TorchServe's, where the settings say so."""
    assert running.get("/v2").json() == {"name": "Torchserve", "version": "0.12.0", "extenstion": ["kserve", "kubeflow"]}
    assert running.get("/v2/health/live").json() == {"live": True}
    assert running.get("/v2/health/ready").json() == {"ready": True}
    versioned = running.request("POST", "/v2/models/told/versions/1.0/infer", json={})
    assert (versioned.status_code, versioned.json()) == (501, {"error": "Model versioning is not yet supported."})
    assert running.get("/v2/models").json() == {"models": []}


def _test_json_content_type(running):
    """Where the settings say so, an answer that is JSON says that it is, unless its handler says otherwise."""
    types = [
        running.request("POST", "/predictions/told", json=told).headers.get("content-type")
        for told in ({"answer": [1]}, {"answer": "[1]"}, {"answer": "text"}, {"answer": [1], "type": "text/x"})
    ]
    assert types == ["application/json", "application/json", None, "text/x"]


def test_three_connectors_without_a_model_store(server):
    """Without a model store, inference is the application's alone; management and metrics have ports of their own."""
    management, metrics = (f"http://127.0.0.1:{server.port + number}" for number in (1, 2))

    assert server.get("/ping").headers["content-type"] == "application/json"
    assert server.get("/nope").json()["type"] == "NotFound"
    assert server.get("/models").status_code == 404
    listed = httpx.get(f"{management}/models", trust_env=False).json()
    assert [model["modelName"] for model in listed["models"]] == ["classes", "counting", "mlp", "spare"]
    assert httpx.post(f"{management}/models?url=x", trust_env=False).status_code == 405
    assert "stateserve_requests_in_flight{" in httpx.get(f"{metrics}/metrics", trust_env=False).text
    lines = [line["message"] for line in server.log_lines() if "listening" in line["message"]]
    assert lines == [
        f"{name} API listening on http://127.0.0.1:{server.port + number}"
        for number, name in enumerate(("Inference", "Management", "Metrics"))
    ]


def test_one_port_without_a_model_store(start_server, repository):
    """The application comes first, and management's paths after it."""
    port = free_port()
    where = f"http://127.0.0.1:{port}"
    with start_server(repository, "--management-address", where, "--metrics-address", where, port=port) as running:
        assert [running.get(path).status_code for path in ("/docs", "/metrics", "/models", "/models/mlp/1", "/ping")] == [200] * 5
        assert running.get("/nope").json()["type"] == "NotFound"
        assert running.predict("mlp", {"inputs": {"x": [[0, 0, 0, 0]]}}).status_code == 200


def test_a_socket(start, empty_store, tmp_path_factory):
    """An address may be a Unix socket; the file that a killed server left is taken away, and a living one's is not."""
    folder = tmp_path_factory.mktemp("s")
    path = folder / "m.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    flags = ("--management-address", f"unix:{path}", "--disable-token-authorization")
    with start(empty_store, *flags) as running:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), trust_env=False) as client:
            assert client.get("http://x/models").json() == {"models": []}
        with pytest.raises(PortTaken, match=f"^{path} cannot be listened on: another server listens there$"):
            require_free(Address("unix", path=str(path)))
        assert running.stop() == 0
    assert not path.exists()


def test_paths_that_cannot_be_listened_on(tmp_path):
    """A file that is no socket is not taken away, and a folder must be there."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PortTaken, match=f"^{tmp_path}/file cannot be listened on: it is there, and no socket$"):
        require_free(Address("unix", path=str(tmp_path / "file")))
    with pytest.raises(PortTaken, match=f"^{tmp_path}/no/s cannot be listened on: there is no folder {tmp_path}/no$"):
        require_free(Address("unix", path=str(tmp_path / "no" / "s")))


@pytest.mark.parametrize("number", [1, 2])
def test_a_port_that_is_taken(start_server, repository, number):
    """The server needs all of its ports, and says which is not free."""
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + number))
        taken.listen()
        with pytest.raises(pytest.fail.Exception, match="did not start") as failed, start_server(repository, port=port):
            pass
    assert (
        f"error: 127.0.0.1:{port + number} cannot be listened on: Address already in use; end what listens there, or choose "
        "another address" in str(failed.value)
    )


def test_an_address_that_another_claims():
    """Of two servers that begin at the same moment, one is told."""
    address = Address("unix", path="/somewhere/x.sock")
    message = "^/somewhere/x.sock belongs to another stateserve that is starting; choose another address$"
    with claimed(address), pytest.raises(PortTaken, match=message), claimed(address):
        pass


def test_names_of_one_address():
    """Connectors whose hosts are names of one address share a listener; its scheme is one."""
    addresses = {"inference_address": "http://localhost:1234", "management_address": "http://127.0.0.1:1234"}
    settings = Settings.model_validate(addresses)
    inference, metrics = listeners_of(settings)
    assert (str(inference.address), inference.connectors) == ("http://127.0.0.1:1234", {"inference", "management"})
    assert metrics.connectors == {"metrics"}

    with pytest.raises(SettingsError) as refused:
        listeners_of(settings.model_copy(update={"management_address": Address("https", "127.0.0.1", 1234)}))
    assert str(refused.value) == "http://127.0.0.1:1234 and https://127.0.0.1:1234 are one address: it is http or https"


def test_started(model_store, tmp_path, wait_for):
    """`Model server started.` is said when every port answers, and the models of the start are found."""
    port = free_port()
    command = [sys.executable, "-m", "serving.torchserve", "--start", "--foreground", "--ncs", "--disable-token-auth"]
    command += ["--model-store", str(model_store), "--models", "told.mar", "--ts-config", str(tmp_path / "config.properties")]
    (tmp_path / "config.properties").write_text(f"port={port}\n")
    environment = {**server_environment(), "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "Model server started.\n"
        for number, path in enumerate(("/ping", "/models/told", "/metrics")):
            assert httpx.get(f"http://127.0.0.1:{port + number}{path}", trust_env=False).status_code == 200
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False).status_code == 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert re.search(r"ready: told version 1\.0\b", Path(log.name).read_text())
    finally:
        process.kill()
        process.communicate()


def test_a_body_that_trickles_in(with_tokens):
    """A client that does not send its body in time is told so, in TorchServe's words for what takes too long."""
    key = keys_of(with_tokens)["inference"]["Authorization"]
    with with_tokens.connect() as connection:
        connection.sendall(
            f"POST /predictions/nope HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 10\r\n\r\n1".encode()
        )
        status, headers, body = with_tokens.answer_on(connection)

    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body) == {
        "code": 408,
        "type": "RequestTimeoutException",
        "message": "the body did not arrive within 1 s (setting body_timeout_s)",
    }


def test_the_end(start, model_store, tmp_path, wait_for):
    """What a worker has begun is answered before the server ends, and of its keys and folders nothing is left."""
    goes_on = tmp_path / "goes on"
    with start(model_store, "--models", "told.mar") as running:
        folder, headers = running.log.parent, keys_of(running)["inference"]
        with httpx.stream(
            "POST",
            f"{running.url}/predictions/told",
            headers=headers,
            json={"parts": ["a"], "until": str(goes_on), "answer": "b"},
            timeout=60,
            trust_env=False,
        ) as answer:
            parts = answer.iter_text()
            assert next(parts) == "a"
            running.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "ending: " in running.log_lines()[-1]["message"])
            goes_on.touch()
            assert "".join(parts) == "b"
        assert running.process.wait(60) == 0
        assert not (folder / "key_file.json").exists()
        assert [line for line in running.log_lines() if line["level"] != "INFO"] == []


def test_an_artifact_takes_over_an_archives_name(start_server, write_archive, make_repository, mlp_artifact, tmp_path):
    """While an artifact of an archive's name is served, both connectors tell of it; when it is unloaded, of the archive again."""
    write_archive(tmp_path, "told")
    repository = make_repository({"other/1": mlp_artifact})
    flags = ("--model-store", str(tmp_path), "--models", "told.mar", "--disable-token-authorization")
    with start_server(repository, *flags, "--default-workers-per-model", "1") as running:

        def described():
            (record,) = httpx.get(f"http://127.0.0.1:{running.port + 1}/models/told", timeout=60, trust_env=False).json()
            return record["runtime"]

        assert described() == "python"
        shutil.copytree(mlp_artifact, repository / "told" / "1")
        assert running.request("POST", "/v2/repository/models/told/load").status_code == 200
        assert described() == "stateserve"
        assert running.predict("told", {"answer": "by the handler"}).status_code == 400
        assert running.request("POST", "/v2/repository/models/told/unload").status_code == 200
        assert described() == "python"
        assert running.predict("told", {"answer": "by the handler"}).text == "by the handler"


def test_an_artifact_that_fails_beside_archives(start_server, make_repository, model_store):
    """A folder that is no artifact does not make a server unready whose archives answer."""
    repository = make_repository({})
    flags = ("--model-store", str(model_store), "--models", "told.mar", "--disable-token-authorization")
    with start_server(repository, *flags, "--default-workers-per-model", "1") as running:
        (repository / "broken" / "1").mkdir(parents=True)
        assert running.request("POST", "/v2/repository/models/broken/load").status_code == 400
        assert running.get("/ready").json()["ready"]


def test_a_second_signal(start, model_store, tmp_path, wait_for):
    """What is cut off leaves no keys and no folder of sockets behind."""
    begun = tmp_path / "begun"
    with start(model_store, "--models", "told.mar") as running:
        headers = keys_of(running)["inference"]
        with running.connect() as connection:
            body = json.dumps({"begun": str(begun), "until": str(tmp_path / "never")}).encode()
            head = f"POST /predictions/told HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            wait_for(begun.exists)
            running.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "ending: " in running.log_lines()[-1]["message"])
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(60) == 1
        assert not (running.log.parent / "key_file.json").exists()


def test_a_socket_whose_path_is_too_long(tmp_path):
    """What no system can bind is told before anything is started."""
    path = tmp_path / ("x" * 120)
    with pytest.raises(PortTaken, match=r"cannot be listened on: a socket's path has at most 103 bytes$"):
        require_free(Address("unix", path=str(path)))


def test_changes_leave_a_line_in_the_log(start, model_store, wait_for):
    """What a client changes, or tries to, is in the log; what it only looks at is not."""
    with start(model_store, "--models", "told.mar", "--disable-token-authorization") as running:
        management = f"http://127.0.0.1:{running.port + 1}"
        for method, path in (("GET", "/models/told"), ("PUT", "/models/told?min_worker=1"), ("DELETE", "/models/told")):
            httpx.request(method, management + path, timeout=60, trust_env=False)

        def told():
            lines = [line["message"] for line in running.log_lines()]
            return [line for line in lines if line.startswith(("GET ", "PUT ", "DELETE "))]

        wait_for(lambda: len(told()) > 1)  # the log is written by a thread
        assert told() == ["PUT /models/told: 202", "DELETE /models/told: 405"]
