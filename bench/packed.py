"""The handler of a .mar that `stateserve package mar` wrote, run without TorchServe: `python -m bench.packed MAR --gpu 0`.

It is asked as TorchServe's worker asks it: `initialize` once, then `handle` with a batch of requests. The handler brings along
all that it needs but NumPy and the engine, and puts it on this process's path: run one archive in a process.
"""

import http
import io
import json
import tempfile
import time
import types
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from artifact import read_manifest
from bench.errors import ProcessFailed
from bench.inputs import made_up
from foundation.command import exit_codes

JSON, NPY = "application/json", "application/x-npy"
LEAST_BATCHES = 3
_HANDLER = "StateserveHandler"


@dataclass(frozen=True, slots=True)
class Reply:
    """The handler's answer to one request of a batch."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Context:
    """What a handler sees of TorchServe: the archive's manifest, its folder, the GPU, and the requests' headers."""

    def __init__(self, folder: Path, gpu: int | None) -> None:
        self.manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_bytes())
        self.model_name = self.manifest["model"]["modelName"]
        self.system_properties = {"model_dir": str(folder), "gpu_id": gpu}
        self.requests: Sequence[Mapping[str, str]] = ()
        self.statuses: dict[int, int] = {}
        self.headers: dict[int, dict[str, str]] = {}

    def get_all_request_header(self, index: int) -> dict[str, Any]:
        """The headers of one request of the batch."""
        return {"explain": "False", **self.requests[index]}

    def get_request_id(self, index: int = 0) -> str:
        """A name for one request of the batch."""
        return f"alone-{index}"

    def set_response_status(self, code: int, idx: int) -> None:
        """The status of one answer."""
        self.statuses[idx] = code

    def set_response_header(self, index: int, name: str, value: str) -> None:
        """A header of one answer."""
        self.headers.setdefault(index, {})[name] = value


class Packed:
    """A loaded handler. `folder` holds the unpacked archive; `gpu` is its number, None for the CPU.

    Raises:
        ProcessFailed: the handler's own checks failed: with its own words.
    """

    def __init__(self, folder: Path, gpu: int | None = None) -> None:
        self._context = Context(folder, gpu)
        model = self._context.manifest["model"]
        self.signature = read_manifest((folder / model["serializedFile"]).parent).signature
        path = folder / model["handler"]
        module = types.ModuleType(path.stem)
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)  # noqa: S102 - as TorchServe does
        self._handler = getattr(module, _HANDLER)()
        try:
            self._handler.initialize(self._context)
        except Exception as cause:  # the archive brings its own classes of errors, which are not this process's
            raise ProcessFailed(f"the handler does not load its model: {type(cause).__name__}: {cause}") from cause

    def handle(self, rows: Sequence[Mapping[str, Any]], headers: Mapping[str, str]) -> list[Reply]:
        """The answers to a batch of requests, given as TorchServe's worker gives them, all with the same headers."""
        context = self._context
        context.requests = [headers] * len(rows)
        context.statuses, context.headers = {}, {}
        found = self._handler.handle(list(rows), context)
        return [Reply(context.statuses[index], context.headers.get(index, {}), body) for index, body in enumerate(found)]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs for one request: the one array as .npy, or several as JSON.

        Raises:
            ProcessFailed: the handler refused it, or failed: with its own words.
        """
        row, headers = self.request(inputs)
        (reply,) = self.handle([row], headers)
        if reply.status != http.HTTPStatus.OK:
            raise ProcessFailed(f"the handler answers {reply.status}: {reply.body.decode(errors='replace')}")
        return self._outputs(reply)

    def request(self, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, str]]:
        """A request's row and headers."""
        accept = NPY if len(self.signature.outputs) == 1 else JSON
        if len(inputs) > 1:
            nested = {name: array.tolist() for name, array in inputs.items()}
            return {"body": {"inputs": nested}}, {"content-type": JSON, "accept": accept}
        file = io.BytesIO()
        np.lib.format.write_array(file, next(iter(inputs.values())), allow_pickle=False)
        return {"body": bytearray(file.getvalue())}, {"content-type": NPY, "accept": accept}

    def _outputs(self, reply: Reply) -> dict[str, np.ndarray]:
        if reply.headers["content-type"] == NPY:
            return {self.signature.outputs[0].name: np.load(io.BytesIO(reply.body), allow_pickle=False)}
        said = json.loads(reply.body)["outputs"]
        return {spec.name: np.array(said[spec.name], spec.dtype) for spec in self.signature.outputs}


def unpacked(mar: Path, folder: Path) -> Path:
    """The archive's files, in a folder."""
    with zipfile.ZipFile(mar) as archive:
        archive.extractall(folder)
    return folder


def measured(handler: Packed, rows: int, requests: int, duration_s: float) -> dict[str, float]:
    """Batches of so many requests with so many rows each, one after another for so long: rows in a second, and a batch's time.

    Raises:
        ProcessFailed: a request is not answered.
    """
    row, headers = handler.request(made_up(handler.signature, rows, different=1)[0])
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < LEAST_BATCHES or time.perf_counter() - began < duration_s:
        before = time.perf_counter()
        replies = handler.handle([row] * requests, headers)
        taken.append(time.perf_counter() - before)
        if failed := [reply for reply in replies if reply.status != http.HTTPStatus.OK]:
            raise ProcessFailed(f"the handler answers {failed[0].status}: {failed[0].body.decode(errors='replace')}")
    return {
        "rows": rows,
        "requests": requests,
        "batches": len(taken),
        "rows_per_s": rows * requests * len(taken) / sum(taken),
        "p50_s": float(np.quantile(taken, 0.5)),
        "p99_s": float(np.quantile(taken, 0.99)),
    }


def main(
    mar: Annotated[Path, typer.Argument(metavar="MAR", help="What `stateserve package mar` wrote.")],
    *,
    gpu: Annotated[int | None, typer.Option(min=0, help="The GPU's number. Default: the CPU.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a request.")] = 1,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a batch.")] = 1,
    duration_s: Annotated[float, typer.Option(min=0, help="How long to measure.")] = 5.0,
) -> None:
    """Ask a packed artifact's handler as TorchServe's worker does, without TorchServe; print what it took as JSON."""
    with exit_codes(as_json=True), tempfile.TemporaryDirectory() as folder:
        handler = Packed(unpacked(mar, Path(folder)), gpu)
        typer.echo(json.dumps(measured(handler, rows, requests, duration_s)))


if __name__ == "__main__":
    typer.run(main)
