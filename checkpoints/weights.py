"""Weights: the name -> tensor mappings that a checkpoint holds, and their digest."""

import hashlib
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import AmbiguousWeights, KeysDoNotMatch, UnreadableCheckpoint
from checkpoints.kinds import Kind
from checkpoints.mismatch import nearest

if TYPE_CHECKING:
    import torch

WIDER: Mapping[str, frozenset[str]] = {
    "float16": frozenset({"float32", "float64"}),
    "bfloat16": frozenset({"float32", "float64"}),
    "float32": frozenset({"float64"}),
}
"""Conversions that lose nothing; these alone are made, and told."""

QUANTISE_LATER = "Give the checkpoint from before quantisation; the exported model is what gets quantised."


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One name -> tensor mapping of a checkpoint.

    `name` is the entry that it stood under ("model_state_dict"), or "" for a bare state_dict. `tensors` lie on the CPU and are
    strided. `versions` is module path -> `_metadata` version, where the file has it. `aliases` is key -> the first key that is
    the very same tensor (tied weights); both keys are in `tensors`.
    """

    name: str
    tensors: "Mapping[str, torch.Tensor]"
    versions: Mapping[str, int]
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What one checkpoint holds, read without running any of its code.

    `layout` names how the file is laid out ("bare", "lightning", "timm" …). `sha256` is of the file's bytes; for several files,
    of the sorted lines "<sha256>  <name>". `provenance` holds JSON values such as epoch and best_acc. `config` is the
    checkpoint's own config entry as plain data, not interpreted. `notices` are sentences for a person.
    """

    path: Path
    kind: Kind
    layout: str
    size_bytes: int
    sha256: str
    weight_sets: Mapping[str, WeightSet]
    provenance: Mapping[str, Any]
    config: Mapping[str, Any] | None
    notices: tuple[str, ...]

    def select(self, name: str | None) -> WeightSet:
        """The weight set of that name; without a name, the only one.

        Raises AmbiguousWeights where there are several and no name, KeysDoNotMatch where no set has that name.
        """
        if name is None:
            if len(self.weight_sets) == 1:
                return next(iter(self.weight_sets.values()))
            raise AmbiguousWeights(_ambiguous(self.weight_sets))
        if name in self.weight_sets:
            return self.weight_sets[name]
        raise KeysDoNotMatch(_unknown_name(self.path, name, self.weight_sets))


def make_weight_set(path: Path, name: str, entries: Mapping[str, Any], declared_aliases: Mapping[str, str]) -> WeightSet:
    """Check every tensor and note which are the very same; `declared_aliases` (key -> key in the file) are added as tensors.

    What is no tensor among `entries` (a module's extra state) is left out. Raises UnreadableCheckpoint, naming the tensor, where
    one is quantised, sparse, on the meta device, of a class of its own, or covers its memory more than once.
    """
    tensors = {key: _plain_tensor(path, key, value) for key, value in entries.items() if _holds_weights(path, key, value)}
    aliases = _same_tensors(tensors)
    for key, kept in declared_aliases.items():
        tensors[key] = tensors[kept]
        aliases[key] = aliases.get(kept, kept)
    return WeightSet(name, tensors, _versions(entries), aliases)


def _holds_weights(path: Path, key: str, value: Any) -> bool:
    import torch

    if key.endswith(("_packed_params", "_packed_params.dtype")):
        raise UnreadableCheckpoint(f"{path.name} holds quantised weights ({key}). {QUANTISE_LATER}")
    return isinstance(value, torch.Tensor)


def _plain_tensor(path: Path, key: str, tensor: "torch.Tensor") -> "torch.Tensor":
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise UnreadableCheckpoint(f"{path.name}: {key} is a {type(tensor).__name__}, not a plain tensor. Save plain tensors.")
    if tensor.is_quantized:
        raise UnreadableCheckpoint(f"{path.name} holds quantised weights ({key}). {QUANTISE_LATER}")
    if tensor.layout is not torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        raise UnreadableCheckpoint(f"{path.name}: {key} is sparse ({layout}). Save it dense: tensor.to_dense().")
    if tensor.device.type != "cpu":
        raise UnreadableCheckpoint(f"{path.name}: {key} has no values: it was saved on the {tensor.device.type} device.")
    if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
        raise UnreadableCheckpoint(
            f"{path.name}: {key} is an expanded view, one value shown many times. Save tensor.contiguous()."
        )
    return tensor.detach()


