"""Pictures over HTTP against what decoding alone and the engine alone can do on the same cores: `python -m bench.images`.

The three are measured in turn, round by round, in one run. A server that overlapped both perfectly, on cores of their own, would
reach the lower of the two; on the same cores both take their part of the time, and the page says what is left of it then.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import artifact
from bench import bound, decoding, page, raw_answers, raw_bodies
from bench.body import Body, Raws
from bench.command import measured
from bench.errors import WrongAnswer
from bench.models import PICTURES
from bench.page import Goal, Section, Spread
from bench.payloads import PROTOCOLS
from bench.processes import Running
from bench.raw import PICTURE, picture
from bench.rounds import Bench
from bench.wrk import Load, fire
from foundation.command import exit_codes
from foundation.environment import cores

CONNECTIONS = 16
GOAL = 0.90
BODIES = ("predictions-image", "predictions-multipart", "predictions-values", "oip-bytes")
"""The protocols that one picture is sent in; the goal is the first one's."""
_SEED = 0


def pictures(bench: Bench) -> list[Section]:
    """ResNet-18 from JPEG files: our server, its decoding alone, its engine alone."""
    directory, threads = bench.export(PICTURES), cores()
    file = bench.folder / "picture.jpg"
    file.write_bytes(picture(np.random.default_rng(_SEED)))
    largest = artifact.read_manifest(directory).signature.dims["batch"].max
    with bench.step("engine alone, every batch size"):
        best = bound.measure(directory, bound.Run("onnx", threads), bench.duration_s * largest).best.rows
    with bench.server(directory.parents[1], "--threads", str(threads)) as ours:
        bodies = _bodies(directory, Raws({"image": [file.read_bytes()]}), ours)
        cases = {
            "decode alone": partial(decoding.measure, directory, [file], threads),
            "engine alone": partial(_engine_alone, directory, best, threads),
            **{protocol: partial(_served, bench, ours, protocol, body) for protocol, body in bodies.items()},
        }
        rates = bench.measure("pictures", cases)
    return [_goal_section(rates, file, best, threads), _protocols_section(rates, bodies)]


def _bodies(directory: Path, raws: Raws, server: Running) -> dict[str, Body]:
    """The picture in every protocol, each of which was answered with what the artifact itself says."""
    loaded = artifact.load(directory, engine="onnx", threads=1)
    bodies = {}
    for protocol in BODIES:
        write = PROTOCOLS[protocol].write_raw or raw_bodies.file_alone
        bodies[protocol] = write(raws)
        status, _, content = server.post(_path(protocol), bodies[protocol])
        if status != 200:
            raise WrongAnswer(f"{_path(protocol)} answered {status}, not 200: {content[:500].decode(errors='replace')}")
        if raw_answers.has_predictions(loaded, protocol):
            raw_answers.require(content, raws, loaded)
    return bodies


def _path(protocol: str) -> str:
    return PROTOCOLS[protocol].path.format(model=PICTURES.name)


def _engine_alone(directory: Path, rows: int, threads: int, duration_s: int) -> float:
    """Rows per second of the engine in a process of its own."""
    return bound.measure(directory, bound.Run("onnx", threads), duration_s, rows=(rows,)).best.rows_per_s


def _served(bench: Bench, server: Running, protocol: str, body: Body, duration_s: int) -> float:
    load = Load(f"http://127.0.0.1:{server.port}{_path(protocol)}", body, CONNECTIONS, duration_s, stamped=True)
    return fire(load, bench.folder).requests_per_s


def _goal_section(rates: Mapping[str, Sequence[float]], file: Path, best: int, threads: int) -> Section:
    decode, engine, served = rates["decode alone"], rates["engine alone"], rates[BODIES[0]]
    lower = [min(pair) for pair in zip(decode, engine, strict=True)]
    both = [1 / (1 / one + 1 / other) for one, other in zip(decode, engine, strict=True)]
    ratio, of_both = Spread.of_ratios(served, lower), Spread.of_ratios(served, both)
    text = (
        f"A JPEG file of {PICTURE[1]} x {PICTURE[0]} pixels and {file.stat().st_size:,} bytes as `image/jpeg`, {CONNECTIONS} "
        f"connections, {threads} threads for each. Decoding alone is every operation from the file to the tensor; the engine "
        f"alone has {best} images in a call, its best batch here. Each is a process of its own. "
        "The last column is what is left where both share the cores, as in the server they must: 1 / (1 / decode + 1 / engine)."
    )
    columns = (
        *("decode alone, images/s", "engine alone, images/s", "ours, images/s", "ours / the lower of the two", "goal"),
        "ours / both on the same cores",
    )
    cells = (*(Spread.of(side).text(1) for side in (decode, engine, served)), ratio.text(3))
    row = (*cells, Goal(GOAL, at_least=True).text(ratio.median), of_both.text(3))
    return Section(f"{PICTURES.title}, {CONNECTIONS} connections", text, columns, [row])


def _protocols_section(rates: Mapping[str, Sequence[float]], bodies: Mapping[str, Body]) -> Section:
    first = rates[BODIES[0]]
    rows = [
        (
            PROTOCOLS[protocol].title,
            f"{len(body.content):,}",
            Spread.of(rates[protocol]).text(1),
            Spread.of_ratios(rates[protocol], first).text(3),
        )
        for protocol, body in bodies.items()
    ]
    columns = ("sent as", "bytes", "images/s", "against the first")
    return Section("The same picture in every protocol", f"One picture in a request, {CONNECTIONS} connections.", columns, rows)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.")] = 5,
    duration_s: Annotated[int, typer.Option(min=1, help="Seconds of one load.")] = 8,
    to: Annotated[Path | None, typer.Option(help="The page to write. Default: none, it is printed only.")] = None,
) -> None:
    """Measure pictures over HTTP, print the page, and write it."""
    with exit_codes(as_json=False):
        load_average = os.getloadavg()[0]
        with measured(rounds, duration_s) as bench:
            sections = pictures(bench)
        introduction = (
            "Made by `make bench-images`: wrk with one thread, on the same machine as the server it asks. The contenders take "
            f"turns in {rounds} rounds of {duration_s} s; numbers are medians, with the smallest and the largest in brackets; a "
            "ratio is the median of the rounds' own ratios. Every answer was compared with the artifact's own first. The "
            f"machine's load average was {load_average:.1f} before the start."
        )
        text = page.to_markdown("How fast pictures are served", introduction, sections)
        typer.echo(text)
        if to is not None:
            page.write(to, text, sections)


if __name__ == "__main__":
    typer.run(main)
