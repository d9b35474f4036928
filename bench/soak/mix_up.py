"""No mix-up: every answer is that to its own question."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bench.payloads import BODIES, first_output
from bench.soak.client import Answer, ConnectionLost, connect, post
from bench.soak.finding import Faults, Finding, Soak, told_by_tenths
from bench.soak.models import COLUMNS, INPUT, SoakModel, doubled, mirrored
from bench.soak.server import started, write_model

REQUESTS = 200_000
CONNECTIONS = 64
MOST_ROWS = 20
QUEUE_ROWS = CONNECTIONS * MOST_ROWS
"""None is refused: as many rows may wait as there can be."""
MODELS = {"doubled": doubled(), "mirrored": mirrored()}
SETTINGS = {"doubled": {"execution": "loop"}, "mirrored": {"execution": "process", "instances": 2}}
PATHS = {
    "OIP JSON": "/v2/models/{}/infer",
    "predictions JSON": "/predictions/{}",
    "OIP binary": "/v2/models/{}/infer",
    "raw": "/predictions/{}",
}
"""Where each kind of body of `bench.payloads` is sent."""
_WHERE = {False: "on the event loop, `mirrored` in two threads", True: "in every front end, `mirrored` in engine processes"}


async def mix_up(soak: Soak) -> Finding:
    """Random rows, all different, in every kind of body, to two models at once; each answer is compared with its own rows'."""
    repository = soak.repository("mix-up")
    for name, model in MODELS.items():
        write_model(repository, name, 1, model)
    asking = _Asking(soak, soak.count(REQUESTS))
    flags = (*soak.processes.flags(SETTINGS), "--max-queue-rows", str(QUEUE_ROWS))
    async with started(repository, *flags) as server:
        began = time.perf_counter()
        await asyncio.gather(*(asking.ask_on(server.port, number) for number in range(CONNECTIONS)))
        took_s = time.perf_counter() - began
        calls, rows = await server.counted("executions_total"), await server.counted("batch_rows_sum")
        asking.faults.require(rows == asking.rows, f"the engines ran {rows:.0f} rows, {asking.rows} were asked for")
    asking.faults.add_all(server.unforeseen())
    return Finding(
        "No mix-up",
        f"{CONNECTIONS} connections ask two models (`doubled` {_WHERE[soak.processes.engines > 0]}), each time one of "
        f"the two in one of the four kinds of body, with 1 to {MOST_ROWS} rows that no other request has. All of an answer's "
        "numbers are compared, and its request id.",
        {
            "requests": f"{asking.total:,}",
            "answers that are their own": f"{asking.right:,}",
            "rows": f"{asking.rows:,}",
            "rows in an engine call, mean": f"{rows / max(1, calls):.1f}",
            "requests/s, each checked": f"{asking.total / took_s:,.0f}",
        },
        asking.faults.lines(),
    )


@dataclass(slots=True)
class _Asking:
    soak: Soak
    total: int
    right: int = 0
    rows: int = 0
    faults: Faults = field(default_factory=Faults)
    serials: Iterator[int] = field(default_factory=itertools.count)

    async def ask_on(self, port: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        choices = list(itertools.product(MODELS.items(), BODIES.items()))
        tell = told_by_tenths(self.soak, "mix-up", self.total)
        connection = await connect(port)
        while (serial := next(self.serials)) < self.total:
            (name, model), (kind, body) = choices[generator.integers(len(choices))]
            x = _rows_of(serial, generator)
            request = post(PATHS[kind].format(name), body({INPUT: x}), {"X-Request-Id": f"soak-{serial}"})
            self.rows += len(x)
            try:
                answer = await connection.ask(request)
            except ConnectionLost as lost:
                self.faults.add(f"request {serial} was not answered: {lost}")
                connection = await connect(port)
                continue
            wrong = _wrong(answer, serial, model, x)
            self.right += wrong is None
            if wrong is not None:
                self.faults.add(f"request {serial}, {len(x)} rows as {kind} to {name}: {wrong}")
            tell(serial + 1)
        self.faults.require(connection.unasked_bytes == 0, f"{connection.unasked_bytes} bytes came that nobody asked for")
        connection.close()


def _rows_of(serial: int, generator: np.random.Generator) -> np.ndarray:
    """Rows that say whose they are and where they stand."""
    rows = int(generator.integers(1, MOST_ROWS + 1))
    x = np.empty((rows, COLUMNS), np.float32)
    x[:, 0] = serial
    x[:, 1] = np.arange(rows)
    x[:, 2:] = generator.integers(0, 1000, (rows, COLUMNS - 2))
    return x


def _wrong(answer: Answer, serial: int, model: SoakModel, x: np.ndarray) -> str | None:
    if answer.status != 200:
        return f"{answer.status} {answer.content[:200]!r}"
    headers = answer.headers()
    if headers.get("x-request-id") != f"soak-{serial}":
        return f"the answer is that to {headers.get('x-request-id')}"
    found, expected = first_output(headers, answer.content), model.answer(x).ravel()
    return None if np.array_equal(found, expected) else f"{found.tolist()} instead of {expected.tolist()}"
