"""Errors of the operations; `status` is the HTTP status of a request that has one.

- InvalidInput (400)
  - BadRaw            a raw value that is not what its operations take
    - BadImage        bytes that are no picture that we read
    - BadText         text that cannot be tokenised as declared
    - BadRow          a row that lacks a column, or holds a value that is not of its kind
    - TooLarge        more pixels, frames, bytes or tokens than the limits allow (413)
- EngineUnavailable
  - OperationsUnavailable   a package that the operations need is not installed
- BadOperations       the declaration is wrong; `path` says where in the YAML

- ValueError
  - BadParameter      what an operation itself says, where one of its parameters is at fault
"""

from typing import ClassVar

from artifact.errors import ArtifactError, EngineUnavailable, InvalidInput


class BadRaw(InvalidInput):
    """A raw value that is not what its operations take."""


class BadImage(BadRaw):
    """Bytes that are no picture that we read."""


class BadText(BadRaw):
    """Text that cannot be tokenised as declared."""


class BadRow(BadRaw):
    """A row that lacks a column, or holds a value that is not of its kind."""


class TooLarge(BadRaw):
    """More pixels, frames, bytes or tokens than the limits allow."""

    status: ClassVar[int] = 413


class OperationsUnavailable(EngineUnavailable):
    """A package that the operations need is not installed; the message gives the line that installs it."""


class BadOperations(ArtifactError):
    """The declaration of operations is wrong; `path` leads to the place in the YAML, from `preprocess` or `postprocess` on.

    The message begins with the path.
    """

    def __init__(self, problem: str, path: tuple[str | int, ...]) -> None:
        super().__init__(f"{'.'.join(map(str, path))}: {problem}")
        self.path = path


class BadParameter(ValueError):
    """What an operation itself says, where one of its parameters is at fault; `path` leads to it."""

    def __init__(self, problem: str, *path: str | int) -> None:
        super().__init__(problem)
        self.path = path
