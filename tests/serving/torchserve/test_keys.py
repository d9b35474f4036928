"""TorchServe's keys: its config.properties, its variables and its addresses mean here what they mean there."""

import json
import os
from pathlib import Path

import pytest

from serving.errors import SettingsError
from serving.read_settings import read_settings, require_model_store, to_properties
from serving.settings import Settings, group
from serving.torchserve.keys import (
    VARIABLES,
    WITHOUT_EFFECT,
    Address,
    address,
    asks_for_tokens,
    connectors,
    warnings,
    without_effect,
)

EVERY_KEY = """
async_logging blacklist_env_vars certificate_file cors_allowed_headers cors_allowed_methods cors_allowed_origin cpp_log_config
cpu_launcher_args cpu_launcher_enable debug decode_input_request default_response_timeout default_service_handler
default_startup_timeout default_workers_per_model disable_system_metrics disable_token_authorization enable_envvars_config
enable_grpc_ssl enable_metrics_api enable_model_api grpc_inference_address grpc_inference_max_connection_age_grace_ms
grpc_inference_max_connection_age_ms grpc_inference_port grpc_management_address grpc_management_max_connection_age_grace_ms
grpc_management_max_connection_age_ms grpc_management_port inference_address initial_distribution_port initial_worker_port
install_py_dep_per_model io_ratio ipex_enable ipex_gpu_enable job_queue_size keystore keystore_pass keystore_type
limit_max_image_pixels load_models management_address max_request_size max_response_size metric_time_interval metrics_address
metrics_config metrics_mode model_metrics_auto_detect model_server_home model_snapshot model_store models netty_client_threads
number_of_gpu number_of_netty_threads plugins_path prefer_direct_buffer private_key_file service_envelope system_metrics_cmd
token_expiration_min ts_header_key_sequence_end ts_header_key_sequence_id ts_header_key_sequence_start ts_open_inference_protocol
unregister_model_timeout use_env_allowed_urls use_native_io version vmargs workflow_store allowed_urls
""".split()  # noqa: SIM905 - a list of names would be a page long
OURS = {"strict_batch_delay", "json_content_type", "config_snapshots"}
THEIR_SNAPSHOT = r"""#Saving snapshot
#Sun Nov 22 10:59:49 UTC 2026
inference_address=http\://127.0.0.1\:43701
load_models=all
allowed_urls=https\://a\\.b/.*
model_store=ms
number_of_gpu=0
python=/opt/python3
model_snapshot={\n  "name"\: "20261122105949787-shutdown.cfg",\n  "modelCount"\: 1,\n  "models"\: {\n    "m"\: {}\n  }\n}
tsConfigFile=c.properties
version=0.12.0
workflow_store=ms
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """An empty current directory, and no variables of this machine."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("STATESERVE_", "TS_"))]:
        monkeypatch.delenv(name)


def read(text, **flags):
    Path("config.properties").write_text(text)
    return read_settings(flags, None)


def addresses(read):
    return [str(address(read.settings, connector)) for connector in ("inference", "management", "metrics")]


def refused(text):
    with pytest.raises(SettingsError) as caught:
        read(text)
    return str(caught.value)


def test_every_key_is_known():
    """Every key of TorchServe 0.12 has a field of its own, or a reason why it has no effect; none has both."""
    fields = {name for name in Settings.model_fields if group(name) == "TorchServe"}

    assert fields - OURS | WITHOUT_EFFECT.keys() == {*EVERY_KEY, "python", "tsConfigFile"}
    assert not fields & WITHOUT_EFFECT.keys()


