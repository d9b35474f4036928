"""What a kept checkpoint holds, read back: its files checked against the sidecar, and opened without running anything in them."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.containers import KEEPER_MARK
from checkpoints.errors import UnreadableCheckpoint
from checkpoints.keeping.formats import SCHEMA
from checkpoints.keeping.snapshot import MODEL, MODEL_REST, MODEL_VERSIONS
from checkpoints.kinds import Kind
from checkpoints.recognise import recognise
from checkpoints.safetensors_file import load_safetensors
from checkpoints.torch_file import load_torch_file
from foundation.storage import sha256_file

if TYPE_CHECKING:
    from checkpoints.keeping.sidecar import Sidecar
    from checkpoints.keeping.store import Store


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint's contents.

    `name` is the weights' file. `model` is what the model's state_dict held, by its own keys, shared tensors under every name;
    `versions` is module path -> version of its layout; `state` are the other entries.
    """

    name: str
    model: Mapping[str, Any]
    versions: Mapping[str, int]
    state: Mapping[str, Any]


@contextlib.contextmanager
def opened(store: "Store", sidecar: "Sidecar") -> Iterator[Saved]:
    """Read a checkpoint; its tensors are mapped from the files, which must be copied before the context ends.

    Raises UnreadableCheckpoint where a file is missing, cannot be read, is not what the sidecar says, or holds something else;
    UnsafeCheckpoint where reading it would run code.
    """
    with contextlib.ExitStack() as stack:
        paths = {name: _checked(stack, store, sidecar, name) for name in sidecar.files}
        state = _state(paths[sidecar.state])
        if sidecar.format == "pth":
            model = _entry(sidecar.state, state, MODEL)
        else:
            weights = _safetensors(paths[sidecar.weights])
            shared = {key: weights.tensors[kept] for key, kept in weights.aliases.items()}
            model = {**weights.tensors, **shared, **_entry(sidecar.state, state, MODEL_REST)}
        versions = _entry(sidecar.state, state, MODEL_VERSIONS)
        if not all(type(version) is int for version in versions.values()):
            raise UnreadableCheckpoint(f"{sidecar.state}: the versions in {MODEL_VERSIONS} are no whole numbers.")
        rest = {entry: value for entry, value in state.items() if entry != MODEL}
        yield Saved(sidecar.weights, model, versions, rest)


def _checked(stack: contextlib.ExitStack, store: "Store", sidecar: "Sidecar", name: str) -> Path:
    """The file as a local path, once its bytes have the sidecar's sha256."""
    expected = sidecar.files[name]
    try:
        path = stack.enter_context(store.local(name))
        size, sha256 = path.stat().st_size, sha256_file(path)
    except OSError as error:
        raise UnreadableCheckpoint(f"{name} in {store.where} cannot be read: {error.strerror or error}.") from error
    if (size, sha256) != (expected.size, expected.sha256):
        raise UnreadableCheckpoint(damaged(name, sidecar, size, sha256))
    return path


def damaged(name: str, sidecar: "Sidecar", size: int, sha256: str) -> str:
    """What is said of a file that is not the one that the sidecar was written for."""
    expected = sidecar.files[name]
    if size != expected.size:
        return f"{name} is damaged: it has {size} bytes, {sidecar.name} says {expected.size}."
    return f"{name} is damaged: its sha256 is {sha256}, {sidecar.name} says {expected.sha256}."


def _state(path: Path) -> Mapping[str, Any]:
    kind = recognise(path).kind
    if kind is not Kind.TORCH_ZIP:
        raise UnreadableCheckpoint(f"{path.name} is a {kind} file, expected one of torch.save.")
    held = load_torch_file(path, kind)
    schema = held.get(KEEPER_MARK) if isinstance(held, Mapping) else None
    if type(schema) is not int:
        raise UnreadableCheckpoint(f"{path.name} was not written by a Keeper: it has no entry {KEEPER_MARK}.")
    if schema > SCHEMA:
        raise UnreadableCheckpoint(
            f"{path.name} is of schema {schema}, this stateserve reads {SCHEMA}. Install the stateserve that wrote it."
        )
    return held


def _safetensors(path: Path) -> Any:
    kind = recognise(path).kind
    if kind is not Kind.SAFETENSORS:
        raise UnreadableCheckpoint(f"{path.name} is a {kind} file, expected a safetensors file.")
    return load_safetensors(path)


def _entry(name: str, state: Mapping[str, Any], entry: str) -> Mapping[str, Any]:
    value = state.get(entry)
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UnreadableCheckpoint(f"{name} has no {entry} by name, which a Keeper writes.")
    return value
