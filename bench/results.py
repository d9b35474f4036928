"""What a load test found: `results.json`, from which the report, the CSV and every comparison are made.

Each class is one object of the file; docs/results.schema.json is made from them. Latencies are in milliseconds, everything else
in the unit that its name ends with. `None` is what could not be known: a remote server's memory, a peer's stages.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from bench.errors import NoResults

SCHEMA = 1
OURS = "stateserve"
"""The contender that the others are compared with: whatever server was given by its URL."""


class Part(BaseModel, frozen=True, extra="forbid"):
    """One object of the file."""


class Latency(Part, frozen=True):
    """Milliseconds from the moment a request should have been sent to its whole answer; requests answered with 2xx only.

    `curve` has the latency at growing shares of the requests, for a plot: pairs of share (0 to 1) and milliseconds.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float
    curve: Sequence[tuple[float, float]] = ()


class KindUse(Part, frozen=True):
    """What the server's processes of one kind took: CPU seconds of all of them, and how many were seen."""

    cpu_s: float
    processes: int


class ServerUse(Part, frozen=True):
    """What the server's processes took while the load ran: CPU seconds of them all, and the most memory seen at once.

    `kinds` has the front ends, engine processes and control of a server of ours that is several processes; else nothing.
    """

    cpu_s: float
    rss_bytes: int
    processes: int
    kinds: Mapping[str, KindUse] = {}


class GpuUse(Part, frozen=True):
    """One GPU while the load ran: means of its utilisation (0 to 1) and power, and the most memory seen."""

    name: str
    utilisation: float
    power_w: float
    memory_bytes: int


class Stages(Part, frozen=True):
    """Mean milliseconds of a request's stages by the server's own histograms, before and after; `client` is all the rest."""

    decode: float
    queue: float
    infer: float
    encode: float
    client: float
    rows_per_call: float


class Round(Part, frozen=True):
    """One load, measured once. `offered` counts requests that were due in it, `requests` those of them answered with 2xx.

    In an open loop every request is waited for, after the load's end too, and its latency counts. `in_time` are the answers with
    2xx that came within the load's seconds, whenever they were due: a backlog of the warm-up is answered in them, too.

    `client_busy` is the share of a core that the load generator's busiest process used; `machine_busy` that of all cores of the
    machine that both run on, None where the server is elsewhere.
    """

    seconds: float
    offered: int
    requests: int
    in_time: int
    rows: int
    errors: Mapping[str, int]
    latency_ms: Latency | None
    sent_bytes: int
    received_bytes: int
    client_busy: float
    machine_busy: float | None
    server: ServerUse | None = None
    gpus: Sequence[GpuUse] = ()
    stages_ms: Stages | None = None

    @property
    def requests_per_s(self) -> float:
        """Answers with 2xx in a second, while the load lasted."""
        return self.in_time / self.seconds

    @property
    def rows_per_s(self) -> float:
        """Rows of those answers in a second."""
        return self.requests_per_s * self.rows / self.requests if self.requests else 0.0


class Case(Part, frozen=True):
    """One load on one contender, in every round. In an open loop `rate_per_s` requests are due in a second, Poisson-distributed.

    `connections` wait for an answer each before they ask again (closed loop), or are the most that may be open (open loop).
    """

    contender: str
    loop: Literal["closed", "open"]
    connections: int
    rate_per_s: float | None
    rounds: Sequence[Round]

    @property
    def load(self) -> tuple[str, str, int, float | None]:
        """What makes two cases the same."""
        return self.contender, self.loop, self.connections, self.rate_per_s

    @property
    def requests_per_s(self) -> float:
        """The median over the rounds."""
        return median(one.requests_per_s for one in self.rounds)

    @property
    def rows_per_s(self) -> float:
        """The median over the rounds."""
        return median(one.rows_per_s for one in self.rounds)

    def latency_ms(self, name: str) -> float | None:
        """The median over the rounds of one number of `Latency`; None where a round had no answer."""
        found = [getattr(one.latency_ms, name) for one in self.rounds if one.latency_ms is not None]
        return median(found) if len(found) == len(self.rounds) and found else None


class Contender(Part, frozen=True):
    """A server that was asked: ours, or a peer with the same model. `about` says how it runs the model, in a sentence."""

    title: str
    about: str
    settings: Mapping[str, str] = {}


class BoundPoint(Part, frozen=True):
    """The engine alone with so many rows in a call: seconds of one call (the median), and rows in a second."""

    rows: int
    call_s: float
    rows_per_s: float


class Bound(Part, frozen=True):
    """What the engine can do without any server, in a process of its own. `fit` is t(n) = per_row_s · n + per_call_s."""

    engine: str
    threads: int
    instances: int
    device: str
    points: Sequence[BoundPoint]
    per_row_s: float
    per_call_s: float

    @property
    def best(self) -> BoundPoint:
        """The batch size with the most rows in a second."""
        return max(self.points, key=lambda point: point.rows_per_s)


class Probe(Part, frozen=True):
    """One rate that was tried in the search for the highest that holds the target."""

    rate_per_s: float
    achieved_per_s: float
    latency_ms: float | None
    held: bool
    why_not: str = ""


class Slo(Part, frozen=True):
    """The search: the target, the highest rate that held it twice (None: none did, or none was tried), and all probes."""

    target: str
    quantile: str
    limit_ms: float
    highest_per_s: float | None
    probes: Sequence[Probe]


class ModelAsked(Part, frozen=True):
    """The model under test, by what its server says of it."""

    name: str
    version: str | None
    signature: Mapping[str, Any] | None
    facts: Mapping[str, str] = {}


class PayloadSent(Part, frozen=True):
    """What every request carried: its protocol, how many different bodies took turns, rows and bytes of one (the mean)."""

    protocol: str
    different: int
    rows: float
    body_bytes: float


class Results(Part, frozen=True):
    """A whole load test. `complete` is false where it was stopped; `stopped_by` says why, and what was measured stays."""

    schema_version: Literal[1] = SCHEMA
    made_at: str
    command: str
    url: str
    complete: bool
    stopped_by: str | None
    machine: Mapping[str, Any]
    model: ModelAsked
    payload: PayloadSent
    contenders: Mapping[str, Contender]
    cases: Sequence[Case]
    bound: Bound | None = None
    slo: Slo | None = None
    notes: Sequence[str] = ()

    def closed(self, contender: str = OURS) -> list[Case]:
        """A contender's closed loops, by connections."""
        found = [case for case in self.cases if case.contender == contender and case.loop == "closed"]
        return sorted(found, key=lambda case: case.connections)

    def open(self, contender: str = OURS) -> list[Case]:
        """A contender's open loops, by rate."""
        found = [case for case in self.cases if case.contender == contender and case.loop == "open"]
        return sorted(found, key=lambda case: case.rate_per_s or 0.0)


def write(results: Results, path: Path) -> None:
    """Writes results.json whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(results.model_dump_json() + "\n")
    temporary.replace(path)


def read(path: Path) -> Results:
    """The inverse of `write`.

    Raises:
        NoResults: there is no such file, or it is not of this schema.
    """
    try:
        return Results.model_validate_json(path.read_bytes())
    except OSError as cause:
        raise NoResults(f"{path} cannot be read: {cause.strerror}; give a results.json that a load test wrote") from cause
    except ValidationError as cause:
        first = cause.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise NoResults(f"{path} is no results.json of schema {SCHEMA}: {where}: {first['msg']}") from cause
