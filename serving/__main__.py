"""The command: `python -m serving`, which is `stateserve serve`."""

from pathlib import Path
from typing import Annotated

import typer

from foundation.command import exit_codes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    repository: Annotated[Path | None, typer.Option(help="The model repository. Default: model_repository.")] = None,
    config: Annotated[Path | None, typer.Option(help="The settings' file. Default: ./config.properties, if it is there.")] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on. Default: 8080.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of one engine call. Default: the engine's own choice.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="The largest body that is read. Default: 64 MiB.")] = None,
    drain_timeout_s: Annotated[float | None, typer.Option(help="Seconds for requests in flight at the end. Default: 30.")] = None,
) -> None:
    """Serve the artifacts of a model repository over HTTP."""
    import logging

    with exit_codes(as_json=False):
        from serving.server import serve as run_server  # the server's libraries are heavy: --help does not wait for them
        from serving.settings import read_settings

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        flags = {
            "repository": repository,
            "host": host,
            "port": port,
            "threads": threads,
            "max_body_bytes": max_body_bytes,
            "drain_timeout_s": drain_timeout_s,
        }
        run_server(read_settings(flags, config))


if __name__ == "__main__":
    app(prog_name="python -m serving")
