"""The .pt2 archive: which of its members could run code when torch.export.load reads them, or when the program runs.

`torch.export.load` unpickles members without being asked and without restriction (CVE-2026-4538), so a .pt2 may be loaded only
where this scan finds nothing. Every archive carries its example inputs as a torch.save file, empty where there are none; that
one is let through where it is empty or its pickle names nothing but what rebuilds plain tensors.

The program itself is JSON, but no plain data either: its size expressions are evaluated as Python (by sympy), its operators are
looked up by dotted name from `torch` down (`torch.os.system` is one), and its guards are compiled. So expressions must be plain
arithmetic, operators those of torch.ops, and guards empty.

Sources: torch/_export/serde/serialize.py; torch/export/pt2_archive/_package.py; torch/export/__init__.py (`load`), which also
reads the layout of torch 2.7.
"""

import io
import json
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

PICKLED_MEMBER = re.compile(
    r"(^|/)(custom|opaque)_obj_[^/]*$|(^|/)serialized_(state_dict|constants|example_inputs)\.|\.(pt|pth|pkl|pickle)$"
)
"""Custom and opaque objects, the whole files of the older layouts, and whatever is named as a pickle."""

SAMPLE_INPUTS = re.compile(r"(^|/)sample_inputs/[^/]+\.pt$")

PAYLOAD_CONFIG = re.compile(r"_config\.json$")
"""Says for every weight or constant whether its member is raw bytes or a pickle."""

PROGRAM = re.compile(r"(^|/)models/[^/]+\.json$|(^|/)serialized_exported_program\.json$")
EXPRESSION = re.compile(
    r"(?:Symbol\('[su]\d+'(?:, \w+=(?:True|False))*\)"
    r"|(?:Mul|Add|Pow|Integer|Rational|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv|CleanDiv|ModularIndexing|PowByNatural|IntTrueDiv"
    r"|FloatTrueDiv|TruncToInt|CeilToInt|FloorToInt|ToFloat|Float|Eq|Ne|Equality|Unequality|LessThan|GreaterThan|StrictLessThan"
    r"|StrictGreaterThan|Piecewise|Where|ExprCondPair)\("
    r"|[su]\d++|\d++|true|false|[-(), ])*"
)
"""Arithmetic over the program's own symbols, as sympy writes it; no other name, no attribute, no other string."""
OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims)\.(?!__)\w+\.(?!__)\w+|torch\.ops\.higher_order\.(?!__)\w+"
    r"|_operator\.(?:add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|getitem|and_|or_)"
    r"|math\.(?:ceil|floor|trunc)|torch\.sym_(?:float|int|max|min|ite|not|sqrt)|torch\._sym_sqrt"
)
"""What a node may call: an ATen operator, or arithmetic on sizes. Custom libraries of operators are not let through."""

GUARD = re.compile(r"L\['\w+'\]\.size\(\)\[\d+\] == L\['\w+'\]\.size\(\)\[\d+\]")
"""Two axes of one size: the only guard that an export over declared ranges has."""
NAMES = frozenset({"name", "forward_arg_names"})
"""Entries that are pasted into source text: identifiers."""
TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
PLAIN_MEMBER = re.compile(
    r"[^/]+/(?:data/weights/(?:weight_\d+|model_weights_config\.json)"
    r"|data/constants/(?:(?:constant|tensor)_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt|models/model\.json|archive_(?:format|version)|byteorder|version|\.data/(?:version"
    r"|serialization_id)|\.format_version|\.storage_alignment)"
)
"""What torch.export.save writes for one program of tensors. PyTorch reads whatever else it finds, native code included."""

MAX_SCANNED_BYTES = 100_000_000
"""A larger config or example input is not scanned: it counts as found."""

TENSOR_GLOBALS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        *(
            f"torch {name}Storage"
            for name in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
        ),
    }
)
NAMING_OPCODES = frozenset({"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"})
"""Ways to name a callable other than GLOBAL; torch.save writes none of them."""


