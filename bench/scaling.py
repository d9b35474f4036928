"""What each front end adds, and what the way to an engine process costs: `python -m bench.scaling`.

Servers of 1, 2, … front ends run side by side on one machine and are asked in turn, round by round, by wrk on the same machine;
a ratio is the median of the rounds' own ratios. Every answer is compared with the engine's own numbers first.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer

import artifact
from bench import page
from bench.command import measured
from bench.models import MLP, MeasuredModel, Weights, made_up_inputs
from bench.observed.kinds import CONTROL, ENGINE, FRONT_END
from bench.observed.processes import ServerProcesses
from bench.page import Goal, Section, Spread
from bench.payloads import Body, predictions_json, raw
from bench.processes import Running
from bench.rounds import Bench, Endpoint
from bench.wrk import Outcome
from foundation.command import exit_codes
from foundation.environment import cores

MOST_FRONT_ENDS = 8
FLOATS = 150_528
"""Of a 224² image in colour."""
LARGE_CONNECTIONS, SMALL_CONNECTIONS = 8, 32
LARGE_GOAL = 1.5
"""At 2 front ends, times one."""
KEPT_GOAL = 0.95
"""At 2 front ends on 2 cores, times one."""
EACH_GOAL = 0.8
"""At N front ends, times N, where there are cores for that."""
PERCENT = 100
_PER_WRK_THREAD = 4
"""Front ends that one thread of wrk can keep busy."""


def _flat_weights(generator: np.random.Generator) -> Weights:
    """Of a network that reads a flattened image, and does next to nothing with it."""
    first = generator.standard_normal((4, FLOATS), np.float32) / np.float32(FLOATS**0.5)
    second = generator.standard_normal((10, 4), np.float32) / np.float32(2)
    zeros = (np.zeros(4, np.float32), np.zeros(10, np.float32))
    return {"layers.0.weight": first, "layers.0.bias": zeros[0], "layers.2.weight": second, "layers.2.bias": zeros[1]}


FLAT = MeasuredModel(
    "flat",
    f"MLP {FLOATS}-4-10",
    {
        "schema": 1,
        "name": "flat",
        "model": {"name": "mlp", "params": {"in_features": FLOATS, "hidden": [4], "out_features": 10}},
        "inputs": {"x": {"dtype": "float32", "shape": ["batch", FLOATS], "range": [0, 1]}},
        "dims": {"batch": {"min": 1, "max": 8}},
        "outputs": {"logits": {"dtype": "float32", "shape": ["batch", 10]}},
        "formats": ["onnx"],
    },
    _flat_weights,
)


@dataclass(frozen=True, slots=True)
class Server:
    """One of those that are compared: so many front ends, pinned or not; `execution` is its setting."""

    frontends: int
    pinned: bool = False
    execution: str = "auto"

    @property
    def flags(self) -> tuple[str, ...]:
        """Of the command. A single process has nothing to be pinned against."""
        pin = ("--pin-frontends", "on" if self.pinned else "off") if self.frontends > 1 else ()
        return ("--frontends", str(self.frontends), "--device", "cpu", "--execution", self.execution, *pin)

    @property
    def name(self) -> str:
        """As a row of a table has it."""
        is_apart = self.execution == "process"
        if self.frontends == 1:
            return "1 front end and an engine process" if is_apart else "1 process"
        pinned = "pinned" if self.pinned else "not pinned"
        return f"{self.frontends} front ends, {pinned}{', and an engine process' if is_apart else ''}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What one load on one server came to; `cpu_us` is what each kind of its processes used for a request, in microseconds."""

    outcome: Outcome
    cpu_us: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Load:
    """A model, a kind of body, and how many ask at once."""

    model: MeasuredModel
    kind: str
    body: Callable[[Mapping[str, np.ndarray]], Body]
    connections: int

    @property
    def path(self) -> str:
        """Where it is asked for."""
        return f"/predictions/{self.model.name}"


LARGE = Load(FLAT, "JSON", predictions_json, LARGE_CONNECTIONS)
SMALL = Load(MLP, "raw bytes", raw, SMALL_CONNECTIONS)


