"""A model archive that is a gzipped tar file with one folder at its top, as `torch-model-archiver --archive-format tgz` makes.

It is read once, from its first byte to its last: its reader may not go back, and may not have more than a piece at a time.

Sources: POSIX.1-2017 pax, "ustar Interchange Format"; RFC 1952 (gzip).
"""

import contextlib
import gzip
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import BinaryIO

from serving.torchserve.archives.members import Contents, Member, checked, limit_bytes, refuse, refuse_bomb, refuse_kind

MAX_PIECE_BYTES = 1 << 20
"""What is read at once, at most: a part of a member, a long name. Also how many zeros may follow the end."""

_BLOCK_BYTES = 512
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}
_WHOLE = "It was cut off, or something was added to it: copy it again, or pack it again."


class _Forward:
    """A gzipped file for tarfile: it goes forward only, in pieces, and not beyond `limit_bytes` of what it unpacks to."""

    def __init__(self, file: BinaryIO, archive: str, limit_bytes: int) -> None:
        self._unzipped = gzip.GzipFile(fileobj=file, mode="rb")
        self._archive, self._limit_bytes = archive, limit_bytes
        self._reached = 0
        self.last = b""

    def tell(self) -> int:
        return self._reached

    def seek(self, to: int) -> int:
        if to < self._reached:
            refuse(self._archive, f"its headers lead back to what was read before. {_WHOLE}")
        while to > self._reached and self.read(min(to - self._reached, MAX_PIECE_BYTES)):
            pass
        return self._reached

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_PIECE_BYTES:
            refuse(self._archive, f"it has a name, or a header, of {size} bytes; {MAX_PIECE_BYTES} at most are read.")
        self.last = self._unzipped.read(size)
        self._reached += len(self.last)
        if self._reached > self._limit_bytes:
            refuse_bomb(self._archive, self._limit_bytes)
        return self.last


@contextlib.contextmanager
def tgz_contents(file: BinaryIO, archive: str, size_bytes: int) -> Iterator[Contents]:
    """The contents of a gzipped tar file; each member is judged, and has to be read, before the next.

    Raises:
        InvalidModelException: it is not let through.
        tarfile.TarError: it is damaged; so are gzip.BadGzipFile, zlib.error, EOFError, ValueError and RecursionError.
    """
    file.seek(0)
    limit = limit_bytes(size_bytes)
    forward = _Forward(file, archive, limit)
    with tarfile.open(fileobj=forward, mode="r:", encoding="utf-8", errors="strict") as opened:  # type: ignore[arg-type]
        yield Contents(_below_top(archive, checked(archive, _members(opened, archive, forward))), limit)


def _members(opened: tarfile.TarFile, archive: str, forward: _Forward) -> Iterator[Member]:
    for info in opened:
        name = info.name.removeprefix("./")
        if name in {"", "."} and info.isdir():
            continue
        if not (info.isdir() or (info.isreg() and not info.issparse())):
            refuse_kind(archive, name, _KINDS.get(info.type, "a sparse file, or of no kind that is known"))
        if info.size < 0:
            refuse(archive, f"the member {name!a:.80} has a negative size. {_WHOLE}")
        yield Member(name, None if info.isdir() else info.size, partial(_opened, opened, info))
    _check_end(archive, forward)


def _opened(opened: tarfile.TarFile, info: tarfile.TarInfo) -> contextlib.AbstractContextManager:
    file = opened.extractfile(info)
    if file is None:
        raise tarfile.ReadError(f"{info.name!a:.80} cannot be read")
    return file


def _check_end(archive: str, forward: _Forward) -> None:
    """Two blocks of zeros end it, and nothing but zeros follows; where tarfile stopped, it stopped for the first of them."""
    blocks, rest = forward.last, forward.read(MAX_PIECE_BYTES)
    blocks += rest
    if len(blocks) < 2 * _BLOCK_BYTES or blocks.strip(b"\0") or (rest and forward.read(1)):
        refuse(archive, f"a tar file ends with two blocks of zeros, and it does not. {_WHOLE}")


def _below_top(archive: str, members: Iterable[Member]) -> Iterator[Member]:
    """The members with their paths below the one folder at the top, which is left out itself."""
    top = None
    for member in members:
        top = top or member.parts[0]
        if member.parts[0] != top or (member.size_bytes is not None and len(member.parts) == 1):
            refuse(
                archive,
                f"it has more at its top than the folder {top!a:.80}. Put everything into one folder: tar czf m.tar.gz m/",
            )
        if len(member.parts) > 1:
            yield replace(member, parts=member.parts[1:])
