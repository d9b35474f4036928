"""What config.properties and the environment change: tokens, ports, TLS, metrics, limits, envelopes, dependencies, models."""

import json

from tests.torchserve.scenarios.handlers import plain, registered
from tests.torchserve.scenarios.inference import BYTES, CONNECTORS, JSON, TEXT, said
from tests.torchserve.shapes import Ask, Connector, Pause, Scenario


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """The header that brings a token."""
    return (("Authorization", f"Bearer {key}"),)


_TARGETS: tuple[tuple[Connector, str, str], ...] = (
    ("inference", "GET", "/ping"),
    ("inference", "POST", "/predictions/echo"),
    ("management", "GET", "/models"),
    ("management", "GET", "/models/echo"),
    ("management", "GET", "/token?type=inference"),
    ("metrics", "GET", "/metrics"),
)


def _tokens():
    keys = ("{inference_key}", "{management_key}", "{api_key}", "nonsense", "")
    for connector, method, target in _TARGETS:
        if "token" in target:
            continue
        yield Ask(method, target, connector, note="no token")
        for key in keys:
            yield Ask(method, target, connector, bearer(key), note=f"token {key}")
    for note, headers in (
        ("without Bearer", (("Authorization", "{inference_key}"),)),
        ("Basic", (("Authorization", "Basic {inference_key}"),)),
        ("bearer in lower case", (("Authorization", "bearer {inference_key}"),)),
        ("two spaces", (("Authorization", "Bearer  {inference_key}"),)),
        ("a tail", (("Authorization", "Bearer {inference_key} more"),)),
        ("the name in lower case", (("authorization", "Bearer {inference_key}"),)),
        ("longer", (("Authorization", "Bearer {inference_key}x"),)),
    ):
        yield Ask("POST", "/predictions/echo", headers=headers, note=note)
    for connector in CONNECTORS:
        yield Ask("OPTIONS", "/", connector, note="no token")
        yield Ask("GET", "/nothing", connector, note="no token")
        yield Ask("GET", "/api-description", connector, note="no token")
    for target in ("/predictions/nobody", "/predictions/echo/9.9", "/v1/models/echo:predict", "/invocations"):
        yield Ask("POST", target, note="no token")
        yield Ask("POST", target, headers=bearer("{inference_key}"), note="with the token")
    for target in ("/v1/models/echo", "/models/nobody", "/nothing/more"):
        yield Ask("GET", target, "management", note="no token")
        yield Ask("GET", target, "management", bearer("{management_key}"), note="with the token")
    yield registered("echo_2", "initial_workers=0", headers=bearer("{management_key}"), note="with the token")
    yield registered("echo_2", "initial_workers=0", headers=bearer("{inference_key}"), note="with the other token")


def _new_tokens():
    for target in ("/token", "/token?type=", "/token?type=other", "/token?type=api", "/token?type=API"):
        yield Ask("GET", target, "management", bearer("{api_key}"), note="not one of the two")
    for note, headers in (("no key", ()), ("nonsense", bearer("nonsense")), ("management", bearer("{management_key}"))):
        yield Ask("GET", "/token?type=inference", "management", headers, note=note)
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        yield Ask(method, "/token?type=inference", "management", bearer("{api_key}"), note="method")
    yield Ask("GET", "/token?type=inference", headers=bearer("{api_key}"), note="on the other connector")
    yield Ask("GET", "/token/more?type=inference", "management", bearer("{api_key}"))
    yield Ask("GET", "/token?type=inference", "management", bearer("{api_key}"), note="the key")
    yield Ask("POST", "/predictions/echo", headers=bearer("{inference_key}"), note="the new token")
    yield Ask("GET", "/token?type=management", "management", bearer("{api_key}"), note="the key")
    yield Ask("GET", "/models", "management", bearer("{management_key}"), note="the new token")


