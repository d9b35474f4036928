"""The load generator beside wrk, on the same servers in turn: `python -m bench.client_against_wrk`.

A load generator that is slower than the server it asks measures itself. wrk is written in C and known to be fast: what it reaches
on a server, ours must nearly reach. Both use one thread of one core.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import artifact
from bench import generator, page, payloads
from bench.client.load import Load
from bench.command import measured
from bench.errors import FailedLoad
from bench.generator import Progress
from bench.models import MLP, made_up_inputs
from bench.page import Goal, Section, Spread
from bench.payloads import Payload
from bench.processes import started
from bench.rounds import Bench, Endpoint
from foundation.command import exit_codes

CONNECTIONS = (32, 8, 1)
RATE_GOAL = 0.9
"""At 32 connections: there the generator has the most to do."""

Key = tuple[str, int, str]
"""A server, a number of connections, and who asks."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one load measured; `busy` is the share of a core that ours used, and None for wrk, which does not say."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    busy: float | None = None


class Unwatched:
    """A watcher that is not interested: the rounds have a progress bar of their own."""

    def window_began(self) -> None:
        """Nothing."""

    def window_ended(self) -> None:
        """Nothing."""

    def progressed(self, progress: Progress) -> None:
        """Nothing."""


def measure(bench: Bench) -> list[Section]:
    """The MLP with one row as raw bytes, on `bench.limit` and on our server."""
    directory = bench.export(MLP)
    loaded = artifact.load(directory, engine="onnx", threads=1)
    row = made_up_inputs(loaded.signature, 1)
    (expected,) = loaded.run(row).values()
    with (
        started("bench.limit", str(directory), folder=bench.folder) as limit,
        bench.server(directory.parents[1]) as ours,
    ):
        body = payloads.raw(row)
        endpoints = {"limit": Endpoint(limit, "/raw", body), "server": Endpoint(ours, f"/predictions/{MLP.name}", body)}
        for endpoint in endpoints.values():
            endpoint.require(expected)
        asking = {"wrk": _by_wrk, "ours": _by_ours}
        cases = {
            (name, connections, who): partial(ask, bench, endpoint, connections)
            for connections in CONNECTIONS
            for name, endpoint in endpoints.items()
            for who, ask in asking.items()
        }
        found = bench.measure("wrk and ours", cases)
    return [_section(found, connections) for connections in CONNECTIONS]


def _by_wrk(bench: Bench, endpoint: Endpoint, connections: int, duration_s: int) -> Asked:
    found = bench.fire(endpoint, connections, duration_s)
    return Asked(found.requests_per_s, found.p50_ms, found.p99_ms)


def _by_ours(bench: Bench, endpoint: Endpoint, connections: int, duration_s: int) -> Asked:
    port, body = endpoint.server.port, endpoint.body
    request = payloads.request(Payload(endpoint.path, body.headers, body.content, rows=1), "127.0.0.1", port)
    found = generator.fire(Load("127.0.0.1", port, [request], connections, duration_s), bench.folder, Unwatched())
    latency = generator.summary(found)
    if latency is None or found.errors:
        raise FailedLoad(f"{endpoint.path}: of {found.offered} requests failed: {dict(found.errors) or 'none was answered'}")
    return Asked(len(found.latencies_s) / found.seconds, latency.p50, latency.p99, found.client_busy)


def _section(found: Mapping[Key, list[Asked]], connections: int) -> Section:
    rows = []
    for name in ("limit", "server"):
        wrk, ours = found[name, connections, "wrk"], found[name, connections, "ours"]
        rates = [[one.requests_per_s for one in side] for side in (wrk, ours)]
        ratio = Spread.of_ratios(rates[1], rates[0])
        cells = [Spread.of(side).text(0) for side in rates]
        p50 = [Spread.of([one.p50_ms for one in side]).text(3) for side in (wrk, ours)]
        p99 = [Spread.of([one.p99_ms for one in side]).text(3) for side in (wrk, ours)]
        busy = Spread.of([one.busy for one in ours if one.busy is not None]).text(2)
        goal = Goal(RATE_GOAL, at_least=True).text(ratio.median) if connections == CONNECTIONS[0] else ""
        rows.append((name, *cells, ratio.text(2), *p50, *p99, busy, goal))
    measures = ("requests/s", "p50 ms", "p99 ms")
    columns = [f"{who}, {unit}" for unit in measures for who in ("wrk", "ours")]
    return Section(
        f"{MLP.title}, {connections} connection{'s' if connections > 1 else ''}",
        "One row in a request, as raw bytes; a ratio is ours / wrk. `limit` is `bench/limit.py`, the fastest server here.",
        ("asked", *columns[:2], "ratio", *columns[2:], "ours, cores", "goal"),
        rows,
    )


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 7,
    duration_s: Annotated[int, typer.Option(min=1, help="Seconds of one load.")] = 3,
    to: Annotated[Path | None, typer.Option(help="The page to write. Default: none, it is printed only.")] = None,
) -> None:
    """Measure wrk and our load generator on the same servers, print the page, and write it."""
    with exit_codes(as_json=False):
        load_average = os.getloadavg()[0]
        with measured(rounds, duration_s) as bench:
            sections = measure(bench)
        text = page.to_markdown("The load generator beside wrk", _introduction(rounds, duration_s, load_average), sections)
        typer.echo(text)
        if to is not None:
            page.write(to, text, sections)


def _introduction(rounds: int, duration_s: int, load_average: float) -> str:
    return (
        "Made by `make bench-client`: `bench/client/` with one process and wrk with one thread ask the same servers on the same "
        f"machine, in turn, in {rounds} rounds of {duration_s} s; neither warms up. Numbers are medians, with the smallest and "
        "the largest in brackets; a ratio is the median of the rounds' own ratios. One failed request would have ended the run. "
        "wrk corrects its latencies for coordinated omission, ours are as measured. `ours, cores` is the share of a core that "
        f"our process used. The machine's load average was {load_average:.1f} before the start."
    )


if __name__ == "__main__":
    typer.run(main)
