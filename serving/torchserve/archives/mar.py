"""A `.mar`, TorchServe's model archive, unpacked safely: a zip file, a gzipped tar file or a folder, as its first bytes say.

An archive is code that its author may run here, by design. What is held is that unpacking it writes where it should and nowhere
else, and no more than it should, and that what is unpacked is what its manifest says. docs/mar.md lists what is refused.
"""

import contextlib
import gzip
import os
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from serving.torchserve.archives.folder import folder_contents
from serving.torchserve.archives.mar_manifest import NO_OVERRIDES, Overrides, read_manifest
from serving.torchserve.archives.members import Contents, refuse, refuse_bomb
from serving.torchserve.archives.model_config import ModelConfig, read_model_config
from serving.torchserve.archives.tarred import tgz_contents
from serving.torchserve.archives.zipped import zip_contents
from serving.torchserve.errors import InternalServerException, InvalidModelException, ModelNotFoundException

PIECE_BYTES = 1 << 20
"""How much of a member is in memory at once."""

_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RuntimeError)
"""What Python's readers raise where an archive is cut off, damaged, or made to lead them astray."""


@dataclass(frozen=True)
class Mar:
    """An unpacked archive. `directory` is its own, and whoever has the value removes it; `requirements` is a file in it."""

    directory: Path
    name: str
    version: str
    handler: str
    runtime: str
    model_config: ModelConfig
    requirements: Path | None


def unpack(source: Path, into: Path, asked: Overrides = NO_OVERRIDES, go_on: Callable[[], None] = lambda: None) -> Mar:
    """Unpacks an archive into a new folder below `into`, which is made where it is not there. A folder is copied.

    Files are for their owner alone (0600, folders 0700), whatever the archive says. After a failure nothing of it is left. What a
    registration says itself, in `asked`, beats what the manifest says. `go_on` is called with every piece, and raises
    what ends the work.

    Raises:
        ModelNotFoundException: there is no such archive.
        InvalidModelException: it is damaged, not let through, or its manifest or its configuration is wrong.
        InternalServerException: it cannot be read, or there is no room for it.
    """
    directory = into / secrets.token_hex(16)
    with _told(source.name):
        made = _make(into)
    try:
        with _told(source.name), _open(source, into) as contents:
            directory.mkdir(mode=0o700)
            _write(contents, directory, source.name, go_on)
        return _mar(directory, source.name, asked)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # another archive was unpacked there meanwhile
                into.rmdir()
        raise


def _make(folder: Path) -> bool:
    """Whether the folder was not there before."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def _told(archive: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as cause:
        raise InvalidModelException(f"{archive} is damaged: {cause}. Copy it again, or pack it again.") from cause
    except OSError as cause:
        raise InternalServerException(f"Failed to save model: {archive}: {cause.strerror or cause}") from cause


@contextlib.contextmanager
def _open(source: Path, into: Path) -> Iterator[Contents]:
    """The contents of an archive or a folder, as long as the context lasts."""
    try:
        found = source.stat()
    except (FileNotFoundError, NotADirectoryError) as cause:
        raise ModelNotFoundException(f"Model not found at: {source.name}") from cause
    if stat.S_ISDIR(found.st_mode):
        if into.resolve().is_relative_to(source.resolve()):
            refuse(source.name, "models are unpacked below it, so it is no model's own folder.")
        yield folder_contents(source)
        return
    if not stat.S_ISREG(found.st_mode):
        refuse(source.name, "it is neither a file nor a folder.")
    with source.open("rb") as file:
        start = file.read(4)
        reader = zip_contents if start in {b"PK\3\4", b"PK\5\6"} else tgz_contents if start[:2] == b"\x1f\x8b" else None
        if reader is None:
            begins = f"it begins with the bytes {start.hex(' ')}" if start else "it is empty"
            refuse(
                source.name,
                f"{begins}. An archive is a zip file, a gzipped tar file or a folder: make it by torch-model-archiver.",
            )
        with reader(file, source.name, found.st_size) as contents:
            yield contents


def _write(contents: Contents, directory: Path, archive: str, go_on: Callable[[], None]) -> None:
    made = {directory}
    free_bytes = shutil.disk_usage(directory).free
    declared_bytes = 0
    for member in contents.members:
        target = directory.joinpath(*member.parts)
        if member.size_bytes is None:
            _make_folders(target, made, archive)
            continue
        declared_bytes += member.size_bytes
        if declared_bytes > contents.limit_bytes:
            refuse_bomb(archive, contents.limit_bytes)
        if declared_bytes > free_bytes:
            raise InternalServerException(f"Failed to save model: {archive} needs more than the {free_bytes} bytes that are free")
        _make_folders(target.parent, made, archive)
        with member.open() as reader:
            _write_file(reader, target, member.size_bytes, archive, go_on)


def _make_folders(folder: Path, made: set[Path], archive: str) -> None:
    """Makes a folder and those above it, down from those that were made before."""
    if folder in made:
        return
    _make_folders(folder.parent, made, archive)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError as cause:
        raise _merged(folder, archive) from cause
    made.add(folder)


def _write_file(reader: IO[bytes], target: Path, size_bytes: int, archive: str, go_on: Callable[[], None]) -> None:
    """Writes a new file of exactly so many bytes. The reader is asked for one more, since its checksum is compared at its end."""
    try:
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as cause:
        raise _merged(target, archive) from cause
    left = size_bytes
    with open(file, "wb") as writer:  # noqa: PTH123 - a descriptor
        while piece := reader.read(min(left + 1, PIECE_BYTES)):
            left -= len(piece)
            if left < 0:
                break
            go_on()
            writer.write(piece)
    if left:
        refuse(archive, f"the member {target.name!a} does not have the {size_bytes} bytes that it should. Pack it again.")


def _merged(path: Path, archive: str) -> InvalidModelException:
    """The file system takes two names for one, as some do that know no case."""
    return InvalidModelException(
        f"{archive} is refused: the file system here takes {path.name!a} and another member for one. Rename one of the two."
    )


def _mar(directory: Path, archive: str, asked: Overrides) -> Mar:
    read = read_manifest(directory, archive, asked)
    return Mar(
        directory=directory,
        name=read.name,
        version=read.version,
        handler=read.handler,
        runtime=read.runtime,
        model_config=ModelConfig() if read.config is None else read_model_config(read.config),
        requirements=read.requirements,
    )
