"""Errors of the export room; the exit code is what `python -m export` ends with.

- ExportError
  - ConfigError        the YAML, or the command line, is wrong (exit 2)
  - WeightsMismatch    the checkpoint's tensors do not fit the model (exit 5)
  - CaptureFailed      the model cannot be captured as declared (exit 7)
  - ParityFailed       the numbers disagree, or the model fails on a declared input (exit 8)
  - WriteFailed        the artifact could not be written (exit 9)

The checkpoints room adds exit codes 3 to 6, see `checkpoints.errors`.
"""

from typing import ClassVar

from foundation.errors import StateserveError


class ExportError(StateserveError):
    """An export that wrote nothing."""


class ConfigError(ExportError):
    """The YAML, or the command line, is wrong."""

    exit_code: ClassVar[int] = 2


class WeightsMismatch(ExportError):
    """The checkpoint's tensors do not fit the model."""

    exit_code: ClassVar[int] = 5


class CaptureFailed(ExportError):
    """The model cannot be captured as declared."""

    exit_code: ClassVar[int] = 7


class ParityFailed(ExportError):
    """The numbers disagree, or the model itself fails on a declared input."""

    exit_code: ClassVar[int] = 8


class WriteFailed(ExportError):
    """The artifact could not be written."""

    exit_code: ClassVar[int] = 9
