"""What must hold for every input, whatever it is. A target is called with the bytes of a request, and raises AssertionError."""

import asyncio
import gzip
import json
import logging
import re
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import mkdtemp
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np

from artifact.engines import EngineOptions, load_engine
from artifact.errors import InvalidInput
from serving.app import create_app
from serving.error_answer import error_answer
from serving.errors import NotAcceptable, ServingError
from serving.inference import Route, route
from serving.joined import JoinedEngine
from serving.messages import Answer, Request
from serving.protocols.asked import Arrays, Asked, Codec, Limits
from serving.protocols.compression import compress, decompress
from serving.protocols.oip import OipCodec
from serving.protocols.predictions import PredictionsCodec
from serving.settings import Settings
from tests.fuzz import reference
from tests.fuzz.models import MODELS, make_repository
from tests.fuzz.wire import Wire

LIMITS = Limits(max_body_bytes=1 << 17, max_tensors=8, max_json_depth=16, max_rows=32)
MOST_MESSAGE_BYTES = 2048
"""An error tells what was wrong; it does not send the body back."""

LABELS = tuple(f"class {number}" for number in range(3))
_JSON = "application/json"


class Served:
    """A model's decoders, its engine, and the reference that they are compared with."""

    def __init__(self, name: str) -> None:
        model = MODELS[name]
        self.signature = signature = model.signature
        labels = {spec.name: LABELS for spec in signature.outputs}
        self.codecs: Mapping[str, Codec] = {
            "oip": OipCodec(name, 1, signature, LIMITS, labels),
            "predictions": PredictionsCodec(name, 1, signature, LIMITS),
        }
        self.reference = reference.Model(signature, LIMITS)
        dim = None if signature.batch_dim is None else signature.dims[signature.batch_dim]
        self.most = 1 if dim is None else dim.max
        multiple = 1 if dim is None else dim.multiple
        engine = load_engine("onnx", model.onnx(), signature, EngineOptions(threads=1))
        self.joined = JoinedEngine(engine, signature, lambda rows: -(-rows // multiple) * multiple)

    def run(self, asked: Asked) -> Arrays:
        """The engine's outputs, in calls of no more rows than it takes. Raises InvalidInput."""
        starts = range(0, asked.rows, self.most)
        outcomes = []
        for start in starts:
            part = asked.inputs if len(starts) == 1 else {k: v[start : start + self.most] for k, v in asked.inputs.items()}
            outcomes += self.joined.run([part], [min(self.most, asked.rows - start)])
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes[0] if len(outcomes) == 1 else {k: np.concatenate([one[k] for one in outcomes]) for k in outcomes[0]}


class Decoders:
    """Prediction requests: unpacked, decoded, compared, run, encoded, and the answer read back."""

    def __init__(self) -> None:
        self.served = {name: Served(name) for name in MODELS}
        self.taken = 0
        self.refused = 0
        self.spent_s = 0.0

    def __call__(self, data: bytes) -> None:
        """`spent_s` is then the processor's time in our own code, without the comparing."""
        wire = Wire.parse(data)
        self.spent_s = 0.0
        asked_for = route(wire.path)
        if asked_for is not None and asked_for.model in self.served:
            self._ask(asked_for, self.served[asked_for.model], wire.request())

    def _ask(self, asked_for: Route, served: Served, request: Request) -> None:
        codec, encoding = served.codecs[asked_for.protocol], request.headers.get("content-encoding")
        began = time.thread_time()
        packed, outputs, answer, asked = request.body, None, None, None
        error: Exception | None = None
        try:
            if encoding is not None:
                request.body = decompress(packed, encoding, LIMITS.max_body_bytes)
            asked = codec.decode(request)
            outputs = served.run(asked)
            answer = codec.encode(asked, outputs)
        except (ServingError, InvalidInput) as refusal:
            error = refusal
        self.spent_s = time.thread_time() - began
        if encoding is not None and request.body is not packed:
            require_unpacked(packed, encoding, request.body)
        if asked is not None:
            require_well_formed(served, asked)
        if error is not None:
            self.refused += 1
            require_told(error, request.path)
            if encoding is None or request.body is not packed:
                require_refused_by_reference(asked_for, served, request, error)
        elif asked is not None and answer is not None and outputs is not None:
            self.taken += 1
            require_same(read_by_reference(asked_for, served, request), asked.inputs)
            require_answer(asked_for, answer, outputs, request)
            require_round_trip(answer, request.headers.get("accept-encoding"))


def require_unpacked(body: bytes, encoding: str, found: bytes) -> None:
    """The body without its encodings is what Python's own modules make of it."""
    assert len(found) <= LIMITS.max_body_bytes
    for name in reversed([name.strip().lower() for name in encoding.split(",")]):
        if name in {"gzip", "x-gzip"}:
            body = gzip.decompress(body)
        elif name == "deflate":
            try:
                body = zlib.decompress(body)
            except zlib.error:
                body = zlib.decompress(body, -15)
    assert found == body


def require_well_formed(served: Served, asked: Asked) -> None:
    """What was decoded is just what the signature declares."""
    signature = served.signature
    sizes = signature.validate_shapes(asked.inputs, LIMITS.max_rows)
    assert asked.rows == (1 if signature.batch_dim is None else sizes[signature.batch_dim])
    assert all(array.flags.c_contiguous and array.flags.aligned for array in asked.inputs.values())
    assert asked.timeout_s is None or asked.timeout_s > 0
    assert asked.priority >= 0
    hash(asked.group)


def require_told(error: Exception, path: str) -> None:
    """The error is the client's, and can be told: briefly, and as JSON."""
    answer = error_answer(error, "POST", path, "id")
    assert 400 <= answer.status < 500, error
    assert isinstance(json.loads(answer.body), dict)
    assert len(answer.body) <= MOST_MESSAGE_BYTES, f"a message of {len(answer.body)} bytes"


def read_by_reference(asked_for: Route, served: Served, request: Request) -> Arrays:
    """The same request, read slowly. Raises reference.Refused."""
    read = reference.read_oip if asked_for.protocol == "oip" else reference.read_predictions
    return read(served.reference, request)


def require_refused_by_reference(asked_for: Route, served: Served, request: Request, error: Exception) -> None:
    """What is refused is no request that should be taken."""
    if isinstance(error, NotAcceptable):
        return
    try:
        read_by_reference(asked_for, served, request)
    except reference.Refused:
        return
    is_plain_npy = re.search(
        rb"['\0]\{'descr': '[<>|]\w\d+', 'fortran_order': (True|False), 'shape': \([\d, ]*\), \} *\n", request.body
    )
    if "npy" in (request.headers.get("content-type") or "").lower() and not is_plain_npy:
        return  # NumPy reads any Python dictionary there; we read those that its writer makes
    raise AssertionError(f"refused, and should be taken: {error}")


def require_same(expected: Arrays, found: Arrays) -> None:
    """The arrays are the same bit for bit."""
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert (array.dtype, array.shape) == (found[name].dtype, found[name].shape), name
        if array.tobytes() != found[name].tobytes():
            assert array.dtype.kind == "f", name  # of NaN the bits may differ
            assert np.array_equal(array, found[name], equal_nan=True), name
            assert np.array_equal(np.signbit(array[~np.isnan(array)]), np.signbit(found[name][~np.isnan(array)])), name


def require_answer(asked_for: Route, answer: Answer, outputs: Arrays, request: Request) -> None:
    """The answer says what the engine said."""
    assert answer.status == 200
    headers = dict(answer.headers)
    content_type = headers["content-type"]
    if asked_for.protocol == "oip":
        require_infer_answer(answer, headers, outputs)
        return
    accept = (request.headers.get("accept") or "").lower()
    named = any(entry.partition(";")[0].strip() for entry in accept.split(","))
    is_long = len(accept) > 2048  # what is behind is not read
    assert is_long or not named or content_type in accept or "application/*" in accept or "*/*" in accept, (accept, content_type)
    if content_type == _JSON:
        document = strict_json(answer.body)
        assert document["outputs"].keys() == outputs.keys()
        for name, array in outputs.items():
            require_value(document["outputs"][name], array, array.shape)
        return
    (array,) = outputs.values()
    data = (
        answer.body
        if content_type == "application/octet-stream"
        else answer.body[10 + int.from_bytes(answer.body[8:10], "little") :]
    )
    assert data == array.tobytes()


def require_infer_answer(answer: Answer, headers: Mapping[str, str], outputs: Arrays) -> None:
    """The Open Inference Protocol's answer, as its text describes it."""
    length = int(headers.get("inference-header-content-length", len(answer.body)))
    document, data = strict_json(answer.body[:length]), answer.body[length:]
    assert len({output["name"] for output in document["outputs"]}) == len(document["outputs"]) > 0
    for output in document["outputs"]:
        array = outputs[output["name"]]
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            part, data = data[:size], data[size:]
            assert len(part) == size
            assert output["datatype"] == "BYTES" or part == array.tobytes()
        elif output["datatype"] == "BYTES":
            assert all(re.fullmatch(r"[^:]+:\d+(:class \d)?", text) for text in output["data"])
            assert tuple(output["shape"])[:-1] == array.shape[:-1]
        else:
            require_value(output["data"], array.reshape(-1), (array.size,))
            assert tuple(output["shape"]) == array.shape
    assert not data


def strict_json(body: bytes) -> Any:
    """A JSON document without NaN and its like."""

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    return json.loads(body.decode("utf-8"), parse_constant=refuse)


def require_value(value: Any, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """A JSON value is this array; null stands for what JSON has no word for."""
    flat = [value]
    for size in shape:
        assert all(type(one) is list and len(one) == size for one in flat)
        flat = [item for one in flat for item in one]
    for sent, given in zip(flat, array.reshape(-1), strict=True):
        if array.dtype.kind == "f":
            assert (sent is None) == (not np.isfinite(given))
            assert sent is None or (array.dtype.type(sent) == given and np.signbit(sent) == np.signbit(given))
        else:
            assert type(sent) is type(given.item())
            assert sent == given


def require_round_trip(answer: Answer, accept_encoding: str | None) -> None:
    """An answer that is packed can be unpacked by what the client said that it accepts."""
    body, encoding = compress(answer.body, accept_encoding, 1)
    if encoding is None:
        assert body == answer.body
        return
    assert encoding in (accept_encoding or "").lower() or "*" in (accept_encoding or "")
    assert (gzip.decompress if encoding == "gzip" else zlib.decompress)(body) == answer.body


class Application:
    """The whole server in this process, by its ASGI face: every path, every method."""

    def __init__(self) -> None:
        root = make_repository(Path(mkdtemp(prefix="fuzz-")))
        self._loop = asyncio.new_event_loop()
        self._app = create_app(Settings(repository=root, repository_api="on", max_body_bytes=LIMITS.max_body_bytes))
        logging.getLogger("stateserve").setLevel(logging.CRITICAL)
        self._lifespan = self._app.router.lifespan_context(self._app)
        self._loop.run_until_complete(self._lifespan.__aenter__())
        self.taken = 0
        self.refused = 0
        self.spent_s = 0.0

    def close(self) -> None:
        """Retires every model, and lets the log speak again."""
        self._loop.run_until_complete(self._lifespan.__aexit__(None, None, None))
        logging.getLogger("stateserve").setLevel(logging.NOTSET)
        self._loop.close()

    def __call__(self, data: bytes) -> None:
        wire = Wire.parse(data)
        if "/v2/repository/" in wire.path and "/spare/" not in wire.path and "/index" not in wire.path:
            return  # models that others ask are not to be unloaded
        began = time.thread_time()
        status, headers, body = self._loop.run_until_complete(self._answer(wire))
        self.spent_s = time.thread_time() - began
        if status < 400:
            self.taken += 1
            return
        self.refused += 1
        assert status < 500 or status in {503, 504}, (status, body)
        assert headers.get("content-type") == _JSON, headers
        assert isinstance(json.loads(body), dict)
        assert len(body) <= MOST_MESSAGE_BYTES + 6 * len(wire.target), f"a message of {len(body)} bytes"

    async def _answer(self, wire: Wire) -> tuple[int, dict[str, str], bytes]:
        path, _, query = wire.target.partition("?")
        raw = unquote_to_bytes(path)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": wire.method,
            "scheme": "http",
            "path": raw.decode("utf-8", "replace"),
            "raw_path": quote_from_bytes(raw).encode(),
            "query_string": query.encode("latin-1", "replace"),
            "root_path": "",
            "headers": [
                (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in wire.headers
            ],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8080),
        }
        sent: list[Any] = []
        left = asyncio.Event()
        messages = iter(({"type": "http.request", "body": wire.body, "more_body": False},))

        async def receive() -> Any:
            message = next(messages, None)
            if message is None:
                await left.wait()
                return {"type": "http.disconnect"}
            return message

        async def send(message: Any) -> None:
            sent.append(message)

        try:
            await self._app(scope, receive, send)
        except Exception:
            if not sent:  # what is answered with 500 is also raised
                raise
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


Target = Decoders | Application
TARGETS: Mapping[str, tuple[Callable[[], Target], tuple[str, ...]]] = {
    **{
        kind: (Decoders, (kind,))
        for kind in (
            *("oip-json", "oip-binary", "oip-raw", "predictions-json", "predictions-npy", "predictions-raw"),
            *("compressed", "accepted"),
        )
    },
    "management": (Application, ("management",)),
    "names": (Application, ("names",)),
    "application": (Application, ("oip-json", "oip-binary", "predictions-json", "predictions-npy", "compressed", "names")),
}
"""Name -> what is called, and the kinds of seeds that it starts from."""
