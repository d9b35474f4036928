"""Operations of this kind."""

from collections.abc import Mapping

from artifact.operations.kinds import InputOperation

OPERATIONS: Mapping[str, type[InputOperation]] = {}
