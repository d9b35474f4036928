"""Where the settings come from: flags, then `STATESERVE_*` variables, then config.properties, then the defaults."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serving.errors import SettingsError
from serving.properties import TORCHSERVE_KEYS, read_properties
from serving.settings import ModelSettings, Settings, as_text, flag_name

DEFAULT_CONFIG = Path("config.properties")
ENV_PREFIX = "STATESERVE_"
_SERVICE_LINK = re.compile(ENV_PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)")


@dataclass(frozen=True)
class ReadSettings:
    """The settings, and where they come from.

    `sources` has an entry for each that is not a default: `--port`, `STATESERVE_PORT` or `config.properties:3`. `ignored` are
    the keys of the file that are TorchServe's and have no effect here.
    """

    settings: Settings
    sources: Mapping[str, str]
    ignored: tuple[str, ...]


def read_settings(flags: Mapping[str, Any], config: Path | None) -> ReadSettings:
    """The settings; a flag that is None was not given; without `config`, ./config.properties is read if it is there.

    Raises:
        SettingsError: the file cannot be read, a key or variable is unknown, or a value is wrong; all that are wrong are named.
    """
    path = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    properties = {} if path is None else read_properties(path)
    variables = {
        key.removeprefix(ENV_PREFIX).lower(): key
        for key, value in os.environ.items()
        if key.startswith(ENV_PREFIX) and not _is_service_link(key, value)
    }
    keys = {*Settings.model_fields, *TORCHSERVE_KEYS}
    unknown = [
        f"{path}:{line}: unknown key {key}; {_hint(key, keys)}" for key, (_, line) in properties.items() if key not in keys
    ]
    unknown += [f"unknown variable {key}; {_hint(name)}" for name, key in variables.items() if name not in Settings.model_fields]
    if unknown:
        raise SettingsError("; ".join(unknown))
    given = [  # the later come before the earlier
        *((key, value, f"{path}:{line}") for key, (value, line) in properties.items() if key in Settings.model_fields),
        *((name, os.environ[key], key) for name, key in variables.items()),
        *((name, value, flag_name(name, off=value is False)) for name, value in flags.items() if value is not None),
    ]
    sources = {name: source for name, _, source in given}
    try:
        settings = Settings.model_validate({name: value for name, value, _ in given})
    except ValidationError as cause:
        raise SettingsError(f"wrong setting: {'; '.join(_problems(cause, sources))}") from cause
    return ReadSettings(settings, sources, tuple(key for key in properties if key in TORCHSERVE_KEYS))


def _hint(key: str, close_to: Iterable[str] = Settings.model_fields) -> str:
    if key == "labels":
        return 'labels belong to one model: model_settings={"NAME": {"labels": {"stable": 1}}}'
    close = difflib.get_close_matches(key, sorted(close_to), n=1)
    return f"nearest: {close[0]}" if close else f"known: {', '.join(Settings.model_fields)}"


def _problems(cause: ValidationError, sources: Mapping[str, str]) -> list[str]:
    """What is wrong, all of it; a wrong value that models only take over from the server's is told once."""
    told = {(error["loc"], repr(error["input"])) for error in cause.errors()}
    return [_problem(error, sources) for error in cause.errors() if (error["loc"][2:], repr(error["input"])) not in told]


def _problem(error: Any, sources: Mapping[str, str]) -> str:
    """One of pydantic's findings, as a person reads it."""
    name, *inner = error["loc"]
    where = ".".join(map(str, error["loc"]))
    source = sources.get(name, "default")
    if error["type"] == "extra_forbidden":
        key = str(inner[-1]) if inner else name
        hint = "it is the server's, not a model's" if key in Settings.model_fields else _hint(key, ModelSettings.model_fields)
        return f"{where} ({source}) is unknown; {hint}"
    value = error["input"]
    shown = repr(value) if isinstance(value, (str, Mapping)) else as_text(name, value)
    return f"{where} is {shown} ({source}): {error['msg'].removeprefix('Value error, ')}"


def to_properties(read: ReadSettings) -> str:
    """The settings as a config.properties that says the same; comments say where each value comes from."""
    settings = read.settings
    lines = {
        name: f"{name}={as_text(name, getattr(settings, name))}" for name in Settings.model_fields if name != "model_settings"
    }
    lines["model_settings"] = f"model_settings={as_text('model_settings', _overrides(settings))}"
    parts = [f"# {source}\n{lines.pop(name)}" for name, source in read.sources.items()]
    if read.ignored:
        parts.append(f"# TorchServe's keys, without effect here: {', '.join(read.ignored)}")
    return "\n".join([*parts, "# defaults", *lines.values()]) + "\n"


def _overrides(settings: Settings) -> dict[str, Any]:
    return {
        model: {
            name: value
            for name, value in own.model_dump(mode="json").items()
            if getattr(own, name) != getattr(settings, name, {})
        }
        for model, own in settings.model_settings.items()
    }


def _is_service_link(variable: str, value: str) -> bool:
    """Whether Kubernetes set a variable, for a service called stateserve: `STATESERVE_PORT=tcp://10.0.0.1:8080` and its like."""
    return _SERVICE_LINK.fullmatch(variable) is not None or (variable == f"{ENV_PREFIX}PORT" and value.startswith("tcp://"))
