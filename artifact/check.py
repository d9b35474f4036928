"""Checking an artifact: every hash, and on request every golden case on every engine that is installed here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from artifact import golden
from artifact.artifact import load, verified_files
from artifact.errors import EngineUnavailable
from artifact.golden import Replay
from artifact.manifest import Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class Replayed:
    """One engine's replay; `results` is empty and `unavailable` says why, where the engine is not installed here."""

    engine: str
    results: tuple[Replay, ...]
    unavailable: str | None = None


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
    """Replays the golden cases on the engine of each format, one after another."""
    for name in formats:
        try:
            loaded = load(directory, engine=name)
        except EngineUnavailable as cause:
            yield Replayed(name, (), str(cause))
        else:
            yield Replayed(name, tuple(loaded.replay()))


def require_all(replayed: list[Replayed]) -> None:
    """Raises GoldenMismatch if any comparison failed, EngineUnavailable if not one engine could run."""
    for entry in replayed:
        golden.require(entry.results)
    if not any(entry.results for entry in replayed):
        raise EngineUnavailable("; ".join(entry.unavailable or "" for entry in replayed))