def _same_tensors(tensors: "Mapping[str, torch.Tensor]") -> dict[str, str]:
    first_of: dict[Any, str] = {}
    aliases: dict[str, str] = {}
    for key, tensor in tensors.items():
        if tensor.numel():
            place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            first = first_of.setdefault(place, key)
            if first != key:
                aliases[key] = first
    return aliases


def _versions(entries: Mapping[str, Any]) -> dict[str, int]:
    """Module path -> version, from the `_metadata` that torch.nn.Module.state_dict puts on its dictionary."""
    metadata = getattr(entries, "_metadata", None)
    if not isinstance(metadata, Mapping):
        return {}
    found = {module: facts.get("version") for module, facts in metadata.items() if isinstance(facts, Mapping)}
    return {str(module): version for module, version in found.items() if type(version) is int}


def weights_digest(tensors: "Mapping[str, torch.Tensor]") -> str:
    """A sha256 of the tensors' names, dtypes, shapes and values: 64 hexadecimal digits.

    It is the same for the same weights whatever the file's name, container or order (torch.save's bytes depend on the file's
    name, so that files can't be compared).
    """
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        values = hashlib.sha256(_little_endian_bytes(tensor)).hexdigest()
        dtype = str(tensor.dtype).removeprefix("torch.")
        whole.update(f"{len(name.encode())}:{name} {dtype} {list(tensor.shape)} {values}\n".encode())
    return whole.hexdigest()


def _little_endian_bytes(tensor: "torch.Tensor") -> memoryview:
    import torch

    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    raw = plain.view(torch.uint8) if plain.numel() else torch.empty(0, dtype=torch.uint8)
    if sys.byteorder == "big":
        part_bytes = plain.element_size() // (2 if plain.is_complex() else 1)
        raw = raw.reshape(-1, part_bytes).flip(1).contiguous()
    return raw.numpy().data


def _ambiguous(sets: Mapping[str, WeightSet]) -> str:
    names = list(sets)
    choices = f"Say which: --weights {'|'.join(names)}"
    if len(names) == 2:
        first, second = sets.values()
        return f'Two weight sets: "{first.name}" and "{second.name}" ({_difference(first, second)}). {choices}'
    first = sets[names[0]]
    others = ", ".join(f'"{one.name}" ({_difference(first, one)})' for one in list(sets.values())[1:])
    return f'{len(names)} weight sets: "{first.name}", and beside it {others}. {choices}'


def _difference(first: WeightSet, second: WeightSet) -> str:
    if first.tensors.keys() != second.tensors.keys():
        return "different keys"
    pairs = [(first.tensors[key], second.tensors[key]) for key in first.tensors]
    if any(one.shape != other.shape for one, other in pairs):
        return "different shapes"
    differences = [_max_diff(one, other) for one, other in pairs]
    if not all(map(math.isfinite, differences)):
        return "max diff not finite"
    largest = max(differences, default=0.0)
    mantissa, _, exponent = f"{largest:.1e}".partition("e")
    return f"max diff {mantissa}e{int(exponent)}" if largest else "no difference"


def _max_diff(one: "torch.Tensor", other: "torch.Tensor") -> float:
    import torch

    if not one.numel():
        return 0.0
    wide = torch.complex128 if one.is_complex() or other.is_complex() else torch.float64
    return float((one.to(wide) - other.to(wide)).abs().max())


def _unknown_name(path: Path, name: str, sets: Mapping[str, WeightSet]) -> str:
    held = [f'"{one}"' for one in sets if one]
    if not held:
        return f'{path.name} has no weight set "{name}": it is a bare state_dict, so no name is needed. Leave --weights out.'
    near = nearest(name, sets)
    hint = f' The nearest name is "{near}".' if near else ""
    return f'{path.name} has no weight set "{name}". It has {", ".join(held)}.{hint}'
