"""The practical limit of this stack: `python -m bench.limit MODEL --port P`.

The shortest honest way from bytes to bytes: granian's RSGI interface on uvloop, simdjson, ONNX Runtime called inline with one
thread, orjson. Nothing is validated, joined, counted or logged: what a server does beyond this is what its features cost.

Four routes, for a model with one float32 input and one float32 output whose only variable dimension is the leading one:

- POST /json              Open Inference Protocol, JSON in and out
- POST /binary            the same with its binary extension, in and out
- POST /predictions-json  `{"inputs": {name: nested lists}}` in, `{"outputs": {name: nested lists}}` out
- POST /raw               the input's bytes in, the output's bytes out
"""

import asyncio
from collections.abc import Callable  # noqa: TC003 - as every import of ours: at the top
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import orjson
import simdjson
import typer
import uvloop
from granian.constants import Interfaces
from granian.server.embed import Server

Headers = list[tuple[str, str]]

_JSON: Headers = [("content-type", "application/json")]
_BYTES: Headers = [("content-type", "application/octet-stream")]
_HEADER_LENGTH = "inference-header-content-length"


class Limit:
    """The application: one session, called on the event loop."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (taken,), (given,) = self._session.get_inputs(), self._session.get_outputs()
        self._input, self._output = taken.name, given.name
        self._shape = (-1, *taken.shape[1:])
        self._parse: Callable[[bytes], Any] = simdjson.Parser().parse
        self._routes: dict[str, Callable[[Any, bytes], tuple[Headers, bytes]]] = {
            "/json": self._json,
            "/binary": self._binary,
            "/predictions-json": self._predictions_json,
            "/raw": self._raw,
            "/ready": lambda _scope, _body: (_JSON, b"{}"),
        }

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        body = await protocol()
        route = self._routes.get(scope.path)
        if route is None:
            protocol.response_empty(404, [])
            return
        headers, content = route(scope, body)
        protocol.response_bytes(200, headers, content)

    def _json(self, _scope: Any, body: bytes) -> tuple[Headers, bytes]:
        data = self._parse(body)["inputs"][0]["data"].as_buffer(of_type="d")
        answer = self._run(np.frombuffer(data).astype(np.float32))
        output = {"name": self._output, "shape": answer.shape, "datatype": "FP32", "data": answer.ravel()}
        return _JSON, orjson.dumps({"model_name": "limit", "outputs": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)

    def _predictions_json(self, _scope: Any, body: bytes) -> tuple[Headers, bytes]:
        data = self._parse(body)["inputs"][self._input].as_buffer(of_type="d")
        answer = self._run(np.frombuffer(data).astype(np.float32))
        return _JSON, orjson.dumps({"model_name": "limit", "outputs": {self._output: answer}}, option=orjson.OPT_SERIALIZE_NUMPY)

    def _binary(self, scope: Any, body: bytes) -> tuple[Headers, bytes]:
        length = int(scope.headers.get(_HEADER_LENGTH))
        shape = self._parse(body[:length])["inputs"][0]["shape"].as_list()
        answer = self._run(np.frombuffer(body, np.float32, offset=length).reshape(shape))
        data = answer.tobytes()
        parameters = {"binary_data_size": len(data)}
        output = {"name": self._output, "shape": answer.shape, "datatype": "FP32", "parameters": parameters}
        head = orjson.dumps({"model_name": "limit", "outputs": [output]})
        return [*_BYTES, (_HEADER_LENGTH, str(len(head)))], head + data

    def _raw(self, _scope: Any, body: bytes) -> tuple[Headers, bytes]:
        return _BYTES, self._run(np.frombuffer(body, np.float32)).tobytes()

    def _run(self, values: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._input: values.reshape(self._shape)})[0]  # type: ignore[return-value]


async def _serve(app: Limit, port: int) -> None:
    await Server(app, address="127.0.0.1", port=port, interface=Interfaces.RSGI, websockets=False, log_enabled=False).serve()


def main(
    model: Annotated[Path, typer.Argument(help="An artifact's directory, or a model.onnx.")],
    port: Annotated[int, typer.Option(help="The port to listen on, at 127.0.0.1.")],
) -> None:
    """Serve a model at the limit of this stack, for measurements only."""
    app = Limit(model / "model.onnx" if model.is_dir() else model)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, port))


if __name__ == "__main__":
    typer.run(main)
