"""Our server against the real TorchServe, on the same archive with the same settings: `python -m bench.torchserve`.

Both run side by side, each with one Python worker for each archive, and are asked in turn, as in `bench.serving`. Java is needed,
and `torchserve` and `torch-model-archiver` in this Python's environment.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import orjson
import typer

import artifact
from artifact import scaled_error
from bench import ab, page
from bench.command import measured
from bench.errors import ProcessFailed, WrongAnswer
from bench.models import MLP, made_up_inputs
from bench.page import Chart, Goal, Section, Spread
from bench.payloads import Body, predictions_json, raw
from bench.peers.java_server import launched, wait_for_workers
from bench.processes import Running, free_port, running
from bench.rounds import Bench, Endpoint
from bench.wrk import Outcome
from foundation.command import exit_codes

CONNECTIONS = (32, 1)
RATE_GOAL, LATENCY_GOAL, NATIVE_GOAL = 1.5, 0.25, 5.0
TOLERANCE = 1e-5
AB_REQUESTS = 2000

ARCHIVES = {"mlp-1": (1, 0), "mlp-32": (32, 5)}
"""Archive -> batchSize, and maxBatchDelay in ms: TorchServe's default, and what its users set for many clients."""

_MAR = Path(__file__).parent / "mar"
_PACK_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Contenders:
    """Both servers; ours serves the artifact too."""

    theirs: Running
    ours: Running


def compare(bench: Bench) -> list[Section]:
    """The MLP handler on both servers, and the same model as an artifact on ours."""
    directory = bench.export(MLP)
    loaded = artifact.load(directory, engine="onnx", threads=1)
    inputs = made_up_inputs(loaded.signature, 1)
    (row,), (expected,) = inputs.values(), loaded.run(inputs).values()
    bodies = {"JSON": _json(row), "binary": raw(inputs)}
    native = {"JSON": predictions_json(inputs), "binary": bodies["binary"]}
    with servers(bench, directory) as both:
        endpoints: dict[tuple[str, str, str], Endpoint] = {}
        for kind, body in bodies.items():
            for archive in ARCHIVES:
                endpoints[archive, kind, "TorchServe"] = Endpoint(both.theirs, f"/predictions/{archive}", body)
                endpoints[archive, kind, "ours"] = Endpoint(both.ours, f"/predictions/{archive}", body)
            endpoints["artifact", kind, "ours"] = Endpoint(both.ours, f"/predictions/{MLP.name}", native[kind])
        for (archive, _, _), endpoint in endpoints.items():
            endpoint.require(expected) if archive == "artifact" else _require(endpoint, expected)
        loads = {
            (*key, connections): partial(bench.fire, endpoint, connections)
            for connections in CONNECTIONS
            for key, endpoint in endpoints.items()
        }
        outcomes = bench.measure("TorchServe and ours", loads)
        by_ab = bench.measure("ab", {key: partial(_ab, bench, one) for key, one in endpoints.items() if key[0] != "artifact"})
    return [*(_archives(outcomes, connections) for connections in CONNECTIONS), _by_ab(by_ab), _native(outcomes)]


@contextlib.contextmanager
def servers(bench: Bench, directory: Path) -> Iterator[Contenders]:
    """Both servers, until the block ends."""
    store = bench.folder / "store"
    store.mkdir(exist_ok=True)
    for name, (batch_size, delay_ms) in ARCHIVES.items():
        _pack(bench.folder, store, name, f"minWorkers: 1\nmaxWorkers: 1\nbatchSize: {batch_size}\nmaxBatchDelay: {delay_ms}\n")
    models = ",".join(f"{name}.mar" for name in ARCHIVES)
    files = {name: _config(bench.folder / name, store, models) for name in ("theirs", "ours")}
    repository = ["--repository", str(directory.parents[1])]
    with (
        torchserve(*files["theirs"]) as theirs,
        running(
            [sys.executable, "-m", "serving", "--config", str(files["ours"][0]), *repository],
            files["ours"][1],
            files["ours"][0].with_name("ours.log"),
            "/v2/health/ready",
        ) as ours,
    ):
        yield Contenders(theirs, ours)


@contextlib.contextmanager
def torchserve(config: Path, port: int) -> Iterator[Running]:
    """The real TorchServe with a worker for each archive, until the block ends."""
    with launched(config, port) as found:
        for name in ARCHIVES:
            wait_for_workers(port + 1, name, config.parent)
        yield found


