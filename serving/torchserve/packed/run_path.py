"""The modules that run an artifact inside a .mar, as one zip that Python imports from.

They are ours as they stand, but for their imports: in a user's process the names `artifact`, `serving` and `foundation` may be
another's, so that all stand below one package of their own, and what is faster with orjson and simdjson has stand-ins there.
"""

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "stateserve_run"
ROOMS = ("artifact", "foundation", "serving")
START = "serving.torchserve.packed.model"
STAND_INS = {"orjson": "serving.torchserve.packed.plain_json", "simdjson": "serving.torchserve.packed.no_simdjson"}

LEFT_OUT = ("artifact.operations", "artifact.raw_cases")
"""What is imported for declared operations alone: an archive of a model that has some is not made."""

_FROM_ROOM = re.compile(rf"^(\s*from )((?:{'|'.join(ROOMS)})\b)", re.MULTILINE)
_STOOD_IN = re.compile(rf"^(\s*)import ({'|'.join(STAND_INS)})$", re.MULTILINE)


def modules() -> dict[str, bytes]:
    """The zip's files by name: every module of ours that `START` imports, however deep, and the packages around them."""
    found: dict[str, str] = {}
    left = [START, *STAND_INS.values()]
    while left:
        name = left.pop()
        if name not in found:
            source = _path(name).read_text(encoding="utf-8")
            found[name] = renamed(source)
            left += [*_imported(source), *_packages(name)]
    files = {_file_name(name): source for name, source in found.items()}
    files[f"{PACKAGE}/__init__.py"] = f'"""Stateserve\'s run path: {START} and what it imports."""\n'
    return {name: files[name].encode() for name in sorted(files)}


def renamed(source: str) -> str:
    """The source of a module with its imports of ours below `PACKAGE`, and those of `STAND_INS` replaced."""
    below = _FROM_ROOM.sub(rf"\g<1>{PACKAGE}.\g<2>", source)
    return _STOOD_IN.sub(lambda found: f"{found[1]}import {PACKAGE}.{STAND_INS[found[2]]} as {found[2]}", below)


def _imported(source: str) -> Iterator[str]:
    """The modules of ours that a source imports; a name out of a package may be one, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in ROOMS:
            names = [node.module, *(name for alias in node.names if _is_module(name := f"{node.module}.{alias.name}"))]
            yield from (name for name in names if not name.startswith(LEFT_OUT))


def _packages(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def _is_module(name: str) -> bool:
    package, _, _ = name.rpartition(".")
    return _is_package(package) and importlib.util.find_spec(name) is not None


def _is_package(name: str) -> bool:
    return _path(name).name == "__init__.py"


def _path(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"there is no module {name}", name=name)
    return Path(spec.origin)


def _file_name(name: str) -> str:
    inner = "/__init__" if _is_package(name) else ""
    return f"{PACKAGE}/{name.replace('.', '/')}{inner}.py"
