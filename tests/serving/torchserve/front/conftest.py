"""Servers with a model store, and what asks them."""

import contextlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

HANDLERS = Path(__file__).parent / "handlers"
PLAIN = {"timeout": 60, "verify": False, "trust_env": False}


@dataclass(frozen=True)
class Asked:
    """A server's connectors, on three ports in a row."""

    port: int

    def send(self, method, path, connector=0, **options):
        return httpx.request(method, f"http://127.0.0.1:{self.port + connector}{path}", **PLAIN, **options)

    def get(self, path, connector=0, **options):
        return self.send("GET", path, connector, **options)

    def told(self, told, path="/predictions/told"):
        """The answer of the handler that does what it is told."""
        return self.send("POST", path, json=told)


@pytest.fixture(scope="session")
def write_archive():
    """A function that writes `<folder>/<name>.mar` around a handler of ours."""

    def write(folder, name, handler="told"):
        model = {"modelName": name, "modelVersion": "1.0", "handler": f"{handler}.py"}
        with zipfile.ZipFile(folder / f"{name}.mar", "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
            archive.write(HANDLERS / f"{handler}.py", f"{handler}.py")

    return write


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="session")
def model_store(tmp_path_factory, write_archive):
    """Two models that do what they are told."""
    folder = tmp_path_factory.mktemp("store")
    write_archive(folder, "told")
    write_archive(folder, "idle")
    return folder


@pytest.fixture(scope="session")
def start(start_server, make_repository):
    """A context manager that starts a server with a model store; artifacts are copied into its repository."""

    @contextlib.contextmanager
    def started(store, *flags, artifacts=None, port=None):
        root = make_repository(artifacts or {})
        with start_server(root, "--model-store", str(store), "--default-workers-per-model", "1", *flags, port=port) as running:
            yield running

    return started


@pytest.fixture(scope="module")
def asked(start, model_store, mlp_artifact):
    """One server for all tests that only ask: without tokens, with the artifact `mlp` beside the archives."""
    flags = ("--models", "all", "--disable-token-authorization", "--max-request-size", "20000")
    flags += ("--cors-allowed-origin", "https://a.example", "--cors-allowed-methods", "GET, POST")
    with start(model_store, *flags, artifacts={"mlp/1": mlp_artifact}) as running:
        found = Asked(running.port)
        assert found.send("PUT", "/models/idle?min_worker=0&max_worker=0&synchronous=true", 1).status_code == 200
        yield found


@pytest.fixture(scope="session", name="Asked")
def asked_class():
    return Asked
