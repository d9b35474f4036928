"""What export and serving agree on: the format, the signature, the golden cases, the engines that run it.

import artifact
model = artifact.load("model_repository/digits/1")
model.run({"image": x})["logits"]
"""

from artifact.artifact import Artifact, load
from artifact.golden import GoldenCase, Replay, scaled_error
from artifact.manifest import Manifest, read_manifest
from artifact.signature import Dim, Signature, TensorSpec

__all__ = [
    "Artifact",
    "Dim",
    "GoldenCase",
    "Manifest",
    "Replay",
    "Signature",
    "TensorSpec",
    "load",
    "read_manifest",
    "scaled_error",
]
