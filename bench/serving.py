"""Our server against the practical limit of its parts, the engine alone, and what is written first: `python -m bench.serving`.

The contenders of one comparison run side by side and are asked in turn, round by round; a ratio is the median of the rounds' own
ratios, so that a slow minute of the machine hits both sides. Before anything is timed, every answer is compared with the engine's
own numbers.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import artifact
from bench import bound, page
from bench.command import measured
from bench.models import MLP, RESNET18, made_up_inputs
from bench.naive import server_name
from bench.page import Chart, Goal, Section, Spread
from bench.payloads import BODIES, Inputs, predictions_json
from bench.processes import started
from bench.rounds import Bench, Endpoint
from bench.wrk import Outcome
from foundation.command import exit_codes
from foundation.environment import cores

CONNECTIONS = (32, 1)
IMAGE_CONNECTIONS = 16
IMAGE_DURATION_FACTOR = 4
"""An image takes a thousand times longer than a row of the MLP: more seconds for as steady a number."""
MEMORY_REQUESTS = 10_000

LIMIT_PATHS = {"OIP JSON": "/json", "predictions JSON": "/predictions-json", "OIP binary": "/binary", "raw": "/raw"}
OUR_PATHS = {
    "OIP JSON": "/v2/models/{}/infer",
    "predictions JSON": "/predictions/{}",
    "OIP binary": "/v2/models/{}/infer",
    "raw": "/predictions/{}",
}
RATE_GOALS = {"OIP JSON": 1.0, "predictions JSON": 1.0, "OIP binary": 1.2, "raw": 1.2}
LATENCY_GOAL = 1.3
IMAGE_GOAL = 0.97
NAIVE_GOAL = 5.0
START_GOAL_S = 2.0
MEMORY_GOAL_MB = 150.0

_MEASURED = ("requests_per_s", "p50_ms", "p99_ms")


def against_limit(bench: Bench) -> list[Section]:
    """The MLP, in every kind of body, on our server and on `bench.limit`."""
    directory = bench.export(MLP)
    row, expected = _one_row(directory)
    with (
        started("bench.limit", str(directory), folder=bench.folder) as limit,
        bench.server(directory.parents[1]) as ours,
    ):
        endpoints = {}
        for title, body in BODIES.items():
            endpoints[title, "limit"] = Endpoint(limit, LIMIT_PATHS[title], body(row))
            endpoints[title, "ours"] = Endpoint(ours, OUR_PATHS[title].format(MLP.name), body(row))
        for endpoint in endpoints.values():
            endpoint.require(expected)
        loads = {
            (title, contender, connections): partial(bench.fire, endpoint, connections)
            for connections in CONNECTIONS
            for (title, contender), endpoint in endpoints.items()
        }
        outcomes = bench.measure("server and limit", loads)
    return [_limit_section(outcomes, connections) for connections in CONNECTIONS]


def against_engine(bench: Bench) -> list[Section]:
    """ResNet-18: images per second of our server, and of the engine alone at its best batch size."""
    directory, threads = bench.export(RESNET18), cores()
    row, expected = _one_row(directory)
    largest = artifact.read_manifest(directory).signature.dims["batch"].max
    with bench.step("engine alone, every batch size"):
        best = bound.measure(directory, bound.Run("onnx", threads), bench.duration_s * largest).best.rows
    with bench.server(directory.parents[1], "--threads", str(threads)) as ours:
        endpoint = Endpoint(ours, OUR_PATHS["OIP binary"].format(RESNET18.name), BODIES["OIP binary"](row))
        endpoint.require(expected)
        cases = {
            "engine alone": partial(_engine_alone, directory, best, threads),
            "ours": lambda duration_s: bench.fire(endpoint, IMAGE_CONNECTIONS, duration_s, stamped=True).requests_per_s,
        }
        rates = bench.measure("server and engine", cases, bench.duration_s * IMAGE_DURATION_FACTOR)
    text = (
        f"Single images as OIP binary; both sides with {threads} threads. The engine alone runs in a process of its own, "
        f"{best} images in a call: the best of its batch sizes 1 to {largest} here."
    )
    title = f"{RESNET18.title}, {_count(IMAGE_CONNECTIONS)}, against the engine alone"
    return [_versus(title, text, "images/s", rates, Goal(IMAGE_GOAL, at_least=True))]


def against_naive(bench: Bench) -> list[Section]:
    """The MLP in JSON, on our server and on `bench.naive`."""
    directory, connections = bench.export(MLP), CONNECTIONS[0]
    row, expected = _one_row(directory)
    body = predictions_json(row)
    with (
        started("bench.naive", str(directory / "model.pt"), folder=bench.folder) as naive,
        bench.server(directory.parents[1]) as ours,
    ):
        endpoints = {"naive": Endpoint(naive, "/predict", body), "ours": Endpoint(ours, f"/predictions/{MLP.name}", body)}
        for endpoint in endpoints.values():
            endpoint.require(expected)
        outcomes = bench.measure(
            "server and naive", {key: partial(bench.fire, endpoint, connections) for key, endpoint in endpoints.items()}
        )
    rates = {key: [outcome.requests_per_s for outcome in found] for key, found in outcomes.items()}
    title = f"{MLP.title}, JSON, {_count(connections)}, against what is written first"
    text = f"FastAPI with a pydantic body and a TorchScript model called once per request with one thread, on {server_name()}."
    return [_versus(title, text, "requests/s", rates, Goal(NAIVE_GOAL, at_least=True))]


def start(bench: Bench) -> list[Section]:
    """ResNet-18: seconds from the start of the process to ready, and whether torch is in it."""
    repository = bench.export(RESNET18).parents[1]
    seconds, with_torch = [], False
    for _ in bench.track("start", range(bench.rounds)):
        with bench.server(repository) as ours:
            seconds.append(ours.start_s)
            with_torch |= ours.has_library("libtorch")
    found = Spread.of(seconds)
    return [
        Section(
            f"From start to ready with {RESNET18.title}",
            "From the start of the process to the first 200 of `/v2/health/ready`: the artifact's hashes, its engine, its golden "
            "cases and the warm-up included; its files were read before.",
            ("seconds", "goal", "libtorch in the process"),
            [(found.text(2), Goal(START_GOAL_S, at_least=False).text(found.median), "**yes**" if with_torch else "no")],
        )
    ]


def memory(bench: Bench) -> list[Section]:
    """The MLP: what the server's process holds in memory after its first ten thousand requests."""
    directory = bench.export(MLP)
    row, _ = _one_row(directory)
    with bench.server(directory.parents[1]) as ours:
        before, asked = ours.memory_mb(), 0
        with bench.step("memory"):
            while asked < MEMORY_REQUESTS:
                for title, body in BODIES.items():
                    endpoint = Endpoint(ours, OUR_PATHS[title].format(MLP.name), body(row))
                    asked += bench.fire(endpoint, CONNECTIONS[0], 1).requests
        after = ours.memory_mb()
    return [
        Section(
            f"Memory with {MLP.title} alone",
            f"What the process holds (VmRSS), before the first request and after {asked:,} in every kind of body.",
            ("before, MB", "after, MB", "goal"),
            [(f"{before:.0f}", f"{after:.0f}", Goal(MEMORY_GOAL_MB, at_least=False).text(after))],
        )
    ]


