"""Make the hostile requests in this folder again: python tests/hostile/http/make_hostile.py

Each file is what a client would send, to the last byte; `FILES` says which statuses may answer it. They are for the models of
tests/fuzz/models.py. A request in `FOUND` is one that fuzzing found: it once did what its line says.
"""

import gzip
import json
import struct
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
INFER, PREDICT = "/v2/models/mlp/infer", "/predictions/mlp"
LOAD = "/v2/repository/models/spare/load"
ROW = [0.5, 1, -2, 4]
GOOD = json.dumps({"inputs": {"x": [ROW]}}).encode()
FLOATS = struct.pack("<4f", *ROW)

REFUSED = {400}


def request(target: str, body: bytes = b"", *lines: str, method: str = "POST", length: bool = True) -> bytes:
    head = [f"{method} {target} HTTP/1.1", "Host: a", *lines, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def predict(inputs: str, *lines: str) -> bytes:
    return request(PREDICT, f'{{"inputs":{inputs}}}'.encode(), *lines)


def tensor(**members: object) -> dict[str, object]:
    stated: dict[str, object] = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROW}
    return {key: value for key, value in {**stated, **members}.items() if value is not None}


def infer(*tensors: object, **members: object) -> bytes:
    return request(INFER, json.dumps({"inputs": tensors, **members}).encode())


def framed(data: bytes, *, length: str | None = None, **members: object) -> bytes:
    stated = tensor(data=None, **{"parameters": {"binary_data_size": len(data)}, **members})
    head = json.dumps({"inputs": [stated]}).encode()
    return request(INFER, head + data, f"Inference-Header-Content-Length: {len(head) if length is None else length}")


def npy(text: bytes, *, data: bytes = FLOATS, version: bytes = b"\1\0") -> bytes:
    size = len(text).to_bytes(2 if version[:1] == b"\1" else 4, "little")
    return request(PREDICT, b"\x93NUMPY" + version + size + text + data, "Content-Type: application/x-npy")


def npy_text(shape: bytes = b"(1, 4)", descr: bytes = b"<f4", size: int = 0) -> bytes:
    text = b"{'descr': '%s', 'fortran_order': False, 'shape': %s, }" % (descr, shape)
    return text.ljust(size - 1) + b"\n"


def chunked(chunks: bytes, *lines: str) -> bytes:
    return request(PREDICT, chunks, "Content-Type: application/octet-stream", "Transfer-Encoding: chunked", *lines, length=False)


def packed(encoding: str, body: bytes) -> bytes:
    return request(PREDICT, body, f"Content-Encoding: {encoding}")


def manage(parameters: str) -> bytes:
    return request(LOAD, f'{{"parameters":{parameters}}}'.encode())