def large_json(bench: Bench) -> list[Section]:
    """Bodies whose decoding is what costs."""
    found = _asked(bench, LARGE, [*_counts("loop", pinned=(True, False)), *_apart()])
    text = (
        f"One row of {FLOATS:,} floats in a request, about {len(_row_of(bench, LARGE).content) / 1e6:.1f} MB of text. Decoding "
        "takes nearly all of the time; a call takes 0.4 ms. Without an engine process it runs on the event loop "
        "(`execution=loop`), with one there, which is what `auto` chooses for a server of several processes."
    )
    return [_section(f"{FLAT.title} as JSON, {LARGE_CONNECTIONS} connections", text, found, _large_goal)]


def small_raw(bench: Bench) -> list[Section]:
    """Requests that are nothing but a server's own cost."""
    found = _asked(bench, SMALL, [*_counts("auto", pinned=(True, False)), *_apart()])
    text = (
        "One row in a request. What a server costs is all there is, and the load generator costs about as much as the server. "
        "Such calls run in every front end; the rows with an engine process (`execution=process`) show what the way there costs."
    )
    return [_section(f"{MLP.title} as raw bytes, {SMALL_CONNECTIONS} connections", text, found, _small_goal)]


PARTS: Mapping[str, Callable[[Bench], list[Section]]] = {"large": large_json, "small": small_raw}
"""What `--only` names."""


def _counts(execution: str, pinned: Sequence[bool]) -> list[Server]:
    """One server for each number of front ends that there are cores for, and from two on pinned and not."""
    several = [Server(count, pin, execution) for count in range(2, _most() + 1) for pin in pinned if not pin or count <= cores()]
    return [Server(1, execution=execution), *several]


def _apart() -> list[Server]:
    """The same with an engine process: one front end, two, and the most."""
    return [Server(count, 1 < count <= cores(), "process") for count in sorted({1, 2, _most()})]


def _most() -> int:
    """As many front ends as there are cores; two in any case."""
    return min(MOST_FRONT_ENDS, max(2, cores()))


def _row_of(bench: Bench, load: Load) -> Body:
    signature = artifact.read_manifest(bench.export(load.model)).signature
    return load.body(made_up_inputs(signature, 1))


def _asked(bench: Bench, load: Load, servers: Sequence[Server]) -> dict[Server, list[Asked]]:
    """Every server asked in turn; whatever was started is ended."""
    directory = bench.export(load.model)
    loaded = artifact.load(directory, engine="onnx", threads=1)
    (expected,) = loaded.run(made_up_inputs(loaded.signature, 1)).values()
    body = _row_of(bench, load)
    with contextlib.ExitStack() as stack:
        cases = {}
        for server in servers:
            running = stack.enter_context(bench.server(directory.parents[1], *server.flags))
            endpoint = Endpoint(running, load.path, body)
            endpoint.require(expected)
            cases[server] = partial(_ask, bench, endpoint, load.connections, running)
        return bench.measure(f"{load.model.name}, {load.kind}", cases)


def _ask(bench: Bench, endpoint: Endpoint, connections: int, running: Running, duration_s: int) -> Asked:
    seen = ServerProcesses([psutil.Process(running.pid)])
    outcome = bench.fire(endpoint, connections, duration_s, threads=_wrk_threads())
    seen.ended()
    use = seen.use
    by_kind = {name: its.cpu_s for name, its in use.kinds.items()} or {"": use.cpu_s}
    return Asked(outcome, {name: 1e6 * cpu_s / outcome.requests for name, cpu_s in by_kind.items()})


