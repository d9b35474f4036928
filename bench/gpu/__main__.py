"""The command: `python -m bench.gpu`, which is `make gpu`. Ends with 1 if a stage failed; without a GPU it does nothing."""

import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from bench.gpu import cuda, page, record
from bench.gpu.order import ALWAYS, STAGES
from bench.gpu.plan import PLANS
from bench.gpu.record import Record
from bench.gpu.stage import Asked, run
from foundation.command import exit_codes

_FOLDER = Path("build/gpu")
_MOST_SAID = 1000
"""Characters of an error, the last ones; gpu.json has all."""


def main(
    quick: Annotated[bool, typer.Option("--quick", help="About a third of it: fewer combinations, shorter loads.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"This stage only, with {' and '.join(ALWAYS)}; repeatable: {', '.join(STAGES)}."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep other stages' results in the gpu.json beside the page.")] = False,
    require: Annotated[bool, typer.Option("--require", help="Without a GPU, fail.")] = False,
    to: Annotated[Path | None, typer.Option(help="The page to write, with gpu.json beside it. Default: it is printed.")] = None,
    folder: Annotated[Path, typer.Option(help="For artifacts and logs; what is exported there is not exported again.")] = _FOLDER,
    patience: Annotated[float, typer.Option(min=0.1, help="Times the seconds that each stage may take.")] = 1.0,
    device: Annotated[str, typer.Option(help="cuda:NUMBER; cpu: a rehearsal.", hidden=True)] = "cuda:0",
    smallest: Annotated[bool, typer.Option("--smallest", help="The smallest rehearsal.", hidden=True)] = False,
) -> None:
    """Export, prove and measure everything for CUDA on this machine's GPU; elsewhere, say that there is none."""
    unknown = sorted(set(only or ()) - set(STAGES))
    if unknown:
        raise typer.BadParameter(f"there is no stage {', '.join(unknown)}; there are {', '.join(STAGES)}", param_hint="--only")
    if device != "cpu" and (why := cuda.why_none()) is not None:
        print(f"make gpu: skipped, nothing was measured: {why}")
        raise typer.Exit(1 if require else 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that a stage is ended with its servers
    plan = "smallest" if smallest else "rehearsal" if device == "cpu" else "quick" if quick else "full"
    command = " ".join(["python -m bench.gpu", *(["--quick"] if quick else []), *(f"--only {name}" for name in only or ())])
    results = None if to is None else to.with_name("gpu.json")
    with exit_codes(as_json=False):
        kept = record.read_stages(results) if keep and results is not None else {}
        made = Record(results, command, device, plan, kept)
        folder.mkdir(parents=True, exist_ok=True)
        names = [name for name in STAGES if not only or name in {*only, *ALWAYS}]
        _measure(made, names, folder.resolve(), to, patience)
    text = page.to_markdown(made, STAGES)
    if to is None:
        print(text)
    if not all(made.stages[name].went_well for name in names):
        raise typer.Exit(1)


def _measure(made: Record, names: list[str], folder: Path, to: Path | None, patience: float) -> None:
    """Runs the stages in turn; the page is written after each. A stage has what earlier ones left of their time, too."""
    budgets_s, began_s, due_s = PLANS[made.plan].budgets_s, time.monotonic(), 0.0

    def say(text: str) -> None:
        print(f"{time.monotonic() - began_s:6.1f} s  {text}", file=sys.stderr, flush=True)

    for name in names:
        due_s += budgets_s[name] * patience
        seconds = due_s - (time.monotonic() - began_s)
        say(f"{name} begins ({seconds:.0f} s at most)")
        made.begin(name)
        asked = Asked(name, made.plan, made.device, str(folder), seconds, made.findings)
        ended = run(asked, folder / f"{name}.log", lambda one, name=name: made.found(name, one), say)
        made.ended(name, ended)
        say(
            f"{name}: {ended.status} after {ended.seconds:.1f} s{'' if ended.error is None else f': {ended.error[-_MOST_SAID:]}'}"
        )
        if to is not None:
            page.write(to, page.to_markdown(made, STAGES))


if __name__ == "__main__":
    typer.run(main)
