"""The server's settings: from flags, then `STATESERVE_*` variables, then config.properties, then the defaults."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from serving.errors import SettingsError

DEFAULT_CONFIG = Path("config.properties")
ENV_PREFIX = "STATESERVE_"


class Settings(BaseModel, frozen=True, extra="forbid"):
    """Every field is a flag, a key of config.properties, and a variable `STATESERVE_<FIELD>`."""

    repository: Path = Path("model_repository")
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    threads: Annotated[int, Field(ge=1)] | None = None
    max_body_bytes: Annotated[int, Field(ge=1)] = 64 << 20
    drain_timeout_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0


def read_settings(flags: Mapping[str, Any], config: Path | None) -> Settings:
    """The settings; a flag that is None was not given; without `config`, ./config.properties is read if it is there.

    Raises:
        SettingsError: the file cannot be read, a key or variable is unknown, or a value is wrong.
    """
    path = config or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)
    properties = {} if path is None else read_properties(path)
    for key, (_, line) in properties.items():
        _require_known(key, f"{path}:{line}: unknown key {key}")
    variables = {key.removeprefix(ENV_PREFIX).lower(): value for key, value in os.environ.items() if key.startswith(ENV_PREFIX)}
    for key in variables:
        _require_known(key, f"unknown variable {ENV_PREFIX}{key.upper()}")
    given = {key: value for key, value in flags.items() if value is not None}
    try:
        return Settings.model_validate({**{key: value for key, (value, _) in properties.items()}, **variables, **given})
    except ValidationError as cause:
        problems = [f"{'.'.join(map(str, p['loc']))} is {p['input']!r}: {p['msg']}" for p in cause.errors()]
        raise SettingsError(f"wrong setting: {'; '.join(problems)}") from cause


def _require_known(key: str, problem: str) -> None:
    if key not in Settings.model_fields:
        close = difflib.get_close_matches(key, Settings.model_fields, n=1)
        hint = f"nearest: {close[0]}" if close else f"known: {', '.join(Settings.model_fields)}"
        raise SettingsError(f"{problem}; {hint}")


def read_properties(path: Path) -> dict[str, tuple[str, int]]:
    """The keys of a Java properties file, as TorchServe's: `key=value` lines, # and ! comments; with the line of each.

    Raises:
        SettingsError: the file cannot be read, a line is no `key=value`, or a key stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise SettingsError(f"{path} cannot be read: {cause}") from cause
    found: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text[0] in "#!":
            continue
        key, separator, value = text.partition("=")
        if not separator:
            raise SettingsError(f"{path}:{number}: {text!r} is not key=value")
        if key.strip() in found:
            raise SettingsError(f"{path}:{number}: {key.strip()} stands twice, first on line {found[key.strip()][1]}")
        found[key.strip()] = (value.strip(), number)
    return found
