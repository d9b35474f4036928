"""The archive: torch.save's zip file, its table of contents checked so that every reader sees the same members.

torch reads the archive with its own zip reader, we scan it with Python's. Where a file could look different to the two (a name
twice, several roots, overlapping or compressed members, bytes outside the archive) it is refused.
"""

import mmap
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from checkpoints.errors import UnreadableCheckpoint, UnsafeCheckpoint

LOCAL_HEADER_BYTES = 30
END_RECORD_BYTES = 22


@dataclass(frozen=True, slots=True)
class Record:
    """One member: its bytes are [begin, end) of the file. `crc` is 0 where the writer left it out."""

    begin: int
    end: int
    crc: int

    @property
    def size_bytes(self) -> int:
        """The member's length."""
        return self.end - self.begin


def read_records(path: Path, data: mmap.mmap) -> Mapping[str, Record]:
    """The archive's members by their name below its root folder; `data` is the whole file.

    Raises UnsafeCheckpoint where two readers could see different members, UnreadableCheckpoint where the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos, table_begins, comment = archive.infolist(), archive.start_dir, archive.comment
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, OverflowError) as error:
        raise UnreadableCheckpoint(f"{path.name} is a damaged zip archive: {error}. Copy or save it again.") from error
    _check_names(path, infos)
    if comment or data[-END_RECORD_BYTES:][:4] != b"PK\x05\x06" or min(info.header_offset for info in infos) != 0:
        raise UnsafeCheckpoint(f"{path.name} carries bytes before or after its zip archive, which torch.save never writes.")
    records = {info.filename.partition("/")[2]: _record(path, data, info) for info in infos}
    _check_places(path, records, table_begins)
    return records


def check_sums(path: Path, data: mmap.mmap, records: Mapping[str, Record]) -> None:
    """Compare every member with its CRC-32. Where all are 0, the file was saved without them (torch's set_crc32_options).

    Raises UnreadableCheckpoint, naming the member.
    """
    if not any(record.crc for record in records.values()):
        return
    with memoryview(data) as view:
        for name, record in records.items():
            with view[record.begin : record.end] as member:
                if zlib.crc32(member) != record.crc:
                    raise UnreadableCheckpoint(
                        f'{path.name} is damaged: the bytes of its member "{name}" do not have their checksum. Copy it again.'
                    )


def _check_names(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in infos]
    roots = {name.partition("/")[0] for name in names}
    if len(roots) != 1:
        raise UnsafeCheckpoint(
            f"{path.name} has {len(roots)} folders at its root; torch.save writes one, so readers could differ."
        )
    seen: set[str] = set()
    for info in infos:
        if info.orig_filename != info.filename or "\\" in info.filename:
            raise UnsafeCheckpoint(f"{path.name} has a member whose name readers see differently: {info.orig_filename!r}.")
        folded = info.filename.casefold()  # torch's reader looks names up without regard to case
        if folded in seen:
            raise UnsafeCheckpoint(f'{path.name} has two members named "{info.filename}", so readers could see different ones.')
        seen.add(folded)


def _record(path: Path, data: mmap.mmap, info: zipfile.ZipInfo) -> Record:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise UnsafeCheckpoint(f'{path.name} has a compressed member, "{info.filename}"; torch.save writes none.')
    header = data[info.header_offset : info.header_offset + LOCAL_HEADER_BYTES]
    if len(header) != LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise UnreadableCheckpoint(f'{path.name} is damaged: its member "{info.filename}" has no header. Copy it again.')
    name_bytes = int.from_bytes(header[26:28], "little")
    extra_bytes = int.from_bytes(header[28:30], "little")
    begin = info.header_offset + LOCAL_HEADER_BYTES + name_bytes + extra_bytes
    return Record(begin, begin + info.file_size, info.CRC)


def _check_places(path: Path, records: Mapping[str, Record], table_begins: int) -> None:
    reached = 0
    for name, record in sorted(records.items(), key=lambda item: item[1].begin):
        if record.begin < reached or record.end > table_begins:
            raise UnsafeCheckpoint(f'{path.name} has a member, "{name}", that overlaps another one or the table of contents.')
        reached = record.end
