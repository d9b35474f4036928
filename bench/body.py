"""What a request is made of: raw values, or the bytes of its body."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artifact.operations.raw import RawValue


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body and the headers that explain it."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Raws:
    """One request's raw values: for each raw input, one for every row."""

    by_name: Mapping[str, Sequence[RawValue]]

    @property
    def rows(self) -> int:
        """How many rows it asks for."""
        return len(next(iter(self.by_name.values())))

    def row(self, number: int) -> dict[str, RawValue]:
        """One row's values by raw input."""
        return {name: values[number] for name, values in self.by_name.items()}
