"""What travels between the front end and a worker: one request's job, and its reply."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field


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


@dataclass(slots=True)
class Reply:
    """What the handler answered to one job. `more` are the parts that follow the body, where the handler streams."""

    body: bytes
    status: int = 200
    phrase: str = ""
    content_type: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    more: AsyncIterator[bytes] | None = None
