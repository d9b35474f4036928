"""Recognition: bytes -> kind, never by suffix.

A checkpoint is told by its first bytes and, for archives and folders, by the members that its writer always makes. Nothing is
unpickled, decompressed in bulk or imported; the largest read is an archive's table of contents.
"""

import pickletools
import re
import tarfile
import zipfile
from itertools import islice
from pathlib import Path

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.folders import recognise_folder
from checkpoints.kinds import WORDS, Kind, Recognised
from checkpoints.pickles import LEGACY_MAGIC
from checkpoints.pointers import followed
from checkpoints.siblings import name_sibling

HEAD_BYTES = 4096
START_BYTES = 1 << 20
"""What is read of a file whose head alone does not tell its kind."""
INTEGER_OPCODES = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})


def recognise(path: str | Path) -> Recognised:
    """Tell what a file or folder is by its bytes and members.

    A Keeper's best.pth or latest.pth is what it leads to.

    Raises UnreadableCheckpoint only where the path does not exist or cannot be read, or is a pointer that leads nowhere.
    """
    path = Path(path)
    try:
        path = followed(path)
        if path.is_dir():
            return recognise_folder(path)
        if not path.is_file():
            raise UnreadableCheckpoint(_missing(path))
        return _recognise_file(path)
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error.strerror or error}.") from error


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"{path} is a link to {path.readlink()}, which does not exist. Mend the link or name the file itself."
    if path.exists():
        return f"{path} is neither a file nor a folder."
    if path.parent.is_dir():
        return f"{path} does not exist. {name_sibling(path).replace('beside it', 'in that folder')}"
    return f"{path} does not exist, nor does the folder {path.parent}."


# ---- files ----


def _recognise_file(path: Path) -> Recognised:
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    kind = _kind_by_head(head)
    if kind is Kind.ZIP:
        return _recognise_zip(path, size_bytes)
    if kind is None:
        kind = _kind_by_parsing(path, head, size_bytes)
    if kind is Kind.TAR and {"storages", "tensors", "pickle"} & set(_tar_members(path)):
        kind = Kind.TORCH_TAR
    summary, remedy = _told(kind, path, head, size_bytes)
    return Recognised(path, kind, size_bytes, summary, remedy)


MAGICS: tuple[tuple[int, bytes, Kind], ...] = (
    (0, b"PK\x03\x04", Kind.ZIP),
    (0, b"PK\x05\x06", Kind.ZIP),
    (257, b"ustar", Kind.TAR),
    (0, b"version https://git-lfs", Kind.LFS_POINTER),
    (0, b"GGUF", Kind.GGUF),
    (0, b"\x89HDF\r\n\x1a\n", Kind.HDF5),
    (0, b"\x93NUMPY", Kind.NPY),
    (4, b"TFL3", Kind.TFLITE),
    (0, b"\x1f\x8b", Kind.COMPRESSED),
    (0, b"BZh", Kind.COMPRESSED),
    (0, b"\xfd7zXZ\x00", Kind.COMPRESSED),
    (0, b"\x28\xb5\x2f\xfd", Kind.COMPRESSED),
    (0, b"7z\xbc\xaf\x27\x1c", Kind.COMPRESSED),
    (0, b"\x04\x22\x4d\x18", Kind.COMPRESSED),
    (0, b"x\x01", Kind.COMPRESSED),
    (0, b"x\x9c", Kind.COMPRESSED),
    (0, b"x\xda", Kind.COMPRESSED),
)
"""(offset, bytes, kind); archives are told apart afterwards by their members."""


def _kind_by_head(head: bytes) -> Kind | None:
    if not head:
        return Kind.EMPTY
    for offset, magic, kind in MAGICS:
        if head.startswith(magic, offset):
            return kind
    if len(head) > 8 and head[7] == 0 and head[8:9] == b"{":  # u64 length of a header, then the header
        return Kind.SAFETENSORS
    return None


