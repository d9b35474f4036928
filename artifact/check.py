"""Checking an artifact: every hash, every golden case on every engine that is installed here, and what differs from there."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from artifact import golden
from artifact.artifact import load, verified_files
from artifact.engines import cuda_devices
from artifact.errors import EngineUnavailable, GoldenMismatch
from artifact.golden import Replay
from artifact.manifest import ENVIRONMENT, Manifest, read_manifest
from foundation.differences import Difference, differences
from foundation.environment import environment
from foundation.severity import CUDA, OPERATIONS

MAX_ENVIRONMENT_BYTES = 4 << 20
"""environment.json is outside the hashes: whatever is in its place is read no further."""


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

    @property
    def of_engine(self) -> tuple[Replay, ...]:
        """What the engine itself computed."""
        return tuple(result for result in self.results if result.engine == self.engine)

    @property
    def of_operations(self) -> tuple[Replay, ...]:
        """What the declared operations made, beside the engine; the same whichever engine was loaded."""
        return tuple(result for result in self.results if result.engine != self.engine)


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


def require_all(replayed: list[Replayed], differing: tuple[Difference, ...] | None = None) -> None:
    """Raises GoldenMismatch if any comparison failed, EngineUnavailable if not one engine could run.

    The mismatch says what is `differing` from the machine of the export, if that is known.
    """
    try:
        for entry in replayed:
            golden.require(entry.results)
    except GoldenMismatch as cause:
        raise GoldenMismatch("\n".join([str(cause), *difference_lines(differing)])) from cause
    if not any(entry.results for entry in replayed):
        raise EngineUnavailable("; ".join(entry.unavailable or "" for entry in replayed))


def recorded_environment(directory: Path) -> dict[str, Any] | None:
    """environment.json, which export wrote; None where there is none that can be read. It is hashed nowhere: for people only."""
    try:
        with (directory / ENVIRONMENT).open("rb") as file:
            value = json.loads(file.read(MAX_ENVIRONMENT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def differing_here(directory: Path, replayed: list[Replayed]) -> tuple[Difference, ...] | None:
    """What differs from the machine of the export, of what the engines that were replayed compute with: worst first.

    Asked after the replay, when the engines are loaded and tell their build. None where the artifact does not say where it comes
    from.
    """
    recorded = recorded_environment(directory)
    if recorded is None:
        return None
    ran = {entry.engine for entry in replayed if entry.results}
    ran |= {CUDA for entry in replayed if entry.results and entry.device != "cpu"}
    ran |= {OPERATIONS for entry in replayed if entry.of_operations}
    found = ((one, tuple(name for name in one.concerns if name in ran)) for one in differences(recorded, environment()))
    return tuple(replace(one, concerns=concerned) for one, concerned in found if concerned)


def difference_lines(differing: tuple[Difference, ...] | None) -> list[str]:
    """The differences for a person, worst first, each with whose numbers depend on it."""
    if differing is None:
        return [f"what differs from the machine of the export is not known: there is no readable {ENVIRONMENT}"]
    if not differing:
        return ["nothing differs from the machine of the export, of what these engines compute with"]
    return [
        "differs from the machine of the export, worst first:",
        *(f"  {number}. {found} ({', '.join(found.concerns)})" for number, found in enumerate(differing, 1)),
    ]
