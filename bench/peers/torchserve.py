"""TorchServe: the same artifact as a .mar, behind the real server, which needs Java.

On the CPU it has a worker for each core, with one thread each: so many are its own default. A model whose answers cost more in
Python than in the engine is nearly twice as fast so as with one worker that has all the threads; others differ little.
"""

import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from artifact import golden, read_manifest
from artifact.manifest import GOLDEN
from bench.errors import PeerMissing, ProcessFailed
from bench.payloads import predictions_json
from bench.peers.java_server import launched, wait_for_workers
from bench.peers.peer import MAX_DELAY_MS, MAX_ROWS, Cpus, core_count, most_rows, path_of
from bench.processes import Running, free_port, run_module
from bench.results import Contender

OLDEST_JAVA = 11
MODEL = "model"
"""The name under which TorchServe serves it, whatever the artifact's."""
PATHS: Mapping[str, str] = dict.fromkeys(("predictions-json", "predictions-npy", "predictions-raw"), f"/predictions/{MODEL}")
"""Protocol -> where its bodies are taken: our handler takes them as our server does."""

_PACK_TIMEOUT_S = 300
_ENOUGH_BYTES = 100_000_000
_JAVA_VERSION = re.compile(r'version "([\d.]+)')
_JAVA_TIMEOUT_S = 30
_THREADS = "OMP_NUM_THREADS"
_INSTALL_JAVA = "apt-get install openjdk-17-jre-headless"
_LOGS = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration>
  <Appenders><Console name="STDOUT"><PatternLayout pattern="%d [%p] %c - %m%n"/></Console></Appenders>
  <Loggers>
    <Logger name="ACCESS_LOG" level="off"/>
    <Logger name="MODEL_METRICS" level="off"/>
    <Logger name="TS_METRICS" level="off"/>
    <Logger name="MODEL_LOG" level="info">
      <RegexFilter regex=".*Backend received inference at.*" onMatch="DENY" onMismatch="NEUTRAL"/>
    </Logger>
    <Root level="warn"><AppenderRef ref="STDOUT"/></Root>
  </Loggers>
