"""A model archive that is a zip file: its table of contents, checked so that every reader sees the same members.

TorchServe's own reader goes from one member's header to the next and never looks at the table; ours looks at the table. Where the
two could see different things (bytes before, between or behind the members, members that overlap) the file is refused.

Source: PKWARE's APPNOTE 6.3.10. On members that overlap: D. Fifield, "A better zip bomb" (WOOT 2019).
"""

import contextlib
import stat
import struct
import zipfile
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, BinaryIO

from serving.torchserve.archives.members import (
    MAX_MEMBERS,
    Contents,
    Member,
    checked,
    limit_bytes,
    refuse,
    refuse_bomb,
    refuse_kind,
    refuse_number,
)

MAX_TABLE_BYTES = 32 << 20
"""The largest table of contents that is read: it is read as a whole."""

_END, _END_64, _LOCATOR, _LOCAL = (struct.Struct(f"<{fields}") for fields in ("4s4H2LH", "4sQ2H2L4Q", "4sLQL", "4s22x2H"))
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_HAS_DESCRIPTOR = 0x8
_DESCRIPTOR_BYTES = frozenset({0, 12, 16, 20, 24})
"""What may follow a member that was written before its size was known: CRC and sizes, with a signature or without."""
_NOTHING = frozenset({0})
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFIFO: "a named pipe"}
_WHOLE = "It was cut off, or something was added to it: copy it again, or pack it again."


@contextlib.contextmanager
def zip_contents(file: BinaryIO, archive: str, size_bytes: int) -> Iterator[Contents]:
    """The contents of a zip file, all of them judged before the first is read.

    Raises:
        InvalidModelException: it is not let through.
        zipfile.BadZipFile: it is damaged; so are NotImplementedError, RuntimeError and ValueError of Python's reader.
    """
    count, table_begins = _read_end(file, archive, size_bytes)
    with zipfile.ZipFile(file) as opened:
        infos = opened.infolist()
        if len(infos) != count or opened.start_dir != table_begins:
            refuse(archive, f"its table of contents is not what its end says. {_WHOLE}")
        _check_places(file, archive, infos, table_begins)
        members = list(checked(archive, (_member(opened, archive, info) for info in infos)))
        limit = limit_bytes(size_bytes)
        if sum(member.size_bytes or 0 for member in members) > limit:
            refuse_bomb(archive, limit)
        yield Contents(members, limit)


def _member(opened: zipfile.ZipFile, archive: str, info: zipfile.ZipInfo) -> Member:
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    is_folder = name.endswith("/")
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        refuse_kind(archive, name, _KINDS.get(kind, "of no kind that is known"))
    if info.flag_bits & _ENCRYPTED:
        refuse(archive, f"the member {name!a:.80} is encrypted. Pack it without a password.")
    if info.compress_type not in _METHODS:
        method = info.compress_type
        refuse(
            archive, f"the member {name!a:.80} is compressed by method {method}; it should be stored, or compressed by deflate."
        )
    if (is_folder and info.file_size) or (info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size):
        refuse(archive, f"the member {name!a:.80} has a size that it cannot have. {_WHOLE}")
    return Member(name, None if is_folder else info.file_size, partial(opened.open, info))


def _read_end(file: BinaryIO, archive: str, size_bytes: int) -> tuple[int, int]:
    """How many members there should be, and where their table begins: the end of the file says so, before the table is read."""
    begins = size_bytes - _END.size
    signature, disk, table_disk, disk_count, count, table_bytes, table_begins, comment_bytes = _at(file, begins, _END)
    if signature != b"PK\5\6" or comment_bytes:
        refuse(archive, f"a zip file ends with the end of its table of contents, and it does not. {_WHOLE}")
    if _at(file, begins - _LOCATOR.size, _LOCATOR)[0] == b"PK\6\7":
        begins -= _LOCATOR.size + _END_64.size
        large = _at(file, begins, _END_64)
        _check_end_64(archive, large, (disk_count, count, table_bytes, table_begins))
        disk, table_disk, disk_count, count, table_bytes, table_begins = large[4:]
    if disk or table_disk or disk_count != count or table_begins + table_bytes != begins:
        refuse(archive, f"its table of contents does not stand right before its end. {_WHOLE}")
    if count > MAX_MEMBERS or table_bytes > MAX_TABLE_BYTES:
        refuse_number(archive)
    return count, table_begins


def _check_end_64(archive: str, large: tuple[Any, ...], small: tuple[int, ...]) -> None:
    """The two ends of a large file agree: a number stands in the small one, or there is no room for it."""
    most = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    agree = all(own in {other, full} for own, other, full in zip(small, large[6:], most, strict=True))
    if large[0] != b"PK\6\6" or large[1] != _END_64.size - 12 or not agree:
        refuse(archive, f"its two ends, that of zip64 and the other, tell of different tables of contents. {_WHOLE}")


def _check_places(file: BinaryIO, archive: str, infos: list[zipfile.ZipInfo], table_begins: int) -> None:
    """The members follow one another from the file's first byte to the table: none overlaps another, nothing hides between."""
    reached, may_follow = 0, _NOTHING
    for info in sorted(infos, key=lambda info: info.header_offset):
        _check_gap(archive, info.header_offset - reached, may_follow)
        signature, name_bytes, extra_bytes = _at(file, info.header_offset, _LOCAL)
        if signature != b"PK\3\4":
            refuse(archive, f"the member {info.orig_filename!a:.80} is not where its table says. {_WHOLE}")
        reached = info.header_offset + _LOCAL.size + name_bytes + extra_bytes + info.compress_size
        may_follow = _DESCRIPTOR_BYTES if info.flag_bits & _HAS_DESCRIPTOR else _NOTHING
    _check_gap(archive, table_begins - reached, may_follow)


def _check_gap(archive: str, gap_bytes: int, may_follow: AbstractSet[int]) -> None:
    if gap_bytes < 0:
        refuse(archive, f"two of its members overlap, or one overlaps the table of contents. {_WHOLE}")
    if gap_bytes not in may_follow:
        refuse(archive, f"it has {gap_bytes} bytes that belong to no member. {_WHOLE}")


def _at(file: BinaryIO, begins: int, record: struct.Struct) -> tuple[Any, ...]:
    """The record's fields; a file that does not reach so far has zeros there."""
    if begins < 0:
        return record.unpack(bytes(record.size))
    file.seek(begins)
    return record.unpack(file.read(record.size).ljust(record.size, b"\0"))
