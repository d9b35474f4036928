"""Operations on outputs."""

from collections.abc import Mapping

from artifact.operations.kinds import OutputOperation

OPERATIONS: Mapping[str, type[OutputOperation]] = {}
