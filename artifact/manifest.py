"""The manifest: what an artifact is, by content, and which bytes its files must have."""

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifact.engines import MODEL_FILES
from artifact.errors import DamagedArtifact, NotAnArtifact
from artifact.signature import Signature
from foundation.storage import canonical_json, sha256_bytes

SCHEMA = 1
MANIFEST = "manifest.json"
GOLDEN = "golden.safetensors"
RAW = "raw.safetensors"
PARITY = "parity.json"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
PROVENANCE = "provenance.json"
BENCH = "bench.json"

_VERSION = re.compile(r"[1-9][0-9]*")

PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
"""What CUDA may compute in; the CPU always computes in float32."""

UNLISTED = frozenset({MANIFEST, ENVIRONMENT, PROVENANCE, BENCH})
"""Files that the manifest does not hash: itself, and facts that differ from run to run."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """The bytes that a file must have."""

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> "FileEntry":
        """The entry of these bytes."""
        return cls(sha256_bytes(data), len(data))

    def to_json(self) -> dict[str, Any]:
        """The entry as it stands in the manifest."""
        return {"sha256": self.sha256, "size": self.size}


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files`, `config` and `operations` make the content id; `evidence` and `unstable` files are hashed but stay outside it.

    `operations` are as `artifact.operations.Chains.to_json` gives them; empty where none are declared.
    """

    signature: Signature
    config: Mapping[str, Any]
    weights_sha256: str
    files: Mapping[str, FileEntry]
    evidence: Mapping[str, FileEntry]
    unstable: Mapping[str, FileEntry] = field(default_factory=dict)
    operations: Mapping[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> dict[str, Any]:
        """What the artifact is: the same on every machine that exports the same checkpoint under the same config."""
        declared = {"operations": dict(self.operations)} if self.operations else {}
        return {
            "config": dict(self.config),
            "files": {name: entry.to_json() for name, entry in self.files.items()},
            **declared,
            "signature": self.signature.to_json(),
            "weights": {"sha256": self.weights_sha256},
        }

    @property
    def content_id(self) -> str:
        """The sha256 of the canonical `content`."""
        return sha256_bytes(canonical_json(self.content))

    @property
    def precision(self) -> str:
        """What CUDA computes in, one of `PRECISIONS`: the config states it where it is not float32."""
        return self.config.get("precision", "float32")

    @property
    def listed(self) -> dict[str, FileEntry]:
        """Every file whose bytes the manifest states."""
        return {**self.files, **self.evidence, **self.unstable}

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that the artifact holds, in the engines' order of preference."""
        return tuple(name for name, file in MODEL_FILES.items() if file in self.listed)

    def encode(self) -> bytes:
        """The bytes of manifest.json."""
        return canonical_json(
            {
                "schema": SCHEMA,
                "content_id": self.content_id,
                "content": self.content,
                "evidence": {name: entry.to_json() for name, entry in self.evidence.items()},
                "unstable": {name: entry.to_json() for name, entry in self.unstable.items()},
            }
        )


def decode(data: bytes, where: Path) -> Manifest:
    """The inverse of `Manifest.encode`; `where` is the directory, for messages.

    Raises:
        NotAnArtifact: the bytes are no manifest of this schema.
        DamagedArtifact: the content is not that of the content id.
    """
    try:
        value = json.loads(data)
        schema = value["schema"]
        if schema != SCHEMA:
            raise NotAnArtifact(f"{where / MANIFEST} has schema {schema}; this version reads {SCHEMA}")
        content = value["content"]
        manifest = Manifest(
            signature=Signature.from_json(content["signature"]),
            config=content["config"],
            weights_sha256=content["weights"]["sha256"],
            files=_entries(content["files"]),
            evidence=_entries(value["evidence"]),
            unstable=_entries(value["unstable"]),
            operations=content.get("operations", {}),
        )
        _require_whole(manifest)
        stated, actual = value["content_id"], manifest.content_id
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as cause:
        raise NotAnArtifact(f"{where / MANIFEST} is not a manifest: {cause!r}") from cause
    if actual != stated:
        raise DamagedArtifact(
            f"{where / MANIFEST} was changed: its content hashes to {actual}, it states {stated}; "
            "take the artifact from where it was exported again"
        )
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """The manifest of an artifact's directory.

    Raises:
        NotAnArtifact: there is none, or none of this schema.
        DamagedArtifact: its content is not that of its content id, or it is a link.
    """
    path = directory / MANIFEST
    try:
        _require_regular(path)
        data = path.read_bytes()
    except OSError as cause:
        raise NotAnArtifact(
            f"{directory} has no readable {MANIFEST}: an artifact is a directory <name>/<version> that export wrote"
        ) from cause
    return decode(data, directory)


def versions(model: Path) -> dict[int, Path]:
    """What stands below a model's directory under a version's name: a positive integer, as Python prints it."""
    return {int(path.name): path for path in model.iterdir() if _VERSION.fullmatch(path.name)}


def check_listing(directory: Path, manifest: Manifest) -> None:
    """Raises DamagedArtifact if a listed file is missing, if another stands beside them, or if one is no regular file."""
    found = {path.name: path for path in directory.iterdir()}
    for name in sorted(manifest.listed):
        if name not in found:
            raise DamagedArtifact(f"{directory} lacks {name}, which the manifest lists; copy the artifact whole")
    for name, path in sorted(found.items()):
        _require_regular(path)
        if name not in manifest.listed and name not in UNLISTED:
            raise DamagedArtifact(f"{path} is not listed in the manifest; an artifact holds what export wrote and nothing else")


def _require_regular(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DamagedArtifact(f"{path} is not a regular file (a link or a directory); an artifact holds regular files only")


def read_listed(directory: Path, name: str, entry: FileEntry) -> bytes:
    """A listed file's bytes, which are those that the manifest states.

    Raises:
        DamagedArtifact: they are not.
    """
    try:
        data = (directory / name).read_bytes()
    except (OSError, ValueError) as cause:  # ValueError: a name that no file can have
        raise DamagedArtifact(f"{directory / name} cannot be read: {cause}") from cause
    actual = FileEntry.of(data)
    if actual != entry:
        raise DamagedArtifact(
            f"{directory / name} was changed: {actual.size} bytes with sha256 {actual.sha256}, "
            f"the manifest says {entry.size} bytes with {entry.sha256}; take the artifact from where it was exported again"
        )
    return data


def _require_whole(manifest: Manifest) -> None:
    """Raises ValueError where a file is listed twice (which of the hashes would hold?) or none that every artifact has."""
    sections = (manifest.files, manifest.evidence, manifest.unstable)
    if len(manifest.listed) < sum(len(section) for section in sections):
        raise ValueError("a file is listed twice")
    if not manifest.formats or not {GOLDEN, PARITY} <= manifest.evidence.keys():
        raise ValueError(f"it lists no model file, no {GOLDEN} or no {PARITY}")
    if not isinstance(manifest.operations, dict):
        raise ValueError("its operations are no mapping")  # noqa: TRY004 - as every other fault of a manifest
    if manifest.operations and RAW not in manifest.evidence:
        raise ValueError(f"it declares operations, but lists no {RAW}")
    if manifest.precision not in PRECISIONS:
        raise ValueError(f"precision is {manifest.precision!r}; it is one of {', '.join(PRECISIONS)}")


def _entries(value: Mapping[str, Any]) -> dict[str, FileEntry]:
    entries = {name: FileEntry(entry["sha256"], entry["size"]) for name, entry in value.items()}
    for name in entries:
        if not name or name in {".", ".."} or Path(name).name != name or "\\" in name:
            raise ValueError(f"{name!r} is not a plain file name")
    return entries
