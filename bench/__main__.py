"""The command: `python -m bench`, which is `stateserve bench`."""

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.errors import NotAsked
from bench.options import Options, parse_concurrency, parse_header, parse_objective, parse_rates
from foundation.command import exit_codes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_WIDTH = 160
"""Columns of the table where nobody's terminal says how many there are."""

_SERVER, _LOAD, _LIMITS, _RESULTS = "What is asked", "Load", "How far from the limit", "Results"


@app.command()
def bench(
    *,
    url: Annotated[
        str | None,
        typer.Option(help="The server, as in http://127.0.0.1:8080. Default: ours, started on --bound.", rich_help_panel=_SERVER),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model. Default: the only one.", rich_help_panel=_SERVER)] = None,
    version: Annotated[str | None, typer.Option(help="Its version. Default: the server's.", rich_help_panel=_SERVER)] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="Tensors: oip-binary, oip-json, predictions-json, predictions-npy, predictions-raw. Raw values, for a model "
            "with preprocess: predictions-image, predictions-text, predictions-multipart, predictions-values, oip-bytes. Or raw.",
            rich_help_panel=_SERVER,
        ),
    ] = "oip-binary",
    raw: Annotated[
        bool, typer.Option("--raw", help="Ask --url itself, with the bytes of --input.", rich_help_panel=_SERVER)
    ] = False,
    input_paths: Annotated[
        list[Path] | None,
        typer.Option(
            "--input",
            help="Real inputs: .json, .npy, .npz, images, lines of .txt, rows of .csv, or a folder of them; repeatable. Default: "
            "made up from the signature.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="A header of every request, 'Name: value'; repeatable.", rich_help_panel=_SERVER)
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of one request, where inputs are made up.", rich_help_panel=_SERVER)] = 1,
    concurrency: Annotated[
        str, typer.Option(help="Closed loops: connections that wait for an answer each; 0: none.", rich_help_panel=_LOAD)
    ] = "1,8,32",
    rate: Annotated[
        str | None,
        typer.Option(
            help="Open loops: requests in a second, as 100,500; or sweep: up to and beyond what a closed loop reaches.",
            rich_help_panel=_LOAD,
        ),
    ] = None,
    slo: Annotated[
        str | None, typer.Option(help="Find the highest rate that holds this, as p99=20ms.", rich_help_panel=_LOAD)
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long one load is measured.", rich_help_panel=_LOAD)
    ] = 10.0,
    warmup: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="The same load before it, not counted.", rich_help_panel=_LOAD)
    ] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are over them.", rich_help_panel=_LOAD)] = 3,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long an answer is waited for.", rich_help_panel=_LOAD)
    ] = 30.0,
    processes: Annotated[int, typer.Option(min=1, help="Processes that make the load.", rich_help_panel=_LOAD)] = 1,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Connections that an open loop may have open.", rich_help_panel=_LOAD)
    ] = 256,
    bound: Annotated[
        Path | None,
        typer.Option(
            metavar="ARTIFACT",
            help="The artifact that is served: its engine is measured alone, and the answers are compared with its numbers.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="PEERS", help="Also measure fastapi, torchserve (or both) with the model of --bound.", rich_help_panel=_LIMITS
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The folder for report.html, results.json and results.csv.", rich_help_panel=_RESULTS)
    ] = Path("bench_report"),
    compare: Annotated[
        Path | None,
        typer.Option(metavar="OLD.JSON", help="An earlier results.json: say and plot what changed.", rich_help_panel=_RESULTS),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0, help="Exit with 1 if --compare finds anything worse by more; 0.1 is 10 %.", rich_help_panel=_RESULTS
        ),
    ] = 0.1,
) -> None:
    """Load-test a server: how fast its answers are, and how far it is from the limit.

    Without --url, our server is started on --bound. Exit code: 0; 1 if it was stopped in the middle, or --compare found worse
    numbers or none to compare; 2 if nothing could be measured; 130 after Ctrl-C, 143 after SIGTERM.
    """
    with exit_codes(as_json=False):
        rates, sweep = parse_rates(rate)
        options = Options(
            url=url,
            model=model,
            version=version,
            protocol="raw" if raw else protocol,
            inputs=tuple(input_paths or ()),
            headers=tuple(parse_header(text) for text in header or ()),
            rows=rows,
            concurrency=parse_concurrency(concurrency),
            rates=rates,
            sweep=sweep,
            objective=None if slo is None else parse_objective(slo),
            duration_s=duration,
            warmup_s=warmup,
            rounds=rounds,
            timeout_s=timeout,
            processes=processes,
            max_connections=max_connections,
            bound=bound,
            against=tuple(dict.fromkeys((against or "").replace(" ", "").split(","))) if against else (),
            out=out,
            tolerance=tolerance,
            command=_command(sys.argv[1:]),
        )
        if compare is not None and compare.resolve() == (out / "results.json").resolve():
            raise NotAsked(f"--compare {compare} is what this test will write: keep the old one elsewhere, or give another --out")
        worse = _measured(options, compare)
    raise typer.Exit(1 if worse else 0)


def _command(words: Sequence[str]) -> str:
    """What a reader types for the same test, without what may be secret: the values of headers, the query of a URL."""
    words = list(words[1:] if words[:1] == ["bench"] else words)
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=") if word.startswith("--") else (words[place - 1], "", word)
        if flag == "--header" and value:
            words[place] = f"{flag}{equals}" * bool(equals) + value.partition(":")[0] + ": …"
        if flag == "--url" and "?" in value:
            words[place] = f"{flag}{equals}" * bool(equals) + value.partition("?")[0] + "?…"
    return shlex.join(["stateserve", "bench", *words])


def _measured(options: Options, compare_with: Path | None) -> bool:
    """Runs the test and prints it; whether `--compare` found anything worse."""
    from bench import compare, load_test, results
    from bench.live import LiveTest
    from bench.summary import print_summary

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda found, _: sys.exit(128 + found))
    previous = None if compare_with is None else results.read(compare_with)
    with LiveTest().running() as shown:
        found = load_test.run(options, shown, previous)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    print_summary(found, options.out, console)
    if previous is None:
        return False
    comparison = compare.compare(previous, found, options.tolerance)
    for line in comparison.lines:
        console.print(line, markup=False, soft_wrap=True)
    return bool(comparison.beyond)


if __name__ == "__main__":
    app(prog_name="python -m bench")
