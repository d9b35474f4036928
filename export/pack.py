"""The artifact's files, made in memory, and their way to the disk: whole or not at all, never over another."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artifact import golden, manifest
from artifact.artifact import verified_files
from artifact.engines import MODEL_FILES
from artifact.errors import ArtifactError, NotAnArtifact
from artifact.manifest import FileEntry, Manifest, read_manifest
from checkpoints.keeping.git import git_state
from export.config import Config, to_yaml
from export.errors import WriteFailed
from export.operations import encode_raw_cases, with_artifact_names
from export.parity import Proof
from foundation.environment import whole_environment
from foundation.storage import canonical_json, write_directory

if TYPE_CHECKING:
    from export.run import Prepared

UNSTABLE_FORMATS = frozenset({"pt2"})
"""Formats whose bytes are not the same everywhere: .pt2 records the build of PyTorch (docs/artifact.md)."""
LABELS = "labels.txt"


@dataclass(frozen=True, slots=True)
class Packed:
    """A manifest, and every file of the artifact by name, the manifest's own included."""

    manifest: Manifest
    files: Mapping[str, bytes]


def assemble(prepared: "Prepared", models: Mapping[str, bytes], rounded: Mapping[str, bytes], proof: Proof) -> Packed:
    """Puts the artifact together: `models` by format, `rounded` (those in another precision) by the file's name."""
    stable = {MODEL_FILES[name]: data for name, data in models.items() if name not in UNSTABLE_FORMATS} | dict(rounded)
    unstable = {MODEL_FILES[name]: data for name, data in models.items() if name in UNSTABLE_FORMATS}
    if prepared.labels is not None:
        stable[LABELS] = prepared.labels
    declared = prepared.operations
    evidence = {
        manifest.GOLDEN: golden.encode(proof.golden),
        manifest.PARITY: canonical_json(proof.report),
        manifest.CONFIG: to_yaml(_config_of(prepared)),
    }
    if declared is not None:
        stable |= declared.files
        evidence[manifest.RAW] = encode_raw_cases(declared, prepared.raw_inputs, proof.golden, prepared.formats[0])
    made = Manifest(
        signature=prepared.signature,
        config=_content_config(prepared.config),
        weights_sha256=prepared.loaded.sha256,
        files=_entries(stable),
        evidence=_entries(evidence),
        unstable=_entries(unstable),
        operations={} if declared is None else declared.operations.chains.to_json(),
    )
    facts = {
        manifest.MANIFEST: made.encode(),
        manifest.ENVIRONMENT: canonical_json(whole_environment(Path.cwd(), git_state(Path.cwd()))),
        manifest.PROVENANCE: canonical_json(_provenance(prepared)),
    }
    return Packed(made, {**stable, **evidence, **unstable, **facts})


def store(packed: Packed, directory: Path, version: int | None) -> tuple[Path, bool]:
    """Writes the artifact as `directory/VERSION`, and says where it is and whether it was written now.

    Without a version, content that is there already is not written again, and the next free version is taken.

    Raises:
        WriteFailed: the version holds other content, or the disk refuses; nothing was written.
    """
    try:
        existing = manifest.versions(directory) if directory.exists() else {}
        wanted = existing if version is None else {number: path for number, path in existing.items() if number == version}
        for _, path in sorted(wanted.items(), reverse=True):
            if _holds(path, packed.manifest):
                return path, False
        if version is not None and wanted:
            raise WriteFailed(
                f"{directory / str(version)} holds other content; versions are never overwritten, choose another --version"
            )
        target = directory / str(version if version is not None else max(existing, default=0) + 1)
        write_directory(target, packed.files)
    except OSError as cause:
        raise WriteFailed(
            f"the artifact could not be written below {directory}: {cause.strerror or cause}; nothing was written"
        ) from cause
    return target, True


def _holds(path: Path, made: Manifest) -> bool:
    """Whether the artifact there has this content and these formats, and is whole."""
    try:
        found = read_manifest(path)
    except NotAnArtifact:
        return False
    except ArtifactError as cause:
        raise WriteFailed(f"{path} is there, but damaged: {cause}. Move it away, and export again") from cause
    if found.content_id != made.content_id or found.formats != made.formats:  # .pt2 stays outside the content id
        return False
    try:
        verified_files(path, found)
    except ArtifactError as cause:
        raise WriteFailed(f"{path} has this content id, but is damaged: {cause}. Move it away, and export again") from cause
    return True


def _entries(files: Mapping[str, bytes]) -> dict[str, FileEntry]:
    return {name: FileEntry.of(data) for name, data in files.items()}


def _content_config(config: Config) -> dict[str, Any]:
    """What of the config makes the content id; float32, which artifacts had before there was a choice, is not written."""
    stated = {key: value for key, value in config.declaration().items() if key in {"schema", "model"}}
    return stated if config.precision == "float32" else {**stated, "precision": config.precision}


def _config_of(prepared: "Prepared") -> Any:
    """The config as this export ran it: what the command line chose is written into it, so that a rebuild needs no options."""
    config, request = with_artifact_names(prepared.config, prepared.operations), prepared.request
    weights = config.weights.model_copy(
        update={
            "select": request.weights or config.weights.select,
            "ignore": (*config.weights.ignore, *request.ignore),
        }
    )
    outputs = {
        name: output if output.labels is None else output.model_copy(update={"labels": LABELS})
        for name, output in config.outputs.items()
    }
    return config.model_copy(update={"name": prepared.name, "weights": weights, "outputs": outputs, "formats": prepared.formats})


def _provenance(prepared: "Prepared") -> dict[str, Any]:
    """Where the weights came from, by name and hash: no directories of the machine."""
    checkpoint, loaded = prepared.checkpoint, prepared.loaded
    return {
        "checkpoint": {
            "file": checkpoint.path.name,
            "kind": str(checkpoint.kind),
            "layout": checkpoint.layout,
            "sha256": checkpoint.sha256,
            "size": checkpoint.size_bytes,
            "facts": dict(checkpoint.provenance),
        },
        "weights": {
            "set": prepared.weights.name,
            "rewrite": loaded.rewrite,
            "ignored": list(loaded.ignored),
            "tensors": loaded.tensors,
            "bytes": loaded.size_bytes,
        },
        "plugins": [Path(plugin).name for plugin in prepared.request.plugins],
        "notices": [*checkpoint.notices, *loaded.notices],
        "exported_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