def _wrk_threads() -> int:
    """One thread of wrk, and another for each four front ends that could be: the same for all that are compared."""
    return max(1, min(MOST_FRONT_ENDS, cores()) // _PER_WRK_THREAD)


def _section(title: str, text: str, found: Mapping[Server, Sequence[Asked]], goal: Callable[[Server, float], str]) -> Section:
    first = next(iter(found.values()))
    base = [one.outcome.requests_per_s for one in first]
    rows = []
    for server, asked in found.items():
        rates = [one.outcome.requests_per_s for one in asked]
        ratio = Spread.of_ratios(rates, base)
        latencies = [Spread.of([getattr(one.outcome, name) for one in asked]).text(2) for name in ("p50_ms", "p99_ms")]
        cpu = [_cpu(asked, kinds) for kinds in (("", FRONT_END), (ENGINE,), (CONTROL,))]
        told = ("1", "") if asked is first else (ratio.text(2), goal(server, ratio.median))
        rows.append((server.name, Spread.of(rates).text(0), told[0], *latencies, *cpu, told[1]))
    columns = ("server", "requests/s", "times the first", "p50 ms", "p99 ms")
    columns += ("CPU µs of a request: HTTP", "engine process", "control", "goal")
    return Section(title, text, columns, rows)


def _cpu(asked: Sequence[Asked], kinds: Sequence[str]) -> str:
    """CPU time of a request in processes of these kinds; a process that is a whole server counts as one that speaks HTTP."""
    values = [sum(one.cpu_us.get(kind, 0.0) for kind in kinds) for one in asked]
    return Spread.of(values).text(0) if any(kind in one.cpu_us for one in asked for kind in kinds) else "-"


def _large_goal(server: Server, ratio: float) -> str:
    return Goal(LARGE_GOAL, at_least=True).text(ratio) if server.frontends == 2 and server.pinned else ""


def _small_goal(server: Server, ratio: float) -> str:
    """With cores for all front ends and as many again for the load, most of each front end; else at least nothing much lost."""
    if not server.pinned or server.execution == "process":
        return ""
    if cores() >= 2 * server.frontends + 1:
        return Goal(EACH_GOAL * server.frontends, at_least=True).text(ratio)
    return Goal(KEPT_GOAL, at_least=True).text(ratio) if server.frontends == 2 else ""


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 5,
    duration_s: Annotated[int, typer.Option(min=1, help="Seconds of one load.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help=f"Run this part only; repeatable: {', '.join(PARTS)}.")] = None,
    to: Annotated[Path | None, typer.Option(help="The page to write. Default: none, it is printed only.")] = None,
) -> None:
    """Measure servers of several processes, print the page, and write it."""
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
        text = page.to_markdown("What each front end adds", _introduction(rounds, duration_s, load_average), sections)
        typer.echo(text)
        if to is not None:
            page.write(to, text, sections)


def _introduction(rounds: int, duration_s: int, load_average: float) -> str:
    threads = _wrk_threads()
    return (
        f"Made by `make bench-scaling`: wrk with {threads} thread{'s' if threads > 1 else ''}, on the same machine as the "
        f"servers. They take turns in {rounds} rounds of {duration_s} s; numbers are medians, with the smallest and the largest "
        "in brackets, and a ratio is the median of the rounds' own ratios. Every answer was compared with the engine's numbers "
        "first, and one failed request would have ended the run. The machine's load average was "
        f"{load_average:.1f} before the start.\n\n{_what_it_shows(cores())}\n\n"
        "Connections are spread over front ends by the kernel, which throws dice: of 8 connections to 2 front ends, 5 and 3 are "
        "more usual than 4 and 4, and every load has new ones. That is most of the spread at few connections."
    )


def _what_it_shows(count: int) -> str:
    """What so many cores can show, and what they cannot."""
    if count >= 2 * 2 + 1:
        most = min(MOST_FRONT_ENDS, (count - 1) // 2)
        return (
            f"On {count} cores, up to {most} front ends have a core each while the load generator has as many and one more: "
            f"there the goal is {EACH_GOAL:g} x N. With more front ends, the load generator takes part of what they have."
        )
    return (
        f"On {count} cores the load generator takes its share of what the servers have. Where decoding is what costs, it needs "
        "little, and a second front end shows. Where requests are small, it needs about a core for each that a server keeps "
        "busy: a second front end cannot be faster then, and what shows is what it costs. How far N front ends go on more cores "
        "cannot be seen here; `make bench-scaling` on such a machine shows it."
    )


if __name__ == "__main__":
    typer.run(main)
