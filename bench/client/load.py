"""One load, and what came of it: what the generator's processes are told, and what they tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Request:
    """One request, every byte as it goes over the connection, and how many rows it asks for."""

    content: bytes
    rows: int


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to one server, taken in turn.

    Without `rate_per_s`, a closed loop: `connections` that each wait for an answer before they ask again. With it, an open loop:
    so many requests are due in a second, at the moments of a Poisson process, whatever the server does; `connections` is the most
    that may be open at once, and a request that finds none waits for one while its latency runs.

    `warmup_s` come before the measured `duration_s`, under the same load, and are not counted. A request without an answer after
    `timeout_s` has failed, and its connection is closed.
    """

    host: str
    port: int
    requests: Sequence[Request]
    connections: int
    duration_s: float
    warmup_s: float = 0.0
    rate_per_s: float | None = None
    timeout_s: float = 30.0
    processes: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one load measured in its window of `seconds`, the warm-up left out.

    `latencies_s` has one number per request answered with 2xx, from the moment it should have been sent (open loop) or was sent
    (closed loop) to its last byte; `answered_s` says when, from the window's beginning, in that order. `errors` counts the others
    by kind, such as `status 503` or `timeout`. `offered` is the sum of both.

    An open loop counts the requests that were due in the window, and waits for every one of them, after its end too. A closed
    loop counts the answers that came in the window, to requests sent in it or before; after its end it waits for what is under
    way, and counts only what of it fails.

    How many a server answers in a second is told by `in_time`: the answers with 2xx whose last byte came within the window,
    whenever their requests were due, in the warm-up too. In a closed loop it is the number of `latencies_s`.

    `client_busy` is the share of a core that the busiest process used in the window. `waited` are the requests due in the window
    that found every connection in use, and were sent, or failed, later; in a closed loop there are none.
    """

    seconds: float
    offered: int
    latencies_s: np.ndarray
    answered_s: np.ndarray
    rows: int
    errors: Mapping[str, int]
    sent_bytes: int
    received_bytes: int
    client_busy: float
    in_time: int = 0
    waited: int = 0
