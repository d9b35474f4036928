"""Copies: what a training holds, copied at one moment, into memory that is used again for the next copy.

Only what a checkpoint can give back is taken: tensors, NumPy's arrays and numbers, and Python's own plain types. Everything else
is refused here, where it can still be named, and not when the file is read.
"""

import codecs
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from checkpoints.errors import KeeperError
from checkpoints.pickles import NUMERIC_DTYPE

if TYPE_CHECKING:
    import torch

_PLAIN: Final = frozenset({type(None), bool, float, complex, str})
_MAPPINGS: Final = frozenset({dict, OrderedDict, Counter, defaultdict})
_MAX_DEPTH: Final = 64
_MAX_INTEGER_BITS: Final = 2000
"""What pickle's protocol 2, the only one that torch's safe reader reads, writes with a length of one byte."""

_Layout = tuple["torch.dtype", tuple[int, ...], tuple[int, ...]]


class Buffers:
    """Memory for copies by type, shape and strides: what was used last time is used again, what is not needed is let go."""

    def __init__(self) -> None:
        self._buffers: dict[_Layout, list[torch.Tensor]] = {}
        self._used: dict[_Layout, int] = {}

    def begin(self) -> None:
        """Everything that was handed out can be handed out again."""
        self._used = {}

    def end(self) -> None:
        """Let go what was not used since `begin`."""
        self._buffers = {layout: self._buffers[layout][:used] for layout, used in self._used.items()}

    def like(self, tensor: "torch.Tensor", layout: _Layout) -> "torch.Tensor":
        """Memory on the CPU for this tensor's values in its own strides, which gaps or overlaps are left out of."""
        used = self._used.get(layout, 0)
        self._used[layout] = used + 1
        buffers = self._buffers.get(layout)
        if buffers is None:
            buffers = self._buffers[layout] = []
        if used == len(buffers):
            buffers.append(_new_buffer(tensor))
        return buffers[used]


def _new_buffer(tensor: "torch.Tensor") -> "torch.Tensor":
    import torch

    if tensor.is_cuda:
        try:
            return torch.empty_like(tensor, device="cpu", requires_grad=False, pin_memory=True)
        except RuntimeError:  # no more memory can be pinned: the copy is slower
            pass
    return torch.empty_like(tensor, device="cpu", requires_grad=False)


class _NoBytes:
    """Stands for b"" in what is saved: pickle's protocol 2 would name `bytes` for it, which torch's safe reader does not read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return codecs.encode, ("", "latin1")  # as it writes all other bytes; read back, it is b""


NO_BYTES: Final = _NoBytes()


class _NoElements:
    """Stands for an array without elements in what is saved, for the same reason: its bytes are b""."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __reduce__(self) -> tuple[Any, ...]:
        make, args, state = self._array.__reduce__()
        return make, args, (*state[:-1], NO_BYTES)


