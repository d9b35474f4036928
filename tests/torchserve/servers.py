"""The two servers, each started as its users start it, in a folder of its own."""

import contextlib
import functools
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.torchserve import client
from tests.torchserve.archives import copy_store
from tests.torchserve.shapes import Answer, Ask, Connector, Scenario, Settle

PROJECT = Path(__file__).parents[2]
STARTED = "Model server started."
START_S = 120
SETTLE_S = 90
_POLL_S = 0.05
_PORTS = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
CONFIG = {
    "inference_address": "http://127.0.0.1:{inference}",
    "management_address": "http://127.0.0.1:{management}",
    "metrics_address": "http://127.0.0.1:{metrics}",
    "grpc_inference_port": "{grpc_inference}",
    "grpc_management_port": "{grpc_management}",
    "default_workers_per_model": "1",
    "disable_system_metrics": "true",
}
"""What every scenario's config.properties says; its own lines beat these, and a value of "" leaves one out."""


@dataclass(frozen=True)
class Running:
    """A server that has started. `values` is what `{…}` stands for, in requests and in answers."""

    process: subprocess.Popen
    directory: Path
    config: Mapping[str, str]
    values: dict[str, str] = field(default_factory=dict)

    def ask(self, ask: Ask) -> Answer:
        """The answer to a request whose places are filled."""
        return client.send(self.filled(ask), self._connect(ask.on))

    def filled(self, ask: Ask) -> Ask:
        """The request as it is sent to this server."""
        values = self.values | self._tokens()
        headers = tuple((name, _fill(value, values)) for name, value in ask.headers)
        body = _fill(ask.body.decode(), values).encode() if ask.body and b"{files}" in ask.body else ask.body
        return replace(ask, target=_fill(ask.target, values), headers=headers, body=body)

    def settle(self, step: Settle) -> None:
        """Waits until a model has so many workers that are ready.

        Raises:
            TimeoutError: it has not.
        """
        end = time.monotonic() + SETTLE_S
        headers = (("Authorization", "Bearer {management_key}"),)
        ask = Ask("GET", f"/models/{step.model}", "management", headers if self._tokens() else ())
        while True:
            answer = self.ask(ask)
            found = json.loads(answer.body)[0]["workers"] if answer.status == 200 else []
            if answer.status == 200 and len(found) == step.workers and all(one["status"] == "READY" for one in found):
                return
            if time.monotonic() > end:
                raise TimeoutError(f"{step} after {SETTLE_S} s: {answer.status} {answer.body.decode(errors='replace')}")
            time.sleep(_POLL_S)

    def log(self) -> str:
        """All that the server printed."""
        return (self.directory / "log.txt").read_text(errors="replace")

    def _connect(self, connector: Connector) -> Callable[[], socket.socket]:
        scheme, _, place = self.config[f"{connector}_address"].partition(":")
        if scheme == "unix":
            return client.unix(place)
        return client.tcp(int(place.rpartition(":")[2]), tls=scheme == "https")

    def _tokens(self) -> dict[str, str]:
        """The keys that the server wrote into its folder."""
        try:
            keys = json.loads((self.directory / "key_file.json").read_text())
        except (OSError, ValueError):
            return {}
        return {f"{name.lower()}_key": value["key"] for name, value in keys.items()}


def _fill(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


Command = Callable[[Path, Scenario, Path], list[str]]


def torchserve(program: Path) -> Command:
    """TorchServe's own command."""

    def command(config: Path, scenario: Scenario, store: Path) -> list[str]:
        models = ["--models", *scenario.models] if scenario.models else []
        return [
            str(program),
            "--start",
            "--foreground",
            "--ts-config",
            str(config),
            "--model-store",
            str(store),
            *models,
            *scenario.flags,
        ]

    return command


def stateserve() -> Command:
    """Ours, with the same words."""
    theirs = torchserve(Path("-"))

    def command(config: Path, scenario: Scenario, store: Path) -> list[str]:
        return [sys.executable, "-m", "serving.torchserve", *theirs(config, scenario, store)[1:]]

    return command


@contextlib.contextmanager
def running(command: Command, scenario: Scenario, store: Path) -> Iterator[Running]:
    """A server for one scenario, from its start until its models have their workers, until the block ends.

    Raises:
        RuntimeError: it ended, or did not start in time.
    """
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="ts"))  # short: sockets lie in it
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        (directory / "tmp").mkdir()
        copy_store(store, scenario.archives, directory / "store")
        values = {name: str(port) for name, port in zip(_PORTS, _free_ports(len(_PORTS)), strict=True)}
        values |= {"directory": str(directory), "files": str(stack.enter_context(_file_server(store)))}
        config = {name: _fill(value, values) for name, value in (CONFIG | dict(scenario.config)).items() if value}
        _write_certificate(directory, config)
        (directory / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in config.items()))
        called = command(directory / "config.properties", scenario, directory / "store")
        environment = _environment(directory) | {name: _fill(value, values) for name, value in scenario.environment.items()}
        process = stack.enter_context(_process(called, directory, environment))
        found = Running(process, directory, config, values)
        _wait_until_started(found)
        for model, workers in scenario.ready.items():
            found.settle(Settle(model, workers))
        yield found


def _environment(directory: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TS_", "STATESERVE_", "LOG_", "METRICS_"))}
    kept["PYTHONDONTWRITEBYTECODE"] = "1"  # a handler lists its folder
    scratch = str(directory / "tmp")
    return {**kept, "TMPDIR": scratch, "TEMP": scratch, "PYTHONPATH": str(PROJECT), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@contextlib.contextmanager
def _process(command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """A process with all its children in a session of its own, of which nothing is left."""
    with (directory / "log.txt").open("w") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(15)


def _wait_until_started(server: Running) -> None:
    end = time.monotonic() + START_S
    while STARTED not in (said := server.log()):
        if server.process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the server did not start: {said}")
        time.sleep(_POLL_S)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def _file_server(folder: Path) -> Iterator[int]:
    """Serves the archives on a port of this machine, as a place to download models from."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def _write_certificate(directory: Path, config: Mapping[str, str]) -> None:
    """A certificate of its own, where the config names one."""
    if "certificate_file" not in config and "keystore" not in config:
        return
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-days", "30", "-nodes"]
    _openssl("req", "-x509", "-newkey", "rsa:2048", "-keyout", str(key), "-out", str(certificate), *subject)
    keystore = str(directory / "keystore.p12")
    _openssl("pkcs12", "-export", "-inkey", str(key), "-in", str(certificate), "-out", keystore, "-passout", "pass:changeit")


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
