"""The pickle scan: what a pickle would import and call, found without running it.

A pickle is a program for a small stack machine. The scan steps through its opcodes on a stack of placeholders: strings, numbers
and tuples are kept, everything that would be built is only marked. So it knows, for every global, its module and name even
where they come from the memo (STACK_GLOBAL), and for a few callables the arguments. What it can't tell is unsafe.

A passed scan is not the only guard: the file is then read by `torch.load(weights_only=True)`.

Sources: Python's pickletools (the opcodes and their stack effects), torch/_weights_only_unpickler.py (the opcodes that it takes).
"""

import io
import mmap
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Final, cast

from checkpoints.allowed import BENIGN_GLOBALS, TORCH_GLOBALS
from checkpoints.errors import UnreadableCheckpoint

LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
"""The first pickle of every torch.save file from before torch 1.6 (torch/serialization.py, MAGIC_NUMBER)."""

UNSUPPORTED_BY_TORCH: Final = frozenset(
    {
        "STACK_GLOBAL", "MEMOIZE", "FRAME", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
        "BYTEARRAY8", "ADDITEMS", "FROZENSET", "NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER",
        "STRING", "BINSTRING", "UNICODE", "INT", "LONG", "FLOAT", "DICT", "LIST", "GET", "PUT", "PERSID", "DUP", "POP",
        "POP_MARK", "LONG4", "INST", "OBJ", "EXT1", "EXT2", "EXT4",
    }
)  # fmt: skip
"""Opcodes that the weights_only reader does not know: those of protocols 0, 1, 4 and 5, and of 3 for bytes."""

PYTHON_2_MODULES: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Protocols 0 to 2 write these; readers map them. Readers map more, of which nothing is allowed under either name."""

NUMERIC_DTYPE: Final = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|c8|c16)")
DTYPE_STATE: Final = (None, None, None, -1, -1, 0)
"""What numpy writes after the version and the byte order for a plain number; flags in other states could reinterpret memory."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A tensor storage that the pickle asks for: (type of its elements, key in the archive, number of elements)."""

    type: str
    key: str
    elements: int


@dataclass(frozen=True, slots=True)
class PickleScan:
    """What one pickle would do.

    `globals` are all it would import, `unsafe` those that are not allowed, or not with these arguments; both as "module.name", in
    order of appearance. `unsupported` are opcodes that torch's safe reader does not know. `storages` are the tensor storages
    asked for. `value` is the pickle's value where it is a plain constant. `end` is the offset after its STOP.
    """

    protocol: int
    globals: tuple[str, ...]
    unsafe: tuple[str, ...]
    unsupported: tuple[str, ...]
    storages: tuple[Storage, ...]
    strings: frozenset[str]
    value: Any
    end: int

    @property
    def is_safe(self) -> bool:
        """Whether everything that the pickle imports is on the allow-list."""
        return not self.unsafe


def scan_pickle(data: bytes | mmap.mmap, start: int = 0) -> PickleScan:
    """Scan the pickle that begins at `start`; what follows its STOP is not looked at.

    Raises UnreadableCheckpoint where the bytes are not a pickle, or end before its STOP.
    """
    stream = cast("IO[bytes]", io.BytesIO(data) if isinstance(data, bytes) else data)
    stream.seek(start)
    machine = _Machine(data)
    try:
        for opcode, arg, position in pickletools.genops(stream):
            machine.step(opcode, arg, position)
    except (ValueError, IndexError, UnicodeError, OverflowError, MemoryError, RecursionError) as error:
        raise UnreadableCheckpoint(f"a pickle in it is damaged or cut off after byte {stream.tell()}: {error}") from error
    return machine.result(stream.tell())


# ---- the stack machine ----


class _Unknown:
    """Something that the pickle would build."""


UNKNOWN: Final = _Unknown()


@dataclass(frozen=True, slots=True)
class _Global:
    path: str


@dataclass(frozen=True, slots=True)
class _Made:
    """The result of calling a global."""

    by: str


