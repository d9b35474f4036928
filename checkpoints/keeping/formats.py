"""The formats: which files a snapshot becomes, and what is written into each."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from checkpoints.containers import KEEPER_MARK
from checkpoints.errors import KeeperError
from checkpoints.keeping.names import CHECKPOINT_SUFFIX, STATE_SUFFIX, WEIGHTS_SUFFIX
from checkpoints.keeping.safetensors_bytes import PIECE_BYTES, write_safetensors
from checkpoints.keeping.snapshot import MODEL, MODEL_REST, Snapshot, full_state_dict

SCHEMA: Final = 1
"""How a Keeper's torch.save files are laid out: the value of their `KEEPER_MARK`."""


@dataclass(frozen=True, slots=True)
class FileToWrite:
    """A file of a checkpoint: `produce` writes it into a stream, from front to back."""

    name: str
    role: str
    produce: Callable[[BinaryIO], None]


def files_of(snapshot: Snapshot, stem: str, format: str, facts: Mapping[str, Any]) -> Sequence[FileToWrite]:  # noqa: A002
    """The files of a checkpoint, in the order in which they are written.

    `facts` are what the one file of "pth" holds beside (step, epoch, metrics, config …); in "safetensors" the sidecar has them.

    Raises KeeperError for another format.
    """
    if format == "pth":
        held = {KEEPER_MARK: SCHEMA, **facts, MODEL: full_state_dict(snapshot), **_without_rest(snapshot.state)}
        return (FileToWrite(stem + CHECKPOINT_SUFFIX, "checkpoint", lambda stream: _torch_save(held, stream)),)
    if format == "safetensors":
        state = {KEEPER_MARK: SCHEMA, **snapshot.state}
        return (
            FileToWrite(
                stem + WEIGHTS_SUFFIX,
                "weights",
                lambda stream: write_safetensors(stream.write, snapshot.tensors, snapshot.aliases),
            ),
            FileToWrite(stem + STATE_SUFFIX, "state", lambda stream: _torch_save(state, stream)),
        )
    raise KeeperError(f'format is {format!r}, expected "safetensors" or "pth".')


def _without_rest(state: Mapping[str, Any]) -> dict[str, Any]:
    """In the one file a model's extra state stands among its tensors, where torch puts it."""
    return {entry: value for entry, value in state.items() if entry != MODEL_REST}


def _torch_save(held: Mapping[str, Any], stream: BinaryIO) -> None:
    import torch

    buffered = io.BufferedWriter(_Sink(stream), PIECE_BYTES)
    torch.save(dict(held), buffered)
    buffered.flush()
    buffered.detach()


class _Sink(io.RawIOBase):
    """A stream that takes all of what it is given, so that torch's many small writes can be gathered before it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(data)
        return len(data)
