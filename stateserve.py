"""The `stateserve` command: the rooms' commands under one name. A room is imported when its command runs, not before."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.__main__ import bench
from export.__main__ import export
from foundation.command import exit_codes
from serving.__main__ import ServeCommand, serve

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
    path: Annotated[Path, typer.Argument(help="A checkpoint: any file, or a folder.")],
    config: Annotated[Path | None, typer.Option(help="The YAML to try it with. Default: as export finds it.")] = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Say what a file is, what it holds, whether and how it would load; its code never runs.

    Exit code: 0 if `python -m export` would load it, else the code that it would end with.
    """
    with exit_codes(as_json=as_json):
        from export import inspect as inspection

        with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints is not our answer
            found = inspection.inspect(path, config, tuple(plugin or ()))
        _print(inspection.to_json(found) if as_json else inspection.to_text(found))
    raise typer.Exit(0 if found.error is None else found.error.exit_code)


@app.command()
def check(
    artifact: Annotated[Path, typer.Argument(help="The artifact: <repository>/<name>/<version>.")],
    replay: Annotated[bool, typer.Option("--replay", help="Run the golden cases on every engine and GPU that is here.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Export --ckpt again; the content id must be the same.")] = False,
    ckpt: Annotated[Path | None, typer.Option(help="The checkpoint, for --rebuild.")] = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Check an artifact's hashes; with --replay its numbers on this machine, with --rebuild where it comes from.

    Exit code: 0 if all is as it was exported, else not 0.
    """
    if rebuild and ckpt is None:
        raise typer.BadParameter("--rebuild needs the checkpoint", param_hint="--ckpt")
    with exit_codes(as_json=as_json):
        report = _check(artifact, replay=replay)
        if rebuild and ckpt is not None:
            from export.rebuild import rebuild as run_rebuild
            from export.report import Silent

            with contextlib.redirect_stdout(sys.stderr):  # see above
                report["rebuilt_content_id"] = run_rebuild(artifact, ckpt, tuple(plugin or ()), Silent())
        _print(report if as_json else _check_text(report))


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


def _check(directory: Path, *, replay: bool) -> dict[str, Any]:
    from artifact import check as checking

    manifest = checking.check(directory)
    report: dict[str, Any] = {"artifact": str(directory), "content_id": manifest.content_id, "files": sorted(manifest.listed)}
    if replay:
        replayed = list(checking.replay_all(directory, manifest.formats))
        checking.require_all(replayed)
        report["replay"] = {
            entry.where: {
                "unavailable": entry.unavailable,
                "comparisons": len(entry.results),
                "worst_scaled": max((result.error for result in entry.results), default=None),
                "tolerance": min((result.tolerance for result in entry.results), default=None),
                "bit_equal": all(result.bit_equal for result in entry.results if not result.tiled),
            }
            for entry in replayed
        }
    return report


def _check_text(report: dict[str, Any]) -> str:
    lines = [f"{report['artifact']}: {len(report['files'])} files are as they were exported, content id {report['content_id']}"]
    for engine, entry in report.get("replay", {}).items():
        if entry["unavailable"]:
            lines.append(f"{engine}: not replayed: {entry['unavailable']}")
        else:
            worst = f"worst scaled error {entry['worst_scaled']:.1e}, allowed {entry['tolerance']:.1e}"
            lines.append(f"{engine}: {entry['comparisons']} comparisons hold, {worst}, bit-equal: {entry['bit_equal']}")
    if "rebuilt_content_id" in report:
        lines.append("rebuilt from the checkpoint: the same content id")
    return "\n".join(lines)


def _print(value: Any) -> None:
    typer.echo(value if isinstance(value, str) else json.dumps(value))


def main() -> None:
    """The console script."""
    app(prog_name="stateserve")


if __name__ == "__main__":
    main()
