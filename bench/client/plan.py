"""What one process of the generator is told: a JSON file, and the requests' bytes in files beside it."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.client.load import Load, Request

Address = tuple[int, str, int]
"""An address that needs no look-up: the socket's family, a numeric host, and the port."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One process's share of a load. Its requests begin with the one at `first`, so that processes do not all ask the same.

    `requests` are pairs of a file and the rows that it asks for; `arrays` is where the latencies are written.
    """

    address: Address
    requests: Sequence[tuple[str, int]]
    first: int
    connections: int
    duration_s: float
    warmup_s: float
    rate_per_s: float | None
    timeout_s: float
    seed: tuple[int, int]
    arrays: str

    def read_requests(self) -> list[Request]:
        """The requests in the order in which this process sends them."""
        made = [Request(Path(path).read_bytes(), rows) for path, rows in self.requests]
        return made[self.first :] + made[: self.first]


def write(load: Load, address: Address, folder: Path) -> list[Path]:
    """Splits a load among its processes: connections as evenly as they go, the rate as the connections; the plans' files."""
    requests = [(str(folder / f"request-{number}"), one.rows) for number, one in enumerate(load.requests)]
    for (path, _), one in zip(requests, load.requests, strict=True):
        Path(path).write_bytes(one.content)
    processes = min(load.processes, load.connections)
    plans = []
    for place in range(processes):
        connections = load.connections // processes + (place < load.connections % processes)
        plan = Plan(
            address=address,
            requests=requests,
            first=place * len(requests) // processes,
            connections=connections,
            duration_s=load.duration_s,
            warmup_s=load.warmup_s,
            rate_per_s=None if load.rate_per_s is None else load.rate_per_s * connections / load.connections,
            timeout_s=load.timeout_s,
            seed=(load.seed, place),
            arrays=str(folder / f"arrays-{place}.npz"),
        )
        plans.append(folder / f"plan-{place}.json")
        plans[-1].write_text(json.dumps(dataclasses.asdict(plan)))
    return plans


def read(path: Path) -> Plan:
    """The inverse of `write`, for one process."""
    said = json.loads(path.read_text())
    family, host, port = said.pop("address")
    requests = [(file, rows) for file, rows in said.pop("requests")]
    first, second = said.pop("seed")
    return Plan(address=(family, host, port), requests=requests, seed=(first, second), **said)
