"""One served version: the artifact and whether it may answer."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import artifact
from artifact import Artifact, golden
from foundation.errors import StateserveError
from serving.errors import ModelNotReady

log = logging.getLogger("stateserve")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A version of a model. `loaded` is None, and `reason` says why, where it failed its checks."""

    name: str
    version: int
    loaded: Artifact | None
    reason: str | None = None

    def ready(self) -> Artifact:
        """The artifact.

        Raises:
            ModelNotReady: it failed its checks.
        """
        if self.loaded is None:
            raise ModelNotReady(f"model {self.name} version {self.version} is not ready: {self.reason}")
        return self.loaded

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs, by name. Raises ModelNotReady, and as `Artifact.run` does."""
        return self.ready().run(inputs)


def load_model(name: str, version: int, directory: Path, threads: int | None) -> ServedModel:
    """Loads an artifact and replays its golden cases; what fails makes the model not ready, and nothing worse."""
    try:
        loaded = artifact.load(directory, engine="onnx", threads=threads)
        golden.require(loaded.replay())
    except StateserveError as error:
        return ServedModel(name, version, None, str(error))
    except Exception as error:  # whatever one model's loading raises, the others are served
        log.exception("%s version %s cannot be loaded", name, version)
        return ServedModel(name, version, None, f"{type(error).__name__}: {error}")
    return ServedModel(name, version, loaded)