def test_the_defaults_are_torchserve_s():
    """What is not said is as there, except that no URL is allowed, and that tokens depend on the model store."""
    settings = Settings()

    assert {name: getattr(settings, name) for name in Settings.model_fields if group(name) == "TorchServe"} == {
        **dict.fromkeys(("inference_address", "management_address", "metrics_address", "model_store"), None),
        "load_models": (),
        "models": {},
        "model_snapshot": {},
        "default_workers_per_model": 0,
        "job_queue_size": 100,
        "default_response_timeout": 120,
        "default_startup_timeout": 120,
        "unregister_model_timeout": 120,
        "number_of_gpu": None,
        "max_request_size": 6553500,
        "max_response_size": 6553500,
        "limit_max_image_pixels": True,
        "decode_input_request": True,
        "default_service_handler": None,
        "service_envelope": None,
        "install_py_dep_per_model": False,
        "allowed_urls": (),
        **dict.fromkeys(("cors_allowed_origin", "cors_allowed_methods", "cors_allowed_headers", "keystore"), None),
        "keystore_pass": "changeit",
        "keystore_type": "PKCS12",
        "certificate_file": None,
        "private_key_file": None,
        "disable_token_authorization": None,
        "token_expiration_min": 60.0,
        "enable_model_api": False,
        "enable_metrics_api": True,
        "metrics_mode": "log",
        "metrics_config": None,
        "model_metrics_auto_detect": False,
        "disable_system_metrics": False,
        "metric_time_interval": 60,
        "blacklist_env_vars": None,
        "initial_worker_port": 9000,
        "enable_envvars_config": False,
        "use_env_allowed_urls": False,
        "ts_open_inference_protocol": False,
        "strict_batch_delay": False,
        "json_content_type": False,
        "config_snapshots": False,
    }


def test_values_in_torchserve_s_spelling():
    """Booleans, numbers, lists and JSON are read as they are written there; an empty value is none."""
    settings = read(
        "enable_model_api=TRUE\nload_models=a.mar, b=c.mar\nallowed_urls=file://.*,https://a/.*\nmetrics_mode= Prometheus\n"
        'models={"m": {"1.0": {"minWorkers": 1}}}\ntoken_expiration_min=0.5\nservice_envelope=\nkeystore=\nblacklist_env_vars=\n'
    ).settings

    assert (settings.enable_model_api, settings.load_models, settings.metrics_mode) == (True, ("a.mar", "b=c.mar"), "prometheus")
    assert settings.allowed_urls == ("file://.*", "https://a/.*")
    assert settings.models == {"m": {"1.0": {"minWorkers": 1}}}
    assert settings.token_expiration_min == 0.5
    assert (settings.service_envelope, settings.keystore, settings.blacklist_env_vars) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("enable_model_api=yes", "'yes' (config.properties:1): it should be true or false"),
        (
            "job_queue_size=many",
            "'many' (config.properties:1): Input should be a valid integer, unable to parse string as an integer",
        ),
        ("metrics_mode=json", "'json' (config.properties:1): Input should be 'log', 'prometheus' or 'legacy'"),
        (
            "blacklist_env_vars=(",
            "'(' (config.properties:1): it is not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            "inference_address=ftp://here:1",
            "'ftp://here:1' (config.properties:1): it should be http://HOST[:PORT], https://HOST[:PORT] or unix:/PATH",
        ),
        (
            "metrics_address=127.0.0.1:8082",
            "'127.0.0.1:8082' (config.properties:1): it should be http://HOST[:PORT], https://HOST[:PORT] or unix:/PATH",
        ),
        ("management_address=http://a:0", "'http://a:0' (config.properties:1): port 0 should be from 1 to 65535"),
    ],
)
def test_wrong_values(text, problem):
    """A value that TorchServe would take for another in silence, or fail on later, is refused with the reason."""
    assert refused(text) == f"wrong setting: {text.partition('=')[0]} is {problem}"


def test_a_port_beyond_the_last():
    """There must be room for the two addresses after `port`."""
    assert refused("port=65534") == "port is 65534, and metrics would listen on 65536"


@pytest.mark.parametrize(
    ("text", "connector", "found"),
    [
        ("http://127.0.0.1", "inference", Address("http", "127.0.0.1", 80)),
        ("http://127.0.0.1", "management", Address("http", "127.0.0.1", 8081)),
        ("http://127.0.0.1/", "metrics", Address("http", "127.0.0.1", 8082)),
        ("https://example.org", "inference", Address("https", "example.org", 443)),
        ("HTTPS://0.0.0.0", "management", Address("https", "0.0.0.0", 8444)),
        ("https://0.0.0.0", "metrics", Address("https", "0.0.0.0", 8445)),
        ("http://[::1]:9000", "metrics", Address("http", "::1", 9000)),
        ("unix:/tmp/a:b", "inference", Address("unix", path="/tmp/a:b")),
    ],
)
def test_addresses(text, connector, found):
    """An address says scheme, host and port, or a socket's path; without a port, it is the connector's own."""
    assert Address.parse(text, connector) == found
    assert Address.parse(str(found), connector) == found


