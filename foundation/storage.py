"""Files that are either whole or not there: hashed, fsynced, renamed into place."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".tmp-"
"""Names that start so belong to a write in progress, or to one that was killed; nothing reads them."""


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: the same value gives the same bytes on every machine.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sha256_bytes(data: bytes | memoryview) -> str:
    """The sha256 of the bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Writes a new file and flushes it to the disk.

    Raises:
        FileExistsError: the file is there already.
        OSError: the disk is full, or the place cannot be written.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Writes a directory of flat files so that it is whole or not there, whatever happens in between.

    The files go to a temporary directory beside the target, each is fsynced, then one rename makes them visible. What a killed
    write left behind has a name that starts with `TEMPORARY_PREFIX`, and the next write to the same place removes it.

    Raises:
        FileExistsError: the target is there already; nothing in it was touched.
        OSError: the disk is full, or the place cannot be written; nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_directory(target) as temporary:
        for name, data in files.items():
            write_file(temporary / name, data)
        fsync_directory(temporary)
        _rename_new(temporary, target)
    fsync_directory(target.parent)


def fsync_directory(path: Path) -> None:
    """Flushes a directory's own entries, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary_directory(target: Path) -> Iterator[Path]:
    own = f"{TEMPORARY_PREFIX}{target.name}-{os.getpid()}-"
    _remove_abandoned(target)
    temporary = target.parent / f"{own}{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(target: Path) -> None:
    for path in target.parent.glob(f"{TEMPORARY_PREFIX}{target.name}-*"):
        pid = path.name.split("-")[-2]
        if pid.isdigit() and not _is_running(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _rename_new(source: Path, target: Path) -> None:
    """Renames a directory; an existing target with anything in it is never replaced (POSIX rename replaces an empty one)."""
    try:
        source.rename(target)
    except OSError as cause:
        if target.exists():
            raise FileExistsError(f"{target} is there already") from cause
        raise
