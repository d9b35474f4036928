"""Errors of the bench room.

- BenchError
  - LoadToolMissing    wrk or ab, which make the load, is not installed (nothing is measured)
  - ProcessFailed      a process of ours did not start, or ended before its time
  - WrongAnswer        a server's numbers are not the engine's (its speed would mean nothing)
  - FailedLoad         some requests of a load were not answered, or not with success
  - NoResults          a results.json is not there, or is none
  - NotAsked           the server, its model or the payload is not what was asked for: nothing could be measured
  - NotTuned           an artifact could not be tuned: no engine of it runs here, or bench.json cannot be written
  - NotWritten         a file of the results could not be written
  - PeerMissing        a peer that was asked for is not installed here, or does not exist
  - ServerGone         the server stopped answering while it was measured; what was measured by then is kept
"""

from typing import ClassVar

from bench.client.load import Outcome
from foundation.errors import StateserveError


class BenchError(StateserveError):
    """A measurement could not be made."""


class LoadToolMissing(BenchError):
    """wrk or ab, which make the load, is not installed."""

    exit_code: ClassVar[int] = 2


class ProcessFailed(BenchError):
    """A process of ours did not start, or ended before its time."""


class WrongAnswer(BenchError):
    """A server's numbers are not the engine's."""

    exit_code: ClassVar[int] = 2


class FailedLoad(BenchError):
    """Some requests of a load were not answered, or not with success."""


class NoResults(BenchError):
    """A results.json is not there, or is none."""

    exit_code: ClassVar[int] = 2


class NotAsked(BenchError):
    """The server, its model or the payload is not what was asked for: nothing could be measured."""

    exit_code: ClassVar[int] = 2


class NotTuned(BenchError):
    """An artifact could not be tuned: no engine of it runs here, or bench.json cannot be written."""

    exit_code: ClassVar[int] = 2


class NotWritten(BenchError):
    """A file of the results could not be written."""


class PeerMissing(BenchError):
    """A peer that was asked for is not installed here, or does not exist."""

    exit_code: ClassVar[int] = 2


class ServerGone(BenchError):
    """The server stopped answering while it was measured; `outcome` is what was measured by then, if anything was."""

    def __init__(self, message: str, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome
