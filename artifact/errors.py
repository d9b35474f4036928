"""Errors of the artifact room.

- ArtifactError
  - NotAnArtifact        the directory has no manifest that we read
  - DamagedArtifact      a file is missing, added, linked, or its bytes are not those that the manifest states
  - EngineUnavailable    the engine is not in the artifact, not installed, or refuses the model
  - GoldenMismatch       an engine answers a golden case outside its budget
  - InvalidInput         a request is not what the signature declares (the client's fault)
  - EngineFailed         the engine failed on a valid request (the server's fault)
    - OutOfMemory          the device has no memory for so many rows
    - DeviceLost           the device fails in every call from now on, until the process is started again
"""

from foundation.errors import StateserveError


class ArtifactError(StateserveError):
    """An artifact cannot be used, or a request to it cannot be answered."""


class NotAnArtifact(ArtifactError):
    """The directory has no manifest that we read."""


class DamagedArtifact(ArtifactError):
    """A file is missing, added, linked, or its bytes are not those that the manifest states."""


class EngineUnavailable(ArtifactError):
    """The engine is not in the artifact, not installed, or refuses the model."""


class GoldenMismatch(ArtifactError):
    """An engine answers a golden case outside its budget."""


class InvalidInput(ArtifactError):
    """A request is not what the signature declares: the client's fault."""


class EngineFailed(ArtifactError):
    """The engine failed on a request that the signature allows: the server's fault."""


class OutOfMemory(EngineFailed):
    """The device has no memory for so many rows; fewer may fit."""


class DeviceLost(EngineFailed):
    """The device fails in every call from now on; another process may find it well."""
