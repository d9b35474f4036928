"""Errors of the serving room; `status` is the HTTP status that the client sees (only `serving.app` sends it).

- ServingError
  - SettingsError        a setting is unknown or wrong (the server does not start)
  - NoRepository         the model repository is not a directory (the server does not start)
  - PortTaken            another process listens there (the server does not start)
  - BadRequest           the request is not one that we read (400)
  - NotAllowed           the settings do not let this client do that (403)
  - ModelNotFound        no model of that name, or version, is in the repository (404)
  - NotAcceptable        none of the forms that the client accepts is one that we write (406)
  - BodyTimeout          the body did not arrive in `body_timeout_s` (408)
  - BodyTooLarge         the body is larger than `max_body_bytes` (413)
  - UnsupportedBody      the body's content type or encoding is not one that we read (415)
  - ClientLeft           the client left before its answer was there (499: nobody reads it)
  - LoadFailed           a version failed its checks when it was to be loaded (400)
  - ModelNotReady        the model is there, but failed its checks (503)
  - EngineLost           the engine's process ended while it had the request (503, with Retry-After)
  - QueueFull            more rows wait than `max_queue_rows` (503, with Retry-After)
  - DeadlinePassed       the request's own deadline passed before the engine could begin (504)
"""

from collections.abc import Sequence
from typing import ClassVar

from foundation.errors import StateserveError

_SHOWN = 20


class ServingError(StateserveError):
    """The server cannot start, or a request cannot be answered."""

    status: ClassVar[int] = 500


class SettingsError(ServingError):
    """A setting is unknown or wrong."""

    exit_code: ClassVar[int] = 2


class NoRepository(ServingError):
    """The model repository is not a directory."""

    exit_code: ClassVar[int] = 2


class PortTaken(ServingError):
    """Another process listens on the address."""


class BadRequest(ServingError):
    """The request is not one that we read."""

    status: ClassVar[int] = 400


class BodyTooLarge(ServingError):
    """The body is larger than the settings allow."""

    status: ClassVar[int] = 413


class ModelNotFound(ServingError):
    """No model of that name, or version, is in the repository."""

    status: ClassVar[int] = 404


class ModelNotReady(ServingError):
    """The model is there, but failed its checks: the server's fault, and told in full, since the client cannot mend it."""

    status: ClassVar[int] = 503


class NotAllowed(ServingError):
    """The settings do not let this client do that."""

    status: ClassVar[int] = 403


class NotAcceptable(ServingError):
    """None of the forms that the client accepts is one that we write."""

    status: ClassVar[int] = 406


class BodyTimeout(ServingError):
    """The body did not arrive in the time that the settings allow."""

    status: ClassVar[int] = 408


class UnsupportedBody(ServingError):
    """The body's content type or encoding is not one that we read."""

    status: ClassVar[int] = 415


class ClientLeft(ServingError):
    """The client left before its answer was there; its rows that still waited were dropped."""

    status: ClassVar[int] = 499


class LoadFailed(ServingError):
    """A version failed its checks when it was to be loaded; what was served before is served on."""

    status: ClassVar[int] = 400


class EngineLost(ServingError):
    """The engine's process ended while it had the request; it is replaced, and `retry_after_s` is when to ask again."""

    status: ClassVar[int] = 503
    retry_after_s = 1


class QueueFull(ServingError):
    """More rows wait than the settings allow; `retry_after_s` is when they should have been answered."""

    status: ClassVar[int] = 503

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlinePassed(ServingError):
    """The request's own deadline passed before the engine could begin."""

    status: ClassVar[int] = 504


def listed(names: Sequence[object]) -> str:
    """What there is, as a message tells it: the first names, and how many more; `none`."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(str, names[:_SHOWN])) or 'none'}{more}"
