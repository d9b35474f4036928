"""Make the hostile archives in this folder again: python tests/hostile/mar/make_hostile.py

Each is written byte by byte, without a compressor, so that every machine makes the same; `FILES` says what is told of it.
Those of `MADE` are too large to keep: a test makes them.
"""

import json
import stat
import struct
import sys
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
HANDLER = b"def handle(data, context):\n    return data\n"
MODEL = {"modelName": "hostile", "modelVersion": "1.0", "handler": "handler.py"}
UTF_8, ENCRYPTED, STRONGLY, DESCRIPTOR = 0x800, 0x1, 0x40, 0x8
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14

REPACK = "Pack it again with torch-model-archiver."
WHOLE = "It was cut off, or something was added to it: copy it again, or pack it again."
PATH = "Pack it under a plain path below the archive's own folder."
KIND = "Only files and folders are unpacked: put the file itself in its place."
MANY = "it has more than 10000 members. Put many small files into one, or install them as a package."
LONG = "has a path of more than 1024 bytes, 32 levels, or 255 bytes in one name"
CONTROL = "has a control character in its name, or half of one"
NO_END = f"a zip file ends with the end of its table of contents, and it does not. {WHOLE}"
DAMAGED = "{0} is damaged: …. Copy it again, or pack it again."
"""What Python's own readers say stands for the dots: it is another with every version."""
NO_ARCHIVE = "An archive is a zip file, a gzipped tar file or a folder: make it by torch-model-archiver."
NO_NAME = "give model_name, or pack it with torch-model-archiver."
NAME = (
    "The model name {!a} of {{0}} is not one: it should be 1 to 255 letters, digits, _, - and dots, the first a letter or a "
    "digit. Give another model_name."
)
VERSION = (
    "The version {!a} of {{0}} is not one: it should be 1 to 128 letters of ASCII without spaces and slashes, since it stands "
    f"in a path. {REPACK}"
)
NO_HANDLER = (
    "Handler is not defined. Neither MAR-INF/MANIFEST.json of {0} nor the registration names one: give handler, or set "
    "default_service_handler."
)
UNPARSED = "Failed to parse signature.json. MAR-INF/MANIFEST.json of {0}: "


def bomb(limit_bytes: int) -> str:
    return (
        f"it would unpack to more than {limit_bytes} bytes, which is 100 times its own size or 268435456. "
        "If that is meant, pack it with --archive-format zip-store."
    )


# Zip files.


@dataclass
class Entry:
    """One member. What is None is what it should be; `size` is what the table says."""

    name: bytes
    data: bytes = b""
    mode: int = 0
    flags: int = UTF_8
    method: int = STORED
    crc: int | None = None
    size: int | None = None
    local_name: bytes | None = None
    at: int | None = None
    extra: bytes = b""
    after: bytes = b""

    def local(self) -> bytes:
        name, size = self.name if self.local_name is None else self.local_name, min(len(self.unpacked), 0xFFFFFFFF)
        fields = (20, self.flags, self.method, 0, 33, self.checksum, len(self.data), size, len(name), 0)
        return b"PK\3\4" + struct.pack("<5H3L2H", *fields) + name + self.data + self.after

    def central(self, begins: int) -> bytes:
        size = len(self.unpacked) if self.size is None else self.size
        fields = (0x314, 20, self.flags, self.method, 0, 33, self.checksum, len(self.data), size, len(self.name), len(self.extra))
        return b"PK\1\2" + struct.pack("<6H3L5H2L", *fields, 0, 0, 0, self.mode << 16, begins) + self.name + self.extra

    @property
    def unpacked(self) -> bytes:
        return zlib.decompress(self.data, -15) if self.method == DEFLATED else self.data

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.unpacked) if self.crc is None else self.crc


def end(count: int, table_bytes: int, table_begins: int, *, disk: int = 0, comment: int = 0) -> bytes:
    return b"PK\5\6" + struct.pack("<4H2LH", disk, disk, count, count, table_bytes, table_begins, comment)


