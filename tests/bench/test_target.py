"""What a load test asks is looked at first: whatever is not as it should be ends in a message that says what to do."""

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from artifact.signature import Dim, Signature, TensorSpec
from bench import inputs, payloads, target
from bench.errors import NotAsked
from bench.payloads import Body

SERVER = {"/v2": {"name": "other", "version": "1", "extensions": []}}
X = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
M = {"name": "m", "versions": ["1", "2"], "platform": "other", "inputs": [X], "outputs": [{**X, "name": "y"}]}
READY = {"/v2/models/m": M, "/v2/models/m/ready": {"ready": True}, "/v2/models": {"models": ["m"]}}


@contextlib.contextmanager
def stub(answers, host="127.0.0.1"):
    """Another server: a path's JSON, or its status and text, and 404 with a page of HTML for all others. Gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append((self.command, self.path, dict(self.headers)))
            found = answers.get(self.path, (404, "<p>gone</p>"))
            status, text = found if isinstance(found, tuple) else (200, json.dumps(found))
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if text.startswith("<") else "application/json")
            if status == 307:
                self.send_header("Location", text)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815 (as http.server calls it)

        def log_message(self, format, *_):  # noqa: A002 (as http.server calls it)
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    asked = []
    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://{payloads.host_text(host, server.server_port)}", asked
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def speaker(said):
    """A server that says this to the first who comes, or nothing at all where it is None, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def speak():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                if said is None:
                    connection.recv(65536)
                else:
                    with contextlib.suppress(ConnectionError):
                        connection.sendall(said)

        thread = threading.Thread(target=speak)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def why_not(*asked):
    """Why there is nothing to ask."""
    with pytest.raises(NotAsked) as caught:
        target.look(*asked)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture
def url(served):
    return f"http://127.0.0.1:{served.port}"


def test_our_server_says_everything(url, served):
    """The whole signature, how calls run, and the versions come from the server."""
    found = target.look(url + "/", "one")

    assert (found.host, found.port, found.base_path, found.model, found.version) == ("127.0.0.1", served.port, "", "one", None)
    assert found.signature == Signature(
        (TensorSpec("x", "float32", ("batch", 4), (-1, 1)),),
        (TensorSpec("x_back", "float32", ("batch", 4)),),
        {"batch": Dim(1, 16, opt=4)},
    )
    assert {name: found.facts[name] for name in ("engine", "threads", "instances", "max_rows", "platform")} == {
        "engine": "onnx",
        "threads": "1",
        "instances": "1",
        "max_rows": "16",
        "platform": "onnx_onnxv1",
    }
    assert "signature" not in found.facts
    assert (found.versions, found.oip, found.guessed, found.notes) == (["3"], True, False, ())
    assert target.look(url, "one", "3").version == "3"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "--url '' is no URL of a server: write http://HOST:PORT"),
        ("127.0.0.1:8080", "--url '127.0.0.1:8080' is no URL of a server: write http://HOST:PORT"),
        ("http://:80", "--url 'http://:80' is no URL of a server: write http://HOST:PORT"),
        ("http://a#b", "--url 'http://a#b' is no URL of a server: write http://HOST:PORT"),
        ("http://a:0", "--url 'http://a:0' is no URL of a server: write http://HOST:PORT"),
        ("http://a:http", "--url 'http://a:http' is no URL of a server (Port could not be cast to integer value as 'http'): "),
        ("http://[::1", "--url 'http://[::1' is no URL of a server (Invalid IPv6 URL): write http://HOST:PORT"),
        (
            "https://a",
            "--url 'https://a': https:// is not supported, the load generator speaks plain HTTP: write http://HOST:PORT",
        ),
        ("http://me:secret@a", "--url holds a user's name: send it with --header 'Authorization: Basic …'"),
        ("http://a?b", "--url 'http://a?b' has a query: give the server's base URL, or --protocol raw to ask a URL as it is"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1 refuses connections: does the server run, and listen there?"),
        ("http://nobody.invalid", "no host is called 'nobody.invalid' ("),
    ],
)
def test_wrong_urls(url, message):
    """What is wrong with a URL is said, and a password in it is not."""
    assert why_not(url, "m").startswith(message)


def test_models_that_are_not_there(url):
    """The server's models, versions and reasons are told."""
    assert why_not(url, "two") == f"{url} has no model 'two'; it has: broken, half, mixed, one, whole"
    assert why_not(url) == f"{url} has 5 models: give --model, one of: broken, half, mixed, one, whole"
    assert why_not(url, "one", "7") == (
        f"{url} does not serve one version 7: one has no version or label '7'; versions served: 3; labels: none"
    )
    said = why_not(url, "broken")
    assert said.startswith(f"broken is not ready at {url}, which says: broken is not ready: version 1 failed its checks: ")


