"""What travels between the front end and a worker: one request's job, and its reply."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from serving.messages import Request

STATUSES = range(200, 1000)
"""What an answer can have for a status; granian ends the whole process at one that is no HTTP status."""


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a request: `body`, or a field of a form. The worker decodes it by its content type ("" if it has none)."""

    name: str
    content_type: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Job:
    """One prediction request, as the worker is given it."""

    request_id: str
    headers: tuple[tuple[str, str], ...]
    inputs: tuple[Input, ...]


def told_headers(request: Request) -> tuple[tuple[str, str], ...]:
    """A request's headers as its handler is given them: its length is always among them."""
    told = tuple(request.headers.items())
    if request.headers.get("content-length") is None:
        told = (*(pair for pair in told if pair[0] != "transfer-encoding"), ("content-length", str(len(request.body))))
    return told


@dataclass(slots=True)
class Reply:
    """What the handler answered to one job. `more` are the parts that follow the body, where the handler streams.

    `phrase` is its own for the status; HTTP servers send the standard one.
    """

    body: bytes
    status: int = 200
    phrase: str = ""
    content_type: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    more: AsyncIterator[bytes] | None = None
