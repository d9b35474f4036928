"""The command: `python -m bench.peers.fastapi_app ARTIFACT --port P`.

One process with uvicorn, on uvloop, and httptools where that is installed, without an access log.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

import artifact
from bench.peers.fastapi_app.app import calls_at_once, create_app


def main(
    directory: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact's directory.")],
    port: Annotated[int, typer.Option(help="The port to listen on, at 127.0.0.1.")],
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one call. Default: the engine's own choice.")] = None,
    engine: Annotated[str, typer.Option(help="As for artifact.load.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, or cuda:NUMBER.")] = "cpu",
    instances: Annotated[int, typer.Option(min=1, help="Calls that run at once; more without batching, to fill the cores.")] = 1,
    *,
    batching: Annotated[bool, typer.Option("--batching", help="Join requests that wait.")] = False,
) -> None:
    """Serve an artifact as it is done with FastAPI alone, for measurements only."""
    load = partial(artifact.load, directory, engine, threads, device=device)
    joins = batching and artifact.read_manifest(directory).signature.batch_dim is not None
    calls = instances if joins else calls_at_once(load(), threads, instances)
    model = load(calls=max(calls, 1))
    model.replay()  # warms it up
    uvicorn.run(create_app(model, calls, batching=joins), host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    typer.run(main)
