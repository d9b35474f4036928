"""Files that are either whole or not there: hashed, fsynced, renamed into place."""

import contextlib
import fcntl
import glob
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


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hex. Raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def replace_within(directory: Path, name: str, data: bytes) -> None:
    """Writes a file of a directory so that at every moment it is whole: as it was, or as it is now.

    Until then it lies in a temporary directory beside this one, so that nobody who looks into this one sees anything else.

    Raises:
        OSError: the disk is full, or a place cannot be written; the file is as it was.
    """
    with _temporary_directory(directory) as temporary:
        write_file(temporary / name, data)
        (temporary / name).replace(directory / name)
    fsync_directory(directory)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Holds a directory's lock, which ends with the process at the latest; False where another process has it.

    Where the file system has no locks (some of NFS), everybody gets one.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) is not False
    finally:
        os.close(descriptor)


def fsync_directory(path: Path) -> None:
    """Flushes a directory's own entries, so that a rename in it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary_directory(target: Path) -> Iterator[Path]:
    """A new directory that this write holds locked, so that no other takes it for abandoned; gone at the end, unless renamed."""
    _remove_abandoned(target)
    temporary, descriptor = _locked_directory(target)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


def _locked_directory(target: Path) -> tuple[Path, int]:
    while True:
        temporary = target.parent / f"{TEMPORARY_PREFIX}{target.name}-{secrets.token_hex(8)}"
        temporary.mkdir()
        with contextlib.suppress(FileNotFoundError):  # another write removed it before it was locked
            descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY)
            _lock(descriptor, fcntl.LOCK_EX)
            if temporary.exists():
                return temporary, descriptor
            os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    """Removes what killed writes left: nobody holds its lock, which the kernel lets go with the process that held it."""
    for path in target.parent.glob(f"{TEMPORARY_PREFIX}{glob.escape(target.name)}-*"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _lock(descriptor: int, operation: int) -> bool | None:
    """Whether the lock was got; None where the file system has no locks (some of NFS): nobody gets one, nothing is removed."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _rename_new(source: Path, target: Path) -> None:
    """Renames a directory; an existing target with anything in it is never replaced (POSIX rename replaces an empty one)."""
    try:
        source.rename(target)
    except OSError as cause:
        if target.exists():
            raise FileExistsError(f"{target} is there already") from cause
        raise
