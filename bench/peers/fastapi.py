"""Plain FastAPI: see `fastapi_app`."""

import importlib.util
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from artifact import read_manifest
from bench.errors import PeerMissing
from bench.peers.peer import MAX_DELAY_MS, MAX_ROWS, Cpus, core_count, most_rows, path_of, tied
from bench.processes import Running, free_port, running
from bench.results import Contender

READY = "/ready"
PATHS: Mapping[str, str] = {
    "oip-binary": "/infer-binary",
    "oip-json": "/infer",
    "predictions-json": "/predict",
    "predictions-npy": "/predict-npy",
    "predictions-raw": "/predict-raw",
}
"""Protocol -> where the application takes its bodies."""


@dataclass(frozen=True, slots=True)
class FastApiPeer:
    """FastAPI on uvicorn, one process; with `batching`, behind a queue that joins requests. See `Peer`."""

    batching: bool
    engine: str = "auto"
    device: str = "cpu"

    @property
    def key(self) -> str:
        """See `Peer`."""
        return "fastapi-batching" if self.batching else "fastapi"

    @property
    def title(self) -> str:
        """See `Peer`."""
        return "FastAPI with batching" if self.batching else "FastAPI"

    @property
    def about(self) -> str:
        """See `Peer`."""
        how = (
            f"requests wait in a queue until the model's largest batch, at most {MAX_ROWS} rows, is there or "
            f"{MAX_DELAY_MS} ms are over, and are joined to one call of the engine in a thread; "
            "as many calls run at once as our server has instances"
            if self.batching
            else "every request is one call of the engine, on the event loop if it is short, else in a thread, "
            "with as many calls at once as fill the cores"
        )
        return f"A FastAPI application as it is written first, on uvicorn in one process, without an access log: {how}."

    def on(self, engine: str, device: str) -> Self:
        """See `Peer`."""
        return replace(self, engine=engine, device=device)

    def require_installed(self) -> None:
        """See `Peer`."""
        if importlib.util.find_spec("uvicorn") is None:
            raise PeerMissing("--against fastapi needs uvicorn, which is not installed: pip install 'stateserve[bench]'")

    def path(self, protocol: str, model: str) -> str:  # noqa: ARG002 - it serves one model, whatever its name
        """See `Peer`."""
        return path_of(PATHS, protocol, self.title)

    def contender(self, artifact_dir: Path, threads: int | None, instances: int, cpus: Cpus) -> Contender:
        """See `Peer`."""
        names = ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic")
        versions = {name: found for name in names if (found := _version(name))}
        settings = {
            "threads": str(threads or "the engine's own choice"),
            "calls at once": self._calls(threads, instances, cpus),
            **({"max_rows": str(most_rows(read_manifest(artifact_dir).signature))} if self.batching else {}),
            "access log": "off",
            "HTTP parser": _http_parser(),
        }
        return Contender(
            title=self.title, about=self.about, settings={"python": platform.python_version(), **versions, **settings}
        )

    def _calls(self, threads: int | None, instances: int, cpus: Cpus) -> str:
        if self.batching:
            return str(instances)
        return f"{filling_calls(threads, instances, core_count(cpus))}, or 1 on the event loop if calls are short"

    @contextmanager
    def start(self, artifact_dir: Path, folder: Path, threads: int | None, instances: int, cpus: Cpus) -> Iterator[Running]:
        """See `Peer`."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        command = [sys.executable, "-m", "bench.peers.fastapi_app", str(artifact_dir.absolute()), "--port", str(port)]
        command += ["--engine", self.engine, "--device", self.device, "--instances", str(instances)]
        command += ["--threads", str(threads)] if threads else []
        command += ["--batching"] if self.batching else []
        with running(tied(cpus, command), port, folder / f"{self.key}.log", READY) as found:
            yield found


def filling_calls(threads: int | None, instances: int, cores: int) -> int:
    """How many calls at once fill the cores; an engine that chooses its own threads fills them by one. `instances` at least."""
    return max(instances, cores // threads if threads else 1)


def _http_parser() -> str:
    return "httptools" if importlib.util.find_spec("httptools") else "h11, which is slower: httptools is not installed"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
