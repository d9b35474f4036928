"""An artifact that was read whole, checked, and can run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from artifact import golden, manifest
from artifact.engines import LOADERS, MODEL_FILES, Engine, EngineOptions, load_engine
from artifact.errors import DamagedArtifact, EngineUnavailable
from artifact.golden import GoldenCase, Replay
from artifact.manifest import Manifest
from artifact.signature import Signature


@dataclass(frozen=True, slots=True)
class Artifact:
    """One model with one engine: `run` it, `replay` its golden cases. Made by `load`."""

    path: Path
    manifest: Manifest
    engine: Engine
    cases: tuple[GoldenCase, ...]
    budgets: Mapping[str, Mapping[str, float]]

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.manifest.signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs, by name; inputs are checked against the signature first.

        Raises:
            InvalidInput: a request that the signature does not allow.
            EngineFailed: the engine failed on one that it does.
        """
        self.signature.validate(inputs)
        return self.engine.run(inputs)

    def replay(self) -> list[Replay]:
        """Runs every golden case, alone and tiled to the largest batch, on this engine."""
        return golden.replay(self.engine, self.signature, self.cases, self.budgets[self.engine.name])


def load(path: Path | str, engine: str = "auto", threads: int | None = None, calls: int = 1, device: str = "cpu") -> Artifact:
    """Reads an artifact, checks every hash, and makes its engine.

    `engine` is `onnx`, `torchscript`, `pt2`, or `auto`: the first of these that the artifact holds. `threads`, `calls` and
    `device` are those of `EngineOptions`.

    Raises:
        NotAnArtifact: there is no artifact.
        DamagedArtifact: a file is missing, added, linked or changed, or the evidence is not that of this model.
        EngineUnavailable: the artifact has no such format, or its library is not installed.
    """
    directory = Path(path)
    stated = manifest.read_manifest(directory)
    files = verified_files(directory, stated)
    name = _choose(engine, stated, directory)
    cases = golden.decode(files[manifest.GOLDEN])
    golden.require_complete(cases, stated.signature)
    return Artifact(
        path=directory,
        manifest=stated,
        engine=load_engine(name, files[MODEL_FILES[name]], stated.signature, EngineOptions(threads, calls, device)),
        cases=cases,
        budgets=read_budgets(files[manifest.PARITY], stated, directory),
    )


def verified_files(directory: Path, stated: Manifest) -> dict[str, bytes]:
    """Every listed file's bytes, all of which are those that the manifest states.

    Raises:
        DamagedArtifact: a file is missing, added, linked or changed.
    """
    manifest.check_listing(directory, stated)
    return {name: manifest.read_listed(directory, name, entry) for name, entry in stated.listed.items()}


def _choose(engine: str, stated: Manifest, directory: Path) -> str:
    if engine == "auto":
        return stated.formats[0]
    if engine not in LOADERS:
        raise EngineUnavailable(f"there is no engine {engine!r}; the engines are {', '.join(LOADERS)}")
    if engine not in stated.formats:
        raise EngineUnavailable(f"{directory} holds {', '.join(stated.formats)}, not {engine}; export it with --format {engine}")
    return engine


def read_budgets(parity: bytes, stated: Manifest, directory: Path) -> dict[str, dict[str, float]]:
    """Every engine's budget for every output, from the bytes of parity.json; `directory` is for messages.

    Raises:
        DamagedArtifact: one is not there.
    """
    outputs = [spec.name for spec in stated.signature.outputs]
    try:
        engines = json.loads(parity)["engines"]
        return {name: {out: float(engines[name]["outputs"][out]["budget"]) for out in outputs} for name in stated.formats}
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise DamagedArtifact(f"{directory / manifest.PARITY} states no budgets: {cause!r}") from cause
