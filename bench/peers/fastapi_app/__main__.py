"""The command: `python -m bench.peers.fastapi_app ARTIFACT --port P`.

One process with uvicorn, on uvloop, and httptools where that is installed, without an access log.
"""

from pathlib import Path
from typing import Annotated

import typer
import uvicorn

import artifact
from bench.peers.fastapi_app.app import create_app


def main(
    directory: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact's directory.")],
    port: Annotated[int, typer.Option(help="The port to listen on, at 127.0.0.1.")],
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one call. Default: the engine's own choice.")] = None,
    engine: Annotated[str, typer.Option(help="As for artifact.load.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, or cuda:NUMBER.")] = "cpu",
    *,
    batching: Annotated[bool, typer.Option("--batching", help="Join requests that wait.")] = False,
) -> None:
    """Serve an artifact as it is done with FastAPI alone, for measurements only."""
    model = artifact.load(directory, engine, threads, device=device)
    model.replay()  # warms it up
    uvicorn.run(create_app(model, batching=batching), host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    typer.run(main)
