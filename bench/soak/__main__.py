"""The command: `python -m bench.soak`. Ends with 1 if anything was wrong."""

import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bench.soak import page
from bench.soak.finding import Finding, Soak
from bench.soak.processes import Processes
from bench.soak.scenarios import SCENARIOS, run
from foundation.command import exit_codes


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Do about a fiftieth of everything.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"Run this scenario only; repeatable: {', '.join(SCENARIOS)}.")] = None,
    frontends: Annotated[int, typer.Option(min=1, help="HTTP processes of the server.")] = 1,
    engine_processes: Annotated[
        int, typer.Option(min=0, help="Engine processes of each model whose calls are long; 0: none, they run in threads.")
    ] = 0,
    append: Annotated[bool, typer.Option("--append", help="Add to the page that is there, under a heading of its own.")] = False,
    to: Annotated[Path | None, typer.Option(help="The page to write. Default: none, it is printed only.")] = None,
) -> None:
    """Show that nothing is lost under load, print the page, and write it."""
    unknown = sorted(set(only or ()) - set(SCENARIOS))
    if unknown:
        raise typer.BadParameter(
            f"there is no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}", param_hint="--only"
        )
    processes = Processes(frontends, engine_processes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that servers are ended as after Ctrl-C
    began = time.perf_counter()

    def say(text: str) -> None:
        print(f"{time.perf_counter() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    findings = []
    with exit_codes(as_json=False), tempfile.TemporaryDirectory() as folder:
        for name in SCENARIOS:
            if not only or name in only:
                say(f"{name} begins")
                findings.append(_run(name, Soak(Path(folder), quick, say, processes)))
                for text in [*findings[-1].faults, *findings[-1].missed]:
                    say(f"{name}: WRONG: {text}")
    words = [*(f"--only {name}" for name in only or ()), *(["--quick"] if quick else [])]
    words += [f"--frontends {frontends} --engine-processes {engine_processes}"] if processes.are_several else []
    made = page.Made(" ".join(["python -m bench.soak", *words]), processes)
    print(page.to_markdown(findings, made))
    if to is not None:
        page.write(to, findings, made, append=append)
    if any(finding.faults or finding.missed for finding in findings):
        raise typer.Exit(1)


def _run(name: str, soak: Soak) -> Finding:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(name, soak))


if __name__ == "__main__":
    typer.run(main)