def _config(folder: Path, store: Path, models: str) -> tuple[Path, int]:
    """A config.properties on free ports, and the first of them."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    addresses = {"inference": port, "management": port + 1, "metrics": port + 2}
    lines = [f"{name}_address=http://127.0.0.1:{number}" for name, number in addresses.items()]
    lines += [f"model_store={store}", f"load_models={models}", "default_workers_per_model=1", "disable_token_authorization=true"]
    lines += ["disable_system_metrics=true"]
    path = folder / "config.properties"
    path.write_text("\n".join(lines) + "\n")
    return path, port


def _pack(folder: Path, store: Path, name: str, model_config: str) -> None:
    """Writes the archive with TorchServe's own packer. Raises ProcessFailed."""
    from safetensors.torch import load_file
    from torch import save

    weights, yaml = folder / "mlp.pt", folder / f"{name}.yaml"
    save(load_file(folder / f"{MLP.name}.safetensors"), weights)
    yaml.write_text(model_config)
    packer = Path(sys.executable).with_name("torch-model-archiver")
    flags = ["--model-name", name, "--version", "1.0", "--model-file", _MAR / "mlp_model.py", "--serialized-file", weights]
    flags += ["--handler", _MAR / "mlp_handler.py", "--config-file", yaml, "--export-path", store, "--force"]
    done = subprocess.run([packer, *flags], capture_output=True, text=True, timeout=_PACK_TIMEOUT_S, check=False)  # noqa: S603
    if done.returncode != 0:
        raise ProcessFailed(f"torch-model-archiver ended with code {done.returncode}: {done.stderr.strip()}")


def _json(row: np.ndarray) -> Body:
    """The numbers of one row, as the handler reads them."""
    return Body(orjson.dumps(row.ravel(), option=orjson.OPT_SERIALIZE_NUMPY), {"Content-Type": "application/json"})


def _require(endpoint: Endpoint, expected: np.ndarray) -> None:
    """Asks the handler once. Raises WrongAnswer."""
    status, _, content = endpoint.server.post(endpoint.path, endpoint.body)
    if status != 200:
        raise WrongAnswer(f"{endpoint.path} answered {status}, not 200: {content[:500].decode(errors='replace')}")
    in_json = endpoint.body.headers["Content-Type"] == "application/json"
    found = np.asarray(orjson.loads(content), np.float32) if in_json else np.frombuffer(content, np.float32)
    error = scaled_error(found, expected.ravel())
    if error > TOLERANCE:
        raise WrongAnswer(f"{endpoint.path} answers other numbers than the engine: scaled error {error:.1e} > {TOLERANCE:.0e}")


def _ab(bench: Bench, endpoint: Endpoint, _: int) -> float:
    url = f"http://127.0.0.1:{endpoint.server.port}{endpoint.path}"
    return ab.requests_per_s(url, endpoint.body, CONNECTIONS[0], AB_REQUESTS, bench.folder)


def _archives(outcomes: Mapping[tuple[str, str, str, int], list[Outcome]], connections: int) -> Section:
    rows, rates = [], {}
    for archive, (batch_size, delay_ms) in ARCHIVES.items():
        for kind in ("JSON", "binary"):
            theirs, ours = (outcomes[archive, kind, side, connections] for side in ("TorchServe", "ours"))
            rate = [[one.requests_per_s for one in side] for side in (theirs, ours)]
            p50, p99 = ([[getattr(one, name) for one in side] for side in (theirs, ours)] for name in ("p50_ms", "p99_ms"))
            rate_ratio, p50_ratio = Spread.of_ratios(rate[1], rate[0]), Spread.of_ratios(p50[1], p50[0])
            if connections > 1:
                goal = f"rate {Goal(RATE_GOAL, at_least=True).text(rate_ratio.median)}"
            else:
                goal = f"p50 {Goal(LATENCY_GOAL, at_least=False).text(p50_ratio.median)}"
            cells = [Spread.of(side).text(digits) for sides, digits in ((rate, 0), (p50, 2), (p99, 2)) for side in sides]
            rows.append(
                (
                    _title(batch_size, delay_ms, kind),
                    *cells[:2],
                    rate_ratio.text(2),
                    *cells[2:4],
                    p50_ratio.text(2),
                    *cells[4:],
                    goal,
                )
            )
            rates[f"{batch_size}, {kind}"] = (Spread.of(rate[0]).median, Spread.of(rate[1]).median)
    measures = ("requests/s", "p50 ms", "p99 ms")
    columns = [f"{side}, {measure}" for measure in measures for side in ("TorchServe", "ours")]
    count = f"{connections} connection{'s' if connections > 1 else ''}"
    return Section(
        f"The same .mar, {count}",
        "`bench/mar`: an eager MLP 784-128-10 and its handler, one row in a request; a ratio is ours / TorchServe.",
        ("settings, body", *columns[:2], "ratio", *columns[2:4], "ratio", *columns[4:], "goal"),
        rows,
        Chart(f"torchserve-{connections}.svg", f"Requests per second, {count}", ("TorchServe", "ours"), rates),
    )


