"""Valid requests of every kind, from which fuzzing starts. The seed of a kind chooses sizes and values.

python -m tests.fuzz.seeds FOLDER    writes them, one file each
"""

import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from artifact.signature import Signature
from serving.protocols.tensors import DATATYPES
from tests.fuzz.models import MODELS, valid_inputs
from tests.fuzz.wire import Wire

JSON, NPY, RAW = "application/json", "application/x-npy", "application/octet-stream"
LENGTH = "Inference-Header-Content-Length"
ACCEPTS = (
    "*/*",
    "application/x-npy",
    "application/octet-stream;q=0.9, application/json;q=0.1",
    "text/html, application/*;q=0.8, */*;q=0.1",
    "application/json;q=0, */*",
)
ACCEPTED_ENCODINGS = ("gzip", "deflate, gzip;q=0.5", "br, *;q=0.1", "identity;q=1, gzip;q=0")
LABEL_PATHS = ("/v2/repository/models/spare/labels/stable", "/v2/repository/models/spare/labels/default")
CONFIG = {
    "name": "spare",
    "version_policy": {"latest": {"num_versions": 2}},
    "max_batch_size": 4,
    "dynamic_batching": {"preferred_batch_size": [2, 4], "max_queue_delay_microseconds": 100},
    "instance_group": [{"count": 2}],
}


def oip_json(seed: int = 0) -> Iterator[Wire]:
    """The Open Inference Protocol as JSON: flat and nested, with and without terms."""
    for name, signature, arrays in _asked(seed):
        tensors = [_stated(spec_name, array) | {"data": array.ravel().tolist()} for spec_name, array in arrays.items()]
        yield _infer(name, {"inputs": tensors})
        tensors = [_stated(spec_name, array) | {"data": array.tolist()} for spec_name, array in arrays.items()]
        yield _infer(name, {"id": "seven", "inputs": tensors, **_terms(signature, binary=True)})
        yield _infer(
            name, {"inputs": tensors, **_terms(signature, binary=False), "parameters": {"priority": 1, "timeout": 9_000_000}}
        )


