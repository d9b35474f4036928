"""The management connector: registering, scaling, describing, removing; with all that is lenient about it."""

from tests.torchserve.scenarios.handlers import registered
from tests.torchserve.scenarios.inference import JSON, TEXT, URLENCODED, said
from tests.torchserve.shapes import Ask, Scenario, Settle


def manage(method: str, target: str, **options) -> Ask:
    """A request to the management connector."""
    return Ask(method, target, "management", **options)


def gone(name: str, again: str = "") -> Ask:
    """A model is removed, so that the next request may register it."""
    return manage("DELETE", f"/models/{name}", note=f"to clear up{again}")


def _registering():
    yield manage("GET", "/models", note="none")
    yield manage("GET", "/models/", note="none")
    for target in ("/models", "/models?", "/models?url=", "/models?model_name=echo", "/models?url", "/models?URL=echo.mar"):
        yield manage("POST", target, note="no url")
    for target in (
        "../echo.mar",
        "../../etc/passwd",
        "nobody.mar",
        "/etc/passwd",
        "echo",
        "not_a_zip.mar",
        "no_model.mar",
        "bad_manifest.mar",
        "bad_runtime.mar",
        "bad_config.mar",
        "file:///etc/passwd",
        "file://{directory}/store/nobody.mar",
        "http://127.0.0.1:{files}/nobody.mar",
        "http://127.0.0.1:1/echo.mar",
        "http://",
        "%2e%2e%2fecho.mar",
        "echo%00.mar",
    ):
        yield manage("POST", f"/models?url={target}", note="cannot be registered")
    yield gone("bad_config")
    for target in (
        "{directory}/store/echo.mar",
        "folder/echo.mar",
        "./echo.mar",
        "ftp://127.0.0.1/echo.mar",
        "s3://bucket/echo.mar",
    ):
        yield manage("POST", f"/models?url={target}", note="only its last part counts")
        yield gone("echo", f" after {target}")
    for file in ("no_manifest", "no_name", "no_version", "no_handler", "old_keys"):
        yield registered(file, "initial_workers=0", note="a strange archive")
        yield manage("GET", f"/models/{file}", note="of a strange archive")
    yield manage("GET", "/models", note="after the strange ones")
    for name in ("no_manifest", "no_name", "no_version", "no_handler", "old_keys"):
        yield gone(name)
    yield manage("POST", "/models?url=echo.mar", note="without workers")
    yield manage("GET", "/models/echo", note="as registered")
    yield manage("POST", "/models?url=echo.mar", note="again")
    yield manage("POST", "/models?url=echo.mar&model_name=other", note="by another name")
    yield manage("POST", "/models?url=echo.mar&model_name=a%20b", note="a strange name")
    yield manage("GET", "/models/a%20b", note="a strange name")
    yield manage("POST", "/models?url=echo.mar&model_name=", note="an empty name")
    yield manage("GET", "/models", note="with strange names")
    yield Ask("POST", "/predictions/echo", body=b"", note="no workers")
    yield Ask("POST", "/predictions/echo/1.0", body=b"", note="no workers")
    yield Ask("GET", "/ping", note="no workers")
    for name in ("echo", "other", "a%20b"):
        yield gone(name, " once")


