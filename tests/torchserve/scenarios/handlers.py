"""What handlers answer, and how they fail."""

from dataclasses import replace

from tests.torchserve.scenarios.inference import JSON, said
from tests.torchserve.shapes import Ask, Gather, Later, Scenario, Settle


def plain(note: str, **wish: object) -> Ask:
    """A request to the handler that answers as it is asked to."""
    return Ask("POST", "/predictions/plain", headers=JSON, body=said(wish), note=note)


def _values():
    for what in ("bytes", "bytearray", "str", "tensor", "nan", "tuple", "keys", "set", "object"):
        yield plain(f"gives {what}", give=what)
    for value in (None, True, False, 0, -1, 1.5, 1e300, "", "text", [], {}, [1, [2, [3]]], {"a": {"b": [None, 0.1]}, "ü": "é"}):
        yield plain(f"gives {value!r}", value=value)
    yield plain("gives 100 kB", give="large", bytes=100_000)
    yield plain("gives 6 MB", give="large", bytes=6_000_000)
    for what in ("properties", "manifest", "config", "request id", "files", "directory"):
        yield plain(f"asks for {what}", ask=what)


def _statuses():
    for status in (
        200,
        201,
        202,
        204,
        206,
        299,
        301,
        302,
        304,
        400,
        401,
        404,
        418,
        422,
        429,
        499,
        500,
        501,
        503,
        504,
        507,
        599,
        600,
        999,
    ):
        yield plain(f"status {status}", status=status)
    yield plain("status with a phrase", status=418, phrase="I am a teapot")
    yield plain("status 200 with a phrase", status=200, phrase="All is well")
    yield plain("status for all", all=409)
    yield plain("status 404 with a body", status=404, value={"error": "no such thing"})
    yield plain("status 0", status=0)
    yield plain("status 99", status=99)
    yield plain("status -1", status=-1)
    for note, headers in (
        ("custom", {"dummy": "1", "X-Other": "two"}),
        ("content-type", {"content-type": "text/csv"}),
        ("Content-Type", {"Content-Type": "text/csv"}),
        ("length", {"content-length": "3"}),
        ("cache", {"Cache-Control": "max-age=60"}),
        ("request id", {"x-request-id": "mine"}),
        ("connection", {"Connection": "close"}),
        ("encoding", {"Content-Encoding": "identity"}),
        ("empty value", {"X-Empty": ""}),
        ("UTF-8 value", {"X-Name": "grüße"}),
        ("cookie", {"Set-Cookie": "a=1; Path=/"}),
    ):
        yield plain(f"header {note}", headers=headers)
    yield replace(plain("header of a stream", headers={"ts_stream_next": "false"}), wait_s=3)
    yield plain("content type", type="application/json")
    yield plain("content type with charset", type="text/plain; charset=utf-8")
    yield plain("content type in capitals", type="Application/JSON")
    yield plain("content type for bytes", type="image/png", give="bytes")
    yield plain(
        "status, type, header, body", status=201, type="application/json", headers={"Location": "/there"}, value={"made": True}
    )


def _failures():
    for what in ("short", "long", "none", "dict", "text", "tuple", "tensor"):
        yield plain(f"the whole is {what}", whole=what)
    for what in ("memory", "cuda", "error"):
        yield plain(f"fails by {what}", fail=what)
    for code in (400, 404, 418, 500, 503, 507, 599, 413, 200, 600):
        yield plain(f"PredictionException {code}", fail="prediction", message=f"said by the handler: {code}", code=code)
    yield plain("PredictionException without a code", fail="prediction default", message='quoted "words" & <marks>')
    yield plain("PredictionException in UTF-8", fail="prediction", message="grüße", code=503)
    yield plain("PredictionException with an empty message", fail="prediction", message="", code=503)
    yield Ask("POST", "/predictions/plain", body=b"no JSON", note="what the handler does not expect")
    yield plain("after the failures", value="still here")