def end_64(count: int, table_bytes: int, table_begins: int) -> bytes:
    record = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, count, count, table_bytes, table_begins)
    return record + b"PK\6\7" + struct.pack("<LQL", 0, table_begins + table_bytes, 1)


def locals_and_table(entries: list[Entry], before: bytes = b"") -> tuple[bytes, bytes]:
    body, table = before, b""
    for entry in entries:
        table += entry.central(len(body) if entry.at is None else entry.at)
        body += entry.local() if entry.at is None else b""
    return body, table


def manifest(**model: object) -> bytes:
    stated = {key: value for key, value in {**MODEL, **model}.items() if value is not None}
    return json.dumps({"runtime": "python", "model": stated}).encode()


def good(text: bytes | None = None) -> list[Entry]:
    return [Entry(b"handler.py", HANDLER), Entry(b"MAR-INF/MANIFEST.json", manifest() if text is None else text)]


def zipped(*more: Entry, text: bytes | None = None) -> bytes:
    entries = [*good(text), *more]
    body, table = locals_and_table(entries)
    return body + table + end(len(entries), len(table), len(body))


def configured(text: bytes) -> bytes:
    return zipped(Entry(b"model-config.yaml", text), text=manifest(configFile="model-config.yaml"))


def hiding_between() -> bytes:
    entries = good()
    entries[0].after = Entry(b"hidden.py", HANDLER).local()
    body, table = locals_and_table(entries)
    return body + table + end(2, len(table), len(body))


def quoted_overlap() -> bytes:
    """Two members of which the first has the second's header as a part of its data."""
    inner = Entry(b"b", b"0" * 64).local()
    outer = Entry(b"a", inner)
    start, _ = locals_and_table(good())
    at = len(start) + len(outer.local()) - len(inner)
    entries = [*good(), outer, Entry(b"b", b"0" * 64, at=at)]
    body, table = locals_and_table(entries)
    return body + table + end(len(entries), len(table), len(body))


def with_end(make: Callable[[int, int, int], bytes], before: bytes = b"") -> bytes:
    body, table = locals_and_table(good(), before)
    return body + table + make(2, len(table), len(body))


def two_tables() -> bytes:
    """A table of zip64, and another one that the common end tells of, which readers without zip64 see."""
    body, table = locals_and_table(good())
    _, other = locals_and_table([good()[0]])
    return body + other + table + end_64(2, len(table), len(body) + len(other)) + end(1, len(other), len(body))


def many_members(count: int) -> bytes:
    entries = [Entry(b"%d" % number) for number in range(count)]
    body, table = locals_and_table(entries)
    return body + table + end(count, len(table), len(body))


def declared_in_zip64(size: int) -> Entry:
    return Entry(b"weights.pt", size=0xFFFFFFFF, method=DEFLATED, data=b"\3\0", extra=struct.pack("<2HQ", 1, 8, size))


def deflated_zeros(size_bytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(size_bytes)) + packer.flush()


# Gzipped tar files.


def gzipped(data: bytes, crc: int | None = None) -> bytes:
    """A gzip file of blocks that are stored as they are."""
    blocks = [data[begins : begins + 0xFFFF] for begins in range(0, len(data), 0xFFFF)] or [b""]
    packed = b"".join(
        struct.pack("<B2H", number == len(blocks), len(block), 0xFFFF - len(block)) + block
        for number, block in enumerate(blocks, start=1)
    )
    tail = struct.pack("<2L", zlib.crc32(data) if crc is None else crc, len(data) & 0xFFFFFFFF)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed + tail