def _parameters():
    for query in (
        "batch_size=8&max_batch_delay=50&response_timeout=30&startup_timeout=60",
        "batch_size=x&max_batch_delay=y&response_timeout=z&startup_timeout=q&initial_workers=w",
        "batch_size=-1&max_batch_delay=-2&response_timeout=-3&startup_timeout=-4",
        "batch_size=0&max_batch_delay=0&response_timeout=0&startup_timeout=0",
        "batch_size=1.5",
        "batch_size=%204",
        "batch_size=4%20",
        "batch_size=%2B4",
        "batch_size=99999999999",
        "batch_size=",
        "batch_size=2&batch_size=3",
        "initial_workers=0",
        "initial_workers=-1",
        "initial_workers=x",
        "initial_workers=",
        "handler=nobody.py",
        "handler=echo:handle",
        "runtime=python3",
        "runtime=PYTHON",
        "runtime=python",
        "runtime=ruby",
        "runtime=LSP",
        "runtime=",
        "s3_sse_kms=true",
        "unknown=1",
        "synchronous=false",
        "synchronous=true",
        "synchronous=TRUE",
    ):
        yield registered("echo", query, note="parameters")
        yield manage("GET", "/models/echo", note=f"registered with {query}")
        yield gone("echo", f" after {query}")
    yield registered("values", "initial_workers=0", note="its model-config.yaml has workers")
    yield Settle("values", 1)
    yield manage("GET", "/models/values", note="its model-config.yaml beats the request")
    yield gone("values")
    yield registered(
        "values", "batch_size=3&max_batch_delay=9&response_timeout=8&startup_timeout=7&initial_workers=0", note="request or file"
    )
    yield Settle("values", 1)
    yield manage("GET", "/models/values", note="request or file")
    yield gone("values", " again")


def _bodies():
    for note, headers, body in (
        ("JSON", JSON, said({"url": "echo.mar", "batch_size": 3, "initial_workers": 0})),
        ("JSON with strings", JSON, said({"url": "echo.mar", "batch_size": "3", "initial_workers": "0"})),
        ("JSON with charset", (("Content-Type", "application/json; charset=utf-8"),), said({"url": "echo.mar"})),
        ("JSON in capitals", (("Content-Type", "Application/JSON"),), said({"url": "echo.mar"})),
        (
            "JSON with all",
            JSON,
            said(
                {
                    "url": "echo.mar",
                    "model_name": "echo",
                    "handler": "echo.py",
                    "runtime": "python",
                    "max_batch_delay": 5,
                    "response_timeout": 6,
                    "startup_timeout": 7,
                    "synchronous": True,
                    "batch_size": 2,
                }
            ),
        ),
        ("JSON with unknown keys", JSON, said({"url": "echo.mar", "other": {"a": [1]}})),
        ("JSON with camel case", JSON, said({"url": "echo.mar", "batchSize": 5, "modelName": "camel"})),
        ("JSON without url", JSON, said({"batch_size": 3})),
        ("JSON with url null", JSON, said({"url": None})),
        ("JSON with a fraction", JSON, said({"url": "echo.mar", "batch_size": 1.5})),
        ("JSON with a wrong type", JSON, said({"url": "echo.mar", "batch_size": "many"})),
        ("JSON with a wrong list", JSON, said({"url": ["echo.mar"]})),
        ("JSON number", JSON, b"12"),
        ("JSON list", JSON, b"[]"),
        ("JSON null", JSON, b"null"),
        ("bad JSON", JSON, b"{"),
        ("empty JSON", JSON, b""),
        ("lenient JSON", JSON, b"{url: 'echo.mar'}"),
        ("form", URLENCODED, b"url=echo.mar"),
        ("text", TEXT, b'{"url": "echo.mar"}'),
    ):
        yield manage("POST", "/models", headers=headers, body=body, note=f"body: {note}")
        yield manage("GET", "/models/echo", note=f"registered by body: {note}")
        yield gone("echo", f" after body: {note}")
    yield manage(
        "POST", "/models?url=nobody.mar&batch_size=9", headers=JSON, body=said({"url": "echo.mar"}), note="query and body"
    )
    yield manage("GET", "/models/echo", note="registered by query and body")
    yield gone("echo", " after query and body")
    yield manage("POST", "/models?url=echo.mar", headers=JSON, body=b"{}", note="query and an empty object")