def pt2_pickles(path: Path | BinaryIO) -> tuple[str, ...]:
    """The members of a .pt2 archive that could run code when unpickled, sorted; empty where there are none.

    What cannot be judged counts too: a name that stands twice, a config that is not JSON.
    Raises OSError where the file cannot be read, zipfile.BadZipFile where it is not a zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        found = {name for name, count in Counter(name.casefold() for name in names).items() if count > 1}
        for name in names:
            if not PLAIN_MEMBER.fullmatch(name):
                found.add(name)
            elif SAMPLE_INPUTS.search(name):
                if not _is_empty(archive, name) and not _holds_only_tensors(_unpacked(archive, name)):
                    found.add(name)
            elif PICKLED_MEMBER.search(name):
                found.add(name)
            elif PROGRAM.search(name):
                found.update([] if _is_plain_program(_unpacked(archive, name)) else [name])
            elif PAYLOAD_CONFIG.search(name):
                found.update(_pickled_payloads(name, _unpacked(archive, name)))
    return tuple(sorted(found))


def _is_empty(archive: zipfile.ZipFile, name: str) -> bool:
    """Whether the member has no bytes at all: what torch.export.save writes for a program without example inputs."""
    member = archive.getinfo(name)
    return member.file_size == 0 and member.compress_size == 0


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    """The member's bytes; none where it is compressed (torch compresses none), too large or damaged, which no scan accepts."""
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED or member.file_size > MAX_SCANNED_BYTES:
        return b""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        return b""


def _is_plain_program(raw: bytes) -> bool:
    """Whether the program's JSON holds nothing that its reader would evaluate, or look up, beyond tensors' arithmetic."""
    try:
        return _is_plain(json.loads(raw))
    except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError):
        return False


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if not isinstance(value, dict):
        return True
    return all(_is_plain(item) and _is_plain_entry(key, item) for key, item in value.items())


def _is_plain_entry(key: str, value: Any) -> bool:
    if key == "expr_str":
        return isinstance(value, str) and EXPRESSION.fullmatch(value) is not None
    if key in {"target", "as_operator"} and isinstance(value, str):
        return "." not in value or OPERATOR.fullmatch(value) is not None
    if key in NAMES:
        return all(
            re.fullmatch(r"\w*", name) for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)
        )
    if key in {"in_spec", "out_spec"}:
        return value is None or (isinstance(value, str) and _is_plain_tree(json.loads(value)[1]))
    return key != "guards_code" or all(isinstance(guard, str) and GUARD.fullmatch(guard) for guard in value)


def _is_plain_tree(spec: Any) -> bool:
    """Whether a structure is one of tuples, lists and dictionaries under plain names: others name classes to import."""
    keys = json.loads(spec["context"]) if spec["context"] is not None else None
    is_named = keys is None or (
        isinstance(keys, list) and all(isinstance(key, str) and re.fullmatch(r"\w+", key) for key in keys)
    )
    return spec["type"] in TREES and is_named and all(_is_plain_tree(child) for child in spec["children_spec"])


def _pickled_payloads(name: str, raw: bytes) -> Iterator[str]:
    """The members that a config declares as pickles; the config itself where it can't be understood."""
    try:
        payloads: Any = json.loads(raw)["config"].values()
        pickled = [str(payload["path_name"]) for payload in payloads if payload["use_pickle"] is not False]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        yield name
        return
    folder = name.rpartition("/")[0]
    yield from (f"{folder}/{member}" for member in pickled)


def _holds_only_tensors(raw: bytes) -> bool:
    """Whether a torch.save zip has one pickle and it names only what rebuilds plain tensors."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = [name.casefold() for name in archive.namelist()]
            pickles = [name for name in archive.namelist() if name.casefold().endswith("data.pkl")]
            is_plain = len(set(names)) == len(names) and len({name.partition("/")[0] for name in names}) == 1
            if not is_plain or len(pickles) != 1 or any(name.endswith("constants.pkl") for name in names):
                return False
            data = _unpacked(archive, pickles[0])
        return all(
            arg in TENSOR_GLOBALS if opcode.name == "GLOBAL" else opcode.name not in NAMING_OPCODES
            for opcode, arg, _ in pickletools.genops(data)
        )
    except (zipfile.BadZipFile, ValueError, IndexError, NotImplementedError, RuntimeError, EOFError, OverflowError):
        return False
