"""What a request asks for, whichever protocol it came by; and what a protocol must be able to do."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from artifact.raw_limits import RawLimits
from serving.messages import Answer, Request

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts at most.

    `unaligned`: arrays that are views of a body may begin anywhere in it, for whoever copies them before anything else. `raw`:
    what a picture, a text or a row may hold.
    """

    max_body_bytes: int = 64 << 20
    max_tensors: int = 64
    max_json_depth: int = 64
    max_rows: int = 1024
    unaligned: bool = False
    raw: RawLimits = field(default_factory=RawLimits)


@dataclass(slots=True)
class Asked:
    """A decoded request.

    `inputs` have the signature's names, dtypes and shapes (values are checked later, on the joined batch). `rows` is the size of
    the batch dimension, 1 where the signature has none. Requests of one `group` can be joined: their shapes differ in rows only.
    `timeout_s` counts from the request's arrival. `reply` is the protocol's own note of how the answer shall look.
    """

    inputs: Arrays
    rows: int
    group: Any
    reply: Any
    priority: int = 0
    timeout_s: float | None = None


class Codec(Protocol):
    """One protocol for one served version: bytes to arrays, and arrays to bytes."""

    def decode(self, request: Request) -> Asked:
        """What the request asks.

        Raises:
            ServingError, InvalidInput: it is not one that this protocol, or the model, takes.
        """
        ...

    def parsed_bytes(self, request: Request) -> int:
        """How many bytes `decode` has to parse: JSON, as opposed to arrays that are taken as they lie there."""
        ...

    def encode(self, asked: Asked, outputs: Arrays) -> Answer:
        """The answer to what was asked; `outputs` hold as many rows as were asked."""
        ...
