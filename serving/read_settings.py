"""Where the settings come from: flags, then `STATESERVE_*` variables, then config.properties, then the defaults.

TorchServe's own variables stand before all of them, where the file lets them: `enable_envvars_config=true`.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from serving.errors import SettingsError
from serving.properties import escaped, read_properties
from serving.settings import ModelSettings, Settings, as_text, flag_name
from serving.torchserve.keys import CONNECTORS, SECRET, VARIABLES, WITHOUT_EFFECT, Address, Connector, address

DEFAULT_CONFIG = Path("config.properties")
ENV_PREFIX = "STATESERVE_"
_SERVICE_LINK = re.compile(ENV_PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_\w+)")
_VARIABLE = re.compile(r"\$\$([^$]{2,})\$\$")

_Level = Mapping[str, tuple[Any, str]]
"""What one source says: a setting's name, its value, and where exactly it stands."""


@dataclass(frozen=True)
class ReadSettings:
    """The settings, and where they come from.

    `sources` has an entry for each that is not a default: `--port`, `STATESERVE_PORT` or `config.properties:3`. `ignored` are
    the keys of the file that are TorchServe's and have no effect here.
    """

    settings: Settings
    sources: Mapping[str, str]
    ignored: tuple[str, ...]


def read_settings(
    flags: Mapping[str, Any], config: Path | None, defaults: Mapping[str, tuple[Any, str]] | None = None
) -> ReadSettings:
    """The settings; a flag that is None was not given; without `config`, ./config.properties is read if it is there.

    `defaults` stand behind the file: what a command of another name has for them, and who says so.

    Raises:
        SettingsError: the file cannot be read, a key or variable is unknown, or a value is wrong; all that are wrong are named.
    """
    path = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    properties = {} if path is None else read_properties(path)
    variables = _variables()
    _require_known(path, properties, variables)
    file = {
        key: (_expanded(value, f"{path}:{line}: {key}"), f"{path}:{line}")
        for key, (value, line) in properties.items()
        if key in Settings.model_fields
    }
    levels: list[_Level] = [  # the later come before the earlier
        defaults or {},
        file,
        {name: (os.environ[key], key) for name, key in variables.items()},
        {name: (_said(value), flag_name(name, off=value is False)) for name, value in flags.items() if value is not None},
    ]
    levels.append(_torchserve_variables(levels))
    given = _merged(levels)
    sources = {name: source for name, (_, source) in given.items()}
    settings = _validated({name: value for name, (value, _) in given.items()}, sources)
    return ReadSettings(_listening(settings), sources, tuple(key for key in properties if key in WITHOUT_EFFECT))


def require_model_store(read: ReadSettings) -> None:
    """A model store that somebody names for this start has to be there; the file's may be made later, for a start of its own.

    Raises:
        SettingsError: it is not.
    """
    store, source = read.settings.model_store, read.sources.get("model_store", "")
    if store is not None and source.startswith(("-", ENV_PREFIX)) and not store.is_dir():
        raise SettingsError(f"model_store is {store} ({source}), which is not a directory")


def _variables() -> dict[str, str]:
    return {
        key.removeprefix(ENV_PREFIX).lower(): key
        for key, value in os.environ.items()
        if key.startswith(ENV_PREFIX) and not _is_service_link(key, value)
    }


def _require_known(path: Path | None, properties: Mapping[str, tuple[str, int]], variables: Mapping[str, str]) -> None:
    keys = {*Settings.model_fields, *WITHOUT_EFFECT}
    unknown = [
        f"{path}:{line}: unknown key {key}; {_hint(key, keys)}" for key, (_, line) in properties.items() if key not in keys
    ]
    unknown += [f"unknown variable {key}; {_hint(name)}" for name, key in variables.items() if name not in Settings.model_fields]
    if unknown:
        raise SettingsError("; ".join(unknown))


def _expanded(value: str, where: str) -> str:
    """A value of the file, with `$$NAME$$` replaced by the variable NAME."""

    def variable(found: re.Match[str]) -> str:
        if (said := os.environ.get(found[1])) is None:
            raise SettingsError(f"{where} needs the variable {found[1]}, which is not set")
        return said

    return _VARIABLE.sub(variable, value)


def _said(value: Any) -> Any:
    """A flag that may be given several values says them as the file does."""
    return ",".join(value) if isinstance(value, list) else value


def _torchserve_variables(levels: Iterable[_Level]) -> _Level:
    """TorchServe's variables that count; TS_OPEN_INFERENCE_PROTOCOL always does, as there."""
    said = {name: str(value).lower() for level in levels for name, (value, _) in level.items()}
    found = {}
    if protocol := os.environ.get("TS_OPEN_INFERENCE_PROTOCOL"):
        found["ts_open_inference_protocol"] = (str(protocol == "oip"), "TS_OPEN_INFERENCE_PROTOCOL")
    if said.get("enable_envvars_config") != "true":
        return found
    refused = set() if said.get("use_env_allowed_urls") == "true" else {"TS_ALLOWED_URLS"}
    return {**{key: (os.environ[name], name) for name, key in VARIABLES.items() if name in os.environ.keys() - refused}, **found}


def _merged(levels: list[_Level]) -> dict[str, tuple[Any, str]]:
    """What holds of all that was said: the last of each, where a `host` or `port` stands after the addresses before it."""
    given: dict[str, tuple[Any, str]] = {}
    for level in levels:
        for connector in CONNECTORS:
            key = f"{connector}_address"
            if key in given and {"host", "port"} & level.keys():
                moved_by = ", ".join(level[name][1] for name in ("host", "port") if name in level)
                given[key] = (_moved(given[key][0], connector, level), f"{given[key][1]}, {moved_by}")
        given.update(level)
    return {name: entry for name, entry in given.items() if entry[0] is not None}


def _moved(value: Any, connector: Connector, level: _Level) -> Any:
    """An address that a weaker source said, at the host and port that a stronger one says; None where nothing of it is left."""
    try:
        where = Address.parse(value, connector)
        port = int(level["port"][0]) + CONNECTORS.index(connector) if "port" in level else where.port
    except ValueError:
        return None if "port" in level else value
    host = str(level["host"][0]) if "host" in level else where.host
    if where.scheme == "unix":
        return None
    if connector == "management" and not Address("http", host).is_loopback:
        host = where.host
    return str(Address(where.scheme, host, port))


def _validated(values: Mapping[str, Any], sources: Mapping[str, str]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as cause:
        raise SettingsError(f"wrong setting: {'; '.join(_problems(cause, sources))}") from cause


def _listening(settings: Settings) -> Settings:
    """The settings with `host` and `port` as the inference address has them, which the other two connectors do not follow."""
    inference = address(settings, "inference")
    for connector in CONNECTORS:
        if address(settings, connector).port > 65535:
            raise SettingsError(f"port is {settings.port}, and {connector} would listen on {address(settings, connector).port}")
    if settings.inference_address is None or inference.scheme == "unix":
        return settings
    rest = {f"{connector}_address": address(settings, connector) for connector in ("management", "metrics")}
    return settings.model_copy(update={**rest, "host": inference.host, "port": inference.port})


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
    texts = {name: as_text(name, getattr(settings, name)) for name in Settings.model_fields if name != "model_settings"}
    texts["model_settings"] = as_text("model_settings", _overrides(settings))
    lines = {name: f"{name}={escaped(text)}" for name, text in texts.items()}
    lines |= {name: f"# {name} is not shown" for name in SECRET & read.sources.keys()}
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