def _listing():
    yield registered("plain", "initial_workers=0", note="for the list")
    yield manage("POST", "/models?url=echo.mar&model_name=zebra", note="for the list")
    yield manage("POST", "/models?url=echo.mar", note="for the list")
    for query in (
        "limit=1",
        "limit=2",
        "limit=3",
        "limit=4",
        "limit=0",
        "limit=-1",
        "limit=100",
        "limit=101",
        "limit=1000",
        "limit=x",
        "limit=",
        "limit=1.5",
        "next_page_token=0",
        "next_page_token=1",
        "next_page_token=2",
        "next_page_token=3",
        "next_page_token=4",
        "next_page_token=-1",
        "next_page_token=x",
        "limit=1&next_page_token=1",
        "limit=2&next_page_token=1",
        "limit=1&next_page_token=2",
        "limit=2&next_page_token=2",
        "limit=5&next_page_token=99",
        "limit=1&next_page_token=99999999999",
        "other=1",
    ):
        yield manage("GET", f"/models?{query}", note="list")
    yield manage("GET", "/models/all")
    yield manage("GET", "/models/echo/")
    yield manage("GET", "/models/echo/all")
    yield manage("GET", "/models/echo/all/")
    yield manage("GET", "/models/echo/ALL")
    yield manage("GET", "/models/nobody")
    yield manage("GET", "/models/nobody/all")
    yield manage("GET", "/models/nobody/1.0")
    yield manage("GET", "/models/echo/9.9")
    yield manage("GET", "/models/echo/1.0/more")
    yield manage("GET", "/models/echo?customized=true", note="no worker")
    yield manage("GET", "/models/echo/all?customized=true", note="no worker")
    yield manage("GET", "/models/echo?customized=yes", note="no worker")
    yield manage("GET", "/models//echo")
    for name in ("plain", "zebra", "echo"):
        yield gone(name, " after the lists")


def _methods():
    yield registered("echo", "initial_workers=0", note="for the methods")
    for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO"):
        yield manage(method, "/models", note="method")
    for method in ("POST", "PATCH", "HEAD", "OPTIONS", "TRACE", "FOO"):
        yield manage(method, "/models/echo", note="method")
        yield manage(method, "/models/echo/1.0", note="method")
        yield manage(method, "/models/nobody", note="method")
    for method in ("GET", "POST", "DELETE", "OPTIONS", "PATCH"):
        yield manage(method, "/models/echo/1.0/set-default", note="method")
        yield manage(method, "/models/echo/set-default", note="method")
    for target in (
        "/v1/models/echo",
        "/v1/models/nobody",
        "/v1/models",
        "/v1/models/echo/1.0",
        "/v1/models/echo:predict",
        "/v1",
        "/v2/models/echo",
    ):
        for method in ("GET", "POST", "PUT"):
            yield manage(method, target)
    for target in (
        "/token",
        "/token?type=management",
        "/workflows",
        "/workflows/flow",
        "/model",
        "/Models",
        "/models/echo/1.0/set-default/more",
    ):
        for method in ("GET", "POST", "PUT"):
            yield manage(method, target)
    yield gone("echo", " after the methods")
    yield manage("POST", "/models?url=echo.mar&model_name=a/b", note="a name with a slash")
    yield manage("GET", "/models/a%2Fb", note="a name with a slash")
    yield manage("DELETE", "/models/a%2Fb", note="a name with a slash")


