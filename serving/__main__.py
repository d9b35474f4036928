"""The command: `python -m serving`, which is `stateserve serve`."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from foundation.command import exit_codes
from serving.read_settings import ReadSettings, read_settings, to_properties
from serving.settings import GROUPS, Settings, as_text, flag_name, group, what_it_does

UNITS = {"s": "SECONDS", "ms": "MILLISECONDS", "bytes": "BYTES", "rows": "ROWS"}
"""What a setting's number counts, by the last word of its name."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _flags() -> list[inspect.Parameter]:
    """One option per field of `Settings`; what it says is read as what a file or a variable says, switches apart."""
    names = sorted(Settings.model_fields, key=lambda name: GROUPS.index(group(name)))
    return [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name)) for name in names]


def _flag(name: str) -> Any:
    field = Settings.model_fields[name]
    is_switch = field.annotation is bool
    option = typer.Option(
        f"{flag_name(name)}/{flag_name(name, off=True)}" if is_switch else flag_name(name),
        help=f"{what_it_does(name)} Default: {as_text(name, field.default)}.",
        metavar="" if is_switch else UNITS.get(name.rpartition("_")[2], "VALUE"),
        rich_help_panel=group(name),
    )
    return Annotated[(bool if is_switch else str) | None, option]


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command, its `**flags` written out, as typer wants to see them."""
    own = [
        parameter for parameter in inspect.signature(command).parameters.values() if parameter.kind is not parameter.VAR_KEYWORD
    ]
    parameters = [*own, *_flags()]
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@app.command()
@_with_flags
def serve(
    *,
    config: Annotated[Path | None, typer.Option(help="The settings' file. Default: ./config.properties, if it is there.")] = None,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Print the settings that hold, and where each comes from; serve nothing.")
    ] = False,
    **flags: Any,
) -> None:
    """Serve the artifacts of a model repository over HTTP.

    Every setting is an option here (--max-body-bytes 64MiB),
    a variable (STATESERVE_MAX_BODY_BYTES=64MiB), and a key of
    config.properties (max_body_bytes=64MiB); the first of these holds.
    """
    with exit_codes(as_json=False):
        read = read_settings(flags, config)
        if print_settings:
            typer.echo(to_properties(read), nl=False)
        else:
            _serve(read)


def _serve(read: ReadSettings) -> None:
    from serving import logs

    lines = logs.configure(read.settings.log_format, access_log=read.settings.access_log)
    try:
        if read.ignored:
            logs.log.warning("TorchServe's keys in the settings' file have no effect here: %s", ", ".join(read.ignored))
        from serving.server import serve as run_server  # the server's libraries are heavy: --help does not wait for them

        run_server(read.settings)
    finally:
        lines.flush()  # before the error that ends the command is told


if __name__ == "__main__":
    app(prog_name="python -m serving")
