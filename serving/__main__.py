"""The command: `python -m serving`, which is `stateserve serve`."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from foundation.command import exit_codes
from serving.read_settings import ReadSettings, read_settings, require_model_store, to_properties
from serving.settings import GROUPS, Settings, as_text, flag_name, group, is_switch, what_it_does
from serving.torchserve.keys import warnings, without_effect
from serving.torchserve.metrics import metric_logs

SEVERAL = frozenset({"--models"})
"""Flags that take every word up to the next flag, as TorchServe's does: `--models a.mar b=c.mar`."""
UNITS = {"s": "SECONDS", "ms": "MILLISECONDS", "bytes": "BYTES", "rows": "ROWS"}
"""What a setting's number counts, by the last word of its name."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class ServeCommand(TyperCommand):
    """The command, with flags that take several words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Says such a flag before each of its words, as click wants to see it."""
        return super().parse_args(ctx, list(_flag_before_each(args)))


def _flag_before_each(words: list[str]) -> Iterator[str]:
    flag, given = None, 0
    for word in words:
        if word.startswith("-"):
            flag, given = (word if word in SEVERAL else None), 0
        elif flag is not None:
            given += 1
            if given > 1:
                yield flag
        yield word


def _flags() -> list[inspect.Parameter]:
    """One option per field of `Settings`; what it says is read as what a file or a variable says, switches apart."""
    names = sorted(filter(flag_name, Settings.model_fields), key=lambda name: GROUPS.index(group(name)))
    return [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name)) for name in names]


def _flag(name: str) -> Any:
    field = Settings.model_fields[name]
    kind: Any = bool if is_switch(name) else list[str] if flag_name(name) in SEVERAL else str
    option = typer.Option(
        f"{flag_name(name)}/{flag_name(name, off=True)}" if kind is bool else flag_name(name),
        help=f"{what_it_does(name)} Default: {as_text(name, field.default)}.",
        metavar="" if kind is bool else UNITS.get(name.rpartition("_")[2], "VALUE"),
        rich_help_panel=group(name),
    )
    return Annotated[kind | None, option]


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The command, its `**flags` written out, as typer wants to see them."""
    own = [
        parameter for parameter in inspect.signature(command).parameters.values() if parameter.kind is not parameter.VAR_KEYWORD
    ]
    parameters = [*own, *_flags()]
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@app.command(cls=ServeCommand)
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
            require_model_store(read)
            run(read, metric_logs.metrics_directory())


def run(read: ReadSettings, metrics_to: Path | None, started: Callable[[], None] | None = None) -> None:
    """Serves until a signal ends it; TorchServe's files of metrics go to the folder `metrics_to`, if there is one.

    `started` is called when every address is listened on, and the models of the model store are registered.
    """
    from serving import logs

    lines = logs.configure(read.settings.log_format, access_log=read.settings.access_log)
    metric_logs.configure(metrics_to)
    try:
        if read.ignored:
            logs.log.warning("TorchServe's keys in the settings' file have no effect here: %s", without_effect(read.ignored))
        for warning in warnings(read.settings):
            logs.log.warning("%s", warning)
        from serving.server import serve as run_server  # the server's libraries are heavy: --help does not wait for them

        run_server(read.settings, started)
    finally:
        lines.flush()  # before the error that ends the command is told


if __name__ == "__main__":
    app(prog_name="python -m serving")
