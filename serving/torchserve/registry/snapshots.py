"""Snapshots, as TorchServe's: a settings' file per change in logs/config that says what is served, for the next start."""

import asyncio
import datetime as dt
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foundation.storage import TEMPORARY_PREFIX
from serving.properties import escaped
from serving.settings import Settings, as_text

if TYPE_CHECKING:
    from serving.torchserve.registry.models import ModelVersion

log = logging.getLogger("stateserve")

Kind = Literal["startup", "snapshot", "shutdown"]
"""When one was written: all loaded, something changed, the server ended."""
_NAME = re.compile(r"[0-9]{17}-(startup|snapshot|shutdown)\.cfg")


def log_directory() -> Path:
    """Where TorchServe has its logs: the variable LOG_LOCATION, else `logs` in the working directory."""
    return Path(os.environ.get("LOG_LOCATION") or "logs")


def snapshot_directory() -> Path:
    """Where snapshots are."""
    return log_directory() / "config"


def newest_snapshot(directory: Path) -> Path | None:
    """The last snapshot: a settings' file whose key `model_snapshot` says what was served; None where there is none."""
    try:
        names = [path.name for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return directory / max(names) if names else None


class Snapshots:
    """The snapshots that one server writes, one after another. `clock` says the time in seconds since 1970."""

    def __init__(self, settings: Settings, directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._directory = directory.absolute()
        self._clock = clock
        self._lock = asyncio.Lock()

    async def write(self, kind: Kind, models: Mapping[str, Any]) -> None:
        """Writes what `described` says of the models; what hinders it is logged, and ends nothing."""
        async with self._lock:
            try:
                await asyncio.to_thread(self._write, kind, models)
            except OSError as error:
                log.error("a snapshot cannot be written, so what changed is not restored at the next start: %s", error)  # noqa: TRY400 - the error says it all

    def _write(self, kind: Kind, models: Mapping[str, Any]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        created_ms, path = self._next(kind)
        document = {
            "name": path.name,
            "modelCount": sum(map(len, models.values())),
            "created": created_ms,
            "models": models,
        }
        lines = [f"{name}={escaped(text)}" for name, text in _changed(self._settings).items()]
        text = "\n".join(["# What was served, and the settings that held", *lines, f"model_snapshot={_json(document)}"])
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # a keystore's password may be in it
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{text}\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _next(self, kind: Kind) -> tuple[int, Path]:
        """The time in ms since 1970, and a name with it that comes after all others, whatever the clock does."""
        last, now_ms = newest_snapshot(self._directory), round(self._clock() * 1000)
        if last is not None:
            now_ms = max(now_ms, _milliseconds(last.name) + 1)
        return now_ms, self._directory / f"{_stamp(now_ms)}-{kind}.cfg"


def described(versions: Mapping[str, Mapping[str, "ModelVersion"]], defaults: Mapping[str, str]) -> dict[str, Any]:
    """What a snapshot says of models: by name and version, in TorchServe's words; `defaults` are the default versions."""
    return {
        name: {version: _described(one, is_default=defaults[name] == version) for version, one in of_model.items()}
        for name, of_model in versions.items()
    }


def _described(one: "ModelVersion", *, is_default: bool) -> dict[str, Any]:
    held = one.parameters
    return {
        "defaultVersion": is_default,
        "marName": one.file_name,
        "minWorkers": one.workers.min_workers,
        "maxWorkers": one.workers.max_workers,
        "batchSize": held.batch_size,
        "maxBatchDelay": round(held.max_batch_delay_ms),
        "responseTimeout": round(held.response_timeout_s),
        "startupTimeout": round(held.startup_timeout_s),
        "runtimeType": one.mar.runtime,
        **({"handler": held.handler} if one.prepared.wanted.handler else {}),  # our own addition: TorchServe forgets it
    }


def _changed(settings: Settings) -> dict[str, str]:
    """The settings that are not the defaults, as texts."""
    fields = Settings.model_fields
    changed = {name: getattr(settings, name) for name in fields if name not in {"model_snapshot", "model_settings"}}
    texts = {name: as_text(name, value) for name, value in changed.items() if value != fields[name].default}
    if settings.model_settings:
        own = {name: one.model_dump(mode="json") for name, one in settings.model_settings.items()}
        texts["model_settings"] = json.dumps(own)
    return texts


def _json(document: Mapping[str, Any]) -> str:
    return escaped(json.dumps(document))


def _stamp(time_ms: int) -> str:
    when = dt.datetime.fromtimestamp(time_ms // 1000, dt.UTC)
    return f"{when:%Y%m%d%H%M%S}{time_ms % 1000:03}"


def _milliseconds(name: str) -> int:
    when = dt.datetime.strptime(name[:14], "%Y%m%d%H%M%S").replace(tzinfo=dt.UTC)
    return int(when.timestamp()) * 1000 + int(name[14:17])
