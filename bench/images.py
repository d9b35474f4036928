"""Pictures over HTTP against what decoding alone and the engine alone can do on the same cores: `python -m bench.images`.

All are measured in turn, round by round, in one run. A server that overlapped both perfectly, on cores of their own, would reach
the lower of the two; on the same cores both take their part of the time, and the page says what is left of it then. What the
request path alone costs is told by the same tensors, sent as they are.
"""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import artifact
from artifact.operations import RawLimits
from bench import bound, decoding, page, raw_answers, raw_bodies
from bench.body import Body, Raws
from bench.command import measured
from bench.errors import WrongAnswer
from bench.models import PICTURES
from bench.page import Goal, Section, Spread
from bench.payloads import PROTOCOLS, oip_binary
from bench.processes import Running
from bench.raw import PICTURE, picture
from bench.rounds import Bench, Endpoint
from bench.wrk import Load, fire
from foundation.command import exit_codes
from foundation.environment import cores

CONNECTIONS = 16
GOAL = 0.90
SIDES = ((224, 224), PICTURE, (768, 1024))
"""Heights and widths of the pictures that are sent: as large as the model takes them, ImageNet's mean, and larger."""
BODIES = ("predictions-image", "predictions-multipart", "predictions-values", "oip-bytes")
"""The protocols that one picture of `PICTURE` is sent in; the goal is the first one's."""
_TENSORS = "oip-binary"
_SEED = 0

Layout = tuple[int, int]
"""Calls at a time, and threads of each."""


@dataclass(frozen=True, slots=True)
class _File:
    """A picture's file; `title` names it in tables."""

    path: Path
    title: str

    @classmethod
    def made(cls, folder: Path, height: int, width: int) -> "_File":
        path = folder / f"{width}x{height}.jpg"
        path.write_bytes(picture(np.random.default_rng(_SEED), height, width))
        return cls(path, f"{width} x {height}, {path.stat().st_size:,} bytes")

    @property
    def raws(self) -> Raws:
        """A request with it."""
        return Raws({"image": [self.path.read_bytes()]})


@dataclass(frozen=True, slots=True)
class _Alone:
    """The engine alone in one layout, with its best number of rows in a call."""

    layout: Layout
    rows: int

    @classmethod
    def best(cls, directory: Path, layout: Layout, duration_s: float) -> "_Alone":
        instances, threads = layout
        return cls(layout, bound.measure(directory, bound.Run("onnx", threads, instances), duration_s).best.rows)

    def __str__(self) -> str:
        return f"{self.layout[0]} call(s) at a time with {self.layout[1]} thread(s) each and {self.rows} rows in a call"

    def rows_per_s(self, directory: Path, duration_s: float) -> float:
        """Measured in a process of its own."""
        instances, threads = self.layout
        return bound.measure(directory, bound.Run("onnx", threads, instances), duration_s, rows=(self.rows,)).best.rows_per_s


def pictures(bench: Bench) -> list[Section]:
    """ResNet-18 from JPEG files: our server, its decoding alone, its engine alone."""
    directory, number = bench.export(PICTURES), cores()
    files = [_File.made(bench.folder, height, width) for height, width in SIDES]
    middle = files[SIDES.index(PICTURE)]
    largest = artifact.read_manifest(directory).signature.dims["batch"].max
    engines = []
    for layout in sorted({(1, number), (number, 1)}):
        with bench.step(f"engine alone, {layout[0]} call(s) at a time, every batch size"):
            engines.append(_Alone.best(directory, layout, bench.duration_s * largest / 2))
    with bench.server(directory.parents[1], "--instances", str(number), "--threads", "1") as ours:
        bodies = {(protocol, middle): _body(directory, protocol, middle.raws, ours) for protocol in BODIES}
        bodies |= {(BODIES[0], file): _body(directory, BODIES[0], file.raws, ours) for file in files}
        bodies[_TENSORS, middle] = _tensors(directory, middle.raws, ours)
        cases = {
            **{("decode", file): partial(decoding.measure, directory, [file.path], number) for file in files},
            **{("engine", engine): partial(engine.rows_per_s, directory) for engine in engines},
            **{key: partial(_served, bench, ours, key[0], body) for key, body in bodies.items()},
        }
        rates = bench.measure("pictures", cases)
    best = max(engines, key=lambda one: statistics.median(rates["engine", one]))
    engine = rates["engine", best]
    served = {protocol: rates[protocol, middle] for protocol in BODIES}
    return [
        _goal_section([(file, rates["decode", file], rates[BODIES[0], file]) for file in files], engine, best, number),
        _tensors_section(rates[_TENSORS, middle], engine),
        _protocols_section(served, {protocol: len(bodies[protocol, middle].content) for protocol in BODIES}, middle),
    ]


