"""A section of the page: what every file in `sections/` makes, or nothing where there are no data for it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, what must be known to read it, and what is shown: pictures, tables, paragraphs.

    `key` is its place in the page's address; `short` is its name in the list at the top.
    """

    key: str
    title: str
    short: str
    introduction: str
    parts: Sequence[str]
