"""Raw inputs: what a client sends where operations make the tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

RawKind = Literal["image", "text", "pair", "row"]
RawValue = bytes | str | tuple[str, str] | Mapping[str, Any]
"""A picture's file, a text, two texts, or a table's row by column."""


@dataclass(frozen=True, slots=True)
class RawSpec:
    """One raw input: its name, its kind, the tensors that it becomes, and what a person may know of it.

    `details` is plain JSON data: a row's columns with their kinds and values, an image's mode, a text's most tokens.
    """

    name: str
    kind: RawKind
    makes: tuple[str, ...]
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The spec as metadata tells it."""
        return {"name": self.name, "kind": self.kind, "makes": list(self.makes), **self.details}