def _scaling():
    yield registered("echo", "initial_workers=1&synchronous=true")
    yield Settle("echo", 1)
    yield manage("GET", "/models/echo", note="with a worker")
    yield manage("GET", "/v1/models/echo", note="with a worker")
    yield manage("GET", "/models/echo?customized=true", note="with a worker that echoes")
    yield registered("echo", "initial_workers=1&synchronous=true", note="again")
    for query in ("min_worker=2&max_worker=1", "min_worker=3&max_worker=2&synchronous=true", "min_worker=1&max_worker=0"):
        yield manage("PUT", f"/models/echo?{query}", note="max below min")
    yield manage("PUT", "/models/echo?min_worker=x&synchronous=true", note="no number")
    yield manage("PUT", "/models/echo?min_worker=1&max_worker=x&synchronous=true", note="no number for max")
    yield manage("PUT", "/models/nobody?min_worker=1")
    yield manage("PUT", "/models/echo/9.9?min_worker=1")
    yield manage("PUT", "/models/nobody/1.0?min_worker=1&synchronous=true")
    yield manage("PUT", "/models/echo", note="no parameters")
    yield Settle("echo", 1)
    yield manage("PUT", "/models/echo?min_worker=2&synchronous=true", note="two")
    yield Settle("echo", 2)
    yield manage("GET", "/models/echo", note="two")
    yield manage("PUT", "/models/echo?min_worker=1&max_worker=3&synchronous=true", note="max above min")
    yield manage("GET", "/models/echo", note="max above min")
    yield manage("PUT", "/models/echo/1.0?min_worker=1&synchronous=true", note="down, with a version")
    yield Settle("echo", 1)
    yield manage("GET", "/models/echo", note="down")
    yield manage("PUT", "/models/echo?model_version=1.0&min_worker=1&synchronous=true", note="the version as a parameter")
    yield manage("PUT", "/models/echo?model_version=9&min_worker=1&synchronous=true", note="the version as a parameter")
    yield manage("PUT", "/models/echo?min_worker=1&synchronous=false", note="not waited for")
    yield manage("PUT", "/models/echo?min_worker=1&synchronous=yes", note="not waited for")
    yield manage("PUT", "/models/echo?min_worker=1&synchronous=TRUE", note="waited for")
    yield manage("PUT", "/models/echo?min_worker=1&timeout=0&synchronous=true", note="timeout 0")
    yield manage("PUT", "/models/echo?min_worker=1&timeout=-1&synchronous=true&number_gpu=3", note="timeout -1")
    yield manage("PUT", "/models/echo", headers=JSON, body=said({"min_worker": 3}), note="a body is not read")
    yield Settle("echo", 1)
    yield Ask("POST", "/predictions/echo", headers=JSON, body=b"{}", note="one worker")
    yield manage("PUT", "/models/echo?min_worker=-1", note="negative")
    yield manage("PUT", "/models/echo?min_worker=-1&max_worker=-1&synchronous=true", note="negative")
    yield manage("PUT", "/models/echo?min_worker=0&synchronous=true", note="to none")
    yield manage("GET", "/models/echo", note="none")
    yield Ask("POST", "/predictions/echo", headers=JSON, body=b"{}", note="scaled to none")
    yield manage("PUT", "/models/echo?min_worker=0&max_worker=2&synchronous=true", note="0 to 2")
    yield manage("GET", "/models/echo", note="0 to 2")


def _versions():
    yield manage("PUT", "/models/echo/2.0/set-default", note="no such version")
    yield registered("echo_2", "initial_workers=0")
    yield manage("GET", "/models/echo", note="default of two")
    yield manage("GET", "/models/echo/2.0", note="of two")
    yield manage("GET", "/models/echo/all", note="of two")
    yield manage("GET", "/models", note="of two versions")
    yield manage("PUT", "/models/echo/2.0/set-default")
    yield manage("PUT", "/models/echo/2.0/set-default/", note="again")
    yield manage("GET", "/models/echo", note="after set-default")
    yield manage("PUT", "/models/echo/9.9/set-default")
    yield manage("PUT", "/models/nobody/1.0/set-default")
    yield manage("DELETE", "/models/echo", note="default of two")
    yield manage("DELETE", "/models/echo/2.0", note="default of two")
    yield manage("DELETE", "/models/echo/9.9")
    yield manage("DELETE", "/models/nobody")
    yield manage("DELETE", "/models/nobody/1.0")
    yield manage("DELETE", "/models/echo/1.0?synchronous=true&timeout=0", note="the other")
    yield manage("DELETE", "/models/echo/2.0/", note="the last")
    yield manage("DELETE", "/models/echo", note="there is none left")
    yield manage("GET", "/models", note="none left")