class Copies:
    """One copy of many tensors: gathered first, then made at once. The same tensor at several places is copied once."""

    def __init__(self, buffers: Buffers) -> None:
        import torch

        self.size_bytes = 0
        self._buffers = buffers
        self._sources: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []
        self._seen: dict[Any, torch.Tensor] = {}
        self._cuda: set[torch.device] = set()
        self._kinds = (torch.Tensor, torch.nn.Parameter)
        self._strided = torch.strided
        buffers.begin()

    def tensor(self, value: "torch.Tensor", where: str) -> "torch.Tensor":
        """Where the tensor's values will be once `make` was called.

        Raises KeeperError where it is not a plain tensor with values of its own.
        """
        if type(value) not in self._kinds or value.layout is not self._strided or value.is_quantized:
            raise KeeperError(_no_plain_tensor(value, where))
        if value.is_meta:
            raise KeeperError(f"{where} is on the meta device: it has no values to save.")
        if value.is_conj() or value.is_neg():
            value = value.detach().resolve_conj().resolve_neg()
        layout = (value.dtype, value.shape, value.stride())
        # memory of different devices may have the same address; without elements it has none
        place = (value.data_ptr() or id(value), layout, None if value.is_cpu else value.device)
        target = self._seen.get(place)
        if target is None:
            if value.is_cuda:
                self._cuda.add(value.device)
            target = self._seen[place] = self._buffers.like(value, layout)
            self._sources.append(value)  # which also keeps its memory from being another's until it is copied
            self._targets.append(target)
            self.size_bytes += value.nbytes
        return target

    def plain(self, value: Any, where: str, depth: int = 0) -> Any:
        """A copy of a structure of plain values; tensors in it will have their values once `make` was called.

        Raises KeeperError, naming the place in the structure and the type there, for what a checkpoint could not give back.
        """
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in self._kinds:
            return self.tensor(value, where)
        if depth > _MAX_DEPTH:
            raise KeeperError(f"{where} is more than {_MAX_DEPTH} levels deep, or holds itself. Save a flatter structure.")
        if kind in _MAPPINGS:
            return self._mapping(value, where, depth)
        if kind in (list, tuple):
            return kind([self.plain(one, f"{where}[{index}]", depth + 1) for index, one in enumerate(value)])
        if kind in (set, frozenset):
            return kind(self.plain(one, f"a member of {where}", depth + 1) for one in value)
        return self._other(value, where)

    def make(self) -> None:
        """Copy all that was gathered: the one moment that the copy shows. Returns when it is done, on every device."""
        import torch

        copy_all = torch._foreach_copy_  # pyright: ignore[reportPrivateImportUsage] - copy_ for each, in C++
        if self._sources:
            with torch.no_grad():
                copy_all(self._targets, self._sources, non_blocking=bool(self._cuda))
        for device in self._cuda:
            torch.cuda.current_stream(device).synchronize()
        self._sources.clear()
        self._seen.clear()
        self._buffers.end()

    def _mapping(self, value: Mapping[Any, Any], where: str, depth: int) -> Any:
        items = [(_checked_key(key, where), self.plain(one, f"{where}[{key!r}]", depth + 1)) for key, one in value.items()]
        return (
            Counter(dict(items)) if type(value) is Counter else OrderedDict(items) if type(value) is OrderedDict else dict(items)
        )

    def _other(self, value: Any, where: str) -> Any:
        if type(value) is int:
            return _checked_integer(value, where)
        if type(value) is bytes:
            return value or NO_BYTES
        import numpy as np
        import torch

        if isinstance(value, torch.Tensor):
            return self.tensor(value, where)
        if isinstance(value, (torch.dtype, torch.device, torch.Size)):
            return value
        if type(value) is bytearray:
            return bytearray(value)
        if (isinstance(value, np.generic) or type(value) is np.ndarray) and NUMERIC_DTYPE.fullmatch(value.dtype.str):
            self.size_bytes += value.nbytes
            return value.copy() if value.size else _NoElements(value.copy())
        raise KeeperError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint that runs no code when it is "
            f"read cannot give back. {_remedy(value)}"
        )


def _checked_integer(value: int, where: str) -> int:
    if value.bit_length() > _MAX_INTEGER_BITS:
        raise KeeperError(
            f"{where} is an integer of {value.bit_length()} bits; {_MAX_INTEGER_BITS} can be saved. Save it as a text."
        )
    return value


def _checked_key(key: Any, where: str) -> Any:
    if key == b"" and type(key) is bytes:
        return NO_BYTES
    if type(key) in (str, int, float, bool, bytes, type(None)):
        return key
    if type(key) is tuple:
        return tuple(_checked_key(one, where) for one in key)
    raise KeeperError(f"{where} has the key {key!r}, a {type(key).__name__}; keys are texts, numbers and tuples of them.")


def _no_plain_tensor(value: "torch.Tensor", where: str) -> str:
    import torch

    if value.is_quantized:
        return (
            f"{where} is quantised. Train and save the model from before quantisation; the exported model is what gets quantised."
        )
    if value.layout is not torch.strided:
        return f"{where} is sparse ({str(value.layout).removeprefix('torch.')}). Give it dense: tensor.to_dense()."
    kind = type(value).__name__
    if kind.startswith("Uninitialized"):
        return f"{where} has no shape yet. Run one batch through the model first."
    if kind == "DTensor":
        return f"{where} is sharded over processes (DTensor). Gather it first: tensor.full_tensor()."
    return f"{where} is a {type(value).__module__}.{kind}, not a plain tensor. Give plain tensors."


def _remedy(value: Any) -> str:
    from pathlib import PurePath

    import torch

    if isinstance(value, torch.Generator):
        return "Give generator.get_state()."
    if isinstance(value, PurePath):
        return "Give str(path)."
    if isinstance(value, str | int | float | tuple | list | dict | set):
        return "Give the plain value in it: an instance of a class of its own would come back as another type."
    return "Give plain values (texts, numbers, lists, dictionaries, tensors), or an object with state_dict and load_state_dict."
