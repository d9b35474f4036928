"""What is on disk below the model repository: names, versions, and whether a version's files changed.

All of it blocks: the event loop has it run in a thread.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from artifact.errors import ArtifactError
from artifact.manifest import check_listing, read_manifest, versions
from serving.plan import Plan, make_plan
from serving.settings import ModelSettings

Stamp = tuple[tuple[str, int, int, int, int], ...]
"""Name, size, inode, and times (ns) of the last change of content and of the inode, for each entry of a folder, by name."""


@dataclass(frozen=True, slots=True)
class VersionFolder:
    """A version's directory. Its `stamp` differs once any of its files was written, replaced, or given other rights."""

    path: Path
    stamp: Stamp


def model_names(root: Path) -> list[str]:
    """The directories below the root whose names do not start with a dot, sorted.

    A name that a client sends is looked up here and never joined to a path, so that none leads out of the root.

    Raises:
        OSError: the root cannot be read.
    """
    return sorted(path.name for path in root.iterdir() if not path.name.startswith(".") and path.is_dir())


def version_folders(model: Path) -> dict[int, VersionFolder]:
    """The versions in a model's directory, ascending; empty where there is no such directory.

    Raises:
        OSError: the directory is there and cannot be read.
    """
    try:
        there = versions(model)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {number: VersionFolder(path, _stamp(path)) for number, path in sorted(there.items()) if path.is_dir()}


def plan_now(folder: VersionFolder, settings: ModelSettings) -> Plan | None:
    """How the version on disk would be run if it was loaded now; None where no manifest can be read."""
    try:
        return make_plan(folder.path, read_manifest(folder.path), settings)
    except (ArtifactError, OSError):
        return None


def is_whole(folder: VersionFolder) -> bool:
    """Whether just the files that the manifest lists are there, each in its full size: one that is being copied is not."""
    try:
        manifest = read_manifest(folder.path)
        check_listing(folder.path, manifest)
        return all((folder.path / name).stat().st_size == entry.size for name, entry in manifest.listed.items())
    except (ArtifactError, OSError):
        return False


def _stamp(directory: Path) -> Stamp:
    """The inode's times tell of `chmod` and of a rename, which leave the content's time as it was."""
    try:
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError as error:  # it vanished, or may not be read: loading it will say so
        return ((str(error), 0, 0, 0, 0),)
    return tuple(sorted((name, file.st_size, file.st_ino, file.st_mtime_ns, file.st_ctime_ns) for name, file in found))