@pytest.mark.parametrize("text", ["", "http://", "http://a:b", "http://a:1/path", "unix:a", "http://a b", "http://a:99999"])
def test_no_addresses(text):
    """Anything else is refused."""
    with pytest.raises(ValueError, match=r"it should be http://|should be from 1 to 65535"):
        Address.parse(text, "inference")


@pytest.mark.parametrize(
    ("text", "flags", "where"),
    [
        ("", {}, ["http://127.0.0.1:8080", "http://127.0.0.1:8081", "http://127.0.0.1:8082"]),
        ("", {"port": "9000"}, ["http://127.0.0.1:9000", "http://127.0.0.1:9001", "http://127.0.0.1:9002"]),
        ("port=9000", {"host": "::1"}, ["http://[::1]:9000", "http://[::1]:9001", "http://[::1]:9002"]),
        ("", {"host": "0.0.0.0"}, ["http://0.0.0.0:8080", "http://127.0.0.1:8081", "http://0.0.0.0:8082"]),
        (
            "inference_address=http://0.0.0.0:9000\nport=7000",
            {},
            ["http://0.0.0.0:9000", "http://127.0.0.1:7001", "http://127.0.0.1:7002"],
        ),
        (
            "inference_address=http://0.0.0.0:9000\nmetrics_address=https://0.0.0.0",
            {"port": "5000"},
            ["http://0.0.0.0:5000", "http://127.0.0.1:5001", "https://0.0.0.0:5002"],
        ),
        (
            "inference_address=https://127.0.0.1:9000\nmanagement_address=http://127.0.0.1:9001",
            {"host": "0.0.0.0"},
            ["https://0.0.0.0:9000", "http://127.0.0.1:9001", "http://0.0.0.0:8082"],
        ),
        ("inference_address=unix:/a", {}, ["unix:/a", "http://127.0.0.1:8081", "http://127.0.0.1:8082"]),
        (
            "inference_address=unix:/a",
            {"port": "9000"},
            ["http://127.0.0.1:9000", "http://127.0.0.1:9001", "http://127.0.0.1:9002"],
        ),
        (
            "port=9000",
            {"management_address": "http://10.0.0.1:1"},
            ["http://127.0.0.1:9000", "http://10.0.0.1:1", "http://127.0.0.1:9002"],
        ),
    ],
)
def test_where_the_connectors_are(text, flags, where):
    """The stronger source of an address, or of host and port, holds; management leaves this machine by its own address only."""
    assert addresses(read(text, **flags)) == where


def test_host_and_port_are_those_of_predictions():
    """Where an inference address holds, `host` and `port` say the same, and the other two stay where they are."""
    found = read("inference_address=http://0.0.0.0:9000\nenable_model_api=true\n")

    assert (found.settings.host, found.settings.port) == ("0.0.0.0", 9000)
    Path("printed").write_text(to_properties(found))
    assert read_settings({}, Path("printed")).settings == found.settings


def test_who_moved_an_address_is_said():
    """--print-settings names the address's own source and the flag that moved it."""
    found = read("inference_address=http://0.0.0.0:9000\n", port="5000")

    assert found.sources["inference_address"] == "config.properties:1, --port"


def test_listeners():
    """Connectors of one address are one listener; without enable_metrics_api there is none for metrics."""
    inference, management, metrics = (Address("http", "127.0.0.1", port) for port in (8080, 8081, 8082))

    assert connectors(Settings()) == (
        (inference, {"inference"}),
        (management, {"management"}),
        (metrics, {"metrics"}),
    )
    assert connectors(Settings(management_address=inference)) == (
        (inference, {"inference", "management"}),
        (metrics, {"metrics"}),
    )
    assert connectors(Settings(enable_metrics_api=False)) == ((inference, {"inference"}), (management, {"management"}))


