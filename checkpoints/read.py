"""Reading: path -> Checkpoint, without running anything that the file carries.

Nothing falls back: a file that the safe way does not read is refused with what to do.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from checkpoints.checkpoint_files import FILE_READERS, Parts
from checkpoints.errors import UnreadableCheckpoint
from checkpoints.kinds import Kind
from checkpoints.model_folders import read_accelerate_folder, read_hf_folder
from checkpoints.recognise import recognise
from checkpoints.refusal import refusal
from checkpoints.weights import Checkpoint

READERS: Mapping[Kind, Callable[[Path], Parts]] = {
    **FILE_READERS,
    Kind.HF_FOLDER: read_hf_folder,
    Kind.ACCELERATE_FOLDER: read_accelerate_folder,
}


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint: a torch.save or safetensors file, an index of shards, or a folder of Hugging Face or accelerate.

    Tensors are on the CPU, and mapped from the file where the format allows: the file must not change while they are used.

    Raises UnreadableCheckpoint where the path is no checkpoint that we read, or damaged, or changes meanwhile; UnsafeCheckpoint
    where reading it would run code; AmbiguousWeights where a folder holds more than one answer.
    """
    path = Path(path)
    found = recognise(path)
    reader = READERS.get(found.kind)
    if reader is None:
        raise refusal(found)
    try:
        begun = _stamp([path])
        parts = reader(path)
        loaded = _stamp(parts.files)
        sha256 = _sha256(parts.files)
        if (path.is_file() and _stamp([path]) != begun) or _stamp(parts.files) != loaded:
            raise UnreadableCheckpoint(f"{path.name} changed while it was read. Wait until its writer is done, or copy it first.")
    except OSError as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error.strerror or error}.") from error
    return Checkpoint(
        path=path,
        kind=found.kind,
        layout=parts.layout,
        size_bytes=sum(size for _, size, _ in loaded),
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
    sums = [(_file_sha256(file), file.name) for file in files]
    if len(sums) == 1:
        return sums[0][0]
    return hashlib.sha256("".join(sorted(f"{digest}  {name}\n" for digest, name in sums)).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
