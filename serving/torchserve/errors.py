"""Errors as TorchServe tells them: the class name is the `type` on the wire, `status` the HTTP status.

- TorchServeError
  - BadRequestException, ModelException, InvalidModelException, InvalidKeyException,
    DownloadArchiveException                                                   the request, or what it names, is wrong (400)
  - InvalidModelVersionException                                               it is understood, and not allowed (403)
  - ResourceNotFoundException, ModelNotFoundException, ModelVersionNotFoundException    there is no such thing (404)
  - MethodNotAllowedException                                                  the path has no such method (405)
  - RequestTimeoutException                                                    it took too long (408)
  - ConflictStatusException                                                    it is there already (409)
  - InternalServerException                                                    the worker, or the server, failed (500, or other)
  - ServiceUnavailableException                                                no worker, or a full queue (503)
"""

from typing import ClassVar

from serving.errors import ServingError

NOT_FOUND = "Requested resource is not found, please refer to API document."
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
"""What TorchServe says of every path, and of every method, that it does not have."""


class TorchServeError(ServingError):
    """A request that TorchServe would not answer with success."""


class BadRequestException(TorchServeError):
    """The request is wrong."""

    status: ClassVar[int] = 400


class ModelException(TorchServeError):
    """What the archive asks for cannot be had."""

    status: ClassVar[int] = 400


class InvalidModelException(TorchServeError):
    """The archive is not one that can be run."""

    status: ClassVar[int] = 400


class InvalidKeyException(TorchServeError):
    """The token is wrong, too old, or was not given."""

    status: ClassVar[int] = 400


class DownloadArchiveException(TorchServeError):
    """The archive could not be fetched."""

    status: ClassVar[int] = 400


class InvalidModelVersionException(TorchServeError):
    """The version cannot be taken away, since it is the default and others exist."""

    status: ClassVar[int] = 403


class ResourceNotFoundException(TorchServeError):
    """No such path."""

    status: ClassVar[int] = 404


class ModelNotFoundException(TorchServeError):
    """No such model."""

    status: ClassVar[int] = 404


class ModelVersionNotFoundException(TorchServeError):
    """No such version of a model."""

    status: ClassVar[int] = 404


class MethodNotAllowedException(TorchServeError):
    """The path has no such method."""

    status: ClassVar[int] = 405


class RequestTimeoutException(TorchServeError):
    """It took too long."""

    status: ClassVar[int] = 408


class ConflictStatusException(TorchServeError):
    """The version is registered already."""

    status: ClassVar[int] = 409


class InternalServerException(TorchServeError):
    """The server failed (500), or a worker did, which says with which status; `traceback_id` is that of the log's traceback."""

    def __init__(self, message: str, status: int = 500, traceback_id: str | None = None) -> None:
        super().__init__(message)
        self.traceback_id = traceback_id
        self.status = status  # pyright: ignore[reportAttributeAccessIssue] - each failure of a worker has its own


class ServiceUnavailableException(TorchServeError):
    """No worker is there, or its queue is full; the client may ask again after `retry_after_s`."""

    status: ClassVar[int] = 503

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
