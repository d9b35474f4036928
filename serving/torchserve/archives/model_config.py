"""A model's configuration, the YAML file that its archive's manifest names: what TorchServe's front end reads of it.

A value that it cannot use counts as not given, with a warning in the log, as in TorchServe; every other key is the handler's own.
The worker reads the file, too, so one that is no YAML is refused here; TorchServe learns of it from a worker that dies.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from serving.torchserve.errors import InternalServerException, InvalidModelException

MAX_BYTES = 1 << 20
MAX_LEVELS = 64
MAX_VALUES = 200_000
"""How many values there may be, those that aliases repeat counted each time."""
MAX_INT = (1 << 31) - 1
"""The largest number that TorchServe reads."""
DEVICE_TYPES = ("cpu", "gpu")
PARALLEL_TYPES = ("pp", "tp", "pptp", "custom")
LARGE_MODEL_SWITCHES = ("continuousBatching", "sequenceBatching", "asyncCommunication", "useJobTicket")
"""Keys of large models that are true or false."""

log = logging.getLogger("stateserve")


@dataclass(frozen=True)
class ModelConfig:
    """What a model asks of its server; None where it says nothing that can be used.

    `unsupported` are the keys, in the file's order, that ask for what only large models need: several processes for one worker,
    continuous or sequence batching, asynchronous workers, job tickets.
    """

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    max_retry_timeout_s: int | None = None
    client_timeout_ms: int | None = None
    job_queue_size: int | None = None
    device_type: str | None = None
    device_ids: tuple[int, ...] | None = None
    use_venv: bool | None = None
    unsupported: tuple[str, ...] = ()


def read_model_config(path: Path) -> ModelConfig:
    """The configuration in a file.

    Raises:
        InvalidModelException: it is larger than `MAX_BYTES`, no YAML, no mapping with texts as keys, or has tags of its own, or
            more than `MAX_LEVELS` levels or `MAX_VALUES` values.
        InternalServerException: PyYAML is not installed.
    """
    document = _load(path)
    read = _Reader(path.name, document)
    return ModelConfig(
        min_workers=read.number("minWorkers", least=0),
        max_workers=read.number("maxWorkers", least=0),
        batch_size=read.number("batchSize", least=1),
        max_batch_delay_ms=read.number("maxBatchDelay", least=1),
        response_timeout_s=read.number("responseTimeout", least=1),
        startup_timeout_s=read.number("startupTimeout", least=1),
        max_retry_timeout_s=read.number("maxRetryTimeoutInSec", least=0),
        client_timeout_ms=read.number("clientTimeoutInMills", least=0),
        job_queue_size=read.number("jobQueueSize", least=1),
        device_type=read.word("deviceType", DEVICE_TYPES),
        device_ids=read.numbers("deviceIds"),
        use_venv=read.switch("useVenv"),
        unsupported=tuple(key for key in document if _is_unsupported(key, document[key])),
    )


def _is_unsupported(key: str, value: Any) -> bool:
    if key in LARGE_MODEL_SWITCHES:
        return value is True
    if key == "parallelType":
        return str(value).lower() in PARALLEL_TYPES
    return key == "torchrun" and isinstance(value, dict)


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INT


@dataclass(frozen=True)
class _Reader:
    """The values of a mapping by their types; one that is of another type, or too small, is told of and counts as not given."""

    file: str
    values: Mapping[str, Any]

    def number(self, key: str, least: int) -> int | None:
        value = self.values.get(key)
        if _is_number(value) and value >= least:
            return value
        return self._without(key, f"a whole number from {least} to {MAX_INT}")

    def numbers(self, key: str) -> tuple[int, ...] | None:
        value = self.values.get(key)
        if isinstance(value, list) and all(_is_number(item) and item >= 0 for item in value):
            return tuple(value)
        return self._without(key, "a list of whole numbers from 0")

    def word(self, key: str, words: tuple[str, ...]) -> str | None:
        value = self.values.get(key)
        if isinstance(value, str) and value.lower() in words:
            return value.lower()
        return self._without(key, f"one of {', '.join(words)}")

    def switch(self, key: str) -> bool | None:
        value = self.values.get(key)
        return value if isinstance(value, bool) else self._without(key, "true or false")

    def _without(self, key: str, expected: str) -> None:
        if key in self.values:
            log.warning("%s: %s is %.80a; it should be %s. It counts as not given.", self.file, key, self.values[key], expected)


def _load(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as cause:
        raise InternalServerException(
            f"{path.name} cannot be read: PyYAML is not installed. Install stateserve[torchserve]."
        ) from cause
    if (size_bytes := path.stat().st_size) > MAX_BYTES:
        _refuse(path, f"it has {size_bytes} bytes, and {MAX_BYTES} at most are read")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = path.read_text(encoding="utf-8")
        _check_levels(path, yaml.parse(text, Loader=loader))
        node = yaml.compose(text, Loader=loader)
        if _count(node, {}) > MAX_VALUES:
            _refuse(path, f"it has more than {MAX_VALUES} values, those that aliases repeat counted each time")
        document = yaml.load(text, Loader=loader)  # noqa: S506 - a safe loader, of C where there is one
    except RecursionError as cause:
        _refuse(path, "an alias in it stands for something that it is part of", cause)
    except (yaml.YAMLError, ValueError) as cause:
        _refuse(path, f"it is not YAML: {' '.join(str(cause).split())}", cause)
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        _refuse(path, "it is not a mapping with texts as keys, as in batchSize: 4")
    return document


def _refuse(path: Path, why: str, cause: Exception | None = None) -> NoReturn:
    raise InvalidModelException(
        f"Failed to parse model config file {path.name}: {why}. Mend it, and pack the archive again."
    ) from cause


def _check_levels(path: Path, events: Any) -> None:
    """Counts levels before any tree is built, since building one goes down as deep as it is."""
    import yaml

    level = 0
    for event in events:
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > MAX_LEVELS:
            _refuse(path, f"line {event.start_mark.line + 1} is more than {MAX_LEVELS} levels deep")


def _count(node: Any, counted: dict[int, int]) -> int:
    """How many values a node has if each alias is written out; without end (RecursionError) where one stands in itself."""
    if id(node) not in counted:
        value = getattr(node, "value", None)
        children = (
            [part for pair in value for part in (pair if isinstance(pair, tuple) else (pair,))] if isinstance(value, list) else []
        )
        counted[id(node)] = 1 + sum(_count(child, counted) for child in children)
    return counted[id(node)]
