"""The `stateserve` command: the rooms' commands under one name. A room is imported when its command runs, not before."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.__main__ import bench
from export.__main__ import export
from foundation.command import exit_codes
from serving.__main__ import ServeCommand, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from artifact.golden import Replay

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=__doc__)
app.command()(export)
app.command(cls=ServeCommand)(serve)
app.command()(bench)
package_app = typer.Typer(no_args_is_help=True, help="Put an artifact into the archive of another server.")
app.add_typer(package_app, name="package")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else.")]
Plugins = Annotated[list[str] | None, typer.Option(help="A .py file or module that registers your model; repeatable.")]


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A checkpoint: any file, a folder, or a URL (s3://…).")],
    config: Annotated[Path | None, typer.Option(help="The YAML to try it with. Default: as export finds it.")] = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Say what a file is, what it holds, whether and how it would load; its code never runs.

    Exit code: 0 if `python -m export` would load it, else the code that it would end with.
    """
    with exit_codes(as_json=as_json):
        from checkpoints.fetched import local_checkpoint
        from export import inspect as inspection

        with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints is not our answer
            found = inspection.inspect(local_checkpoint(path), config, tuple(plugin or ()))
        _print(inspection.to_json(found) if as_json else inspection.to_text(found))
    raise typer.Exit(0 if found.error is None else found.error.exit_code)


