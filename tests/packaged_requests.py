"""Requests to /predictions that our server and a packaged artifact behind TorchServe's worker must answer alike.

Three models: `mlp` takes float32 [batch, 4] within -4 to 4, `counting` one int64, `classes` any float32 [batch, 5].
"""

import gzip
import io
import json
from dataclasses import dataclass, field

import numpy as np

JSON = {"content-type": "application/json"}
RAW = {"content-type": "application/octet-stream"}
NPY = {"content-type": "application/x-npy"}


@dataclass(frozen=True)
class Asked:
    """One request."""

    model: str
    body: bytes
    headers: dict = field(default_factory=dict)


def npy(array, version=(1, 0)):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


def stated(value):
    return json.dumps(value).encode()


def mlp(value, **headers):
    body = value if isinstance(value, bytes) else stated(value)
    return Asked("mlp", body, JSON | headers)


ROW = [0.1, -0.25, 3.999, 1e-7]
ROWS = np.linspace(-4, 4, 80, dtype=np.float32).reshape(20, 4)
X = ROWS[:3]

REQUESTS = {
    # what is answered
    "one row": mlp({"inputs": {"x": [ROW]}}),
    "the lists alone": mlp({"inputs": [ROW, ROW]}),
    "integers": mlp({"inputs": [[1, 2, -3, 4]]}),
    "spaces and an exponent": mlp(b' {"inputs" :\n [[1e0, 2E-1, -0.0, 0]] } '),
    "the bounds themselves": mlp({"inputs": [[-4, 4, -4.0, 4.0]]}),
    "the largest batch": mlp({"inputs": ROWS[:16].tolist()}),
    "more rows than one call": mlp({"inputs": ROWS.tolist()}),
    "no content type": Asked("mlp", stated({"inputs": [ROW]})),
    "a charset": Asked("mlp", stated({"inputs": [ROW]}), {"content-type": "application/json; charset=utf-8"}),
    "a byte order mark": mlp(b'\xef\xbb\xbf{"inputs": [[1, 2, 3, 4]]}'),
    "gzip": mlp(gzip.compress(stated({"inputs": [ROW]}), mtime=0), **{"content-encoding": "gzip"}),
    "a timeout": mlp({"inputs": [ROW]}, **{"x-timeout-ms": "60000"}),
    "npy": Asked("mlp", npy(X), NPY),
    "npy under its other name": Asked("mlp", npy(X), {"content-type": "application/npy"}),
    "npy of version 2": Asked("mlp", npy(X, (2, 0)), NPY),
    "npy, columns first": Asked("mlp", npy(np.asfortranarray(X)), NPY),
    "npy, big-endian": Asked("mlp", npy(X.astype(">f4")), NPY),
    "npy of halves": Asked("mlp", npy(X.astype(np.float16)), NPY),
    "raw": Asked("mlp", X.tobytes(), RAW),
    "raw, gzip": Asked("mlp", gzip.compress(X.tobytes(), mtime=0), RAW | {"content-encoding": "gzip"}),
    "an answer in npy": mlp({"inputs": [ROW]}, accept="application/x-npy"),
    "an answer in raw bytes": Asked("mlp", X.tobytes(), RAW | {"accept": "application/octet-stream"}),
    "an answer that is liked best": mlp({"inputs": [ROW]}, accept="application/json;q=0.5, application/npy"),
    "an integer": Asked("counting", stated({"inputs": {"rounds": [5]}}), JSON),
    "an integer's bytes": Asked("counting", np.array([7]).tobytes(), RAW),
    "extreme numbers": Asked("classes", stated({"inputs": [[3.4028235e38, 1e-45, -0.0, 16777217, 0.1]]}), JSON),
    "numbers that JSON lacks": Asked("classes", np.array([[np.nan, np.inf, -np.inf, 1, 2]], np.float32).tobytes(), RAW),
    # what is refused
    "no body": Asked("mlp", b""),
    "not JSON": mlp(b'{"inputs": [[1, 2'),
    "NaN": mlp(b'{"inputs": [[NaN, 1, 2, 3]]}'),
    "a number beyond float64": mlp(b'{"inputs": [[1e400, 1, 2, 3]]}'),
    "half a character": mlp(b'{"inputs": {"\\ud800": [[1, 2, 3, 4]]}}'),
    "a list": mlp([ROW]),
    "a string": mlp("abc"),
    "null": mlp(None),
    "no inputs": mlp({"instances": [ROW]}),
    "null inputs": mlp({"inputs": None}),
    "an unknown input": mlp({"inputs": {"y": [ROW]}}),
    "an unknown input beside": mlp({"inputs": {"x": [ROW], "ü": [ROW]}}),
    "no input": mlp({"inputs": {}}),
    "a row too short": mlp({"inputs": [[1, 2, 3]]}),
    "ragged": mlp({"inputs": [ROW, ROW[:3]]}),
    "no row": mlp({"inputs": []}),
    "no list": mlp({"inputs": {"x": 5}}),
    "deeper": mlp({"inputs": [[ROW]]}),
    "far too deep": mlp(b'{"inputs": ' + b"[" * 100 + b"]" * 100 + b"}"),
    "a string among numbers": mlp({"inputs": [["1", 2, 3, 4]]}),
    "a boolean among numbers": mlp({"inputs": [[True, 2, 3, 4]]}),
    "null among numbers": mlp({"inputs": [[None, 2, 3, 4]]}),
    "an object among numbers": mlp({"inputs": [[{"a": 1}, 2, 3, 4]]}),
    "out of range": mlp({"inputs": [ROW, [0, 0, 4.001, 0]]}),
    "beyond float32": mlp({"inputs": [[1e39, 0, 0, 0]]}),
    "a float where an integer is": Asked("counting", stated({"inputs": {"rounds": [1.5]}}), JSON),
    "an integer beyond 64 bits": Asked("counting", b'{"inputs": {"rounds": [123456789012345678901234567890]}}', JSON),
    "an integer of 64 bits and no sign": Asked("counting", b'{"inputs": {"rounds": [18446744073709551615]}}', JSON),
    "an integer out of range": Asked("counting", stated({"inputs": {"rounds": [-1]}}), JSON),
    "npy that is none": Asked("mlp", b"no numbers", NPY),
    "npy of another dtype": Asked("mlp", npy(X.astype(np.float64)), NPY),
    "npy of objects": Asked("mlp", npy(np.array([[None] * 4])), NPY),
    "npy cut off": Asked("mlp", npy(X)[:-1], NPY),
    "npy of another shape": Asked("mlp", npy(X.T), NPY),
    "npy out of range": Asked("mlp", npy(X + 9), NPY),
    "raw cut off": Asked("mlp", X.tobytes()[:-2], RAW),
    "raw out of range": Asked("mlp", (X * 2).tobytes(), RAW),
    "another content type": Asked("mlp", b"1,2,3,4", {"content-type": "text/csv"}),
    "a form with a file": Asked(
        "mlp",
        b'--b\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n\r\n1\r\n--b--\r\n',
        {"content-type": "multipart/form-data; boundary=b"},
    ),
    "another encoding": mlp(b"{}", **{"content-encoding": "br"}),
    "gzip that is none": mlp(b"{}", **{"content-encoding": "gzip"}),
    "an answer that we do not write": mlp({"inputs": [ROW]}, accept="text/html"),
    "a timeout that is none": mlp({"inputs": [ROW]}, **{"x-timeout-ms": "soon"}),
}

NOT_JSON = "the body is not JSON: "
OTHER_WORDS = {"beyond float32"}
"""Our server's quick way with JSON says that infinity is out of range; the exact way, which a handler has, says the number."""


def require_same(name, ours, theirs):
    """Two answers (status, headers, body) agree; in all, but for the words of JSON's own parser, and those of OTHER_WORDS."""
    try:
        _require_same(ours, theirs, words=name not in OTHER_WORDS)
    except AssertionError as error:
        raise AssertionError(f"{name}: {ours} and {theirs}") from error


def _require_same(ours, theirs, *, words):
    assert ours[0] == theirs[0]
    assert ours[1].get("content-type") == theirs[1].get("content-type")
    if not words:
        return
    if ours[1].get("content-type") != "application/json":
        assert ours[2] == theirs[2]
        return
    mine, other = json.loads(ours[2]), json.loads(theirs[2])
    if mine.get("message", "").startswith(NOT_JSON):
        assert other["message"].startswith(NOT_JSON)
        other["message"] = mine["message"]
    assert mine == other