def _single():
    for connector, method, target in _TARGETS:
        yield Ask(method, target, connector)
    for method in ("GET", "OPTIONS", "POST"):
        yield Ask(method, "/")
        yield Ask(method, "/nothing")
        yield Ask(method, "/models/echo")
        yield Ask(method, "/models/echo/1.0")
    yield Ask("GET", "/models/echo/all")
    yield Ask("GET", "/models/nobody")
    yield Ask("GET", "/models")
    yield Ask("POST", "/models/echo/invoke", body=b"ping")
    yield Ask("GET", "/v1/models/echo")
    yield Ask("POST", "/v1/models/echo:predict", headers=JSON, body=b"{}")
    yield Ask("PUT", "/models/echo?min_worker=1&synchronous=true")
    yield Ask("PUT", "/models/echo/1.0?min_worker=1&synchronous=true")
    yield Ask("PUT", "/models/echo/1.0/set-default")
    yield Ask("GET", "/metrics", note="on the one port")
    yield Ask("GET", "/api-description")
    yield Ask("GET", "/api-description", "metrics")
    yield Ask("POST", "/models?url=echo_2.mar")
    yield Ask("GET", "/models/echo/2.0")
    yield Ask("DELETE", "/models/echo/2.0")
    yield Ask("POST", "/models")
    yield Ask("POST", "/predictions/nobody")


def _metrics():
    yield Ask("GET", "/metrics?name[]=Requests4XX", "metrics", note="before any")
    for number in range(3):
        yield Ask("POST", "/predictions/echo", headers=JSON, body=b"{}", note=f"counted {number}")
    yield Ask("POST", "/predictions/echo/1.0", headers=JSON, body=b"{}", note="counted with its version")
    yield Ask("POST", "/predictions/nobody", note="a 404")
    yield Ask("GET", "/nothing", note="a 404")
    yield Ask("POST", "/predictions/plain", body=b"x", note="a 503")
    yield Ask("GET", "/models", "management", note="counted?")
    yield Ask("GET", "/ping", note="counted?")
    yield Ask("POST", "/predictions/measured", body=b"x", note="custom metrics")
    yield Ask("POST", "/predictions/measured", body=b"x", note="custom metrics again")
    yield Ask("POST", "/predictions/based", headers=JSON, body=said({"x": [1, 2]}), note="HandlerTime")
    yield Pause(0.5)  # a worker tells its metrics after its answer
    for query in (
        "",
        "?name[]=Requests2XX",
        "?name[]=Requests2XX&name[]=Requests4XX",
        "?name%5B%5D=Requests5XX",
        "?name[]=ts_inference_requests_total",
        "?name[]=nobody",
        "?name[]=",
        "?name=Requests2XX",
        "?name[]=requests2xx",
    ):
        yield Ask("GET", f"/metrics{query}", "metrics", note="after requests")
    yield Ask("POST", "/metrics?name[]=Requests4XX", "metrics", note="after requests")


_WITH_ORIGIN: tuple[tuple[Connector, str], ...] = (
    ("inference", "/predictions/echo"),
    ("inference", "/nothing"),
    ("management", "/models"),
    ("metrics", "/metrics"),
)


def _limits():
    for size in (999, 1000, 1001, 5000):
        yield Ask("POST", "/predictions/echo", headers=BYTES, body=b"x" * size, note=f"{size} bytes")
        yield Ask("POST", "/predictions/echo", headers=BYTES, body=b"x" * size, note=f"{size} bytes in chunks", chunked=True)
    yield Ask("POST", "/nothing", headers=BYTES, body=b"x" * 1001, note="too much for nobody")
    yield Ask("POST", "/models?url=echo.mar", "management", JSON, b" " * 1001, "too much")
    yield Ask("GET", "/metrics", "metrics", (), b"x" * 1001, "too much")
    expects = (("Expect", "100-continue"),)
    yield Ask("POST", "/predictions/echo", headers=(*BYTES, *expects), body=b"x" * 1001, note="too much, expects 100")
    yield Ask("POST", "/predictions/echo", headers=BYTES, body=b"x", note="after too much")
    large = (("X-Large", "x" * 7000),)
    yield Ask("POST", "/predictions/echo", headers=large, body=b"x", note="headers of 7 kB")
    yield Ask("POST", "/predictions/echo", headers=(("X-Large", "x" * 9000),), body=b"x", note="headers of 9 kB")
    origin = (("Origin", "https://other.test"),)
    for connector, target in _WITH_ORIGIN:
        yield Ask("GET", target, connector, origin, note="CORS")
        yield Ask("GET", target, connector, note="CORS, without an origin")
        preflight = (*origin, ("Access-Control-Request-Method", "POST"))
        yield Ask("OPTIONS", target, connector, preflight, note="CORS preflight")