PARTS: Mapping[str, Callable[[Bench], list[Section]]] = {
    "limit": against_limit,
    "engine": against_engine,
    "naive": against_naive,
    "start": start,
    "memory": memory,
}
"""What `--only` names."""


def _one_row(directory: Path) -> tuple[Inputs, np.ndarray]:
    """One row for the only input, by its name, and what the engine makes of it, called directly."""
    loaded = artifact.load(directory, engine="onnx", threads=1)
    inputs = made_up_inputs(loaded.signature, 1)
    (expected,) = loaded.run(inputs).values()
    return inputs, expected


def _engine_alone(directory: Path, rows: int, threads: int, duration_s: int) -> float:
    """Rows per second of the engine in a process of its own."""
    return bound.measure(directory, bound.Run("onnx", threads), duration_s, rows=(rows,)).best.rows_per_s


def _limit_section(outcomes: Mapping[tuple[str, str, int], list[Outcome]], connections: int) -> Section:
    rows, rates = [], {}
    for title, rate_goal in RATE_GOALS.items():
        sides = outcomes[title, "limit", connections], outcomes[title, "ours", connections]
        rate, p50, p99 = ([[getattr(one, value) for one in side] for side in sides] for value in _MEASURED)
        rate_ratio, p50_ratio = Spread.of_ratios(rate[1], rate[0]), Spread.of_ratios(p50[1], p50[0])
        if connections > 1:
            goal = f"rate {Goal(rate_goal, at_least=True).text(rate_ratio.median)}"
        else:
            goal = f"p50 {Goal(LATENCY_GOAL, at_least=False).text(p50_ratio.median)}"
        rows.append((title, *_cells(rate, 0), rate_ratio.text(2), *_cells(p50, 3), p50_ratio.text(2), *_cells(p99, 3), goal))
        rates[title] = (Spread.of(rate[0]).median, Spread.of(rate[1]).median)
    measures = ("requests/s", "p50 ms", "p99 ms")
    columns = [f"{contender}, {measure}" for measure in measures for contender in ("limit", "ours")]
    return Section(
        f"{MLP.title}, {_count(connections)}, against the limit",
        "The limit is `bench/limit.py`: the same HTTP server, JSON parser and engine, with nothing between them. "
        "One row in a request; a ratio is ours / limit.",
        ("body", *columns[:2], "ratio", *columns[2:4], "ratio", *columns[4:], "goal"),
        rows,
        Chart(f"serving-{connections}.svg", f"Requests per second, {MLP.title}, {_count(connections)}", ("limit", "ours"), rates),
    )


