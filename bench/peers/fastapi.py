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

from bench.errors import PeerMissing
from bench.peers.peer import Cpus, on_cpus, path_of
from bench.processes import Running, free_port, running
from bench.results import Contender

MAX_DELAY_S = 0.005
"""How long the first request of a batch waits for others."""
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
            f"requests wait in a queue until the model's largest batch is there or {MAX_DELAY_S * 1e3:g} ms are over, "
            "and are joined to one call of the engine in a thread"
            if self.batching
            else "every request is one call of the engine, on the event loop if it is short, else in a thread"
        )
        return f"A FastAPI application as it is written first, on uvicorn in one process: {how}."

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

    def contender(self, artifact_dir: Path, threads: int | None, cpus: Cpus) -> Contender:  # noqa: ARG002 - `Peer`'s
        """See `Peer`."""
        names = ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic")
        versions = {name: found for name in names if (found := _version(name))}
        settings = {"threads": str(threads or "the engine's own choice"), "HTTP parser": _http_parser()}
        return Contender(
            title=self.title, about=self.about, settings={"python": platform.python_version(), **versions, **settings}
        )

    @contextmanager
    def start(self, artifact_dir: Path, folder: Path, threads: int | None, cpus: Cpus) -> Iterator[Running]:
        """See `Peer`."""
        folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        command = [sys.executable, "-m", "bench.peers.fastapi_app", str(artifact_dir.absolute()), "--port", str(port)]
        command += ["--engine", self.engine, "--device", self.device]
        command += ["--threads", str(threads)] if threads else []
        command += ["--batching"] if self.batching else []
        with running(on_cpus(cpus, command), port, folder / f"{self.key}.log", READY) as found:
            yield found


def _http_parser() -> str:
    return "httptools" if importlib.util.find_spec("httptools") else "h11, which is slower: httptools is not installed"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
