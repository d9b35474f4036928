"""A request and an answer, as our handlers see them whichever server brought them: our own two tiny types."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

Leaving = Callable[[], Awaitable[None]]
"""Gives something that ends when the client leaves."""


class Headers(Protocol):
    """What we need of a server's headers: names are asked for in lower case."""

    def get(self, key: str, /) -> str | None:
        """The value of a header, or None."""
        ...

    def items(self) -> Iterable[tuple[str, str]]:
        """All of them, repeated ones each time."""
        ...


@dataclass(slots=True)
class Request:
    """One request, its body whole. `path` is percent-decoded; `query` is what follows the question mark, as it was sent."""

    method: str
    path: str
    query: str
    headers: Headers
    body: bytes


@dataclass(slots=True)
class Answer:
    """One answer: status, headers (lower-case names, `content-length` left to the server) and body."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)


def parameter(query: str, name: str) -> str | None:
    """The value of a parameter of a query, of several of that name the last."""
    found = [value for key, _, value in (pair.partition("=") for pair in query.split("&")) if key == name] if query else []
    return found[-1] if found else None