def oip_binary(seed: int = 0) -> Iterator[Wire]:
    """The same with the tensors' bytes behind the JSON; one mixed, one in narrower floats."""
    for name, signature, arrays in _asked(seed):
        parts = [array.tobytes() for array in arrays.values()]
        tensors = [
            _stated(spec_name, array) | {"parameters": {"binary_data_size": array.nbytes}} for spec_name, array in arrays.items()
        ]
        yield _framed(name, {"inputs": tensors}, parts)
        yield _framed(name, {"inputs": tensors, **_terms(signature, binary=True)}, parts)
        first = next(iter(arrays))
        mixed = [_stated(first, arrays[first]) | {"data": arrays[first].ravel().tolist()}, *tensors[1:]]
        yield _framed(name, {"inputs": mixed, "parameters": {"binary_data_output": True}}, parts[1:])
    half = np.array([[0.5, -1, 2, 3.25]], np.float16)
    for datatype, data in (("FP16", half.tobytes()), ("BF16", half.astype(np.float32).view(np.uint16)[:, 1::2].tobytes())):
        stated = {"name": "x", "shape": [1, 4], "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
        yield _framed("mlp", {"inputs": [stated]}, [data])


def oip_raw(seed: int = 0) -> Iterator[Wire]:
    """One tensor and nothing else."""
    for name, signature, arrays in _asked(seed, rows=1):
        if len(signature.inputs) == 1:
            yield Wire(target=_infer_path(name), headers=((LENGTH, "0"),), body=next(iter(arrays.values())).tobytes())


def predictions_json(seed: int = 0) -> Iterator[Wire]:
    """Nested lists, by name and alone."""
    for name, signature, arrays in _asked(seed):
        yield _predict(name, json.dumps({"inputs": {key: array.tolist() for key, array in arrays.items()}}).encode(), JSON)
        if len(signature.inputs) == 1:
            yield _predict(name, json.dumps({"inputs": next(iter(arrays.values())).tolist()}).encode(), None)


def predictions_npy(seed: int = 0) -> Iterator[Wire]:
    """NumPy's own files: by rows and by columns, both byte orders, every version."""
    for name, signature, arrays in _asked(seed):
        array = next(iter(arrays.values()))
        if len(signature.inputs) == 1:
            for written in (array, np.copy(array, order="F"), array.astype(array.dtype.newbyteorder(">"))):
                for version in ((1, 0), (2, 0), (3, 0)):
                    file = io.BytesIO()
                    np.lib.format.write_array(file, written, version)
                    yield _predict(name, file.getvalue(), NPY)


def predictions_raw(seed: int = 0) -> Iterator[Wire]:
    """Bytes alone."""
    for name, signature, arrays in _asked(seed):
        if len(signature.inputs) == 1:
            yield _predict(name, next(iter(arrays.values())).tobytes(), RAW)


def compressed(seed: int = 0) -> Iterator[Wire]:
    """Requests of each form, in each encoding and two of them."""
    for wire in (*list(predictions_json(seed))[:3], *list(oip_binary(seed))[:3], *list(predictions_npy(seed))[:2]):
        gzip, deflate, raw = (_pack(wire.body, window) for window in (31, 15, -15))
        for encoding, body in (
            ("gzip", gzip),
            ("x-gzip", gzip),
            ("deflate", deflate),
            ("deflate", raw),
            ("deflate, gzip", _pack(deflate, 31)),
            ("identity", wire.body),
        ):
            yield Wire(wire.method, wire.target, (*wire.headers, ("Content-Encoding", encoding)), body)
    yield _predict("mlp", _pack(b"\0" * 3_000_000, 31), RAW).with_header("Content-Encoding", "gzip")


def accepted(seed: int = 0) -> Iterator[Wire]:
    """Requests whose answers are asked for in every form and encoding."""
    for wire in (*predictions_raw(seed), *list(predictions_json(seed))[:4]):
        for accept in ACCEPTS:
            for encoding in ACCEPTED_ENCODINGS:
                yield Wire(
                    wire.method, wire.target, (*wire.headers, ("Accept", accept), ("Accept-Encoding", encoding)), wire.body
                )


def management(_: int = 0) -> Iterator[Wire]:
    """The repository API, of a model that nothing else asks."""
    bodies: dict[str, list[Any]] = {
        "/v2/repository/index": [None, {}, {"ready": True}, {"ready": False}],
        "/v2/repository/models/spare/load": [
            None,
            {},
            {"parameters": {}},
            {"parameters": {"version": 1}},
            *({"parameters": {"config": json.dumps({key: value})}} for key, value in CONFIG.items()),
            {"parameters": {"config": json.dumps({"version_policy": {"specific": {"versions": [1]}}})}},
            {"parameters": {"config": json.dumps({"version_policy": {"all": {}}})}},
            {"parameters": {"file:1/model.onnx": "AAAA"}},
        ],
        "/v2/repository/models/spare/unload": [None, {"parameters": {"unload_dependents": True}}],
    }
    for path, choices in bodies.items():
        for value in choices:
            yield Wire(target=path, body=b"" if value is None else json.dumps(value).encode())
    for path in LABEL_PATHS:
        yield Wire("PUT", path, body=b'{"version": 1}')
        yield Wire("DELETE", path)


def names(_: int = 0) -> Iterator[Wire]:
    """Paths and headers: every route, an id, a deadline, a version by number and by label."""
    for name in MODELS:
        for suffix in ("", "/ready", "/config", "/stats", "/versions/1", "/versions/1/ready", "/versions/1/stats"):
            yield Wire("GET", f"/v2/models/{quote(name)}{suffix}")
        yield Wire("POST", f"/v2/models/{quote(name)}/versions/1/infer", (("X-Request-Id", "7"), ("X-Timeout-Ms", "100.5")))
        yield Wire("POST", f"/predictions/{quote(name)}/stable", (("X-Request-Id", "a b"), ("Origin", "http://localhost:3000")))
    for path in ("/", "/ping", "/docs", "/openapi.json", "/metrics", "/v2", "/v2/models", "/v2/models/stats", "/v2/health/ready"):
        yield Wire("GET", path, (("Accept", "application/openmetrics-text; version=1.0.0"),))


KINDS: Mapping[str, Callable[[int], Iterator[Wire]]] = {
    "oip-json": oip_json,
    "oip-binary": oip_binary,
    "oip-raw": oip_raw,
    "predictions-json": predictions_json,
    "predictions-npy": predictions_npy,
    "predictions-raw": predictions_raw,
    "compressed": compressed,
    "accepted": accepted,
    "management": management,
    "names": names,
}


def write(folder: Path, kinds: Mapping[str, Callable[[int], Iterator[Wire]]] = KINDS) -> None:
    """Every seed of these kinds as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, make in kinds.items():
        for number, wire in enumerate(make(0)):
            (folder / f"{kind}-{number:03}.http").write_bytes(wire.encode())


def _asked(seed: int, rows: int | None = None) -> Iterator[tuple[str, Signature, dict[str, np.ndarray]]]:
    generator = np.random.default_rng(seed)
    for name, model in MODELS.items():
        yield name, model.signature, valid_inputs(model.signature, generator, rows)


def _stated(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "datatype": DATATYPES[array.dtype.name]}


def _terms(signature: Signature, *, binary: bool) -> dict[str, Any]:
    return {
        "outputs": [
            {
                "name": spec.name,
                "parameters": {"binary_data": binary, **({"classification": 2} if spec.shape and not binary else {})},
            }
            for spec in signature.outputs
        ]
    }


def _infer_path(name: str) -> str:
    return f"/v2/models/{quote(name)}/infer"


def _infer(name: str, document: object) -> Wire:
    return Wire(target=_infer_path(name), headers=(("Content-Type", JSON),), body=json.dumps(document).encode())


def _framed(name: str, document: object, parts: list[bytes]) -> Wire:
    head = json.dumps(document).encode()
    return Wire(target=_infer_path(name), headers=((LENGTH, str(len(head))),), body=b"".join([head, *parts]))


def _predict(name: str, body: bytes, content_type: str | None) -> Wire:
    headers = () if content_type is None else (("Content-Type", content_type),)
    return Wire(target=f"/predictions/{quote(name)}", headers=headers, body=body)


def _pack(body: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(body) + packer.flush()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