def _versus(title: str, text: str, unit: str, rates: Mapping[str, Sequence[float]], goal: Goal) -> Section:
    """Ours against one other, whose name is the first of `rates`."""
    other = next(iter(rates))
    ratio = Spread.of_ratios(rates["ours"], rates[other])
    columns = (f"{other}, {unit}", f"ours, {unit}", f"ours / {other}", "goal")
    return Section(title, text, columns, [(*_cells([rates[other], rates["ours"]], 1), ratio.text(3), goal.text(ratio.median))])


def _cells(sides: Sequence[Sequence[float]], digits: int) -> list[str]:
    return [Spread.of(side).text(digits) for side in sides]


def _count(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 5,
    duration_s: Annotated[int, typer.Option(min=1, help="Seconds of one load (four times as many with images).")] = 3,
    only: Annotated[list[str] | None, typer.Option(help=f"Run this part only; repeatable: {', '.join(PARTS)}.")] = None,
    to: Annotated[Path | None, typer.Option(help="The page to write. Default: none, it is printed only.")] = None,
) -> None:
    """Measure the server, print the page, and write it."""
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}", param_hint="--only")
    with exit_codes(as_json=False):
        load_average = os.getloadavg()[0]
        sections = []
        with measured(rounds, duration_s) as bench:
            for name, part in PARTS.items():
                if not only or name in only:
                    sections += part(bench)
        text = page.to_markdown("How fast the server is", _introduction(rounds, duration_s, load_average), sections)
        typer.echo(text)
        if to is not None:
            page.write(to, text, sections)


def _introduction(rounds: int, duration_s: int, load_average: float) -> str:
    image_duration_s = duration_s * IMAGE_DURATION_FACTOR
    return (
        "Made by `make bench-serving`: wrk with one thread, on the same machine as the server it asks. The contenders take "
        f"turns in {rounds} rounds of {duration_s} s ({image_duration_s} s with images). Numbers are medians, with the smallest "
        "and the largest in brackets; a ratio is the median of the rounds' own ratios, which can differ a little from the "
        "medians' ratio. Every answer was compared with the engine's numbers first, and one failed request would have ended the "
        "run. wrk corrects its latencies for coordinated omission. The machine's load average was "
        f"{load_average:.1f} before the start."
    )


if __name__ == "__main__":
    typer.run(main)