def _kserve(*bodies: tuple[str, object]):
    for note, body in bodies:
        for target in ("/predictions/rows", "/v1/models/rows:predict", "/v2/models/rows/infer"):
            yield Ask("POST", target, headers=JSON, body=said(body), note=note)
        yield Ask("POST", "/predictions/rows", headers=BYTES, body=said(body), note=f"{note}, as bytes")
    for note, body in bodies[:1]:
        yield Ask("POST", "/predictions/scripted", headers=JSON, body=said(body), note=f"base_handler, {note}")
        yield Ask("POST", "/v1/models/rows:explain", headers=JSON, body=said(body), note=note)
        yield Ask("POST", "/v2/models/rows/explain", headers=JSON, body=said(body), note=note)
        yield Ask("POST", "/explanations/rows", headers=JSON, body=said(body), note=note)
    yield Ask("POST", "/predictions/rows", headers=JSON, body=b"{}", note="nothing inside")
    yield Ask("POST", "/predictions/rows", headers=JSON, body=b"[]", note="a list")
    yield Ask("POST", "/predictions/rows", headers=TEXT, body=b"text", note="text")
    yield Ask("POST", "/predictions/rows", note="no body")


def _tensors(*tensors: tuple[str, str, list]) -> dict:
    """A body of kservev2."""
    inputs = [{"name": name, "shape": [len(data)], "datatype": datatype, "data": data} for name, datatype, data in tensors]
    return {"id": "mine", "inputs": inputs}


def _oip():
    for target in (
        "/v2",
        "/v2/",
        "/v2/health",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/health/other",
        "/v2/models/echo",
        "/v2/models/echo/ready",
        "/v2/models/nobody",
        "/v2/models/nobody/ready",
        "/v2/models/echo/versions/1.0",
        "/v2/models/echo/versions/1.0/ready",
        "/v2/models/echo/versions/9.9/ready",
        "/v2/models",
        "/v2/other",
    ):
        for method in ("GET", "POST"):
            yield Ask(method, target)
    for target in ("/v2/models/echo/infer", "/v2/models/echo/versions/1.0/infer", "/v2/models/nobody/infer"):
        yield Ask("POST", target, headers=JSON, body=said(_tensors(("x", "FP32", [1.0]))))
    yield Ask("OPTIONS", "/")
    yield Ask("GET", "/v2/health/live", "management")


def _started():
    for model in ("one", "two", "echo"):
        yield Ask("GET", f"/models/{model}/all", "management")
        yield Ask("POST", f"/predictions/{model}", body=b"ping")
    yield Ask("GET", "/models", "management")
    yield Ask("GET", "/ping")
    yield Ask("POST", "/predictions/two/1.0", body=b"ping")
    yield Ask("POST", "/invocations", body=b"ping", note="several models")


_MODELS = {
    "one": {
        "1.0": {
            "defaultVersion": True,
            "marName": "echo.mar",
            "minWorkers": 1,
            "maxWorkers": 2,
            "batchSize": 4,
            "maxBatchDelay": 10,
            "responseTimeout": 20,
            "startupTimeout": 30,
        }
    },
    "values": {"1.0": {"defaultVersion": True, "marName": "values.mar", "minWorkers": 2, "batchSize": 9, "maxBatchDelay": 8}},
}