FOUND: dict[str, tuple[bytes, set[int]]] = {
    "query-not-latin-1.http": (request("/v2/models?\u20ac", method="GET", length=False), {200}),
    "query-not-utf-8.http": (b"GET /nowhere?\xfc HTTP/1.1\r\nHost: a\r\n\r\n", REFUSED | {404}),
    "chunks-whole.http": (chunked(b"10\r\n" + FLOATS + b"\r\n0\r\n\r\n"), {200}),
    "chunks-damaged.http": (chunked(b"10\r\n" + FLOATS + b"\r\nzz\r\n" + FLOATS + b"\r\n0\r\n\r\n"), REFUSED),
    "chunks-cut-off.http": (chunked(b"20\r\n" + FLOATS), REFUSED),
    "chunks-without-end.http": (chunked(b"10\r\n" + FLOATS + b"\r\n"), REFUSED),
    "query-not-utf-8-no-path.http": (b"POST ?/\xfc HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", REFUSED),
    "metrics-version-no-number.http": (
        request("/metrics", b"", "Accept: application/openmetrics-text; version=1.0.!", method="GET", length=False),
        {200},
    ),
    "accept-many-names.http": (
        request(PREDICT, GOOD, "Accept: */*," + ",".join(f"a{number}" for number in range(2000))),
        {200},
    ),
    "npy-header-of-123-bytes.http": (npy(npy_text(size=123)), {200}),
    "npy-version-1.1.http": (npy(npy_text(), version=b"\1\1"), REFUSED),
    "npy-shape-of-a-comma.http": (
        npy(npy_text(b"(,)"), data=bytes(8)).replace(b"/mlp", b"/scalar").replace(b"<f4", b"<f8"),
        REFUSED,
    ),
    "npy-vertical-tab.http": (npy(npy_text(b"(1,\v4)")), REFUSED),
    "npy-leading-zero.http": (npy(npy_text(b"(1,04)")), REFUSED),
    "npy-shape-no-tuple.http": (npy(npy_text(b"(4)")).replace(b"/mlp", b"/vector"), REFUSED),
    "json-after-a-mark.http": (request(PREDICT, b"\xef\xbb\xbf" + GOOD), {200}),
    "json-after-a-mark-another-way.http": (request(PREDICT, b"\xef\xbb\xbf" + GOOD[:-1] + b',"note":[]}'), {200}),
    "load-half-a-character.http": (manage('{"config":"\\ud800"}'), REFUSED),
    "load-half-a-character-as-key.http": (manage('{"config":"{\\"\\\\ud800\\":1}"}'), REFUSED),
    "load-file-of-half-a-character.http": (manage('{"file:\\ud800":"AAAA"}'), REFUSED),
    "load-endless-delay.http": (
        manage('{"config":"{\\"dynamic_batching\\":{\\"max_queue_delay_microseconds\\":1%s}}"}' % ("0" * 400)),
        REFUSED,
    ),
    "load-thousands-of-instances.http": (manage('{"config":"{\\"instance_group\\":[{\\"count\\":4000}]}"}'), REFUSED),
    "load-long-value.http": (manage('{"version":"%s"}' % ("9" * 5000)), REFUSED),
}