def _body(directory: Path, protocol: str, raws: Raws, server: Running) -> Body:
    """The picture in a protocol; the server answered it with what the artifact itself says."""
    body = (PROTOCOLS[protocol].write_raw or raw_bodies.file_alone)(raws)
    status, _, content = server.post(_path(protocol), body)
    if status != 200:
        raise WrongAnswer(f"{_path(protocol)} answered {status}, not 200: {content[:500].decode(errors='replace')}")
    loaded = artifact.load(directory, engine="onnx", threads=1)
    if raw_answers.has_predictions(loaded, protocol):
        raw_answers.require(content, raws, loaded)
    return body


def _tensors(directory: Path, raws: Raws, server: Running) -> Body:
    """The tensors that the picture becomes, as they are; the server answered them with what the engine itself says."""
    loaded = artifact.load(directory, engine="onnx", threads=1)
    if loaded.operations is None:
        raise WrongAnswer(f"{directory} declares no operations")
    row = loaded.operations.prepare(raws.row(0), RawLimits())
    body = oip_binary(row)
    Endpoint(server, _path(_TENSORS), body).require(next(iter(loaded.run(row).values())))
    return body


def _path(protocol: str) -> str:
    return PROTOCOLS[protocol].path.format(model=PICTURES.name)


def _served(bench: Bench, server: Running, protocol: str, body: Body, duration_s: int) -> float:
    load = Load(f"http://127.0.0.1:{server.port}{_path(protocol)}", body, CONNECTIONS, duration_s, stamped=True)
    return fire(load, bench.folder).requests_per_s


def _goal_section(
    sent: Sequence[tuple[_File, Sequence[float], Sequence[float]]],
    engine: Sequence[float],
    alone: _Alone,
    threads: int,
) -> Section:
    text = (
        f"A JPEG file as `image/jpeg`, {CONNECTIONS} connections. Ours runs {threads} calls at a time with one thread each, and "
        f"{threads} threads decode. Decoding alone is every operation from the file to the tensor, by {threads} threads. The "
        f"engine alone is {alone}: its best layout and batches here. Each is a process of its own. `Both` is what is left where "
        "both share the cores, as in the server they must: 1 / (1 / decode + 1 / engine)."
    )
    columns = (
        *("picture", "decode alone, images/s", "engine alone, images/s", "ours, images/s", "ours / the lower of the two", "goal"),
        *("both / the lower", "ours / both"),
    )
    rows = []
    for file, decode, served in sent:
        lower = [min(pair) for pair in zip(decode, engine, strict=True)]
        both = [1 / (1 / one + 1 / other) for one, other in zip(decode, engine, strict=True)]
        ratio = Spread.of_ratios(served, lower)
        rates = (Spread.of(side).text(1) for side in (decode, engine, served))
        of_both = (Spread.of_ratios(both, lower), Spread.of_ratios(served, both))
        goal = Goal(GOAL, at_least=True).text(ratio.median)
        rows.append((file.title, *rates, ratio.text(3), goal, *(one.text(3) for one in of_both)))
    return Section(f"{PICTURES.title}, {CONNECTIONS} connections", text, columns, rows)


def _tensors_section(served: Sequence[float], engine: Sequence[float]) -> Section:
    text = (
        f"The tensors of the second picture, as {PROTOCOLS[_TENSORS].title}: nothing is decoded, the request path alone is left."
    )
    row = (Spread.of(engine).text(1), Spread.of(served).text(1), Spread.of_ratios(served, engine).text(3))
    return Section("The same without a picture", text, ("engine alone, images/s", "ours, images/s", "ours / engine alone"), [row])


def _protocols_section(rates: Mapping[str, Sequence[float]], sizes: Mapping[str, int], file: _File) -> Section:
    first = rates[BODIES[0]]
    rows = [
        (PROTOCOLS[name].title, f"{sizes[name]:,}", Spread.of(found).text(1), Spread.of_ratios(found, first).text(3))
        for name, found in rates.items()
    ]
    columns = ("sent as", "bytes", "images/s", "against the first")
    text = f"One picture of {file.title} in a request, {CONNECTIONS} connections."
    return Section("The same picture in every protocol", text, columns, rows)


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