@app.command()
def check(
    artifact: Annotated[Path, typer.Argument(help="The artifact: <repository>/<name>/<version>.")],
    replay: Annotated[bool, typer.Option("--replay", help="Run the golden cases on every engine and GPU that is here.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Export --ckpt again; the content id must be the same.")] = False,
    ckpt: Annotated[str | None, typer.Option(metavar="PATH", help="The checkpoint, for --rebuild.")] = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Check an artifact's hashes; with --replay its numbers on this machine, with --rebuild where it comes from.

    --replay says beside the numbers what differs here from the machine of the export, worst first (docs/environment.md).
    Exit code: 0 if all is as it was exported, else not 0.
    """
    if rebuild and ckpt is None:
        raise typer.BadParameter("--rebuild needs the checkpoint", param_hint="--ckpt")
    with exit_codes(as_json=as_json):
        report, lines = _check(artifact, replay=replay)
        if rebuild and ckpt is not None:
            from checkpoints.fetched import local_checkpoint
            from export.rebuild import rebuild as run_rebuild
            from export.report import Silent

            with contextlib.redirect_stdout(sys.stderr):  # see above
                report["rebuilt_content_id"] = run_rebuild(artifact, local_checkpoint(ckpt), tuple(plugin or ()), Silent())
                lines.append("rebuilt from the checkpoint: the same content id")
        _print(report if as_json else "\n".join(lines))


@app.command()
def environment(
    to: Annotated[
        Path | None, typer.Option(help="Write environment.json, requirements.txt and environment.yml to this directory.")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Say what differs from an environment.json, an artifact, or a Keeper's checkpoint.")
    ] = None,
    ask_index: Annotated[
        bool, typer.Option("--ask-index/--no-index", help="Whether pip asks its indexes for the packages' hashes.")
    ] = True,
    timeout_s: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How long pip may take for them.")] = 180,
    force: Annotated[bool, typer.Option("--force", help="Replace files that this command did not make.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what decides the numbers here; with --to write it for another machine, with --against what differs, worst first.

    The switches are those of a fresh process; a training's own are in its checkpoints (docs/environment.md).
    """
    with exit_codes(as_json=as_json):
        from checkpoints.keeping.git import git_state
        from foundation.environment_command import Request, run, text

        request = Request(to, against, ask_index, timeout_s, force)
        with contextlib.redirect_stdout(sys.stderr):  # what a library prints as it is loaded is not our answer
            told = run(request, git_state(Path.cwd()))
        _print(told.to_json() if as_json else text(told))


@app.command()
def tune(
    artifact: Annotated[Path, typer.Argument(help="The artifact: <repository>/<name>/<version>.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="onnx, torchscript or pt2; repeatable. Default: those that the server runs.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda:0.")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="On a GPU: float32, tf32, float16, bfloat16, or auto: what the artifact declares.")
    ] = "auto",
    budget_s: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="How long it may take, all in all.")] = 90,
    max_call_s: Annotated[
        float, typer.Option(min=1e-6, metavar="SECONDS", help="Batches whose call takes longer are not chosen.")
    ] = 1,
    again: Annotated[bool, typer.Option("--again", help="Measure although it was tuned on this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure engines, calls at a time, threads and batch sizes here; write the best to bench.json, which the server follows.

    What is interrupted goes on where it was. The server follows it on this machine only, and what is set holds against it.
    """
    with exit_codes(as_json=as_json):
        from bench.tune.command import run
        from bench.tune.run import Request

        request = Request(artifact, tuple(engine or ()), device, budget_s, max_call_s, again, precision)
        found = run(request, as_json=as_json)
    if found is not None:
        _print(found)


@app.command(name="list")
def list_(
    place: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder of checkpoints of any trainer, or a Keeper's URL (s3://…).")
    ],
    as_json: AsJson = False,
) -> None:
    """List the checkpoints of a folder, in their order: step, epoch, metrics, size, what points to them, what is not whole."""
    with exit_codes(as_json=as_json):
        from checkpoints.listing.command import list_command

        list_command(place, as_json=as_json)


@app.command()
def prune(
    place: Annotated[
        str, typer.Argument(metavar="DIR", help="A folder of checkpoints of any trainer, or a Keeper's URL (s3://…).")
    ],
    keep: Annotated[
        list[str] | None,
        typer.Option(help="last:3, best:val_acc:max:2, every:1000, every:5:epochs; repeatable, what any of them names stays."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Remove only what this names; repeatable.")] = None,
    one_series: Annotated[bool, typer.Option("--one-series", help="Take all as one series, whatever their names.")] = False,
    order_by_time: Annotated[
        bool, typer.Option("--order-by-time", help="Let the time of writing order what nothing else orders.")
    ] = False,
    milestones: Annotated[
        bool, typer.Option("--milestones", help="Let go of what a Keeper's Every… policies keep for good, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go and why the rest stays; remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the checkpoints that nothing keeps; best, last, latest and final ones, links' targets and the newest stay."""
    with exit_codes(as_json=as_json):
        from checkpoints.listing.command import prune_command
        from checkpoints.listing.keep import parse_keep
        from checkpoints.listing.plan import Choice

        choice = Choice(
            keep=parse_keep(keep or ()),
            only=tuple(only or ()),
            one_series=one_series,
            by_time=order_by_time,
            milestones=milestones,
        )
        prune_command(place, choice, dry_run=dry_run, as_json=as_json)


@package_app.command()
def mar(
    artifact: Annotated[Path, typer.Argument(help="The artifact: <repository>/<name>/<version>.")],
    to: Annotated[Path, typer.Option(help="Where to: a .mar file, or a directory, in which it is NAME.mar.")] = Path(
        "model_store"
    ),
    model_format: Annotated[
        str | None, typer.Option("--format", help="onnx or torchscript. Default: the first that the artifact holds.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a .mar that the real TorchServe serves, on the CPU or a GPU; it replays the golden cases there before it answers."""
    with exit_codes(as_json=as_json):
        from serving.torchserve.packed.package import package

        made = package(artifact, to, model_format, force=force)
    _print({**dataclasses.asdict(made), "path": str(made.path)} if as_json else str(made.path))


def _check(directory: Path, *, replay: bool) -> tuple[dict[str, Any], list[str]]:
    """The report as JSON, and as lines for a person."""
    from artifact import check as checking

    manifest = checking.check(directory)
    report: dict[str, Any] = {"artifact": str(directory), "content_id": manifest.content_id, "files": sorted(manifest.listed)}
    lines = [f"{directory}: {len(manifest.listed)} files are as they were exported, content id {manifest.content_id}"]
    if replay:
        replayed = list(checking.replay_all(directory, manifest.formats))
        differing = checking.differing_here(directory, replayed)
        checking.require_all(replayed, differing)
        report["replay"] = {entry.where: {"unavailable": entry.unavailable, **_told(entry.of_engine)} for entry in replayed}
        made = next((entry.of_operations for entry in replayed if entry.of_operations), ())
        report |= {"operations": _told(made)} if made else {}
        report["differences"] = None if differing is None else [found.to_json() for found in differing]
        lines += [_replayed_line(entry.where, report["replay"][entry.where]) for entry in replayed]
        lines += [_replayed_line("operations", {"unavailable": None, **report["operations"]})] if made else []
        lines += checking.difference_lines(differing)
    return report, lines


def _told(results: "Sequence[Replay]") -> dict[str, Any]:
    """Comparisons in a few words: the worst error, and what was allowed of that very comparison (the least, of equal errors)."""
    worst = max(results, key=lambda result: (result.error, -result.tolerance), default=None)
    return {
        "comparisons": len(results),
        "worst_scaled": None if worst is None else worst.error,
        "tolerance": None if worst is None else worst.tolerance,
        "bit_equal": all(result.bit_equal for result in results if not result.tiled),
    }


def _replayed_line(engine: str, entry: dict[str, Any]) -> str:
    if entry["unavailable"]:
        return f"{engine}: not replayed: {entry['unavailable']}"
    worst = f"worst scaled error {entry['worst_scaled']:.1e}, allowed {entry['tolerance']:.1e}"
    return f"{engine}: {entry['comparisons']} comparisons hold, {worst}, bit-equal: {entry['bit_equal']}"


def _print(value: Any) -> None:
    typer.echo(value if isinstance(value, str) else json.dumps(value))


def main() -> None:
    """The console script."""
    app(prog_name="stateserve")


if __name__ == "__main__":
    main()