def _streams():
    yield plain("streams", stream=["one ", "two ", "three "], value="end")
    yield plain("streams one part", stream=["one"], value="")
    yield plain("streams bytes and JSON", stream=[{"a": 1}, [2]], value={"b": 2})
    yield plain("streams with a type", stream=["a,b\n"], type="text/csv", value="1,2\n")
    yield plain("streams with a status", stream=["a"], status=201, value="b")
    yield plain("streams with a header", stream=["a"], headers={"dummy": "1"}, value="b")
    yield plain("not streaming again", value="whole")


def _deaths():
    for note, wish in (
        ("kill -9", {"fail": "kill"}),
        ("exit 0", {"fail": "exit", "code": 0}),
        ("exit 1", {"fail": "exit", "code": 1}),
    ):
        yield replace(plain(f"dies by {note}", **wish), either=(500, 507) if note == "kill -9" else ())
        yield Settle("plain", 1)
        yield plain(f"after {note}", value="again")
    for what in ("system exit", "keyboard"):
        yield plain(f"dies by {what}", fail=what)
        yield Settle("plain", 1)
        yield plain(f"after {what}", value="again")
    yield plain("gives 7 MB, more than max_response_size", give="large", bytes=7_000_000)
    yield Settle("plain", 1)
    yield plain("after too large an answer", value="again")


def _entries():
    yield Ask("POST", "/predictions/function", note="module:function")
    yield Ask("POST", "/predictions/function", note="module:function, the second call")
    for note, wish in (
        ("eager", {"x": [1, 2]}),
        ("another", {"x": [0.5, -3]}),
        ("wrong length", {"x": [1]}),
        ("wrong key", {"y": [1]}),
    ):
        yield Ask("POST", "/predictions/based", headers=JSON, body=said(wish), note=f"BaseHandler, {note}")
    yield Ask("POST", "/predictions/scripted", headers=JSON, body=b"[[1, 2]]", note="base_handler without an envelope")
    for name in ("echo_store", "echo_tgz", "echo_folder"):
        yield Ask("POST", f"/predictions/{name}", headers=JSON, body=b"{}", note="another form of archive")
    yield Ask("POST", "/predictions/values", headers=JSON, body=said({"ask": "config"}), note="model-config.yaml")
    yield Ask("GET", "/models/values", "management", note="model-config.yaml")
    yield Ask("GET", "/models/based", "management")
    yield Ask("GET", "/models/describes?customized=true", "management")
    yield Ask("GET", "/models/plain?customized=true", "management", note="a handler that does not describe itself")
    yield Ask("GET", "/models/based?customized=true", "management", note="BaseHandler describes itself")
    yield Ask("GET", "/models/describes?customized=TRUE", "management")
    yield Ask("GET", "/models/describes/all?customized=true", "management")
    yield Ask("GET", "/models/describes/1.0?customized=true", "management")
    yield Ask("GET", "/models", "management", note="all")


def _troubles():
    yield Ask("GET", "/ping", note="before trouble")
    sleep = Ask("POST", "/predictions/hangs", headers=JSON, body=said({"seconds": 30}), note="longer than responseTimeout")
    yield sleep
    yield Settle("hangs", 1)
    yield Ask("POST", "/predictions/hangs", headers=JSON, body=b"{}", note="after the hang")
    for number in range(2):
        yield Later(Ask("POST", "/predictions/small_queue", headers=JSON, body=said({"seconds": 1.5}), note=f"busy {number}"))
    yield Ask("POST", "/predictions/small_queue", headers=JSON, body=b"{}", note="a full queue")
    yield Ask("POST", "/predictions/small_queue/1.0", headers=JSON, body=b"{}", note="a full queue, with a version")
    yield Ask("GET", "/models/small_queue", "management", note="a full queue")
    yield Gather()
    yield Later(Ask("POST", "/predictions/impatient", headers=JSON, body=said({"seconds": 1.5}), note="busy", wait_s=4))
    yield Ask("POST", "/predictions/impatient", headers=JSON, body=b"{}", note="waits longer than clientTimeoutInMills", wait_s=4)
    yield Gather()
    yield Ask("POST", "/predictions/impatient", headers=JSON, body=b"{}", note="in time")