THOUGHT_OF: dict[str, tuple[bytes, set[int]]] = {
    "json-cut-off.http": (request(PREDICT, GOOD[:-3]), REFUSED),
    "json-twice.http": (request(PREDICT, GOOD * 2), REFUSED),
    "json-nan.http": (predict('{"x":[[NaN,0,0,0]]}'), REFUSED),
    "json-infinity.http": (predict('{"x":[[1e400,0,0,0]]}'), REFUSED),
    "json-float-too-large.http": (predict('{"p":[[1e39,0],[0,0]]}').replace(b"/mlp", b"/pairs"), REFUSED),
    "json-integer-too-large.http": (predict('{"v":[1%s,0,0,0]}' % ("0" * 400)).replace(b"/mlp", b"/vector"), REFUSED),
    "json-integer-of-65-bits.http": (predict('{"g":[[18446744073709551616]]}').replace(b"/mlp", b"/grid"), REFUSED),
    "json-byte-too-large.http": (predict('{"image":[[[256],[0]]]}').replace(b"/mlp", b"/pixels"), REFUSED),
    "json-negative-byte.http": (predict('{"image":[[[-1],[0]]]}').replace(b"/mlp", b"/pixels"), REFUSED),
    "json-number-for-bool.http": (predict('{"flags":[[1,0,1]]}').replace(b"/mlp", b"/flags"), REFUSED),
    "json-bool-for-number.http": (predict('{"x":[[true,0,0,0]]}'), REFUSED),
    "json-fraction-for-integer.http": (predict('{"g":[[1.0]]}').replace(b"/mlp", b"/grid"), REFUSED),
    "json-ragged.http": (predict('{"x":[[0,0,0,0],[0,0,0]]}'), REFUSED),
    "json-ragged-of-equal-sum.http": (predict('{"x":[[0,0,0],[0,0,0,0,0]]}'), REFUSED),
    "json-list-among-numbers.http": (predict('{"x":[[0,0,0,[0]]]}'), REFUSED),
    "json-no-rows.http": (predict('{"x":[]}'), REFUSED),
    "json-name-twice.http": (predict('{"x":[[9,9,9,9]],"x":[[0,0,0,0]]}'), {200}),
    "json-deep.http": (predict("[" * 5000 + "]" * 5000), REFUSED),
    "json-deep-and-cut-off.http": (predict('{"":' * 5000), REFUSED),
    "json-brackets-in-text.http": (request(PREDICT, GOOD[:-1] + b',"note":"' + b'[\\"' * 500 + b'"}'), {200, 400}),
    "json-half-a-character.http": (request(PREDICT, GOOD[:-1] + b',"\\ud800":1}'), REFUSED),
    "json-not-utf-8.http": (request(PREDICT, GOOD[:-1] + b',"\xff":1}'), REFUSED),
    "json-zero-byte.http": (request(PREDICT, GOOD + b"\0"), REFUSED),
    "oip-huge-shape.http": (infer(tensor(shape=[2**63 - 1, 2**63 - 1])), REFUSED),
    "oip-shape-of-65-bits.http": (infer(tensor(shape=[2**64, 4])), REFUSED),
    "oip-negative-shape.http": (infer(tensor(shape=[-1, 4])), REFUSED),
    "oip-shape-of-many.http": (infer(tensor(shape=[1] * 2000)), REFUSED),
    "oip-true-as-size.http": (infer(tensor(shape=[True, 4])), REFUSED),
    "oip-twice-the-same.http": (infer(tensor(), tensor()), REFUSED),
    "oip-many-tensors.http": (infer(*({"name": str(number)} for number in range(100))), REFUSED),
    "oip-shared-memory.http": (
        infer(tensor(data=None, parameters={"shared_memory_region": "r", "binary_data_size": 16})),
        REFUSED,
    ),
    "oip-endless-timeout.http": (infer(tensor(), parameters={"timeout": 2**64 - 1}), {200}),
    "oip-priority.http": (infer(tensor(), parameters={"priority": 2**63}), REFUSED),
    "oip-classes.http": (
        infer(tensor(), outputs=[{"name": "logits", "parameters": {"classification": 2**62}}]),
        {200},
    ),
    "oip-header-beyond-body.http": (framed(FLOATS, length="9999"), REFUSED),
    "oip-header-of-65-bits.http": (framed(FLOATS, length="9" * 30), REFUSED),
    "oip-header-negative.http": (framed(FLOATS, length="-1"), REFUSED),
    "oip-header-in-arabic.http": (framed(FLOATS, length="\u0661"), {200, 400}),
    "oip-bytes-missing.http": (framed(FLOATS[:-1]), REFUSED),
    "oip-bytes-claimed.http": (framed(FLOATS, parameters={"binary_data_size": 2**62}), REFUSED),
    "oip-bytes-left-over.http": (framed(FLOATS, parameters={"binary_data_size": 0}), REFUSED),
    "oip-nan-in-bytes.http": (framed(struct.pack("<4f", float("nan"), 0, 0, 0)), REFUSED),
    "oip-bool-of-2.http": (
        framed(b"\0\1\2", name="flags", shape=[1, 3], datatype="BOOL").replace(b"/mlp", b"/flags"),
        REFUSED,
    ),
    "npy-objects.http": (npy(npy_text(descr=b"|O"), data=b"cos\nsystem\n(S'touch stateserve-hostile-marker'\ntR."), REFUSED),
    "npy-huge-shape.http": (npy(npy_text(b"(9223372036854775807, 4)")), REFUSED),
    "npy-negative-shape.http": (npy(npy_text(b"(-1, 4)")), REFUSED),
    "npy-header-beyond-body.http": (
        request(PREDICT, b"\x93NUMPY\2\0\xff\xff\xff\xff{", "Content-Type: application/x-npy"),
        REFUSED,
    ),
    "npy-long-header.http": (npy(npy_text(size=20_000)), REFUSED),
    "gzip-bomb.http": (packed("gzip", gzip.compress(bytes(2_000_000), mtime=0)), {413}),
    "gzip-bomb-in-a-bomb.http": (
        packed("gzip, gzip", gzip.compress(gzip.compress(bytes(20_000_000), mtime=0), mtime=0)),
        {413},
    ),
    "gzip-cut-off.http": (packed("gzip", gzip.compress(GOOD, mtime=0)[:-4]), REFUSED),
    "gzip-and-more.http": (packed("gzip", gzip.compress(GOOD, mtime=0) + b"more"), REFUSED),
    "gzip-that-is-none.http": (packed("gzip", GOOD), REFUSED),
    "deflate-damaged.http": (packed("deflate", zlib.compress(GOOD)[:-1] + b"\0"), REFUSED),
    "encoded-three-times.http": (packed("gzip, gzip, gzip", b""), {415}),
    "encoding-unknown.http": (packed("br", GOOD), {415}),
    "type-unknown.http": (request(PREDICT, GOOD, "Content-Type: application/x-python-pickle"), {415}),
    "accept-none.http": (request(PREDICT, GOOD, "Accept: text/html;q=nan, image/*"), {406}),
    "timeout-nan.http": (request(PREDICT, GOOD, "X-Timeout-Ms: nan"), REFUSED),
    "timeout-tiny.http": (request(PREDICT, GOOD, "X-Timeout-Ms: 0.000000001"), {200, 504}),
    "path-up.http": (request("/v2/models/..%2f..%2f..%2fetc%2fpasswd", method="GET", length=False), {404}),
    "path-zero-byte.http": (request("/predictions/mlp%00", GOOD), {404}),
    "path-not-utf-8.http": (request("/predictions/%ff%fe", GOOD), {404}),
    "path-long.http": (request("/predictions/" + "a" * 6000, GOOD), {404}),
    "label-with-a-line.http": (request("/v2/repository/models/spare/labels/a%0d%0ab", b'{"version":1}', method="PUT"), REFUSED),
    "load-up.http": (request("/v2/repository/models/..%2f..%2fspare/load"), {404}),
    "lengths-that-differ.http": (request(PREDICT, GOOD, "Content-Length: 1"), REFUSED),
    "length-negative.http": (request(PREDICT, GOOD, "Content-Length: -5", length=False), REFUSED),
    "length-huge.http": (request(PREDICT, GOOD, "Content-Length: 9223372036854775807", length=False), {413}),
    "length-and-chunks.http": (chunked(b"10\r\n" + FLOATS + b"\r\n0\r\n\r\n", "Content-Length: 3"), {200, 400}),
    "chunks-of-64-bits.http": (chunked(b"ffffffffffffffff\r\n" + FLOATS + b"\r\n0\r\n\r\n"), REFUSED),
    "coding-unknown.http": (chunked(b"10\r\n" + FLOATS).replace(b": chunked", b": x"), REFUSED),
    "body-cut-off.http": (request(PREDICT, GOOD, "Content-Length: 4000", length=False), {400, 499}),
    "head-zero-byte.http": (request(PREDICT, GOOD, "X: a\0b"), REFUSED),
    "head-folded.http": (request(PREDICT, GOOD, "X: a\r\n b"), REFUSED),
    "head-without-colon.http": (request(PREDICT, GOOD, "X"), REFUSED),
    "head-of-many.http": (request(PREDICT, GOOD, *(f"x{number}: y" for number in range(500))), {431}),
    "other-protocol.http": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), REFUSED),
}

FILES = {**FOUND, **THOUGHT_OF}


if __name__ == "__main__":
    for name, (data, _) in FILES.items():
        (HERE / name).write_bytes(data)
    sys.stdout.write(f"{len(FILES)} files, {sum(len(data) for data, _ in FILES.values())} bytes\n")