def test_variables_in_values(monkeypatch):
    """`$$NAME$$` is replaced by the variable, anywhere in a value; dollars that are no such pair stay."""
    monkeypatch.setenv("STORE", "/models")
    monkeypatch.setenv("PORT_HERE", "9000")
    settings = read("model_store=$$STORE$$/mar\ninference_address=http://a:$$PORT_HERE$$\nkeystore_pass=a$$b$c$$$").settings

    assert (settings.model_store, settings.port, settings.keystore_pass) == (Path("/models/mar"), 9000, "a$$b$c$$$")


def test_a_variable_that_is_not_set():
    """A value that needs a variable that is not set ends the start, and says which."""
    assert refused("\nmodel_store=$$NO_SUCH$$/a\n") == (
        "config.properties:2: model_store needs the variable NO_SUCH, which is not set"
    )


def test_torchserve_s_variables_come_first(monkeypatch):
    """With enable_envvars_config=true in the file, TS_MODEL_STORE and its like stand before flags; without, nobody reads them."""
    monkeypatch.setenv("TS_MODEL_STORE", "variable")
    monkeypatch.setenv("TS_TOKEN_EXPIRATION_TIME_MIN", "5")
    monkeypatch.setenv("TS_ENABLE_ENVVARS_CONFIG", "true")
    monkeypatch.setenv("TS_METRIC_TIME_INTERVAL", "1")
    monkeypatch.setenv("TS_CONFIG_FILE", "nowhere")
    assert read("", model_store="flag").settings.model_store == Path("flag")

    found = read("enable_envvars_config=true\n", model_store="flag")
    assert (found.settings.model_store, found.settings.token_expiration_min) == (Path("variable"), 5)
    assert found.sources["model_store"] == "TS_MODEL_STORE"
    assert found.settings.metric_time_interval == 60


def test_allowed_urls_as_a_variable(monkeypatch):
    """TS_ALLOWED_URLS needs use_env_allowed_urls=true as well."""
    monkeypatch.setenv("TS_ALLOWED_URLS", "https://a/.*")

    assert read("enable_envvars_config=true\n").settings.allowed_urls == ()
    both = read("enable_envvars_config=true\nuse_env_allowed_urls=true\n")
    assert both.settings.allowed_urls == ("https://a/.*",)


@pytest.mark.parametrize(("value", "holds"), [("oip", True), ("kserve", False), ("", True)])
def test_the_protocol_as_a_variable(monkeypatch, value, holds):
    """TS_OPEN_INFERENCE_PROTOCOL counts even without enable_envvars_config: `oip` is true, any other word false."""
    monkeypatch.setenv("TS_OPEN_INFERENCE_PROTOCOL", value)

    assert read("ts_open_inference_protocol=true\n").settings.ts_open_inference_protocol is holds


def test_variables_have_torchserve_s_names():
    """Each is TS_ and the key, two apart; what cannot be said so there cannot here."""
    odd = {"TS_TOKEN_EXPIRATION_TIME_MIN", "TS_OPEN_INFERENCE_PROTOCOL"}

    assert all(name == f"TS_{key.upper()}" for name, key in VARIABLES.items() if name not in odd)
    assert not {"models", "metric_time_interval", "enable_envvars_config", *OURS} & set(VARIABLES.values())


def test_a_snapshot_of_torchserve_s():
    """A snapshot that TorchServe wrote is a settings' file like any other."""
    found = read(THEIR_SNAPSHOT)

    assert addresses(found)[0] == "http://127.0.0.1:43701"
    assert found.settings.allowed_urls == (r"https://a\.b/.*",)
    assert found.settings.model_snapshot["models"] == {"m": {}}
    assert found.ignored == ("python", "tsConfigFile", "version", "workflow_store")


def test_why_keys_have_no_effect():
    """Keys without effect are told with the reason, those of one reason together."""
    assert without_effect(("vmargs", "workflow_store", "io_ratio")) == (
        "vmargs, io_ratio (there is no Java here); workflow_store (there are no workflows)"
    )


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", False),
        ("model_store=a", True),
        ("model_store=a\ndisable_token_authorization=true", False),
        ("model_store=a\ndisable_token_authorization=false", True),
    ],
)
def test_tokens(text, asked):
    """Tokens are asked for where there is a model store, unless the key says otherwise."""
    assert asks_for_tokens(read(text).settings) is asked