def registered(name: str, query: str = "initial_workers=1", **options) -> Ask:
    """A request to register an archive."""
    return Ask("POST", f"/models?url={name}.mar&{query}", "management", **options)


_SOMETIMES_LEFT = ("init_error", "out_of_memory")
"""TorchServe removes a model whose workers failed, or leaves it without any: which of the two is a race there."""


def _bad_models():
    yield registered("too_slow")
    for name in ("import_error", "init_error", "two_classes", "out_of_memory", "no_handler"):
        left = name in _SOMETIMES_LEFT
        yield registered(name)
        yield Ask("GET", f"/models/{name}", "management", note="after its registration", either=(200, 404) if left else ())
        yield Ask("POST", f"/predictions/{name}", body=b"", note="after its registration", either=(404, 503) if left else ())
    for name in _SOMETIMES_LEFT:
        yield Ask("DELETE", f"/models/{name}", "management", note="if it is still there", either=(200, 404))
    yield registered("init_error", "initial_workers=0", note="without workers")
    yield Ask("POST", "/predictions/init_error", body=b"", note="without workers")
    yield Ask("POST", "/predictions/init_error/1.0", body=b"", note="without workers, with a version")
    yield Ask("GET", "/models/init_error?customized=true", "management", note="without workers")
    yield Ask("PUT", "/models/init_error?min_worker=1&synchronous=true", "management", note="that cannot start")
    yield Ask("PUT", "/models/init_error?min_worker=0&synchronous=true", "management", note="to none")
    yield Ask("DELETE", "/models/init_error", "management", note="at last")
    yield registered("init_error", "initial_workers=1&synchronous=false", note="not waited for")
    yield registered("slow_start", "initial_workers=1&synchronous=true")
    yield Ask("POST", "/predictions/slow_start", headers=JSON, body=b"{}")
    yield Ask("GET", "/ping", note="after trouble")


def _batches():
    wishes = ({"a": 1}, {"status": 404}, {"fail": True})
    yield Ask("POST", "/predictions/batches", headers=JSON, body=said(wishes[0]), note="alone")
    yield Ask("POST", "/predictions/batches", headers=JSON, body=said(wishes[0]), note="four at once", times=4)
    yield Ask("POST", "/predictions/batches", headers=JSON, body=said(wishes[0]), note="eight at once", times=8)
    for number, wish in enumerate((wishes[0], wishes[1], wishes[0])):
        yield Later(
            Ask("POST", "/predictions/batches", headers=JSON, body=said(wish), note=f"one has another status, {number}"), 0.05
        )
    yield Gather()
    for number, wish in enumerate((wishes[0], wishes[2], wishes[0])):
        yield Later(Ask("POST", "/predictions/batches", headers=JSON, body=said(wish), note=f"one fails, {number}"), 0.05)
    yield Gather()


_FIRST = ("plain", "function", "based", "scripted", "echo_store", "values", "describes")

SCENARIOS = (
    Scenario(
        "handlers",
        "values, statuses, headers and failures of handlers; entry styles, forms of archives, model-config.yaml",
        (*_values(), *_statuses(), *_failures(), *_streams(), *_entries(), *_deaths()),
        archives=(*_FIRST, "echo_tgz", "echo_folder"),
        models=(*(f"{name}.mar" for name in _FIRST), "echo_tgz.tar.gz", "echo_folder"),
        ready=dict.fromkeys((*_FIRST, "echo_tgz", "echo_folder"), 1),
    ),
    Scenario(
        "troubles",
        "hangs, full queues, impatient clients, batches",
        (*_troubles(), *_batches()),
        archives=("hangs", "small_queue", "impatient", "batches"),
        models=("hangs.mar", "small_queue.mar", "impatient.mar", "batches.mar"),
        ready=dict.fromkeys(("hangs", "small_queue", "impatient", "batches"), 1),
        config={"strict_batch_delay": "true"},
    ),
    Scenario(
        "bad_models",
        "models that cannot be loaded, or take their time",
        tuple(_bad_models()),
        archives=("import_error", "init_error", "two_classes", "out_of_memory", "no_handler", "too_slow", "slow_start"),
    ),
)