def _kind_by_parsing(path: Path, head: bytes, size_bytes: int) -> Kind:
    """Kinds without a magic number of their own."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!do", b"<htm", b"<?xml", b"<head", b"<body", b"<error")):
        return Kind.WEB_PAGE
    if text.startswith(b"{") and b"\0" not in text:
        return _json_kind(path, text)
    if _is_onnx(head, size_bytes):
        return Kind.ONNX
    first = _first_pickle_value(path)
    if first == LEGACY_MAGIC:
        return Kind.TORCH_LEGACY
    return Kind.UNKNOWN if first is None else Kind.PICKLE


def _json_kind(path: Path, text: bytes) -> Kind:
    with path.open("rb") as file:
        if b'"weight_map"' in file.read(START_BYTES):
            return Kind.SHARD_INDEX
    answers = (b'{"error', b'{"message', b'{"detail', b'{"code', b'{"status')
    return Kind.WEB_PAGE if re.sub(rb"\s", b"", text).startswith(answers) else Kind.JSON


def _first_pickle_value(path: Path) -> int | str | None:
    """The value of the pickle that the file begins with where it is one integer, "pickle" for any other, None for no pickle.

    Only opcodes of the first megabyte are read; nothing is built.
    """
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    opcodes: list[str] = []
    integers: list[int] = []
    try:
        for opcode, arg, _ in islice(pickletools.genops(start), 1000):
            opcodes.append(opcode.name)
            if type(arg) is int and opcode.name in INTEGER_OPCODES:
                integers.append(arg)
    except (ValueError, UnicodeError, OverflowError):
        return "pickle" if len(opcodes) > 2 and opcodes[0] == "PROTO" else None
    is_one_integer = len(integers) == 1 and set(opcodes) <= {"PROTO", "FRAME", "STOP", *INTEGER_OPCODES}
    if is_one_integer:
        return integers[0]
    return "pickle" if len(opcodes) > 1 else None


ONNX_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
"""Field numbers of ModelProto (onnx/onnx.proto)."""


def _is_onnx(head: bytes, size_bytes: int) -> bool:
    """Whether the head reads as the fields of an ONNX ModelProto: ir_version first, then known fields that fit in the file."""
    if head[:1] != b"\x08":
        return False
    if head[1:2] < b"\x02":  # a TensorFlow SavedModel begins alike, with its version 1
        return False
    at, fields = 0, 0
    while at < min(len(head), size_bytes) and fields < 4:
        tag, at = _varint(head, at)
        value, at = _varint(head, at)
        if tag >> 3 not in ONNX_FIELDS or tag & 7 not in (0, 2):
            return False
        at += value if tag & 7 == 2 else 0
        fields += 1
    return fields > 1 and at <= size_bytes


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at] if at < len(data) else 0
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            break
    return value, at


# ---- zip and tar archives ----


def _recognise_zip(path: Path, size_bytes: int) -> Recognised:
    try:
        with zipfile.ZipFile(path) as archive:
            kind, detail = _zip_kind(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, RuntimeError, OverflowError):
        kind, detail = Kind.TRUNCATED_ZIP, ""
    summary, remedy = _told(kind, path, b"", size_bytes)
    return Recognised(path, kind, size_bytes, summary + detail, remedy)


def _zip_kind(archive: zipfile.ZipFile) -> tuple[Kind, str]:
    names = archive.namelist()
    below_root = {name.partition("/")[2] for name in names}
    if "MAR-INF/MANIFEST.json" in names:
        return Kind.MAR, ""
    if "archive_format" in below_root or "serialized_exported_program.json" in names:
        compiled = any("data/aotinductor/" in name for name in names)
        return Kind.PT2, ", compiled by AOTInductor (native code)" if compiled else ""
    if "constants.pkl" in below_root:
        return Kind.TORCHSCRIPT, ""
    if "data.pkl" in below_root:
        return Kind.TORCH_ZIP, ""
    if "model.weights.h5" in names:
        return Kind.KERAS, ""
    all_arrays = names and all(name.endswith(".npy") for name in names)
    return Kind.NPZ if all_arrays else Kind.ZIP, ""


def _tar_members(path: Path) -> list[str]:
    try:
        with tarfile.open(path, "r:") as archive:
            return [member.name for member in islice(archive, 16)]
    except (tarfile.TarError, ValueError, EOFError, OverflowError):
        return []


# ---- the words ----


def _told(kind: Kind, path: Path, head: bytes, size_bytes: int) -> tuple[str, str]:
    if kind is Kind.EMPTY:
        return "an empty file (0 bytes): its writing was cut off", name_sibling(path)
    if kind is Kind.TRUNCATED_ZIP:
        return (
            f"a zip archive that is cut off or damaged: {size_bytes} bytes without a table of contents that can be read",
            f"Copy or save it again. {name_sibling(path)}",
        )
    summary, remedy = WORDS.get(kind, (f"a web page or a server's answer, not a model: {_excerpt(head)}", "Download it again."))
    if kind is Kind.UNKNOWN:
        summary = f"{summary} (it begins with {head[:16].hex(' ')})"
    return summary, remedy


def _excerpt(head: bytes) -> str:
    return '"' + " ".join(head[:80].decode("utf-8", "replace").split()) + '"'
