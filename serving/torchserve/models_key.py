"""The key `models`: parameters of single versions, checked where they are read, so that a slip does not go by in silence."""

import difflib
from collections.abc import Mapping
from typing import Any

NUMBERS = frozenset({"minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout"})
"""Whole numbers from 0, which may stand as texts too."""
OTHERS = frozenset(
    {
        *("marName", "handler", "runtimeType", "defaultVersion", "loadedAtStartup"),
        *(
            "parallelType",
            "parallelLevel",
            "deviceType",
            "deviceIds",
            "continuousBatching",
            "useJobTicket",
            "useVenv",
            "stateful",
        ),
        *("maxRetryTimeoutInSec", "clientTimeoutInMills", "jobQueueSize"),
        *("sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence", "maxSequenceJobQueueSize"),
    }
)
"""What else TorchServe writes there."""


def checked_models(models: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Parameters by model and version, numbers as numbers.

    Raises:
        ValueError: a model, a version, or what is said of one is no JSON object; a parameter is unknown, or not of its type.
    """
    return {
        name: {version: _entry(f"{name}.{version}", entry) for version, entry in _object(name, versions).items()}
        for name, versions in models.items()
    }


def _entry(where: str, entry: Any) -> dict[str, Any]:
    return {key: _value(f"{where}.{key}", key, value) for key, value in _object(where, entry).items()}


def _object(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {value!r}; it should be an object, as in {{NAME: {{VERSION: {{batchSize: 8}}}}}}")  # noqa: TRY004
    return value


def _value(where: str, key: str, value: Any) -> Any:
    if key not in NUMBERS | OTHERS:
        near = difflib.get_close_matches(key, sorted(NUMBERS | OTHERS), n=1)
        hint = f"nearest: {near[0]}" if near else f"known: {', '.join(sorted(NUMBERS | OTHERS))}"
        raise ValueError(f"{where} is unknown; {hint}")
    if key not in NUMBERS:
        return value
    text = str(value)
    if isinstance(value, bool) or not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"{where} is {value!r}; it should be a whole number from 0")
    return int(text)
