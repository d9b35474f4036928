"""Paths, methods, bodies and headers of the inference connector."""

import gzip
import json

from tests.torchserve.shapes import Ask, Connector, Scenario

JSON = (("Content-Type", "application/json"),)
TEXT = (("Content-Type", "text/plain"),)
BYTES = (("Content-Type", "application/octet-stream"),)
URLENCODED = (("Content-Type", "application/x-www-form-urlencoded"),)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO")
CONNECTORS: tuple[Connector, ...] = ("inference", "management", "metrics")


def said(value: object) -> bytes:
    """A value as JSON."""
    return json.dumps(value).encode()


def form(*parts: tuple[str, bytes], boundary: str = "edge", end: bool = True) -> bytes:
    """A multipart body: each part's own headers, without the name of the header Content-Disposition, and its bytes."""
    body = b"".join(f"--{boundary}\r\nContent-Disposition: {head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts)
    return body + (f"--{boundary}--\r\n".encode() if end else b"")


def multipart(note: str, *parts: tuple[str, bytes], target: str = "/predictions/echo", **options) -> Ask:
    """A form of parts."""
    return Ask(
        "POST", target, headers=(("Content-Type", "multipart/form-data; boundary=edge"),), body=form(*parts, **options), note=note
    )


def _paths():
    for method in METHODS:
        yield Ask(method, "/predictions/echo")
        if method != "OPTIONS":
            yield Ask(method, "/predictions/echo", headers=JSON, body=b'{"a": 1}', note="with JSON")
    for target in (
        "/predictions/echo/",
        "/predictions/echo//",
        "/predictions/echo/1.0",
        "/predictions/echo/1.0/",
        "/predictions/echo/2.0",
        "/predictions/echo/3.0",
        "/predictions/echo/1.0/more",
        "/predictions/echo/1.0/more/and/more/",
        "/predictions/echo/1.0/more?x=1",
        "/predictions/echo/latest",
        "/predictions/echo%20two",
        "/predictions/ech%6F",
        "/predictions/echo/1%2E0",
        "/predictions/echo/1.0/a%20b/%C3%BC",
        "/predictions/echo/1.0/a+b",
        "/predictions/echo?data=1&data=2",
        "/predictions/echo?",
        "/predictions/echo#fragment",
        "/predictions/nobody",
        "/predictions/nobody/1.0",
        "/predictions/nobody?x=<a>&y='b'",
        "/predictions/<script>",
        "/predictions",
        "/predictions/",
        "/predictions//echo",
        "//predictions/echo",
        "/PREDICTIONS/echo",
        "/Predictions/Echo",
        "/predictions/ECHO",
        "/predictions/echo/../echo",
        "/./predictions/echo",
        "/predictions;v=1/echo",
        "/predictions/echo;v=1",
        "http://torchserve.test/predictions/echo",
        "/explanations/echo",
        "/explanations/echo/1.0",
        "/explanations/echo/2.0/more",
        "/explanations/nobody",
        "/explanations",
        "/invocations",
        "/invocations/",
        "/invocations?model_name=echo",
        "/invocations?model_name=plain",
        "/invocations?model_name=nobody",
        "/invocations?model_name=",
        "/invocations?data=1&more=2",
        "/invocations/echo",
        "/models/echo/invoke",
        "/models/echo/invoke/",
        "/models/echo/invoke?x=1",
        "/models/nobody/invoke",
        "/models/echo/1.0/invoke",
        "/models/echo",
        "/models",
        "/models/echo/1.0",
        "/echo/predict",
        "/echo/predict?data=test",
        "/echo/predict?data=test&data=more&empty=&flag",
        "/echo/predict?data=a%20b+c",
        "/echo/1.0/predict",
        "/echo/2.0/predict?x=y",
        "/echo/3.0/predict",
        "/nobody/predict",
        "/nobody/predict?x=1",
        "/echo/predict/more",
        "/predict",
        "/echo/PREDICT",
        "/v1/models/echo:predict",
        "/v1/models/echo:explain",
        "/v1/models/nobody:predict",
        "/v1/models/echo:other",
        "/v1/models/echo",
        "/v1/models/echo/1.0:predict",
        "/v1/models/:predict",
        "/v1/models",
        "/v1/models/echo:predict?x=1",
        "/v2/models/echo/infer",
        "/v2/models/echo/explain",
        "/v2/models/nobody/infer",
        "/v2/models/echo/infer?x=1",
        "/v2/models/echo/versions/1.0/infer",
        "/v2/models/echo",
        "/v2/models/echo/ready",
        "/v2",
        "/v2/",
        "/v2/health/live",
        "/v2/health/ready",
        "/wfpredict/flow",
        "/wfpredict",
        "/nothing",
        "/nothing/at/all",
        "/favicon.ico",
        "/docs",
        "/openapi.json",
        "/metrics",
        "/ready",
        "/token",
        "/workflows",
        "*",
        "/%",
        "/predictions/%zz",
        "/predictions/" + "e" * 3000,
        "/predictions/" + "e" * 5000,
    ):
        yield Ask("POST", target, headers=TEXT, body=b"ping")
    for target in (
        "/nothing",
        "/predictions",
        "/invocations",
        "/models/echo/invoke",
        "/echo/predict?data=test",
        "/explanations/echo",
    ):
        for method in ("GET", "PUT", "DELETE"):
            yield Ask(method, target, note="by another method")


def _documents():
    for connector in CONNECTORS:
        for method in METHODS:
            yield Ask(method, "/", connector)
        for method in ("GET", "POST", "OPTIONS"):
            yield Ask(method, "/api-description", connector)
            yield Ask(method, "/api-description/", connector)
            yield Ask(method, "/api-description/more", connector)
            yield Ask(method, "/ping", connector)
            yield Ask(method, "/nothing", connector, note="unknown")
        yield Ask("OPTIONS", "/?x=1", connector)
        yield Ask("OPTIONS", "*", connector)
        yield Ask("GET", "", connector, note="no target")
        yield Ask("GET", "/ping/", connector)
        yield Ask("GET", "/ping/more", connector)
        yield Ask("GET", "/ping?x=1", connector)
        yield Ask("GET", "/PING", connector)
        yield Ask("PUT", "/ping", connector)
        yield Ask("POST", "/ping", connector, JSON, b"{}", "with a body")
    for target in (
        "/predictions/echo",
        "/predictions/plain",
        "/predictions/echo/2.0",
        "/predictions/nobody",
        "/predictions",
        "/explanations/echo",
    ):
        yield Ask("OPTIONS", target, note="document")
    for target in ("/models/echo", "/models/echo/2.0", "/models/nobody", "/models"):
        yield Ask("OPTIONS", target, "management")


def _content_types():
    body = b'{"a": [1, 2.5, "\xc3\xbc"]}'
    for content_type in (
        "application/json",
        "APPLICATION/JSON",
        "Application/Json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/json ",
        "application/ld+json",
        "text/plain",
        "text/plain; charset=utf-8",
        "text/plain; charset=iso-8859-1",
        "text/plain;charset=us-ascii",
        "TEXT/PLAIN",
        "text/html",
        "text/csv",
        "text",
        "texture",
        "application/octet-stream",
        "application/x-www-form-urlencoded; charset=utf-8",
        "image/png",
        "application/xml",
        "nonsense",
        "a/b/c",
        "",
        ";",
        "multipart/form-data",
        "multipart/mixed; boundary=edge",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="edge"',
    ):
        yield Ask("POST", "/predictions/echo", headers=(("Content-Type", content_type),), body=body, note=f"{content_type!r}")
    yield Ask("POST", "/predictions/echo", body=body, note="no content type")
    yield Ask(
        "POST", "/predictions/echo", headers=(("content-type", "application/json"),), body=body, note="content-type in lower case"
    )
    yield Ask("POST", "/predictions/echo", headers=(*JSON, *TEXT), body=body, note="two content types")
    yield Ask("POST", "/predictions/echo", headers=(*TEXT, *JSON), body=body, note="two content types, the other way")


def _bodies():
    for note, headers, body in (
        ("empty JSON", JSON, b""),
        ("empty text", TEXT, b""),
        ("empty bytes", BYTES, b""),
        ("empty, no type", (), b""),
        ("blank JSON", JSON, b"  "),
        ("bad JSON", JSON, b'{"a": '),
        ("JSON with a tail", JSON, b"{} {}"),
        ("JSON number", JSON, b"12"),
        ("JSON string", JSON, '"grüße"'.encode()),
        ("JSON null", JSON, b"null"),
        ("JSON true", JSON, b"true"),
        ("JSON list", JSON, b"[[1, 2], [3]]"),
        ("JSON NaN", JSON, b"[NaN, Infinity, -Infinity]"),
        ("JSON large numbers", JSON, b"[123456789012345678901234567890, 1e400, 1E-400]"),
        ("JSON duplicate keys", JSON, b'{"a": 1, "a": 2}'),
        ("JSON in UTF-16", JSON, '{"a": 1}'.encode("utf-16")),
        ("JSON with a BOM", JSON, b'\xef\xbb\xbf{"a": 1}'),
        ("JSON not UTF-8", JSON, b'{"a": "\xff"}'),
        ("JSON escapes", JSON, b'{"\\u00fc": "\\ud83d\\ude00"}'),
        ("JSON lone surrogate", JSON, b'["\\ud83d"]'),
        ("JSON nested", JSON, b"[" * 50 + b"]" * 50),
        ("text", TEXT, "grüße\n\t\0".encode()),
        ("text not UTF-8", TEXT, b"caf\xe9"),
        ("bytes", BYTES, bytes(range(256))),
        ("100 kB", BYTES, b"x" * 100_000),
        ("gzip of JSON", (*JSON, ("Content-Encoding", "gzip")), gzip.compress(b'{"a": 1}', mtime=0)),
        ("deflate, said only", (*JSON, ("Content-Encoding", "deflate")), b'{"a": 1}'),
    ):
        yield Ask("POST", "/predictions/echo", headers=headers, body=body, note=note)
    yield Ask("POST", "/predictions/echo", headers=JSON, body=b'{"a": 1}', note="chunked", chunked=True)
    yield Ask("POST", "/predictions/echo", headers=JSON, body=b"", note="chunked, empty", chunked=True)
    yield Ask("POST", "/predictions/echo", headers=URLENCODED, body=b"a=1&b=2", note="chunked form", chunked=True)
    yield Ask("POST", "/predictions/echo", headers=(*JSON, ("Expect", "100-continue")), body=b'{"a": 1}', note="expects 100")
    yield Ask("POST", "/predictions/echo", headers=JSON, note="a type and no body")


def _forms():
    for note, body in (
        ("one field", b"data=1"),
        ("fields", b"data=1&other=two&third=%C3%BC"),
        ("duplicates", b"data=1&data=2&data=3"),
        ("empty value", b"data="),
        ("no value", b"data"),
        ("no name", b"=1"),
        ("plus and percent", b"a+b=c+d%20e&x=%2B%26"),
        ("bad percent", b"a=%zz&b=%"),
        ("empty body", b""),
        ("separators", b"&&a=1&&&b=2&"),
        ("semicolons", b"a=1;b=2"),
        ("body as a name", b"body=1"),
        ("equals in a value", b"a=b=c"),
        ("not UTF-8", b"a=%ff"),
        ("line break", b"a=1\r\n"),
    ):
        yield Ask("POST", "/predictions/echo", headers=URLENCODED, body=body, note=f"form: {note}")
    yield Ask("PUT", "/predictions/echo", headers=URLENCODED, body=b"a=1", note="form by PUT")
    yield Ask("GET", "/predictions/echo", headers=URLENCODED, body=b"a=1", note="form by GET")
    yield Ask("DELETE", "/predictions/echo", headers=URLENCODED, body=b"a=1", note="form by DELETE")
    yield Ask("POST", "/invocations", headers=URLENCODED, body=b"model_name=echo&a=1", note="the model in the form")
    yield Ask("POST", "/invocations?model_name=plain", headers=URLENCODED, body=b"model_name=echo&a=1", note="two models")
    yield Ask("POST", "/invocations?model_name=echo&b=2", headers=URLENCODED, body=b"a=1", note="query and form")
    yield Ask("POST", "/invocations?model_name=echo", headers=JSON, body=b'{"model_name": "echo"}', note="JSON")
    yield Ask("POST", "/echo/predict?a=query", headers=URLENCODED, body=b"a=form&b=form", note="the same name twice")
    yield Ask("POST", "/echo/predict?body=query", headers=JSON, body=b'{"a": 1}', note="body twice")
    field = 'form-data; name="data"'
    yield multipart("one text field", (field, b"1"))
    yield multipart("two text fields", (field, b"1"), ('form-data; name="other"', "zwölf".encode()))
    yield multipart("duplicates", (field, b"1"), (field, b"2"))
    yield multipart("text with a type", (field + "\r\nContent-Type: application/json", b'{"a": 1}'))
    yield multipart("text as text/plain", (field + "\r\nContent-Type: text/plain; charset=utf-8", "grüße".encode()))
    yield multipart("file", (field + '; filename="a.bin"', b"\x00\xff\x01"))
    yield multipart("file as JSON", (field + '; filename="a.json"\r\nContent-Type: application/json', b'{"a": 1}'))
    yield multipart(
        "file as JSON with charset", (field + '; filename="a.json"\r\nContent-Type: application/json; charset=utf-8', b'{"a": 1}')
    )
    yield multipart("file as text", (field + '; filename="a.txt"\r\nContent-Type: text/plain', "grüße".encode()))
    yield multipart("file as bytes", (field + '; filename="a.bin"\r\nContent-Type: application/octet-stream', bytes(range(256))))
    yield multipart("file as image", (field + '; filename="a.png"\r\nContent-Type: image/png', b"\x89PNG\r\n\x1a\n"))
    yield multipart("file without a name", ('form-data; filename="a.bin"', b"x"))
    yield multipart("file with an empty file name", (field + '; filename=""', b"x"))
    yield multipart("file in base64", (field + '; filename="a"\r\nContent-Transfer-Encoding: base64', b"aGVsbG8="))
    yield multipart(
        "file and field of one name", (field + '; filename="a.txt"\r\nContent-Type: text/plain', b"file"), (field, b"text")
    )
    yield multipart(
        "field and file of one name", (field, b"text"), (field + '; filename="a.txt"\r\nContent-Type: text/plain', b"file")
    )
    yield multipart("empty field", (field, b""))
    yield multipart("empty file", (field + '; filename="a.txt"\r\nContent-Type: text/plain', b""))
    yield multipart("line breaks inside", (field, b"\r\n--edg\r\n\r\n"))
    yield multipart("unquoted name", ("form-data; name=data", b"1"))
    yield multipart("no name", ("form-data", b"1"))
    yield multipart("strange name", ('form-data; name="a b;c=d"', b"1"))
    yield multipart("name in UTF-8", ('form-data; name="grüße"', b"1"))
    yield multipart("body as a name", ('form-data; name="body"', b"1"))
    yield multipart("no parts")
    yield multipart("no end", (field, b"1"), end=False)
    yield multipart("another edge", (field, b"1"), boundary="other")
    yield multipart("many", *((f'form-data; name="f{number}"', b"x") for number in range(20)))
    yield multipart("form", (field, b"1"), target="/invocations?model_name=echo&b=2")
    yield multipart("model name", ('form-data; name="model_name"', b"echo"), (field, b"1"), target="/invocations")
    yield multipart("form", (field, b"1"), target="/echo/predict?data=query")
    yield multipart("empty body", end=False)


def _headers():
    for note, headers in (
        ("custom", (("X-Custom", "yes"), ("x-lower", "a"), ("X-UPPER", "B"))),
        ("twice", (("X-Twice", "one"), ("X-Twice", "two"))),
        ("twice, in other cases", (("X-Twice", "one"), ("x-twice", "two"))),
        ("empty", (("X-Empty", ""),)),
        ("spaces", (("X-Spaces", "  a  b  "),)),
        ("UTF-8", (("X-Name", "grüße"),)),
        ("request id", (("x-request-id", "mine"),)),
        ("as the server's own", (("url_path", "mine"), ("explain", "True"), ("describe", "x"))),
        ("keep-alive", (("Connection", "keep-alive"),)),
        ("close", (("Connection", "close"),)),
        ("accept", (("Accept", "application/xml"), ("Accept-Encoding", "gzip"))),
        ("origin", (("Origin", "https://other.test"),)),
        ("cookies", (("Cookie", "a=1"), ("Cookie", "b=2"))),
        ("authorization", (("Authorization", "Bearer nonsense"),)),
        ("traceparent", (("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),)),
    ):
        yield Ask("POST", "/predictions/echo", headers=(*TEXT, *headers), body=b"ping", note=f"header: {note}")
    preflight = (("Origin", "https://other.test"), ("Access-Control-Request-Method", "POST"))
    yield Ask("OPTIONS", "/predictions/echo", headers=preflight, note="preflight")
    yield Ask("POST", "/nothing", headers=(("Connection", "keep-alive"),), body=b"", note="keeps alive")


def _metrics():
    yield Ask("GET", "/metrics", "metrics")
    yield Ask("GET", "/metrics?name[]=Requests2XX", "metrics")
    yield Ask("POST", "/metrics", "metrics")
    yield Ask("PUT", "/metrics", "metrics")
    yield Ask("GET", "/metrics/", "metrics")
    yield Ask("GET", "/metrics/more", "metrics")
    yield Ask("GET", "/predictions/echo", "metrics")
    yield Ask("GET", "/models", "metrics")
    yield Ask("GET", "/predictions/echo", "management")
    yield Ask("GET", "/metrics", "management")
    yield Ask("GET", "/invocations", "management")


SCENARIOS = (
    Scenario(
        "inference",
        "paths, methods, bodies and headers of the inference connector; documents and unknown paths of all three",
        (*_paths(), *_documents(), *_headers(), *_metrics()),
        archives=("echo", "echo_2", "plain"),
        models=("echo.mar", "echo_2.mar", "plain.mar"),
        ready={"echo/1.0": 1, "echo/2.0": 1, "plain": 1},
    ),
    Scenario(
        "bodies",
        "every kind of body, with one model: /invocations needs no name",
        (
            *_content_types(),
            *_bodies(),
            *_forms(),
            Ask("POST", "/invocations", headers=JSON, body=b'{"a": 1}', note="the only model"),
            Ask("POST", "/invocations?a=1", headers=JSON, body=b'{"a": 1}', note="the only model, and a query"),
        ),
        models=("echo.mar",),
        ready={"echo": 1},
    ),
    Scenario(
        "raw_bodies",
        "decode_input_request=false: the handler gets bytes whatever the type",
        (
            Ask("POST", "/predictions/echo", headers=JSON, body=b'{"a": 1}'),
            Ask("POST", "/predictions/echo", headers=TEXT, body=b"ping", note="text"),
            multipart(
                "file as JSON", ('form-data; name="data"; filename="a.json"\r\nContent-Type: application/json', b'{"a": 1}')
            ),
        ),
        models=("echo.mar",),
        config={"decode_input_request": "false"},
        ready={"echo": 1},
    ),
)
