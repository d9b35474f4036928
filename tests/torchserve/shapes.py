"""What a comparison is made of: scenarios of requests, and the answers to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Connector = Literal["inference", "management", "metrics"]


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `{…}` in the target and the header values is filled from what the running server has (see `servers`).

    `chunked` sends the body in chunks; `times` sends so many at once, whose answers are compared sorted; `wait_s` is how long
    an answer is awaited: one that does not come then is an answer too. `either` are statuses of which
    TorchServe gives now this one, now that; where one is of another class (200, 404), the rest of the answer is not compared.
    """

    method: str
    target: str
    on: Connector = "inference"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    note: str = ""
    chunked: bool = False
    times: int = 1
    wait_s: float = 60
    either: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What a person calls it; it is unique within its scenario."""
        return f"{self.on} {self.method} {self.target}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True, slots=True)
class Settle:
    """Waits, without recording, until so many workers of a model are ready; a version is given as `model/version`."""

    model: str
    workers: int


@dataclass(frozen=True, slots=True)
class Later:
    """Sends a request that is answered while the following ones are asked: its answer is recorded at the next `Gather`."""

    ask: Ask
    pause_s: float = 0.3


@dataclass(frozen=True, slots=True)
class Gather:
    """The answers to all requests that were sent by `Later` are awaited."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Waits for what nothing tells the end of."""

    seconds: float


Step = Ask | Settle | Later | Gather | Pause


@dataclass(frozen=True, slots=True)
class Scenario:
    """One start of a server, and what is asked of it in this order."""

    name: str
    what: str
    steps: tuple[Step, ...]
    archives: tuple[str, ...] = ("echo",)
    models: tuple[str, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ("--disable-token-auth", "--enable-model-api", "--ncs")
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: Mapping[str, int] = field(default_factory=dict)

    def asks(self) -> list[Ask]:
        """All requests, in the order in which they are sent."""
        return [step.ask if isinstance(step, Later) else step for step in self.steps if isinstance(step, (Ask, Later))]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it came.

    `status` is None where none came, with the phrase "refused" where nobody listens; `continued` where the server first asked for
    the body; `closed` where it ended the connection.
    """

    status: int | None
    phrase: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    closed: bool = False
    continued: bool = False
