"""MAR-INF/MANIFEST.json of an unpacked archive: what it says, and what holds where it says nothing."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from serving.torchserve.errors import InvalidModelException

PLACE = "MAR-INF/MANIFEST.json"
MAX_BYTES = 1 << 20
DEFAULT_VERSION = "1.0"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]{0,254}")
"""What torch-model-archiver lets a model be called; the length is ours."""
VERSION = re.compile(r"(?!\.{1,2}$)[!-.0-\[\]-~]{1,128}")
"""A version stands in a path of its own: ASCII without spaces, slashes and backslashes."""
RUNTIMES = ("python", "python3")

_REPACK = "Pack it again with torch-model-archiver."


@dataclass(frozen=True)
class Overrides:
    """What a registration says itself, which beats the manifest; "" where it says nothing.

    `default_name` and `default_handler` hold where neither the registration nor the manifest has one: at its start, TorchServe
    calls a nameless model as its file is called; the handler is the setting `default_service_handler`.
    """

    name: str = ""
    handler: str = ""
    runtime: str = ""
    default_name: str = ""
    default_handler: str = ""


NO_OVERRIDES = Overrides()


@dataclass(frozen=True)
class ReadManifest:
    """What holds for an archive; both paths are files in its folder."""

    name: str
    version: str
    handler: str
    runtime: str
    config: Path | None
    requirements: Path | None


def read_manifest(directory: Path, archive: str, asked: Overrides) -> ReadManifest:
    """What the manifest of an unpacked archive says, where it has one, and what the registration says over it.

    A number counts as the text that it is written as, as TorchServe reads it: `"modelVersion": 1.10` is "1.10".

    Raises:
        InvalidModelException: it is no JSON object, a value is of the wrong type, no name or handler is known, the runtime is not
            Python's, or a file that it names is outside the archive or not in it.
    """
    manifest = _load(directory / PLACE, archive)
    model = manifest.get("model", {})
    if not isinstance(model, dict):
        _unparsed(archive, f"its model is {_shown(model)}, not an object with modelName, handler and modelVersion")
    for key in ("handler", "serializedFile", "modelFile", "configFile", "requirementsFile"):
        _check_stays(archive, key, _text(archive, model, key))
    return ReadManifest(
        name=_name(
            archive,
            asked.name or _text(archive, model, "modelName") or asked.default_name,
            has_manifest=(directory / PLACE).is_file(),
        ),
        version=_version(archive, _text(archive, model, "modelVersion") or DEFAULT_VERSION),
        handler=_handler(archive, asked.handler or _text(archive, model, "handler") or asked.default_handler),
        runtime=_runtime(archive, asked.runtime or manifest.get("runtime", RUNTIMES[0])),
        config=_file(directory, archive, "configFile", _text(archive, model, "configFile")),
        requirements=_file(directory, archive, "requirementsFile", _text(archive, model, "requirementsFile")),
    )


def _load(path: Path, archive: str) -> dict[str, Any]:
    """The manifest with its numbers as texts; nothing, where there is no manifest."""
    if not path.is_file():
        return {}
    if (size_bytes := path.stat().st_size) > MAX_BYTES:
        _unparsed(archive, f"it has {size_bytes} bytes, and {MAX_BYTES} at most are read")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"), parse_int=str, parse_float=str)
    except UnicodeDecodeError as cause:
        _unparsed(archive, f"it is not UTF-8 text: {cause.reason} at byte {cause.start}", cause)
    except (ValueError, RecursionError) as cause:
        _unparsed(archive, f"it is not JSON: {cause}", cause)
    if not isinstance(manifest, dict):
        _unparsed(archive, f"it is {_shown(manifest)}, not an object")
    return manifest


def _unparsed(archive: str, why: str, cause: Exception | None = None) -> NoReturn:
    """Raises InvalidModelException in TorchServe's words (which call the manifest by another name), and ours."""
    raise InvalidModelException(f"Failed to parse signature.json. {PLACE} of {archive}: {why}. {_REPACK}") from cause


def _text(archive: str, model: Mapping[str, Any], key: str) -> str:
    value = model.get(key)
    if value is not None and not isinstance(value, str):
        _unparsed(archive, f"its {key} is {_shown(value)}, not a text")
    return value or ""


def _check_stays(archive: str, key: str, value: str) -> None:
    """Raises InvalidModelException, if a path leads out of the archive's folder, or is none."""
    if value.startswith("/") or "\\" in value or ".." in value.split("/") or not value.isprintable():
        raise InvalidModelException(f"{archive} is refused: its {key} {_shown(value)} is outside the archive. {_REPACK}")


def _name(archive: str, name: str, *, has_manifest: bool) -> str:
    if not name:
        why = f"{PLACE} of {archive} has no modelName" if has_manifest else f"{archive} has no {PLACE} at its root"
        raise InvalidModelException(f"Model name is not defined. {why}: give model_name, or pack it with torch-model-archiver.")
    if NAME.fullmatch(name) is None:
        raise InvalidModelException(
            f"The model name {_shown(name)} of {archive} is not one: it should be 1 to 255 letters, digits, _, - and dots, the "
            "first a letter or a digit. Give another model_name."
        )
    return name


def _version(archive: str, version: str) -> str:
    if VERSION.fullmatch(version) is None:
        raise InvalidModelException(
            f"The version {_shown(version)} of {archive} is not one: it should be 1 to 128 letters of ASCII without spaces and "
            f"slashes, since it stands in a path. {_REPACK}"
        )
    return version


def _handler(archive: str, handler: str) -> str:
    if not handler:
        raise InvalidModelException(
            f"Handler is not defined. Neither {PLACE} of {archive} nor the registration names one: give handler, or set "
            "default_service_handler."
        )
    return handler


def _runtime(archive: str, runtime: Any) -> str:
    if runtime not in (*RUNTIMES, *(name.upper() for name in RUNTIMES)):
        hint = "C++ handlers have no worker here" if runtime == "LSP" else "it should be python or python3"
        raise InvalidModelException(f"Runtime is not defined or invalid. That of {archive} is {_shown(runtime)}: {hint}.")
    return runtime.lower()


def _file(directory: Path, archive: str, key: str, name: str) -> Path | None:
    """The file of the archive that the manifest names, if it names one."""
    if not name:
        return None
    path = directory / name
    if not path.is_file():
        raise InvalidModelException(f"{archive} is refused: its {key} {_shown(name)} is not in the archive. {_REPACK}")
    return path


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