@dataclass(slots=True)
class _Machine:
    data: bytes | mmap.mmap
    protocol: int = 0
    stack: list[Any] = field(default_factory=list)
    below: list[list[Any]] = field(default_factory=list)  # the stacks under each MARK
    memo: dict[int, Any] = field(default_factory=dict)
    globals: dict[str, None] = field(default_factory=dict)
    unsafe: dict[str, None] = field(default_factory=dict)
    unsupported: dict[str, None] = field(default_factory=dict)
    storages: dict[Storage, None] = field(default_factory=dict)
    strings: set[str] = field(default_factory=set)

    def step(self, opcode: pickletools.OpcodeInfo, arg: Any, position: int | None) -> None:
        if opcode.name in UNSUPPORTED_BY_TORCH:
            self.unsupported[opcode.name] = None
        if opcode.name in CONSTANTS:
            self.push_constant(opcode.name, arg)
        elif opcode.name in ("GLOBAL", "INST"):
            self.import_named(opcode.name, position or 0)
        elif (handler := HANDLERS.get(opcode.name)) is not None:
            handler(self, arg)
        else:
            self.apply_stack_effect(opcode)

    def result(self, end: int) -> PickleScan:
        value = self.stack[-1] if self.stack and isinstance(self.stack[-1], (int, str, bytes)) else None
        return PickleScan(
            self.protocol,
            tuple(self.globals),
            tuple(self.unsafe),
            tuple(self.unsupported),
            tuple(self.storages),
            frozenset(self.strings),
            value,
            end,
        )

    def push_constant(self, opcode_name: str, arg: Any) -> None:
        if isinstance(arg, str):
            self.strings.add(arg)
        self.stack.append(WORD_CONSTANTS.get(opcode_name, arg))

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("it takes more from its stack than is there")
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def apply_stack_effect(self, opcode: pickletools.OpcodeInfo) -> None:
        """Any opcode without a handler: pop what pickletools says it takes, push placeholders."""
        takes = opcode.stack_before
        if pickletools.markobject in takes:
            self.pop_to_mark()
            takes = takes[: takes.index(pickletools.markobject)]
        self.pop(len(takes))
        self.stack.extend(UNKNOWN for _ in opcode.stack_after)

    def import_named(self, opcode_name: str, position: int) -> None:
        """GLOBAL and INST carry module and name as two lines of the file; they are read raw, as torch reads them."""
        middle = self.data.find(b"\n", position + 1)
        last = self.data.find(b"\n", middle + 1)
        module = self.data[position + 1 : middle].decode("utf-8", "replace")
        name = self.data[middle + 1 : last].decode("utf-8", "replace")
        if opcode_name == "INST":
            self.pop_to_mark()
        path = self.import_global(module, name)
        self.stack.append(_Made(path) if opcode_name == "INST" else _Global(path))

    def import_global(self, module: str, name: str) -> str:
        path = f"{PYTHON_2_MODULES.get(module, module)}.{name}"
        self.globals[path] = None
        if path not in TORCH_GLOBALS and path not in BENIGN_GLOBALS:
            self.unsafe[path] = None
        return path

    def note_storage(self, saved_id: Any) -> None:
        match saved_id:
            case ("storage", _Global(path=kind), str() | int() as key, _, int() as elements, *_) if elements >= 0:
                self.storages[Storage(kind.rpartition(".")[2], str(key), elements)] = None
            case ("module", _Global(), *_):  # the old format's note on a pickled class, which is refused by its name
                pass
            case _:
                self.unsafe["a storage whose size is computed"] = None


def _mark(machine: _Machine, _: Any) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _pop(machine: _Machine, _: Any) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_to_mark()


def _dup(machine: _Machine, _: Any) -> None:
    machine.stack.append(machine.stack[-1])


def _protocol(machine: _Machine, arg: int) -> None:
    machine.protocol = arg


def _put(machine: _Machine, arg: Any) -> None:
    machine.memo[int(arg)] = machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: _Machine, arg: Any) -> None:
    if int(arg) not in machine.memo:
        raise ValueError(f"it asks for memo entry {arg}, which was never stored")
    machine.stack.append(machine.memo[int(arg)])


