"""Checking an artifact: every hash, and on request every golden case on every engine that is installed here."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from artifact import golden
from artifact.artifact import load, verified_files
from artifact.engines import cuda_devices
from artifact.errors import EngineUnavailable
from artifact.golden import Replay
from artifact.manifest import Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Replayed:
    """One engine's replay; `results` is empty and `unavailable` says why, where the engine is not installed here.

    `precision` is what it computed in on the `device`.
    """

    engine: str
    results: tuple[Replay, ...]
    unavailable: str | None = None
    device: str = "cpu"
    precision: str = "float32"

    @property
    def where(self) -> str:
        """The engine's name; on another device than the CPU with that, and with the precision."""
        return self.engine if self.device == "cpu" else f"{self.engine} on {self.device} in {self.precision}"


def check(directory: Path) -> Manifest:
    """Reads the manifest and every file that it lists.

    Raises:
        NotAnArtifact: there is no artifact.
        DamagedArtifact: a file is missing, added, linked or changed.
    """
    stated = read_manifest(directory)
    verified_files(directory, stated)
    return stated


def replay_all(directory: Path, formats: tuple[str, ...]) -> Iterator[Replayed]:
    """Replays the golden cases on the engine of each format, one after another: on the CPU, and on every CUDA device.

    There in the precision that the artifact declares.
    """
    declared = read_manifest(directory).precision
    for name in formats:
        yield _replayed(directory, Replayed(name, ()))
        for device in cuda_devices(name):
            yield _replayed(directory, Replayed(name, (), device=device, precision=declared))


def _replayed(directory: Path, entry: Replayed) -> Replayed:
    try:
        loaded = load(directory, engine=entry.engine, device=entry.device, precision=entry.precision)
    except EngineUnavailable as cause:
        return replace(entry, unavailable=str(cause))
    return replace(entry, results=tuple(loaded.replay()))


def require_all(replayed: list[Replayed]) -> None:
    """Raises GoldenMismatch if any comparison failed, EngineUnavailable if not one engine could run."""
    for entry in replayed:
        golden.require(entry.results)
    if not any(entry.results for entry in replayed):
        raise EngineUnavailable("; ".join(entry.unavailable or "" for entry in replayed))
