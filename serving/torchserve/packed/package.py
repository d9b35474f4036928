"""An artifact as a .mar, which the real TorchServe serves, and our own server: `stateserve package mar`.

The archive holds the artifact as it is, our handler, and the modules that run it; nothing is compressed, and no time is written,
so that the same artifact gives the same bytes.
"""

import io
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from artifact import manifest
from artifact.check import check
from artifact.engines import MODEL_FILES
from artifact.errors import EngineUnavailable
from foundation.errors import StateserveError
from foundation.storage import TEMPORARY_PREFIX, fsync_directory
from serving.torchserve.packed import handler, run_path

SUFFIX = ".mar"
STORE = Path("model_store")
FORMATS = ("onnx", "torchscript")
"""What TorchServe's hosts run; the preferred one first."""

ARTIFACT = "stateserve_artifact"
HANDLER = "stateserve_handler.py"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can state
_UNIX, _READABLE = 3, 0o100644 << 16


class NotPackaged(StateserveError):
    """The artifact cannot be packaged, or not there."""


@dataclass(frozen=True, slots=True)
class Package:
    """A .mar that was written: where, under which name and version its model is served, and the format that runs."""

    path: Path
    name: str
    version: str
    format: str


def package(artifact: Path, to: Path = STORE, model_format: str | None = None, *, force: bool = False) -> Package:
    """Writes an artifact's .mar: to a file of that suffix, or else into a directory as NAME.mar. It is whole, or not there.

    Raises:
        NotAnArtifact, DamagedArtifact: it is not what was exported.
        EngineUnavailable: the artifact has no such format, or none that TorchServe's hosts run.
        NotPackaged: the artifact declares operations; TorchServe takes no such name; the file is there, and `force` is not
            given; or it cannot be written.
    """
    directory = artifact.resolve()
    stated = check(directory)
    if stated.operations:
        declared = " and ".join(sorted(stated.operations, reverse=True))
        raise NotPackaged(
            f"{directory} declares {declared}, which the handler inside a .mar does not run: serve it with `stateserve serve`, "
            "which answers on TorchServe's paths too; or export it without them, and package that"
        )
    name, version = _name_and_version(directory)
    chosen = _chosen(stated, model_format, directory)
    target = to if to.suffix == SUFFIX else to / f"{name}{SUFFIX}"
    if target.exists() and not force:
        raise NotPackaged(f"{target} is there already; --force replaces it")
    made = Package(target, name, version, chosen)
    try:
        _write(target, _members(directory, made))
    except OSError as cause:
        raise NotPackaged(f"{target} cannot be written: {cause}") from cause
    return made


def _name_and_version(directory: Path) -> tuple[str, str]:
    name, version = directory.parent.name, directory.name
    if directory not in manifest.versions(directory.parent).values() or not _NAME.fullmatch(name):
        raise NotPackaged(
            f"{directory} is not <name>/<version>: TorchServe takes a name of letters, digits, '_', '-' and '.', and the "
            "version of an artifact is a positive integer"
        )
    return name, version


def _chosen(stated: manifest.Manifest, model_format: str | None, directory: Path) -> str:
    possible = [name for name in FORMATS if name in stated.formats]
    if model_format is None and possible:
        return possible[0]
    if model_format not in possible:
        wanted = model_format or " or ".join(FORMATS)
        raise EngineUnavailable(
            f"{directory} holds {', '.join(stated.formats)}, not {wanted}; export it with --format {FORMATS[0]}"
        )
    return model_format


def _members(directory: Path, made: Package) -> Iterator[tuple[str, bytes | Path]]:
    """The archive's files by name, in order: bytes, or where they are read from."""
    yield "MAR-INF/MANIFEST.json", _manifest(made)
    yield HANDLER, run_path.renamed(Path(handler.__file__).read_text(encoding="utf-8")).encode()
    yield handler.RUN_PATH, _run_path()
    yield from ((f"{ARTIFACT}/{path.name}", path) for path in sorted(directory.iterdir()) if path.name != manifest.BENCH)


def _manifest(made: Package) -> bytes:
    model = {
        "modelName": made.name,
        "modelVersion": made.version,
        "handler": HANDLER,
        "serializedFile": f"{ARTIFACT}/{MODEL_FILES[made.format]}",
    }
    return (json.dumps({"runtime": "python", "archiverVersion": "0.12.0", "model": model}, indent=2) + "\n").encode()


def _run_path() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in run_path.modules().items():
            _add(archive, name, data)
    return buffer.getvalue()


def _write(target: Path, members: Iterable[tuple[str, bytes | Path]]) -> None:
    """Writes the archive beside its place, flushes it to the disk, and renames it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{target.name}-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in members:
                    _add(archive, name, content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(target.parent)


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr = _UNIX, _READABLE
    if isinstance(content, bytes):
        archive.writestr(entry, content)
        return
    entry.file_size = content.stat().st_size  # says whether the entry needs the form for large files
    with content.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target)
