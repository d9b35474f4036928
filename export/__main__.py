"""The command: `python -m export --ckpt best.pth`, which is `stateserve export --ckpt best.pth`.

What a person reads goes to stderr. The last line of stdout is the artifact's path; with --json, stdout is one JSON object.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from foundation.command import exit_codes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def export(
    ckpt: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The checkpoint: a file, a folder as Hugging Face and Accelerate write it, or s3://…."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The YAML. Default: STEM.yaml beside the checkpoint, or the checkpoint's own.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The artifact's name. Default: the YAML's name, or the model's.")] = None,
    version: Annotated[int | None, typer.Option(min=1, help="The artifact's version. Default: the next free one.")] = None,
    repository: Annotated[Path, typer.Option(help="The model repository to write to.")] = Path("model_repository"),
    format_: Annotated[
        list[str] | None, typer.Option("--format", help="onnx, torchscript or pt2; repeatable. Default: the YAML's formats.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Which weight set, where the checkpoint has several.")] = None,
    ignore: Annotated[list[str] | None, typer.Option(help="Skip keys of the file that match this glob; repeatable.")] = None,
    plugin: Annotated[list[str] | None, typer.Option(help="A .py file or module that registers your model; repeatable.")] = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="A folder of real raw inputs (pictures, .txt, .csv, .jsonl) to prove with, where the YAML declares preprocess."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Read and match everything, say what would be done, write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of the YAML, and end.")] = False,
) -> None:
    """Turn a training checkpoint into an artifact whose numbers are proven, or write nothing and say why.

    Exit codes: 0 done, 2 usage or config, 3 unreadable checkpoint, 4 unsafe checkpoint, 5 does not match the model, 6 ambiguous,
    7 the model cannot be captured as declared, 8 the numbers disagree, 9 writing failed.
    """
    with exit_codes(as_json=as_json):
        from checkpoints.fetched import local_checkpoint
        from export.errors import ConfigError
        from export.run import ExportRequest  # torch is heavy: --help does not wait for it

        if schema:
            _print_schema(tuple(plugin or ()))
            return
        if ckpt is None:
            raise ConfigError("--ckpt is missing: say which checkpoint to export")
        request = ExportRequest(
            checkpoint=local_checkpoint(ckpt),
            config=config,
            name=_checked_name(name),
            version=version,
            repository=repository,
            formats=tuple(format_ or ()),
            weights=weights,
            ignore=tuple(ignore or ()),
            plugins=tuple(plugin or ()),
            samples=samples,
        )
        _run(request, plan=plan, as_json=as_json)


def _run(request: Any, *, plan: bool, as_json: bool) -> None:
    from export import report
    from export.run import export as run_export
    from export.run import prepare

    console = Console(stderr=True)
    progress = report.Silent() if as_json else report.Steps(console)
    if plan:
        with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints is not our answer
            prepared = prepare(request, progress)
        if as_json:
            print(
                json.dumps({"plan": prepared.config.resolved(), "rewrite": prepared.loaded.rewrite, "formats": prepared.formats})
            )
        else:
            report.print_plan(console, prepared)
        return
    with contextlib.redirect_stdout(sys.stderr):  # nor what forward prints
        exported = run_export(request, progress)
    if as_json:
        print(json.dumps(report.to_json(exported)))
    else:
        report.print_result(console, exported)
        print(exported.path)


def _print_schema(plugins: tuple[str, ...]) -> None:
    import model_defs
    from export.config import json_schema

    with contextlib.redirect_stdout(sys.stderr):
        for plugin in plugins:
            model_defs.load_plugin(plugin)
    print(json.dumps(json_schema(), indent=2))


def _checked_name(name: str | None) -> str | None:
    from pydantic import TypeAdapter, ValidationError

    from export.config import ArtifactName
    from export.errors import ConfigError

    try:
        return name if name is None else TypeAdapter(ArtifactName).validate_python(name)
    except ValidationError as cause:
        raise ConfigError(f"--name {name!r} is not letters, digits, '.', '_' and '-' (at most 128)") from cause


if __name__ == "__main__":
    app(prog_name="python -m export")
