"""The torch.save file, zip or legacy: its pickles scanned, its sizes checked, then read by torch's restricted reader."""

import contextlib
import mmap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from checkpoints.allowed import stand_ins
from checkpoints.archive import check_sums, read_records
from checkpoints.errors import UnreadableCheckpoint, UnsafeCheckpoint
from checkpoints.kinds import RESAVE, Kind
from checkpoints.pickles import LEGACY_MAGIC, PickleScan, Storage, scan_pickle

LEGACY_PICKLES = 5
"""Magic number, protocol version, system facts, the object, the keys of its storages; the storages' bytes follow."""

STORAGE_COUNT_BYTES = 8
"""Before each storage of a legacy file stands its number of elements."""

ELEMENT_BYTES = {
    "DoubleStorage": 8, "LongStorage": 8, "ComplexFloatStorage": 8, "ComplexDoubleStorage": 16,
    "FloatStorage": 4, "IntStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "ShortStorage": 2,
    "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1, "UntypedStorage": 1,
    "QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1,
}  # fmt: skip


def load_torch_file(path: Path, kind: Kind) -> Any:
    """The object in a torch.save file, with every tensor on the CPU; a zip's tensors are mapped, not read.

    Raises UnsafeCheckpoint where a pickle in it names more than a state_dict needs, UnreadableCheckpoint where it is damaged or
    written in a way that torch's restricted reader does not read.
    """
    with _mapped(path) as data:
        scans = _scan(path, kind, data)
        if kind is Kind.TORCH_ZIP:
            check_sums(path, data, read_records(path, data))
    return _torch_load(path, kind, scans)


def scan_torch_file(path: Path, kind: Kind) -> list[PickleScan]:
    """Scan the pickles of a torch.save file and check its sizes, not its check sums; nothing is loaded.

    Raises what `load_torch_file` does.
    """
    with _mapped(path) as data:
        return _scan(path, kind, data)


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _scan(path: Path, kind: Kind, data: mmap.mmap) -> list[PickleScan]:
    scans = _scan_zip(path, data) if kind is Kind.TORCH_ZIP else _scan_legacy(path, data)
    unsupported = sorted({opcode for scan in scans for opcode in scan.unsupported})
    if unsupported:
        raise UnreadableCheckpoint(
            f"{path.name} was saved with pickle protocol {max(scan.protocol for scan in scans)}, which torch's safe reader does "
            f"not read ({', '.join(unsupported[:3])}). Where it was made, save it again without pickle_protocol: {RESAVE}"
        )
    return scans


def _scan_zip(path: Path, data: mmap.mmap) -> list[PickleScan]:
    records = read_records(path, data)
    record = records.get("data.pkl")
    if record is None:
        raise UnreadableCheckpoint(f"{path.name} has no data.pkl below its root folder. Save it again.")
    scan = _scanned(path, data[record.begin : record.end])
    _refuse_unsafe(path, [scan])
    if scan.end != record.size_bytes:
        raise UnsafeCheckpoint(f"{path.name} carries {record.size_bytes - scan.end} bytes after the end of its pickle.")
    for storage in scan.storages:
        held = records.get(f"data/{storage.key}")
        if held is None or held.size_bytes != _storage_bytes(storage):
            found = "nothing" if held is None else f"{held.size_bytes} bytes"
            raise UnreadableCheckpoint(
                f"{path.name} is damaged: storage {storage.key} is {storage.elements} elements of {storage.type}, "
                f"{_storage_bytes(storage)} bytes; the file holds {found}. Copy or save it again."
            )
    return [scan]


def _scan_legacy(path: Path, data: mmap.mmap) -> list[PickleScan]:
    scans: list[PickleScan] = []
    for _ in range(LEGACY_PICKLES):
        scans.append(_scanned(path, data, scans[-1].end if scans else 0))
    if scans[0].value != LEGACY_MAGIC:
        raise UnreadableCheckpoint(f"{path.name} does not begin with the number that torch.save writes.")
    _refuse_unsafe(path, scans)
    storages = {storage.key: _storage_bytes(storage) for storage in scans[3].storages}
    for storage in scans[3].storages:
        if _storage_bytes(storage) != storages[storage.key]:
            raise UnreadableCheckpoint(f"{path.name} is damaged: storage {storage.key} has two sizes. Save it again.")
    needed = scans[-1].end + sum(STORAGE_COUNT_BYTES + size for size in storages.values())
    if needed != len(data):
        raise UnreadableCheckpoint(
            f"{path.name} is damaged: its {len(storages)} storages need {needed} bytes in all, the file has {len(data)}. "
            f"Copy or save it again."
        )
    return scans


def _scanned(path: Path, data: bytes | mmap.mmap, start: int = 0) -> PickleScan:
    try:
        return scan_pickle(data, start)
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{path.name} is damaged: {error}. Copy or save it again.") from error


def _storage_bytes(storage: Storage) -> int:
    return storage.elements * ELEMENT_BYTES.get(storage.type, 1)


def _refuse_unsafe(path: Path, scans: Sequence[PickleScan]) -> None:
    unsafe = list(dict.fromkeys(name for scan in scans for name in scan.unsafe))
    if unsafe:
        raise UnsafeCheckpoint(_unsafe_message(path, unsafe, scans))


def _unsafe_message(path: Path, unsafe: Sequence[str], scans: Iterable[PickleScan]) -> str:
    """What is said of a file whose pickle names something that is not allowed."""
    strings = frozenset[str]().union(*(scan.strings for scan in scans))
    shown = ", ".join(unsafe[:5]) + (f" and {len(unsafe) - 5} more" if len(unsafe) > 5 else "")
    if any(name.startswith("ultralytics.") for name in unsafe):
        snippet = f'torch.save(YOLO("{path.name}").model.float().state_dict(), "weights.pth")'
        return (
            f"{path.name} needs {shown} (ultralytics pickles whole models). Loading it runs code. "
            f"Re-save where it was made: {snippet}"
        )
    if {"_parameters", "_modules"} <= strings:
        owner = next((name for name in unsafe if not name.startswith("torch.")), unsafe[0])
        others = f" and {len(unsafe) - 1} more" if len(unsafe) > 1 else ""
        return (
            f"{path.name} needs Python class {owner}{others} (a whole model was pickled). Loading it runs code. "
            f"Re-save in the training repo: {RESAVE}"
        )
    return (
        f"{path.name} needs {shown}, which is no part of a state_dict. Loading it runs code. "
        f"Where it was made and is trusted, save the weights alone: {RESAVE}"
    )


# ---- the boundary to torch ----


def _torch_load(path: Path, kind: Kind, scans: Sequence[PickleScan]) -> Any:
    import torch

    named = {name for scan in scans for name in scan.globals}
    by_suffix = path.suffix == ".safetensors"  # torch.load would take the suffix's word for it
    mapped = kind is Kind.TORCH_ZIP and not by_suffix
    try:
        with (
            torch.serialization.safe_globals(stand_ins(named)),
            warnings.catch_warnings(action="ignore"),
            path.open("rb") if by_suffix else contextlib.nullcontext(path) as source,
        ):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        said = str(error).rpartition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
        raise UnreadableCheckpoint(f"{path.name} is damaged: torch's safe reader says {type(error).__name__}: {said}") from error
