"""Errors of the serving room; `status` is the HTTP status that the client sees (only `serving.app` sends it).

- ServingError
  - SettingsError        a setting is unknown or wrong (the server does not start)
  - NoRepository         the model repository is not a directory (the server does not start)
  - PortTaken            another process listens there (the server does not start)
  - BadRequest           the request is not one that we read (400)
  - BodyTooLarge         the body is larger than `max_body_bytes` (413)
  - ModelNotFound        no model of that name, or version, is in the repository (404)
  - ModelNotReady        the model is there, but failed its checks (503)
"""

from typing import ClassVar

from foundation.errors import StateserveError


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