def header(name: str | bytes, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One block; the size may be negative, which tar writes in base 256."""
    number = b"%011o\0" % size if size >= 0 else (size & (1 << 96) - 1).to_bytes(12, "big")
    fields = [
        (name if isinstance(name, bytes) else name.encode()).ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,
        number,
        b"%011o\0" % 0,
        b" " * 8,
        kind,
        link.encode().ljust(100, b"\0"),
        b"ustar\x0000",
    ]
    block = b"".join(fields).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def tarred(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None) -> bytes:
    return header(name, len(data) if size is None else size, kind, link) + padded(data)


def pax(**records: str) -> bytes:
    text = b""
    for key, value in records.items():
        length = len(key) + len(value.encode()) + 3
        length += len(str(length + len(str(length))))
        text += f"{length} {key}={value}\n".encode()
    return tarred("pax", text, tarfile.XHDTYPE)


TAR_GOOD = tarred("m/handler.py", HANDLER) + tarred("m/MAR-INF/MANIFEST.json", manifest())
TAR_END = bytes(1024)


def tgz(*more: bytes, ends: bytes = TAR_END) -> bytes:
    return gzipped(TAR_GOOD + b"".join(more) + ends)


ALIASES = b"a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 10)) for level in range(1, 8)
)
MERGES = b"a0: &a0 {x: 1, y: 2}\n" + b"".join(
    b"a%d: &a%d {<<: [%s]}\n" % (level, level, b", ".join([b"*a%d" % (level - 1)] * 10)) for level in range(1, 8)
)
CONFIG = "Failed to parse model config file model-config.yaml: {} Mend it, and pack the archive again."


def member(name: str, why: str, what_to_do: str = PATH) -> str:
    return f"{{0}} is refused: the member {name!a} {why}. {what_to_do}"


def refused(why: str) -> str:
    return f"{{0}} is refused: {why}"


ZIP_NAMES: dict[str, tuple[bytes, str]] = {
    "up": (b"../up.py", "has .. in its path"),
    "up-from-below": (b"a/../../up.py", "has .. in its path"),
    "up-and-down": (b"a/../up.py", "has .. in its path"),
    "up-by-a-folder": (b"../", "has .. in its path"),
    "absolute": (b"/absolute.py", "has an absolute path"),
    "drive": (b"C:drive.py", "has an absolute path"),
    "share": (b"//host/share.py", "has an absolute path"),
    "backslash": (b"..\\up.py", "has a backslash in its name; it is / that divides folders"),
    "zero-byte": (b"handler2.py\0.txt", CONTROL),
    "line": (b"a\nb.py", CONTROL),
    "escape": (b"\x1b[2J.py", CONTROL),
    "line-separator": ("a\u2028b.py".encode(), CONTROL),
    "dot": (b"./dot.py", "has an empty name, or a single dot, in its path"),
    "double-slash": (b"a//b.py", "has an empty name, or a single dot, in its path"),
    "no-name": (b"", "has an empty name, or a single dot, in its path"),
    "only-a-slash": (b"/", "has an absolute path"),
}
KINDS = {
    "link": (stat.S_IFLNK, "is a symbolic link"),
    "device": (stat.S_IFCHR, "is a device"),
    "disk": (stat.S_IFBLK, "is a device"),
    "pipe": (stat.S_IFIFO, "is a named pipe"),
    "socket": (stat.S_IFSOCK, "is of no kind that is known"),
}
TAR_KINDS = {
    "link": (tarfile.SYMTYPE, "is a symbolic link"),
    "hard-link": (tarfile.LNKTYPE, "is a hard link"),
    "device": (tarfile.CHRTYPE, "is a device"),
    "disk": (tarfile.BLKTYPE, "is a device"),
    "pipe": (tarfile.FIFOTYPE, "is a named pipe"),
    "unknown-kind": (b"Z", "is a sparse file, or of no kind that is known"),
}
OF_ZIP: dict[str, tuple[bytes, str]] = {
    "twice": (zipped(Entry(b"a.py"), Entry(b"a.py")), member("a.py", "stands in it twice", "Remove one of the two.")),
    "file-then-folder": (
        zipped(Entry(b"a"), Entry(b"a/b.py")),
        member("a/b.py", "is, or is below, a file and a folder of one name", "Rename one."),
    ),
    "folder-then-file": (
        zipped(Entry(b"a/b.py"), Entry(b"a")),
        member("a", "is, or is below, a file and a folder of one name", "Rename one."),
    ),
    "through-a-link": (
        zipped(Entry(b"a", b"/tmp", stat.S_IFLNK | 0o777), Entry(b"a/b.py", HANDLER)),
        member("a", "is a symbolic link", KIND),
    ),
    "folder-with-data": (zipped(Entry(b"a/", b"x")), refused(f"the member 'a/' has a size that it cannot have. {WHOLE}")),
    "name-long": (zipped(Entry(b"n" * 256)), member(f"{'n' * 77}...", LONG)),
    "path-long": (zipped(Entry(b"/".join([b"n" * 200] * 6))), member(f"{'n' * 77}...", LONG)),
    "path-deep": (zipped(Entry(b"/".join([b"d"] * 33))), member("/".join(["d"] * 33), LONG)),
    "name-not-utf-8": (
        zipped(Entry(b"\xff.py")),
        DAMAGED,
    ),
    "encrypted": (
        zipped(Entry(b"a.py", b"x", flags=ENCRYPTED)),
        refused("the member 'a.py' is encrypted. Pack it without a password."),
    ),
    "encrypted-strongly": (
        zipped(Entry(b"a.py", b"x", flags=ENCRYPTED | STRONGLY)),
        refused("the member 'a.py' is encrypted. Pack it without a password."),
    ),
    "bzip2": (
        zipped(Entry(b"a.py", b"x", method=BZIP2)),
        refused("the member 'a.py' is compressed by method 12; it should be stored, or compressed by deflate."),
    ),
    "lzma": (
        zipped(Entry(b"a.py", b"x", method=LZMA)),
        refused("the member 'a.py' is compressed by method 14; it should be stored, or compressed by deflate."),
    ),
    "checksum": (zipped(Entry(b"a.py", HANDLER, crc=1)), DAMAGED),
    "deflate-damaged": (
        zipped(Entry(b"a.py", b"\3\0", method=DEFLATED)).replace(b"a.py\3\0", b"a.py\7\0"),
        DAMAGED,
    ),
    "stored-of-two-sizes": (
        zipped(Entry(b"a.py", HANDLER, size=5)),
        refused(f"the member 'a.py' has a size that it cannot have. {WHOLE}"),
    ),
    "larger-than-it-is": (
        zipped(Entry(b"a.py", b"\3\0", method=DEFLATED, size=9)),
        refused("the member 'a.py' does not have the 9 bytes that it should. Pack it again."),
    ),
    "terabyte": (zipped(declared_in_zip64(1 << 40)), refused(bomb(1 << 28))),
    "exabytes": (zipped(declared_in_zip64((1 << 64) - 1)), refused(bomb(1 << 28))),
    "overlap": (
        zipped(Entry(b"a", at=0)),
        refused(f"two of its members overlap, or one overlaps the table of contents. {WHOLE}"),
    ),
    "quoted-overlap": (
        quoted_overlap(),
        refused(f"two of its members overlap, or one overlaps the table of contents. {WHOLE}"),
    ),
    "overlaps-table": (
        zipped(Entry(b"a.py", b"x")).replace(b"a.pyx", b"a.py"),
        refused(f"its table of contents does not stand right before its end. {WHOLE}"),
    ),
    "hidden-member": (
        hiding_between(),
        refused(f"it has {len(Entry(b'hidden.py', HANDLER).local())} bytes that belong to no member. {WHOLE}"),
    ),
    "member-nowhere": (
        zipped(Entry(b"a", at=5)),
        refused(f"two of its members overlap, or one overlaps the table of contents. {WHOLE}"),
    ),
    "no-local-header": (
        zipped().replace(b"PK\3\4", b"PK\3\5").replace(b"PK\3\5", b"PK\3\4", 1),
        refused(f"the member 'MAR-INF/MANIFEST.json' is not where its table says. {WHOLE}"),
    ),
    "other-name-locally": (
        zipped(Entry(b"a.py", HANDLER, local_name=b"b.py")),
        DAMAGED,
    ),
    "bytes-before": (b"PK\3\4" + zipped(), refused(f"its table of contents does not stand right before its end. {WHOLE}")),
    "bytes-before-all": (with_end(end, b"PK\3\4"), refused(f"it has 4 bytes that belong to no member. {WHOLE}")),
    "bytes-behind": (zipped() + b"x", refused(NO_END)),
    "comment": (with_end(lambda *where: end(*where, comment=2) + b"hi"), refused(NO_END)),
    "cut-off": (zipped()[:-1], refused(NO_END)),
    "cut-off-early": (zipped()[:100], refused(NO_END)),
    "cut-off-at-once": (zipped()[:4], refused(NO_END)),
    "two-ends": (with_end(end) + end(0, 0, 0), refused(f"its table of contents does not stand right before its end. {WHOLE}")),
    "second-disk": (
        with_end(lambda *where: end(*where, disk=1)),
        refused(f"its table of contents does not stand right before its end. {WHOLE}"),
    ),
    "count-too-small": (
        with_end(lambda _, table_bytes, begins: end(1, table_bytes, begins)),
        refused(f"its table of contents is not what its end says. {WHOLE}"),
    ),
    "count-too-large": (with_end(lambda _, table_bytes, begins: end(0xFFFE, table_bytes, begins)), refused(MANY)),
    "zip64-count": (
        with_end(lambda _, size, begins: end_64(1 << 40, size, begins) + end(0xFFFF, size, begins)),
        refused(MANY),
    ),
    "zip64-two-tables": (
        two_tables(),
        refused(f"its two ends, that of zip64 and the other, tell of different tables of contents. {WHOLE}"),
    ),
    "zip64-not-there": (
        with_end(lambda *where: b"PK\6\7" + struct.pack("<LQL", 0, 0, 1) + end(*where)),
        refused(f"its two ends, that of zip64 and the other, tell of different tables of contents. {WHOLE}"),
    ),
    "table-damaged": (zipped().replace(b"PK\1\2", b"PK\1\3"), DAMAGED),
    "no-members": (
        end(0, 0, 0),
        f"Model name is not defined. {{0}} has no MAR-INF/MANIFEST.json at its root: {NO_NAME}",
    ),
    "no-archive": (
        b"version https://git-lfs.github.com/spec/v1\n",
        refused(f"it begins with the bytes 76 65 72 73. {NO_ARCHIVE}"),
    ),
    "nothing": (
        b"",
        refused(f"it is empty. {NO_ARCHIVE}"),
    ),
}
OF_TAR: dict[str, tuple[bytes, str]] = {
    "up": (tgz(tarred("m/../../up.py", HANDLER)), member("m/../../up.py", "has .. in its path")),
    "up-at-the-top": (tgz(tarred("../up.py", HANDLER)), member("../up.py", "has .. in its path")),
    "absolute": (tgz(tarred("/absolute.py", HANDLER)), member("/absolute.py", "has an absolute path")),
    "up-in-a-long-name": (
        tgz(tarred("long", b"m/../../up.py\0", tarfile.GNUTYPE_LONGNAME), tarred("m/a.py")),
        member("m/../../up.py", "has .. in its path"),
    ),
    "up-in-pax": (tgz(pax(path="m/../../up.py"), tarred("m/a.py")), member("m/../../up.py", "has .. in its path")),
    "zero-byte-in-pax": (tgz(pax(path="m/a\0b.py"), tarred("m/a.py")), member("m/a\0b.py", CONTROL)),
    "through-a-link": (
        tgz(tarred("m/a", kind=tarfile.SYMTYPE, link="/tmp"), tarred("m/a/b.py", HANDLER)),
        member("m/a", "is a symbolic link", KIND),
    ),
    "sparse": (
        tgz(tarred("m/a", kind=tarfile.GNUTYPE_SPARSE)),
        member("m/a", "is a sparse file, or of no kind that is known", KIND),
    ),
    "twice": (tgz(tarred("m/handler.py")), member("m/handler.py", "stands in it twice", "Remove one of the two.")),
    "twice-by-a-dot": (tgz(tarred("./m/handler.py")), member("m/handler.py", "stands in it twice", "Remove one of the two.")),
    "file-and-folder": (
        tgz(tarred("m/a"), tarred("m/a/b")),
        member("m/a/b", "is, or is below, a file and a folder of one name", "Rename one."),
    ),
    "two-tops": (
        tgz(tarred("n/a.py")),
        refused("it has more at its top than the folder 'm'. Put everything into one folder: tar czf m.tar.gz m/"),
    ),
    "file-at-top": (
        gzipped(tarred("m") + TAR_END),
        refused("it has more at its top than the folder 'm'. Put everything into one folder: tar czf m.tar.gz m/"),
    ),
    "negative-size": (tgz(tarred("m/a", size=-1024)), refused(f"the member 'm/a' has a negative size. {WHOLE}")),
    "negative-size-of-a-folder": (
        tgz(header("m/a", -1 << 20, tarfile.DIRTYPE)),
        refused(f"the member 'm/a' has a negative size. {WHOLE}"),
    ),
    "negative-size-of-pax": (
        tgz(header("pax", -4096, tarfile.XHDTYPE)),
        refused("it has a name, or a header, of -4096 bytes; 1048576 at most are read."),
    ),
    "negative-size-in-pax": (tgz(pax(size="-512"), tarred("m/a")), refused(f"the member 'm/a' has a negative size. {WHOLE}")),
    "terabyte": (tgz(pax(size=str(1 << 40)), tarred("m/a")), refused(bomb(1 << 28))),
    "gigabyte-of-pax": (
        tgz(header("pax", 1 << 30, tarfile.XHDTYPE)),
        refused("it has a name, or a header, of 1073741824 bytes; 1048576 at most are read."),
    ),
    "gigabyte-of-name": (
        tgz(header("long", 1 << 30, tarfile.GNUTYPE_LONGNAME)),
        refused("it has a name, or a header, of 1073741824 bytes; 1048576 at most are read."),
    ),
    "name-not-utf-8": (gzipped(header(b"m/\xff.py") + TAR_END), DAMAGED),
    "cut-off": (tgz()[:-9], DAMAGED),
    "cut-off-in-a-member": (gzipped(TAR_GOOD[:520]), DAMAGED),
    "cut-off-in-a-header": (
        gzipped(TAR_GOOD + header("m/a")[:300]),
        refused(f"a tar file ends with two blocks of zeros, and it does not. {WHOLE}"),
    ),
    "no-end": (tgz(ends=b""), refused(f"a tar file ends with two blocks of zeros, and it does not. {WHOLE}")),
    "half-an-end": (tgz(ends=bytes(512)), refused(f"a tar file ends with two blocks of zeros, and it does not. {WHOLE}")),
    "more-behind-the-end": (
        tgz(ends=TAR_END + tarred("m/b.py", HANDLER)),
        refused(f"a tar file ends with two blocks of zeros, and it does not. {WHOLE}"),
    ),
    "header-damaged": (
        tgz(header("m/b.py").replace(b"m/b.py", b"m/c.py")),
        refused(f"a tar file ends with two blocks of zeros, and it does not. {WHOLE}"),
    ),
    "bytes-behind": (tgz() + b"bytes", DAMAGED),
    "second-gzip-behind": (
        tgz() + gzipped(tarred("m/b.py", HANDLER)),
        refused(f"a tar file ends with two blocks of zeros, and it does not. {WHOLE}"),
    ),
    "checksum": (gzipped(TAR_GOOD + TAR_END, crc=1), DAMAGED),
    "no-tar": (gzipped(b"no tar" * 100), DAMAGED),
    "empty": (gzipped(b""), DAMAGED),
}
OF_MANIFEST: dict[str, tuple[bytes, str]] = {
    "no-json": (b"{nope", "it is not JSON: …"),
    "empty": (b"", "it is not JSON: …"),
    "null": (b"null", "it is None, not an object"),
    "list": (b"[]", "it is [], not an object"),
    "model-a-text": (b'{"model": "x"}', "its model is 'x', not an object with modelName, handler and modelVersion"),
    "not-utf-8": (b"\xff", "it is not UTF-8 text: …"),
    "name-a-list": (manifest(modelName=["m"]), "its modelName is ['m'], not a text"),
    "handler-true": (manifest(handler=True), "its handler is True, not a text"),
    "config-a-mapping": (manifest(configFile={}), "its configFile is {}, not a text"),
}
OF_MODEL: dict[str, tuple[bytes, str]] = {
    "no-name": (
        manifest(modelName=None),
        f"Model name is not defined. MAR-INF/MANIFEST.json of {{0}} has no modelName: {NO_NAME}",
    ),
    "name-up": (manifest(modelName="../m"), NAME.format("../m")),
    "name-line": (manifest(modelName="m\n"), NAME.format("m\n")),
    "version-up": (manifest(modelVersion=".."), VERSION.format("..")),
    "version-path": (manifest(modelVersion="1/2"), VERSION.format("1/2")),
    "no-handler": (manifest(handler=None), NO_HANDLER),
    "handler-up": (manifest(handler="../h.py"), refused(f"its handler '../h.py' is outside the archive. {REPACK}")),
    "handler-absolute": (manifest(handler="/h.py"), refused(f"its handler '/h.py' is outside the archive. {REPACK}")),
    "weights-up": (manifest(serializedFile="../w.pt"), refused(f"its serializedFile '../w.pt' is outside the archive. {REPACK}")),
    "model-up": (manifest(modelFile="../m.py"), refused(f"its modelFile '../m.py' is outside the archive. {REPACK}")),
    "config-up": (manifest(configFile="../../c"), refused(f"its configFile '../../c' is outside the archive. {REPACK}")),
    "config-missing": (manifest(configFile="c.yaml"), refused(f"its configFile 'c.yaml' is not in the archive. {REPACK}")),
    "requirements-up": (
        manifest(requirementsFile="/etc/hosts"),
        refused(f"its requirementsFile '/etc/hosts' is outside the archive. {REPACK}"),
    ),
    "requirements-missing": (
        manifest(requirementsFile="r.txt"),
        refused(f"its requirementsFile 'r.txt' is not in the archive. {REPACK}"),
    ),
    "runtime-java": (
        manifest().replace(b'"runtime": "python"', b'"runtime": "java"'),
        "Runtime is not defined or invalid. That of {0} is 'java': it should be python or python3.",
    ),
    "runtime-lsp": (
        manifest().replace(b'"runtime": "python"', b'"runtime": "LSP"'),
        "Runtime is not defined or invalid. That of {0} is 'LSP': C++ handlers have no worker here.",
    ),
    "runtime-a-list": (
        manifest().replace(b'"runtime": "python"', b'"runtime": ["python"]'),
        "Runtime is not defined or invalid. That of {0} is ['python']: it should be python or python3.",
    ),
}
OF_CONFIG: dict[str, tuple[bytes, str]] = {
    "list": (b"[1, 2]", "it is not a mapping with texts as keys, as in batchSize: 4."),
    "empty": (b"# nothing\n", "it is not a mapping with texts as keys, as in batchSize: 4."),
    "number-as-key": (b"1: 2", "it is not a mapping with texts as keys, as in batchSize: 4."),
    "alias-bomb": (ALIASES, "it has more than 200000 values, those that aliases repeat counted each time."),
    "merge-bomb": (MERGES, "it has more than 200000 values, those that aliases repeat counted each time."),
    "alias-of-itself": (b"a: &a [*a]", "an alias in it stands for something that it is part of."),
    "deep": (b"a: " + b"[" * 65 + b"]" * 65, "line 1 is more than 64 levels deep."),
    "no-yaml": (b"{a: ", "it is not YAML: …."),
    "two-documents": (b"a: 1\n---\na: 2", "it is not YAML: …."),
    "tag-of-python": (b"a: !!python/object/apply:os.system [id]", "it is not YAML: …."),
    "tag-unknown": (b"a: !secret 1", "it is not YAML: …."),
    "no-date": (b"a: 2024-13-45", "it is not YAML: …."),
    "not-utf-8": (
        b"a: \xff",
        "it is not YAML: ….",
    ),
}

FILES: dict[str, tuple[bytes, str]] = {
    **{f"zip-{name}.mar": (zipped(Entry(own)), member(own.decode(), why)) for name, (own, why) in ZIP_NAMES.items()},
    **{
        f"zip-{name}.mar": (zipped(Entry(b"a", b"handler.py", mode | 0o777)), member("a", why, KIND))
        for name, (mode, why) in KINDS.items()
    },
    **{f"zip-{name}.mar": made for name, made in OF_ZIP.items()},
    **{
        f"tgz-{name}.tar.gz": (tgz(tarred("m/a", kind=kind, link="m/handler.py")), member("m/a", why, KIND))
        for name, (kind, why) in TAR_KINDS.items()
    },
    **{f"tgz-{name}.tar.gz": made for name, made in OF_TAR.items()},
    **{
        f"manifest-{name}.mar": (zipped(text=text), f"{UNPARSED}{why.replace('{', '{{').replace('}', '}}')}. {REPACK}")
        for name, (text, why) in OF_MANIFEST.items()
    },
    **{f"manifest-{name}.mar": (zipped(text=text), told) for name, (text, told) in OF_MODEL.items()},
    **{f"config-{name}.mar": (configured(text), CONFIG.format(why)) for name, (text, why) in OF_CONFIG.items()},
}


def zip_bomb() -> bytes:
    return zipped(Entry(b"weights.pt", deflated_zeros(257 << 20), method=DEFLATED))


def tgz_bomb() -> bytes:
    """Zeros under a name that is no archive's: they would be written, were they not counted."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = packer.compress(TAR_GOOD + header("m/weights.pt", 257 << 20))
    return packed + b"".join(packer.compress(bytes(1 << 20)) for _ in range(257)) + packer.compress(TAR_END) + packer.flush()


def headers_without_end() -> bytes:
    """Headers that each say more of the next."""
    return tgz(*[pax(comment="x")] * 3000)


MADE: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip-bomb.mar": (zip_bomb, refused(bomb(1 << 28))),
    "zip-of-10001.mar": (lambda: many_members(10_001), refused(MANY)),
    "tgz-bomb.tar.gz": (tgz_bomb, refused(bomb(1 << 28))),
    "tgz-of-10001.tar.gz": (
        lambda: gzipped(b"".join(tarred(f"m/{number}") for number in range(10_001)) + TAR_END),
        refused(MANY),
    ),
    "tgz-headers-without-end.tar.gz": (headers_without_end, DAMAGED),
    "manifest-large.mar": (
        lambda: zipped(text=b" " * (1 << 20) + manifest()),
        f"{UNPARSED}it has {(1 << 20) + len(manifest())} bytes, and 1048576 at most are read. {REPACK}",
    ),
    "manifest-deep.mar": (
        lambda: zipped(text=b'{"a":' * 100_000),
        f"{UNPARSED}it is not JSON: …. {REPACK}",
    ),
    "config-large.mar": (
        lambda: configured(b"#" * ((1 << 20) + 1)),
        CONFIG.format("it has 1048577 bytes, and 1048576 at most are read."),
    ),
}

if __name__ == "__main__":
    for path in [*HERE.glob("*.mar"), *HERE.glob("*.tar.gz")]:
        path.unlink()
    for name, (data, _) in FILES.items():
        (HERE / name).write_bytes(data)
    sys.stdout.write(f"{len(FILES)} files in {HERE}\n")
