"""What is written first: FastAPI, a pydantic body, a TorchScript model called once per request.

`python -m bench.naive MODEL.pt --port P` answers POST /predict as our server answers POST /predictions/{model} with JSON. It runs
on uvicorn, or on granian where that is not installed. It is kinder than most first tries: its handler is a coroutine, since
handing so short a call to a thread makes it slower; and torch has one thread, since its own choice loses most of its speed
as soon as something else wants a core.
"""

import asyncio
import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel


class Body(BaseModel):
    """The rows of every input."""

    inputs: dict[str, list[list[float]]]


def create_app(model: Path, output: str) -> FastAPI:
    """The application; `output` is the name of the model's only output."""
    import torch

    torch.set_num_threads(1)
    module = torch.jit.load(model)
    app = FastAPI()

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/predict")
    async def predict(body: Body) -> dict[str, Any]:
        with torch.inference_mode():
            answer = module(*(torch.tensor(rows) for rows in body.inputs.values()))
        return {"outputs": {output: answer.tolist()}}

    return app


def server_name() -> str:
    """The server that runs it here: uvicorn or granian."""
    return "uvicorn" if importlib.util.find_spec("uvicorn") else "granian"


def _serve_with_uvicorn(app: FastAPI, port: int) -> None:
    import uvicorn  # type: ignore[import-not-found]

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False)


def _serve_with_granian(app: FastAPI, port: int) -> None:
    from granian.constants import Interfaces
    from granian.server.embed import Server

    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGI, websockets=False, log_enabled=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve())


def main(
    model: Annotated[Path, typer.Argument(help="A TorchScript file.")],
    port: Annotated[int, typer.Option(help="The port to listen on, at 127.0.0.1.")],
    output: Annotated[str, typer.Option(help="The name of the model's only output.")] = "logits",
) -> None:
    """Serve a model as it is done first, for measurements only."""
    serve = {"uvicorn": _serve_with_uvicorn, "granian": _serve_with_granian}[server_name()]
    serve(create_app(model, output), port)


if __name__ == "__main__":
    typer.run(main)