</Configuration>
"""
"""Its log without what it writes by default for every request: access, metrics, when it came. What else workers say stays."""


@dataclass(frozen=True, slots=True)
class TorchServePeer:
    """The real TorchServe, with `batching` or as it comes. See `Peer`."""

    batching: bool
    engine: str = "auto"
    device: str = "cpu"

    @property
    def key(self) -> str:
        """See `Peer`."""
        return "torchserve-batching" if self.batching else "torchserve"

    @property
    def title(self) -> str:
        """See `Peer`."""
        return "TorchServe with batching" if self.batching else "TorchServe"

    @property
    def about(self) -> str:
        """See `Peer`."""
        how = (
            f"batchSize the model's largest, at most {MAX_ROWS}, and maxBatchDelay {MAX_DELAY_MS} ms"
            if self.batching
            else "batchSize 1, its default"
        )
        return (
            "The artifact in a .mar of `stateserve package mar`, whose handler runs the same engine, behind the real TorchServe: "
            f"{how}; a worker with one thread for each core, or one worker on a GPU. The handler checks what our server does, "
            "and reads JSON in plain Python. Its logs of every request are off, as they are at the others."
        )

    def on(self, engine: str, device: str) -> Self:
        """See `Peer`."""
        return replace(self, engine=engine, device=device)

    def require_installed(self) -> None:
        """See `Peer`."""
        missing = [
            *(["torchserve: pip install 'stateserve[torchserve]'"] if importlib.util.find_spec("ts") is None else []),
            *_missing_java(),
        ]
        if missing:
            raise PeerMissing(f"--against torchserve needs what is not installed here: {'; '.join(missing)}")

    def path(self, protocol: str, model: str) -> str:  # noqa: ARG002 - see `MODEL`
        """See `Peer`."""
        return path_of(PATHS, protocol, self.title)

    def contender(self, artifact_dir: Path, threads: int | None, instances: int, cpus: Cpus) -> Contender:  # noqa: ARG002
        """See `Peer`."""
        versions = {"torchserve": version("torchserve"), "java": java_version() or "not found"}
        settings = {name: str(value) for name, value in self._model(artifact_dir, cpus).items()}
        settings["threads"] = self._environment(threads).get(_THREADS, "the engine's own choice")
        logs = {"access log": "off", "metrics log": "off"}
        return Contender(title=self.title, about=self.about, settings=versions | settings | logs)

    @contextmanager
    def start(
        self,
        artifact_dir: Path,
        folder: Path,
        threads: int | None,
        instances: int,  # noqa: ARG002 - it has its workers
        cpus: Cpus,
    ) -> Iterator[Running]:
        """See `Peer`."""
        store = folder / "store"
        store.mkdir(parents=True, exist_ok=True)
        self._pack(artifact_dir, store)
        port = free_port()
        models = {MODEL: {artifact_dir.resolve().name: self._model(artifact_dir, cpus)}}
        config = folder / "config.properties"
        config.write_text(self._config(store, port, models))
        log_config = folder / "log4j2.xml"
        log_config.write_text(_LOGS)
        with launched(config, port, cpus, self._environment(threads), log_config) as found:
            wait_for_workers(port + 1, MODEL, folder)
            _require_answer(found, artifact_dir)
            yield found

    def _pack(self, artifact_dir: Path, store: Path) -> None:
        engine = read_manifest(artifact_dir).formats[0] if self.engine == "auto" else self.engine
        to = ["--to", str(store / f"{MODEL}.mar"), "--format", engine, "--force"]
        run_module("stateserve", "package", "mar", str(artifact_dir.absolute()), *to, timeout_s=_PACK_TIMEOUT_S)

    def _environment(self, threads: int | None) -> dict[str, str]:
        """The variables of its workers. On the CPU each has one thread."""
        if self.device == "cpu":
            return {_THREADS: "1"}
        return {_THREADS: str(threads)} if threads else {}

    def _model(self, artifact_dir: Path, cpus: Cpus) -> dict[str, str | int]:
        """The model's own settings, by TorchServe's names."""
        workers = core_count(cpus) if self.device == "cpu" else 1
        rows = most_rows(read_manifest(artifact_dir).signature)
        batching = {"batchSize": rows, "maxBatchDelay": MAX_DELAY_MS} if self.batching else {"batchSize": 1}
        return {"marName": f"{MODEL}.mar", "minWorkers": workers, "maxWorkers": workers, **batching}

    def _config(self, store: Path, port: int, models: Mapping[str, Mapping[str, Any]]) -> str:
        """A config.properties; HTTP on three ports from the first."""
        grpc = free_port()
        addresses = {"inference": port, "management": port + 1, "metrics": port + 2}
        keys = {
            **{f"{name}_address": f"http://127.0.0.1:{number}" for name, number in addresses.items()},
            "grpc_inference_port": grpc,
            "grpc_management_port": grpc + 1,
            "model_store": store,
            "load_models": f"{MODEL}={MODEL}.mar",
            "models": json.dumps(models),
            "disable_token_authorization": "true",
            "disable_system_metrics": "true",
            "max_request_size": _ENOUGH_BYTES,
            "max_response_size": _ENOUGH_BYTES,
            "number_of_gpu": 0 if self.device == "cpu" else 1,
        }
        return "".join(f"{name}={value}\n" for name, value in keys.items())


def java_version() -> str | None:
    """What `java` says of itself; None where there is none."""
    try:
        done = subprocess.run([_java(), "-version"], capture_output=True, text=True, timeout=_JAVA_TIMEOUT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _JAVA_VERSION.search(done.stderr)
    return found[1] if found else None


def _java() -> str:
    """The one that TorchServe's launcher starts."""
    home = os.environ.get("JAVA_HOME")
    return f"{home}/bin/java" if home else "java"


def _missing_java() -> list[str]:
    found = java_version()
    if found is None:
        return [f"Java {OLDEST_JAVA} or newer: {_INSTALL_JAVA}"]
    major = int(found.removeprefix("1.").partition(".")[0])
    return [f"Java {OLDEST_JAVA} or newer (it is {found}): {_INSTALL_JAVA}"] if major < OLDEST_JAVA else []


def _require_answer(found: Running, artifact_dir: Path) -> None:
    """Asks for one recorded case. Raises ProcessFailed."""
    case = golden.decode((artifact_dir / GOLDEN).read_bytes())[0]
    status, _, content = found.post(PATHS["predictions-json"], predictions_json(case.inputs))
    if status != HTTPStatus.OK:
        raise ProcessFailed(f"TorchServe answers {status}, not 200: {content[:500].decode(errors='replace')}")
