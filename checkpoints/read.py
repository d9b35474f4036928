"""Reading: path -> Checkpoint, without running anything that the file carries.

Nothing falls back: a file that the safe way does not read is refused with what to do.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from checkpoints.checkpoint_files import FILE_READERS, Parts
from checkpoints.errors import UnreadableCheckpoint
from checkpoints.fetched import local_checkpoint
from checkpoints.kept import require_listed, sidecar_beside, with_sidecar
from checkpoints.kinds import Kind
from checkpoints.model_folders import read_accelerate_folder, read_hf_folder
from checkpoints.pointers import followed
from checkpoints.recognise import recognise
from checkpoints.refusal import refusal
from checkpoints.weights import Checkpoint
from foundation.storage import sha256_file

READERS: Mapping[Kind, Callable[[Path], Parts]] = {
    **FILE_READERS,
    Kind.HF_FOLDER: read_hf_folder,
    Kind.ACCELERATE_FOLDER: read_accelerate_folder,
}


MAX_FOLLOWED = 5
"""How often a pointer is followed again that a training replaced meanwhile."""


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint: a torch.save or safetensors file, an index of shards, or a folder of Hugging Face or accelerate.

    best.pth and latest.pth of a Keeper are followed, and what its sidecar says is part of what is read. A URL (s3://…) is fetched
    first. Tensors are on the CPU, and mapped from the file where the format allows: the file must not change while they are used.

    Raises UnreadableCheckpoint where the path is no checkpoint that we read, or damaged, or changes meanwhile; UnsafeCheckpoint
    where reading it would run code; AmbiguousWeights where a folder holds more than one answer.
    """
    path = local_checkpoint(path)
    try:
        for _ in range(MAX_FOLLOWED):
            file = followed(path)
            try:
                return _read(path, file)
            except (UnreadableCheckpoint, FileNotFoundError):  # a training may have moved the pointer, and removed this one
                if followed(path) == file:
                    raise
        return _read(path, followed(path))
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error.strerror or error}.") from error


def _read(path: Path, file: Path) -> Checkpoint:
    """Read the file that the path leads to."""
    found = recognise(file)
    reader = READERS.get(found.kind)
    if reader is None:
        raise refusal(found)
    sidecar = sidecar_beside(file)
    begun = _stamp([file])
    parts = reader(file)
    loaded = _stamp(parts.files)
    sha256 = _sha256(parts.files)
    if (file.is_file() and _stamp([file]) != begun) or _stamp(parts.files) != loaded:
        raise UnreadableCheckpoint(f"{file.name} changed while it was read. Wait until its writer is done, or copy it first.")
    size_bytes = sum(size for _, size, _ in loaded)
    if sidecar is not None:
        require_listed(file, sidecar, size_bytes, sha256)
        parts = with_sidecar(parts, sidecar)
    return Checkpoint(
        path=path,
        kind=found.kind,
        layout=parts.layout,
        size_bytes=size_bytes,
        sha256=sha256,
        weight_sets=parts.weight_sets,
        provenance=parts.provenance,
        config=parts.config,
        notices=parts.notices,
    )


def _stamp(files: Iterable[Path]) -> list[tuple[int, int, int]]:
    facts = [file.stat() for file in files]
    return [(fact.st_ino, fact.st_size, fact.st_mtime_ns) for fact in facts]


def _sha256(files: tuple[Path, ...]) -> str:
    """Of the file's bytes; for several files, of the sorted lines "<sha256>  <name>", as sha256sum prints them."""
    sums = [(sha256_file(file), file.name) for file in files]
    if len(sums) == 1:
        return sums[0][0]
    return hashlib.sha256("".join(sorted(f"{digest}  {name}\n" for digest, name in sums)).encode()).hexdigest()