SCENARIOS = (
    Scenario(
        "tokens",
        "tokens, which are on where nothing turns them off",
        (*_tokens(), *_new_tokens()),
        archives=("echo", "echo_2"),
        models=("echo.mar",),
        flags=("--enable-model-api", "--ncs"),
        ready={"echo": 1},
    ),
    Scenario(
        "old_tokens",
        "token_expiration_min=0: every token is too old",
        (
            Ask("POST", "/predictions/echo", headers=bearer("{inference_key}")),
            Ask("GET", "/models", "management", bearer("{management_key}")),
            Ask("GET", "/token?type=management", "management", bearer("{api_key}")),
            Ask("GET", "/metrics", "metrics"),
        ),
        flags=("--ncs",),
        config={"token_expiration_min": "0"},
    ),
    Scenario(
        "single_port",
        "inference and management share an address; TorchServe cannot put the metrics there too",
        tuple(_single()),
        archives=("echo", "echo_2"),
        models=("echo.mar",),
        config={"management_address": "http://127.0.0.1:{inference}"},
        ready={"echo": 1},
    ),
    Scenario(
        "metrics_prometheus",
        "metrics in Prometheus' text",
        tuple(_metrics()),
        archives=("echo", "plain", "measured", "based"),
        models=("echo.mar", "plain.mar", "measured.mar", "based.mar"),
        config={"metrics_mode": "prometheus", "model_metrics_auto_detect": "true"},
    ),
    Scenario(
        "metrics_log",
        "metrics_mode=log, the default: an empty page",
        (
            Ask("POST", "/predictions/echo", headers=JSON, body=b"{}"),
            Ask("GET", "/metrics", "metrics"),
            Ask("GET", "/metrics?name[]=Requests2XX", "metrics"),
        ),
        models=("echo.mar",),
        config={"metrics_mode": "log"},
        ready={"echo": 1},
    ),
    Scenario(
        "no_metrics",
        "enable_metrics_api=false",
        (Ask("GET", "/metrics", "metrics"), Ask("OPTIONS", "/", "metrics"), Ask("GET", "/nothing", "metrics")),
        config={"enable_metrics_api": "false"},
    ),
    Scenario(
        "limits",
        "bodies over max_request_size, large headers, CORS",
        tuple(_limits()),
        models=("echo.mar",),
        config={
            "max_request_size": "1000",
            "cors_allowed_origin": "https://here.test",
            "cors_allowed_methods": "GET, POST, PUT, OPTIONS",
            "cors_allowed_headers": "X-Custom",
        },
        ready={"echo": 1},
    ),
    Scenario(
        "cors_any",
        "CORS for any origin, and no more",
        (
            Ask("GET", "/ping", headers=(("Origin", "https://other.test"),)),
            Ask("OPTIONS", "/", headers=(("Origin", "https://other.test"), ("Access-Control-Request-Method", "GET"))),
        ),
        config={"cors_allowed_origin": "*"},
    ),
    Scenario(
        "envelope_json",
        "service_envelope=json",
        tuple(
            _kserve(
                ("rows of numbers", {"instances": [[1, 2], [3, 4]]}),
                ("rows in base64", {"instances": [{"b64": "aGVsbG8="}]}),
                ("objects", {"instances": [{"a": 1, "b": {"b64": "aGk="}}]}),
            )
        ),
        archives=("rows", "scripted"),
        models=("rows.mar", "scripted.mar"),
        config={"service_envelope": "json"},
        ready={"rows": 1, "scripted": 1},
    ),
    Scenario(
        "envelope_kserve",
        "service_envelope=kserve",
        tuple(_kserve(("rows of numbers", {"instances": [[1, 2], [3, 4]]}), ("one row", {"instances": [[5, 6]]}))),
        archives=("rows", "scripted"),
        models=("rows.mar", "scripted.mar"),
        config={"service_envelope": "kserve"},
        ready={"rows": 1, "scripted": 1},
    ),
    Scenario(
        "envelope_kservev2",
        "service_envelope=kservev2",
        tuple(
            _kserve(
                ("one tensor", _tensors(("x", "FP32", [1.5, 2.5]))),
                ("two tensors", _tensors(("x", "INT64", [1, 2]), ("y", "BOOL", [True]))),
                ("bytes", _tensors(("x", "BYTES", ["text"]))),
                ("no id", {key: value for key, value in _tensors(("x", "FP32", [1.0])).items() if key != "id"}),
            )
        ),
        archives=("rows", "scripted"),
        models=("rows.mar", "scripted.mar"),
        config={"service_envelope": "kservev2"},
        ready={"rows": 1, "scripted": 1},
    ),
    Scenario(
        "dependencies",
        "install_py_dep_per_model=true",
        (
            registered("needs"),
            Ask("POST", "/predictions/needs"),
            registered("needs_bad"),
            registered("needs_bad", "initial_workers=0"),
            Ask("GET", "/models", "management"),
        ),
        archives=("needs", "needs_bad"),
        config={"install_py_dep_per_model": "true"},
    ),
    Scenario(
        "no_dependencies",
        "install_py_dep_per_model is false by default: the requirements are not installed",
        (registered("needs"), registered("needs_bad", "initial_workers=0")),
        archives=("needs", "needs_bad"),
    ),
    Scenario(
        "open_inference_protocol",
        "ts_open_inference_protocol=true",
        tuple(_oip()),
        models=("echo.mar",),
        config={"ts_open_inference_protocol": "true"},
        ready={"echo": 1},
    ),
    Scenario(
        "load_all",
        "load_models=all, and default_workers_per_model",
        tuple(
            ask for ask in _started() if ask.target != "/models/echo/all"
        ),  # whose workers are first is for the file system to say
        archives=("echo", "function"),
        config={"load_models": "all", "default_workers_per_model": "2"},
        ready={"echo": 2, "function": 2},
    ),
    Scenario(
        "load_named",
        "load_models with names, and a model that is given twice",
        tuple(_started()),
        archives=("echo", "function"),
        config={"load_models": "one=echo.mar,two=echo.mar,echo.mar"},
        ready={"one": 1, "two": 1, "echo": 1},
    ),
    Scenario(
        "models_flag",
        "--models with names, which beats load_models",
        tuple(_started()),
        archives=("echo", "function"),
        models=("one=echo.mar",),
        config={"load_models": "all"},
        ready={"one": 1},
    ),
    Scenario(
        "models_key",
        "models= in config.properties",
        (
            Ask("GET", "/models/one", "management"),
            Ask("GET", "/models/values", "management"),
            Ask("GET", "/models", "management"),
            Ask("POST", "/predictions/one", headers=JSON, body=b"{}"),
        ),
        archives=("echo", "values"),
        config={"models": json.dumps(_MODELS), "load_models": "one=echo.mar,values.mar"},
        ready={"one": 1, "values": 1},
    ),
    Scenario(
        "tls",
        "https on all three connectors, by a certificate and its key",
        (
            Ask("GET", "/ping"),
            Ask("POST", "/predictions/echo", headers=JSON, body=b"{}"),
            Ask("GET", "/models", "management"),
            Ask("GET", "/metrics", "metrics"),
            Ask("GET", "/nothing"),
        ),
        models=("echo.mar",),
        config={
            **{f"{connector}_address": f"https://127.0.0.1:{{{connector}}}" for connector in CONNECTORS},
            "private_key_file": "{directory}/key.pem",
            "certificate_file": "{directory}/certificate.pem",
        },
        ready={"echo": 1},
    ),
    Scenario(
        "tls_keystore",
        "https by a keystore, for inference only",
        (Ask("GET", "/ping"), Ask("GET", "/models", "management")),
        config={
            "inference_address": "https://127.0.0.1:{inference}",
            "keystore": "{directory}/keystore.p12",
            "keystore_pass": "changeit",
            "keystore_type": "PKCS12",
        },
    ),
    Scenario(
        "unix_sockets",
        "sockets of the file system",
        (Ask("GET", "/ping"), Ask("POST", "/predictions/echo", headers=JSON, body=b"{}"), Ask("GET", "/models", "management")),
        models=("echo.mar",),
        config={
            "inference_address": "unix:{directory}/inference.sock",
            "management_address": "unix:{directory}/management.sock",
            "metrics_address": "unix:{directory}/metrics.sock",
        },
        ready={"echo": 1},
    ),
    Scenario(
        "environment",
        "variables of the environment beat the file where enable_envvars_config=true; $$NAME$$ stands for a variable",
        (
            plain("its environment", ask="environment"),
            Ask("GET", "/models/plain", "management"),
            registered("echo", "initial_workers=0"),
            Ask("GET", "/models/echo", "management"),
            Ask("GET", "/v2/health/live"),
            Ask("GET", "/metrics", "metrics"),
        ),
        archives=("plain", "echo"),
        models=("plain.mar",),
        config={
            "enable_envvars_config": "true",
            "default_response_timeout": "11",
            "default_startup_timeout": "$$STARTUP$$",
            "blacklist_env_vars": ".*SECRET.*",
        },
        environment={
            "TS_DEFAULT_RESPONSE_TIMEOUT": "22",
            "TS_DISABLE_TOKEN_AUTHORIZATION": "true",
            "TS_ENABLE_MODEL_API": "true",
            "STARTUP": "55",
            "SECRET_OF_OURS": "secret",
            "OPEN_VARIABLE": "open",
            "TS_OPEN_INFERENCE_PROTOCOL": "oip",
        },
        flags=("--ncs",),
        ready={"plain": 1},
    ),
    Scenario(
        "environment_unread",
        "without enable_envvars_config the environment counts for nothing",
        (registered("echo", "initial_workers=0"), Ask("GET", "/models/plain", "management")),
        archives=("plain", "echo"),
        models=("plain.mar",),
        config={"default_response_timeout": "11", "disable_token_authorization": "true"},
        environment={"TS_DEFAULT_RESPONSE_TIMEOUT": "22", "TS_ENABLE_MODEL_API": "true"},
        flags=("--ncs",),
        ready={"plain": 1},
    ),
)
