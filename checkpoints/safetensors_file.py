"""The safetensors file: its header checked by us, its tensors then read by the safetensors library."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.safetensors_header import SafetensorsHeader, read_header
from checkpoints.siblings import name_sibling

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SafetensorsContents:
    """The file's tensors in its order, the aliases that its metadata declares (key -> key in the file), and other metadata."""

    tensors: "Mapping[str, torch.Tensor]"
    aliases: Mapping[str, str]
    metadata: Mapping[str, str]


def load_safetensors(path: Path) -> SafetensorsContents:
    """Read a safetensors file, every tensor on the CPU.

    Raises UnreadableCheckpoint where the header is not as the format says.
    """
    try:
        header = read_header(path)
    except UnreadableCheckpoint as error:
        raise UnreadableCheckpoint(f"{error} {name_sibling(path)}") from error
    if not header.tensors:
        raise UnreadableCheckpoint(f"{path.name} is a safetensors file without a tensor.")
    tensors = _tensors(path, header)
    aliases = {key: kept for key, kept in header.metadata.items() if key != "format" and kept in tensors and key not in tensors}
    rest = {key: text for key, text in header.metadata.items() if key not in aliases}
    return SafetensorsContents(tensors, aliases, rest)


def _tensors(path: Path, header: SafetensorsHeader) -> "dict[str, torch.Tensor]":
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in header.tensors}
    except Exception as error:
        raise UnreadableCheckpoint(f"{path.name} cannot be read: safetensors says {error}") from error