def _small_tuple(size: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(tuple(machine.pop(size)))


def _tuple(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    machine.stack.append(tuple(items))


def _stack_global(machine: _Machine, _: Any) -> None:
    module, name = machine.pop(2)
    if isinstance(module, str) and isinstance(name, str):
        machine.stack.append(_Global(machine.import_global(module, name)))
    else:
        machine.unsafe["a global whose name is computed"] = None
        machine.stack.append(UNKNOWN)


def _extension(machine: _Machine, arg: int) -> None:
    machine.unsafe[f"copyreg extension {arg}"] = None
    machine.stack.append(UNKNOWN)


def _reduce(machine: _Machine, _: Any) -> None:
    made_by, args = machine.pop(2)
    _note_call(machine, made_by, args)


def _obj(machine: _Machine, _: Any) -> None:
    made_by, *args = machine.pop_to_mark()
    _note_call(machine, made_by, tuple(args))


def _note_call(machine: _Machine, callee: Any, args: Any) -> None:
    if not isinstance(callee, _Global):
        machine.unsafe["a call of something computed"] = None
        machine.stack.append(UNKNOWN)
        return
    guard = CALL_GUARDS.get(callee.path)
    if guard is not None and not (isinstance(args, tuple) and guard(args)):
        shown = repr(args[0]) if isinstance(args, tuple) and args and isinstance(args[0], str) else "…"
        machine.unsafe[f"{callee.path}({shown})"] = None
    machine.stack.append(_Made(callee.path))


def _build(machine: _Machine, _: Any) -> None:
    (state,) = machine.pop(1)
    target = machine.stack[-1]
    if target == _Made("numpy.dtype") and not _is_plain_dtype_state(state):
        machine.unsafe["numpy.dtype with a state of its own"] = None


def _persistent_id(machine: _Machine, _: Any) -> None:
    (saved_id,) = machine.pop(1)
    machine.note_storage(saved_id)
    machine.stack.append(UNKNOWN)


def _is_numeric_dtype(args: tuple[Any, ...]) -> bool:
    return bool(args) and isinstance(args[0], str) and NUMERIC_DTYPE.fullmatch(args[0]) is not None


def _is_plain_dtype_state(state: Any) -> bool:
    return (
        isinstance(state, tuple)
        and len(state) == 8
        and state[0] == 3
        and state[1] in ("<", ">", "|", "=")
        and state[2:] == DTYPE_STATE
    )


def _encodes_latin1(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and args[1] in ("latin1", "latin-1")


def _of_a_checked_dtype(args: tuple[Any, ...]) -> bool:
    return len(args) == 2 and args[0] == _Made("numpy.dtype")


def _of_a_plain_rebuild(args: tuple[Any, ...]) -> bool:
    """_rebuild_from_type_v2 calls its first argument: only torch's own rebuilders are let through."""
    return bool(args) and isinstance(args[0], _Global) and args[0].path.startswith("torch._utils._rebuild_")


def _of_an_empty_array(args: tuple[Any, ...]) -> bool:
    return args[:2] == (_Global("numpy.ndarray"), (0,))


CALL_GUARDS: Final[dict[str, Callable[[tuple[Any, ...]], bool]]] = {
    "_codecs.encode": _encodes_latin1,
    "torch._tensor._rebuild_from_type_v2": _of_a_plain_rebuild,
    "numpy.dtype": _is_numeric_dtype,
    "numpy.ndarray": lambda _: False,  # named as an argument, never called
    **{f"numpy.{core}.multiarray.scalar": _of_a_checked_dtype for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _of_an_empty_array for core in ("core", "_core")},
}
"""Callables that are allowed with some arguments only."""

WORD_CONSTANTS: Final[dict[str, Any]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
CONSTANTS: Final = frozenset(
    {
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
        "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
        "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", *WORD_CONSTANTS,
    }
)  # fmt: skip
HANDLERS: Final[dict[str, Callable[[_Machine, Any], None]]] = {
    "PROTO": _protocol,
    "STOP": lambda _machine, _: None,  # the value stays, for the result
    "MARK": _mark,
    "POP": _pop,
    "DUP": _dup,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    "MEMOIZE": _memoize,
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _get),
    "TUPLE1": _small_tuple(1),
    "TUPLE2": _small_tuple(2),
    "TUPLE3": _small_tuple(3),
    "TUPLE": _tuple,
    "STACK_GLOBAL": _stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _extension),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _reduce),
    "OBJ": _obj,
    "BUILD": _build,
    "BINPERSID": _persistent_id,
}