def _by_ab(outcomes: Mapping[tuple[str, str, str], list[float]]) -> Section:
    rows = []
    for archive, (batch_size, _) in ARCHIVES.items():
        for kind in ("JSON", "binary"):
            theirs, ours = outcomes[archive, kind, "TorchServe"], outcomes[archive, kind, "ours"]
            ratio = Spread.of_ratios(ours, theirs)
            goal = Goal(RATE_GOAL, at_least=True).text(ratio.median)
            rows.append(
                (f"batchSize {batch_size}, {kind}", Spread.of(theirs).text(0), Spread.of(ours).text(0), ratio.text(2), goal)
            )
    return Section(
        f"The same with ab, {CONNECTIONS[0]} connections",
        f"TorchServe's own benchmark drives ab: {AB_REQUESTS} requests, connections kept (`-k`).",
        ("settings, body", "TorchServe, requests/s", "ours, requests/s", "ratio", "goal"),
        rows,
    )


def _native(outcomes: Mapping[tuple[str, str, str, int], list[Outcome]]) -> Section:
    rows = []
    for archive, (batch_size, delay_ms) in ARCHIVES.items():
        for kind in ("JSON", "binary"):
            ours = [one.requests_per_s for one in outcomes["artifact", kind, "ours", CONNECTIONS[0]]]
            theirs = [one.requests_per_s for one in outcomes[archive, kind, "TorchServe", CONNECTIONS[0]]]
            ratio = Spread.of_ratios(ours, theirs)
            goal = Goal(NATIVE_GOAL, at_least=True).text(ratio.median)
            rows.append(
                (_title(batch_size, delay_ms, kind), Spread.of(theirs).text(0), Spread.of(ours).text(0), ratio.text(1), goal)
            )
    return Section(
        f"The same model as an artifact, {CONNECTIONS[0]} connections",
        "Exported by `python -m export` and run by our engine, against TorchServe with its default settings and with others.",
        ("TorchServe's settings, body", "TorchServe, requests/s", "artifact, requests/s", "ratio", "goal"),
        rows,
    )


def _title(batch_size: int, delay_ms: int, kind: str) -> str:
    return f"batchSize {batch_size}" + (f", maxBatchDelay {delay_ms}" if batch_size > 1 else "") + f", {kind}"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 5,
    duration_s: Annotated[int, typer.Option(min=1, help="Seconds of one load.")] = 3,
    to: Annotated[Path | None, typer.Option(help="The page to write. Default: none, it is printed only.")] = None,
) -> None:
    """Measure both servers, print the page, and write it."""
    with exit_codes(as_json=False):
        load_average = os.getloadavg()[0]
        ab.find_ab()
        with measured(rounds, duration_s) as bench:
            sections = compare(bench)
        text = page.to_markdown(
            "How fast TorchServe's handlers run here", _introduction(rounds, duration_s, load_average), sections
        )
        typer.echo(text)
        if to is not None:
            page.write(to, text, sections)


def _introduction(rounds: int, duration_s: int, load_average: float) -> str:
    return (
        "Made by `make bench-torchserve`: TorchServe with Java, and ours without, each with one Python worker for an archive, on "
        "one machine with the load generator (wrk with one thread, and ab), with the same config.properties, ports apart. They "
        f"take turns in {rounds} rounds of {duration_s} s. Numbers are medians, with the smallest and the largest in brackets; a "
        "ratio is the median of the rounds' own ratios. Every answer was compared with the engine's numbers first, and one "
        f"failed request would have ended the run. The machine's load average was {load_average:.1f} before the start."
    )


if __name__ == "__main__":
    typer.run(main)
