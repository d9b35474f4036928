"""Errors on their way from an engine process to the front end whose request they belong to: a number, a text, seconds."""

import logging

from artifact.errors import EngineFailed, InvalidInput, OutOfMemory
from serving.errors import ClientLeft, DeadlinePassed, QueueFull

log = logging.getLogger("stateserve")

_KINDS: tuple[type[Exception], ...] = (InvalidInput, OutOfMemory, EngineFailed, DeadlinePassed, ClientLeft, QueueFull)
_FAILED = _KINDS.index(EngineFailed) + 1
_MOST_CHARACTERS = 4000
_MOST_S = (1 << 16) - 1


def numbered(error: BaseException) -> tuple[int, str, int]:
    """An error's number (not 0), its text, and the seconds after which to ask again.

    What is none of the known kinds is a failure of the engine, and told in full in this process' log.
    """
    kind = next((number for number, kind in enumerate(_KINDS, 1) if isinstance(error, kind)), 0)
    text = str(error)
    if not kind:
        log.error("a call of the engine failed", exc_info=error)
        kind, text = _FAILED, f"{type(error).__name__}: {text}"
    retry_after_s = min(error.retry_after_s, _MOST_S) if isinstance(error, QueueFull) else 0
    return kind, text[:_MOST_CHARACTERS], retry_after_s


def error_of(kind: int, text: str, retry_after_s: int) -> Exception:
    """The inverse of `numbered`."""
    error = _KINDS[kind - 1]
    return QueueFull(text, retry_after_s) if error is QueueFull else error(text)