def test_the_only_model_needs_no_name():
    """Its name comes from Triton's index, whatever its versions, or from KServe's list."""
    index = {"/v2/repository/index": [{"name": "m", "version": "1"}, {"name": "m", "version": "2"}]}
    for models in (index, {"/v2/models": {"models": ["m"]}}):
        with stub({**READY, **models}) as (url, _):
            assert target.look(url).model == "m"
    with stub({"/v2/repository/index": []}) as (url, _):
        assert why_not(url) == why_not(url, "m") == f"{url} has no model"
    with stub(SERVER) as (url, _):
        assert why_not(url) == f"{url} does not say which models it has: give --model"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_path_before_the_protocols(host):
    """A base path, of a proxy, stands before every path, and so do headers in every request; the address may be IPv6."""
    try:
        serving = stub({f"/a%20b/api{path}": answer for path, answer in READY.items()}, host)
        with serving as (url, asked):
            found = target.look(f"{url}/a b/api/", "m", None, [("Authorization", "Bearer abc")])
    except OSError:
        pytest.skip("this machine has no IPv6")

    assert (found.host, found.base_path) == (host, "/a%20b/api")
    assert [path for _, path, _ in asked] == [f"/a%20b/api/v2/models/m{end}" for end in ("", "/ready", "/config")]
    assert all(headers["Authorization"] == "Bearer abc" for _, _, headers in asked)
    assert all(f"http://{headers['Host']}" == url for _, _, headers in asked)


def test_a_server_without_a_signature():
    """Of another server's model the batch and all sizes and values are guessed, and the notes say how."""
    ids = {"datatype": "INT64", "shape": [-1, -1]}
    tensors = [{**ids, "name": "ids"}, {**ids, "name": "mask"}, {"name": "pixels", "datatype": "UINT8", "shape": [-1, 3, -1, -1]}]
    config = {"max_batch_size": 8, "parameters": {"kind": {"string_value": "big"}}}
    with stub({**READY, "/v2/models/m": {**M, "inputs": tensors}, "/v2/models/m/config": config}) as (url, _):
        found = target.look(url, "m")
    made = inputs.made_up(found.signature, rows=2, different=1)[0]

    assert {name: array.shape for name, array in made.items()} == {"ids": (2, 128), "mask": (2, 128), "pixels": (2, 3, 224, 224)}
    assert (set(made["ids"].ravel()), made["pixels"].max()) == ({0, 1}, 255)
    assert found.signature.dims["batch"] == Dim(1, 8, opt=1)
    assert (found.guessed, found.facts, found.versions) == (True, {"platform": "other", "kind": "big"}, ["1", "2"])
    assert " ".join(found.notes) == (
        "The server does not say which values its inputs may have: where --input gave no others, floats from 0 to 1, bytes "
        "(uint8) from 0 to 255 and other integers of 0 and 1 were sent. "
        "The server does not say how large its variable dimensions may be; without --input, one row is: ids [1, 128], "
        "mask [1, 128], pixels [1, 3, 224, 224]."
    )


def test_a_model_without_batches():
    """Where the configuration says that there are none, a first dimension that varies is one like others."""
    with stub({**READY, "/v2/models/m/config": {"max_batch_size": 0}}) as (url, _):
        signature = target.look(url, "m").signature

    assert signature.batch_dim is None
    assert [array.shape for array in inputs.made_up(signature)[0].values()] == [(128, 4)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": []}, "URL does not say what m takes: use --protocol raw with a body of your own, by --input"),
        (
            {"inputs": [{**X, "datatype": "BYTES"}]},
            "input 'x' of m is BYTES, which the load test cannot write: use --protocol raw with a body of your own, by --input",
        ),
        ({"inputs": [{"name": "x"}]}, "URL describes m in a form that is not the protocol's: 'shape' is missing"),
        ({"inputs": [{**X, "shape": [0]}]}, "URL describes m in a form that is not the protocol's: 'x' has shape [0]"),
        ({"inputs": "x"}, 'URL/v2/models/m says nothing of the model\'s inputs: {"inputs": "x"}'),
    ],
)
def test_metadata_that_does_not_do(changed, message):
    """What the load test cannot make requests of is refused."""
    stated = changed if changed["inputs"] == "x" else {**M, **changed}
    with stub({**SERVER, **READY, "/v2/models/m": stated}) as (url, _):
        assert why_not(url, "m") == message.replace("URL", url)