def test_tokens_without_a_model_store():
    """Tokens cannot be asked for where no path of TorchServe's would: predictions would be open all the same."""
    says = "tokens are of TorchServe's ways, which model_store turns on: set it, or leave this out"
    with pytest.raises(SettingsError, match=says):
        read("disable_token_authorization=false")


def test_warnings(tmp_path):
    """What is open to strangers is said at the start; on this machine alone, or with tokens, there is nothing to say."""
    store = f"model_store={tmp_path}\n"
    strangers = "management_address=http://0.0.0.0:8081\ndisable_token_authorization=true\n"

    assert warnings(read(store).settings) == []
    assert warnings(read(f"{store}management_address=http://0.0.0.0:8081").settings) == []
    assert warnings(read(store + strangers).settings) == [
        "whoever reaches http://0.0.0.0:8081 can scale its models: disable_token_authorization is true"
    ]
    assert warnings(read(f"{store}{strangers}enable_model_api=true\nallowed_urls=file://.*,http(s)?://.*\n").settings) == [
        "whoever reaches http://0.0.0.0:8081 can register models, which is to run code here: disable_token_authorization is true",
        "allowed_urls lets models be fetched from anywhere",
    ]
    assert warnings(read(f"{store}management_address=http://127.0.0.1:8080").settings) == [
        "management cannot be asked at http://127.0.0.1:8080, with tokens for predictions there: no request can hold both keys"
    ]
    assert warnings(read("model_store=nowhere").settings) == [
        "the model store nowhere is not a directory: no .mar file is served"
    ]


def test_the_repository_beside_a_model_store(tmp_path):
    """The repository must be there, unless there is a model store and nobody said a repository."""
    assert read("").settings.needs_repository
    assert read("model_store=nowhere").settings.needs_repository
    assert not read(f"model_store={tmp_path}").settings.needs_repository
    assert read(f"model_store={tmp_path}\nrepository=model_repository").settings.needs_repository


def test_a_model_store_that_is_not_there():
    """One that is named for this start has to be there; the file's may be made later."""
    with pytest.raises(SettingsError, match=r"^model_store is /nowhere \(--model-store\), which is not a directory$"):
        require_model_store(read_settings({"model_store": "/nowhere"}, None))
    require_model_store(read("model_store=/nowhere"))


@pytest.mark.parametrize(
    ("models", "wrong"),
    [
        ({"m": {"1.0": {"batchSize": "two"}}}, "m.1.0.batchSize is 'two'; it should be a whole number from 0"),
        ({"m": {"1.0": {"batchSize": -1}}}, "m.1.0.batchSize is -1; it should be a whole number from 0"),
        ({"m": {"1.0": {"batchSize": True}}}, "m.1.0.batchSize is True; it should be a whole number from 0"),
        ({"m": {"1.0": {"batchsize": 4}}}, "m.1.0.batchsize is unknown; nearest: batchSize"),
        ({"m": {"1.0": 4}}, "m.1.0 is 4; it should be an object, as in {NAME: {VERSION: {batchSize: 8}}}"),
        ({"m": 4}, "m is 4; it should be an object, as in {NAME: {VERSION: {batchSize: 8}}}"),
    ],
)
def test_parameters_of_models_that_are_wrong(models, wrong):
    """A slip in what is said of one model ends the start, with where it stands."""
    with pytest.raises(SettingsError) as caught:
        read(f"models={json.dumps(models)}")
    assert str(caught.value).endswith(f"(config.properties:1): {wrong}")


def test_parameters_of_models():
    """Whole numbers may stand as texts, as TorchServe takes them."""
    said = {"m": {"1.0": {"marName": "m.mar", "batchSize": "8", "minWorkers": 1, "defaultVersion": True}}}
    assert read(f"models={json.dumps(said)}").settings.models == {
        "m": {"1.0": {"marName": "m.mar", "batchSize": 8, "minWorkers": 1, "defaultVersion": True}}
    }