def _downloads():
    yield manage("POST", "/models?url=http://127.0.0.1:{files}/echo.mar", note="whose file is in the store")
    yield manage("POST", "/models?url=http://127.0.0.1:{files}/function.mar")
    yield manage("GET", "/models/function", note="downloaded")
    yield manage("POST", "/models?url=http://127.0.0.1:{files}/function.mar", note="again")
    yield gone("function")
    yield manage("POST", "/models?url=http://127.0.0.1:{files}/function.mar", note="after it was removed")
    yield manage("POST", "/models?url=http://127.0.0.1:{files}/function.mar?a=1%26b=2&model_name=queried", note="with a query")
    yield manage("POST", "/models?url=http://127.0.0.1:{files}/not_a_zip.mar", note="downloaded, no archive")
    yield manage("POST", "/models?url=file://{directory}/store/measured.mar", note="a file URL")
    yield manage("GET", "/models/measured", note="by a file URL")
    yield gone("measured")
    yield manage("POST", "/models?url=measured.mar", note="after a file URL was removed")


_STORE = (
    "echo",
    "echo_2",
    "plain",
    "values",
    "not_a_zip",
    "no_model",
    "bad_manifest",
    "bad_runtime",
    "bad_config",
    "no_manifest",
    "no_name",
    "no_version",
    "no_handler",
    "old_keys",
)

SCENARIOS = (
    Scenario(
        "registering",
        "POST /models: what cannot be registered, and every parameter, in the query and in a body",
        (*_registering(), *_parameters(), *_bodies(), *_listing(), *_methods()),
        archives=_STORE,
        config={"default_workers_per_model": "", "allowed_urls": "file://.*,http(s)?://.*"},
    ),
    Scenario(
        "scaling",
        "PUT, GET and DELETE of models with workers, versions, downloads",
        (*_scaling(), *_versions(), *_downloads()),
        archives=("echo", "echo_2", "measured"),
        config={"default_workers_per_model": "", "allowed_urls": "file://.*,http(s)?://.*"},
    ),
    Scenario(
        "allowed_urls",
        "only what allowed_urls lists may be registered",
        (
            manage("POST", "/models?url=http://127.0.0.1:{files}/nothing.mar", note="listed, not there"),
            manage("POST", "/models?url=http://127.0.0.1:{files}/../function.mar", note="with dots"),
            manage("POST", "/models?url=http://localhost:{files}/function.mar", note="not listed"),
            manage("POST", "/models?url=http://127.0.0.1:{files}/other/function.mar", note="listed by its beginning"),
            manage("POST", "/models?url=file://{directory}/store/echo.mar", note="a file, not listed"),
            manage("POST", "/models?url=echo.mar", note="a name in the store, not listed"),
            manage("POST", "/models?url=HTTP://127.0.0.1:{files}/function.mar", note="in capitals"),
            manage("POST", "/models?url=http://127.0.0.1:{files}/function.mar", note="listed"),
            manage("GET", "/models", note="after it"),
        ),
        config={"allowed_urls": "http://127.0.0.1:{files}/[a-z_]+.mar", "default_workers_per_model": ""},
    ),
    Scenario(
        "no_model_api",
        "without enable_model_api models can neither be added nor removed",
        (
            manage("POST", "/models?url=echo_2.mar"),
            manage("POST", "/models"),
            manage("POST", "/models?url=nobody.mar"),
            manage("DELETE", "/models/echo"),
            manage("DELETE", "/models/nobody"),
            manage("DELETE", "/models/echo/1.0"),
            manage("GET", "/models"),
            manage("GET", "/models/echo"),
            manage("PUT", "/models/echo?min_worker=1&synchronous=true"),
            manage("PUT", "/models/echo/1.0/set-default"),
            manage("OPTIONS", "/"),
        ),
        archives=("echo", "echo_2"),
        models=("echo.mar",),
        flags=("--disable-token-auth", "--ncs"),
        ready={"echo": 1},
    ),
)