@pytest.mark.parametrize(
    ("stated", "reason"),
    [
        ("{", "unexpected end of data: line 1 column 2 (char 1)"),
        ("{}", "'inputs' is missing"),
        ('{"inputs": [], "outputs": [], "dims": {}}', "there are no inputs, no outputs, or two of one name"),
        ('{"inputs": 1, "outputs": [], "dims": {}}', "'int' object is not iterable"),
    ],
)
def test_a_broken_signature(stated, reason):
    """A signature that is stated is not trusted blindly."""
    with stub({**READY, "/v2/models/m/config": {"parameters": {"signature": {"string_value": stated}}}}) as (url, _):
        assert why_not(url, "m") == f"the signature that {url} states for m is broken: {reason}"


def test_answers_of_other_servers():
    """Servers of another kind, those that send elsewhere, want a password, or are not ready are told apart."""
    answers = {
        "/a/v2/models/m": (307, "http://there/"),
        "/b/v2/models/m": (401, '{"error": "who are you?"}'),
        "/c/v2/models/m": (500, '{"detail": "it  broke"}'),
        "/d/v2/models/m": (503, ""),
        "/e/v2/models/m": M,
        "/e/v2/models/m/ready": {"name": "m", "ready": False},
    }
    with stub(answers) as (url, _):
        assert why_not(url, "m") == (
            f"{url} is no server of the Open Inference Protocol: /v2 answered 404, an HTML page. Is the path right? "
            "Other servers can be asked with --protocol raw"
        )
        assert why_not(f"{url}/a", "m") == f"{url}/a/v2/models/m redirects to http://there/: give that server's URL"
        assert why_not(f"{url}/b", "m") == (f"{url}/b/v2/models/m answered 401: who are you?; give --header 'Authorization: …'")
        assert why_not(f"{url}/c", "m") == f"{url}/c/v2/models/m answered 500: it broke"
        assert why_not(f"{url}/d", "m") == f"m is not ready at {url}/d, which says: no reason given"
        assert why_not(f"{url}/e", "m") == f'm is not ready at {url}/e, which says: {{"name": "m", "ready": false}}'


def test_no_answer_in_http(monkeypatch):
    """Something that listens and does not speak HTTP, or not in time, is told apart from a server."""
    with speaker(b"SSH-2.0-x\r\n") as url:
        assert why_not(url, "m") == f"{url} does not speak HTTP; its answer begins with 'SSH-2.0-x\\r\\n'"
    with speaker(b"") as url:
        assert why_not(url, "m") == f"{url} closed the connection before it had answered GET /v2/models/m"
    with speaker(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{") as url:
        assert why_not(url, "m") == f"{url} closed the connection before it had answered GET /v2/models/m"
    monkeypatch.setattr(target, "LOOK_TIMEOUT_S", 0.05)
    with speaker(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n0\r\n" * 10**6) as url:
        assert why_not(url, "m") == f"{url} did not answer GET /v2/models/m within 0.05 s"
    with speaker(None) as url:
        assert why_not(url, "m") == f"{url} did not answer GET /v2/models/m within 0.05 s"


def test_any_url(url, served):
    """With `raw`, the URL is asked as it is, with its query; a body makes it a POST."""
    found = target.any_url(f"{url}/predictions/one?a=b c&d=%20")
    nothing = payloads.build("raw", target.any_url(f"{url}/v2/models"), [])[0]
    something = payloads.build("raw", found, [Body(b'{"inputs": [[1, 0, 0, 0]]}', {"Content-Type": "application/json"})])[0]

    assert [target.any_url(f"http://a{end}").base_path for end in ("", "/", "?b=c")] == ["/", "/", "/?b=c"]
    assert (found.base_path, found.model, found.oip) == ("/predictions/one?a=b%20c&d=%20", "", False)
    assert json.loads(target.ask("127.0.0.1", served.port, nothing)[2]) == {"models": ["half", "mixed", "one", "whole"]}
    status, headers, content = target.ask("127.0.0.1", served.port, something)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(content)["outputs"] == {"x_back": [[1, 0, 0, 0]]}


def test_a_payload_that_does_not_fit(url):
    """One request before any load: the server's own words end it."""
    found = target.look(url, "one")
    image = payloads.build("predictions-image", found, [Body(b"\x89PNG", {"Content-Type": "image/png"})])[0]

    with pytest.raises(NotAsked) as caught:
        target.ask(found.host, found.port, image)
    assert str(caught.value) == (
        f'{url}/predictions/one answered 415: content type "image/png" is not one that we read: '
        "application/json, application/x-npy, application/octet-stream"
    )
