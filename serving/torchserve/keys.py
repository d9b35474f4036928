"""TorchServe's keys: those that have effect here, as fields of the settings under their own names, and those that have none."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, PlainSerializer, ValidationInfo, field_validator

from serving.fields import Bytes, Count, Natural, NonNegative, OrNone, Pattern, Patterns, Texts, TrueOrFalse, from_json, setting
from serving.torchserve.addresses import Address, Connector
from serving.torchserve.models_key import checked_models

if TYPE_CHECKING:
    from serving.settings import Settings

__all__ = ["CONNECTORS", "KEYS", "VARIABLES", "Address", "Connector", "TorchServeKeys", "address", "connectors"]

GROUP = "TorchServe"
"""The panel of --help and the section of docs/settings.md."""
CONNECTORS: tuple[Connector, ...] = ("inference", "management", "metrics")
SECRET = frozenset({"keystore_pass"})
"""Settings whose values are not shown."""

_NO_GRPC = "this server does not speak gRPC"
_NO_JAVA = "there is no Java here"
_NO_LAUNCHER = "workers are started without a launcher"
_NO_SEQUENCES = "requests are not joined to sequences"
WITHOUT_EFFECT: Mapping[str, str] = {
    **dict.fromkeys(("grpc_inference_address", "grpc_management_address", "grpc_inference_port"), _NO_GRPC),
    **dict.fromkeys(("grpc_management_port", "enable_grpc_ssl"), _NO_GRPC),
    **dict.fromkeys(("grpc_inference_max_connection_age_ms", "grpc_inference_max_connection_age_grace_ms"), _NO_GRPC),
    **dict.fromkeys(("grpc_management_max_connection_age_ms", "grpc_management_max_connection_age_grace_ms"), _NO_GRPC),
    **dict.fromkeys(("number_of_netty_threads", "netty_client_threads", "prefer_direct_buffer", "use_native_io"), _NO_JAVA),
    **dict.fromkeys(("io_ratio", "vmargs", "plugins_path", "async_logging", "model_server_home", "python", "debug"), _NO_JAVA),
    **dict.fromkeys(("ipex_enable", "ipex_gpu_enable", "cpu_launcher_enable", "cpu_launcher_args"), _NO_LAUNCHER),
    "initial_distribution_port": _NO_LAUNCHER,
    **dict.fromkeys(("ts_header_key_sequence_id", "ts_header_key_sequence_start", "ts_header_key_sequence_end"), _NO_SEQUENCES),
    "workflow_store": "there are no workflows",
    "system_metrics_cmd": "the server measures its machine itself",
    "cpp_log_config": "there is no C++ backend",
    "version": "TorchServe writes it into its snapshots",
    "tsConfigFile": "TorchServe writes it into its snapshots",
}
"""TorchServe's other keys, each with the reason why it changes nothing: accepted, so that one file drives both servers."""


def _address(connector: Connector) -> Callable[[Any], Any]:
    def parsed(value: Any) -> Any:
        return Address.parse(value, connector) if isinstance(value, str) and value != "none" else value

    return parsed


def _lower(value: Any) -> Any:
    return value.strip().lower() if isinstance(value, str) else value


def _empty_is_none(value: Any) -> Any:
    return None if value == "" else value


InferenceAddress = Annotated[
    OrNone[Address], BeforeValidator(_address("inference")), PlainSerializer(str, when_used="unless-none")
]
ManagementAddress = Annotated[
    OrNone[Address], BeforeValidator(_address("management")), PlainSerializer(str, when_used="unless-none")
]
MetricsAddress = Annotated[OrNone[Address], BeforeValidator(_address("metrics")), PlainSerializer(str, when_used="unless-none")]
Json = Annotated[Mapping[str, Any], BeforeValidator(from_json)]
ModelParameters = Annotated[Json, AfterValidator(checked_models)]
MayBeEmpty = Annotated[OrNone[str], BeforeValidator(_empty_is_none)]
PathOrNone = Annotated[OrNone[Path], BeforeValidator(_empty_is_none)]
PatternOrNone = Annotated[OrNone[Pattern], BeforeValidator(_empty_is_none)]
Mode = Annotated[Literal["log", "prometheus", "legacy"], BeforeValidator(_lower)]


def _key(default: Any, does: str, **bounds: Any) -> Any:
    return setting(GROUP, default, does, **bounds)


_NEVER_VARIABLES = frozenset(
    {
        *("models", "model_snapshot", "metric_time_interval", "enable_envvars_config", "use_env_allowed_urls"),
        *("token_expiration_min", "ts_open_inference_protocol"),  # under other names
        *("strict_batch_delay", "json_content_type", "config_snapshots"),
    }
)
_ANYWHERE = "https://anywhere.example/model.mar"


class TorchServeKeys(BaseModel, frozen=True, extra="forbid", validate_default=True, protected_namespaces=()):
    """TorchServe's keys under their own names, with its defaults, `allowed_urls` and tokens apart; and three of our own."""

    inference_address: InferenceAddress = _key(None, "Where predictions are asked for; none: http://HOST:PORT.")
    management_address: ManagementAddress = _key(None, "Where models are managed; none: http://HOST:PORT+1.")
    metrics_address: MetricsAddress = _key(None, "Where metrics are read; none: http://HOST:PORT+2.")
    model_store: PathOrNone = _key(None, "The folder of .mar files; where it is set, the server speaks TorchServe's ways.")
    load_models: Texts = _key((), "What is loaded at the start: all, or a.mar,name=b.mar of the model store, or addresses.")
    models: ModelParameters = _key({}, "Parameters of models, as JSON: {NAME: {VERSION: {marName, minWorkers, batchSize, ...}}}.")
    model_snapshot: Json = _key({}, "What a snapshot says of the models that were served; it stands before load_models.")
    default_workers_per_model: Natural = _key(0, "Workers of a model that says none; 0: one per GPU, or per core.")
    job_queue_size: Count = _key(100, "Requests of one model that wait, at most; more are refused with 503.")
    default_response_timeout: Natural = _key(120, "Seconds after which a worker that does not answer is killed.")
    default_startup_timeout: Natural = _key(120, "Seconds that a worker may take to load its model.")
    unregister_model_timeout: Natural = _key(120, "Seconds that a model's end may take.")
    number_of_gpu: OrNone[Natural] = _key(None, "GPUs that workers are given; none: all that are there.")
    max_request_size: Bytes = _key(6553500, "The largest body of a request in bytes, in TorchServe's ways.", ge=1)
    max_response_size: Bytes = _key(6553500, "The largest answer of a worker in bytes.", ge=1)
    limit_max_image_pixels: TrueOrFalse = _key(
        default=True, does="Whether handlers refuse images of more pixels than Pillow's limit."
    )
    decode_input_request: TrueOrFalse = _key(default=True, does="Whether workers decode JSON and text bodies for handlers.")
    default_service_handler: MayBeEmpty = _key(None, "The handler of an archive that names none.")
    service_envelope: MayBeEmpty = _key(None, "The form of bodies for all models: body, json, kserve or kservev2.")
    install_py_dep_per_model: TrueOrFalse = _key(default=False, does="Whether a model's requirements.txt is installed for it.")
    allowed_urls: Patterns = _key(
        (), "Patterns of addresses that models may be fetched from, as in https://models.example/.*; none: nowhere."
    )
    cors_allowed_origin: MayBeEmpty = _key(None, "The origin that browsers may ask from.")
    cors_allowed_methods: MayBeEmpty = _key(None, "The methods that browsers may use.")
    cors_allowed_headers: MayBeEmpty = _key(None, "The headers that browsers may send.")
    keystore: PathOrNone = _key(None, "The keys of https addresses: a file of keystore_type.")
    keystore_pass: str = _key("changeit", "The keystore's password.", repr=False)
    keystore_type: str = _key("PKCS12", "The keystore's type.")
    certificate_file: PathOrNone = _key(None, "The certificates of https addresses (PEM), beside private_key_file.")
    private_key_file: PathOrNone = _key(None, "The private key of https addresses (PEM).")
    disable_token_authorization: OrNone[TrueOrFalse] = _key(
        None, "Whether TorchServe's tokens are not asked for; none: they are asked for where model_store is set."
    )
    token_expiration_min: NonNegative = _key(60.0, "Minutes after which a token is too old.")
    enable_model_api: TrueOrFalse = _key(default=False, does="Whether clients may register and unregister .mar files.")
    enable_metrics_api: TrueOrFalse = _key(default=True, does="Whether the metrics address answers.")
    metrics_mode: Mode = _key(
        "log", "Where TorchServe's own metrics go: to the log, or, with prometheus and legacy, to the page too."
    )
    metrics_config: PathOrNone = _key(None, "The YAML of TorchServe's metrics; none: the same as its own.")
    model_metrics_auto_detect: TrueOrFalse = _key(
        default=False, does="Whether metrics of handlers count that metrics_config does not name."
    )
    disable_system_metrics: TrueOrFalse = _key(default=False, does="Whether the machine's own metrics are left out.")
    metric_time_interval: Count = _key(60, "Seconds between two measurements of the machine.")
    blacklist_env_vars: PatternOrNone = _key(None, "A pattern of variables that workers do not see.")
    initial_worker_port: Natural = _key(9000, "The number of the first worker.")
    enable_envvars_config: TrueOrFalse = _key(
        default=False, does="Whether TS_MODEL_STORE and its like stand before flags and the file."
    )
    use_env_allowed_urls: TrueOrFalse = _key(default=False, does="Whether TS_ALLOWED_URLS is among them.")
    ts_open_inference_protocol: TrueOrFalse = _key(default=False, does="Whether /v2 is TorchServe's own where it differs.")
    strict_batch_delay: TrueOrFalse = _key(
        default=False,
        does="Whether an idle worker waits for maxBatchDelay as TorchServe's does, with too few requests for a batch.",
    )
    json_content_type: TrueOrFalse = _key(
        default=False, does="Whether an answer that is JSON says so, where its handler says no content type."
    )
    config_snapshots: TrueOrFalse = _key(
        default=False, does="Whether snapshots are written to logs/config; stateserve-ts does so."
    )

    @field_validator("disable_token_authorization")
    @classmethod
    def _tokens_have_paths(cls, disabled: bool | None, others: ValidationInfo) -> bool | None:  # noqa: FBT001 - pydantic's
        if disabled is False and others.data.get("model_store") is None:
            raise ValueError("tokens are of TorchServe's ways, which model_store turns on: set it, or leave this out")
        return disabled


KEYS: frozenset[str] = frozenset(TorchServeKeys.model_fields) | frozenset(WITHOUT_EFFECT)
"""Every key that TorchServe's file may hold, and our own additions to them."""
VARIABLES: Mapping[str, str] = {
    **{f"TS_{key.upper()}": key for key in sorted(TorchServeKeys.model_fields.keys() - _NEVER_VARIABLES)},
    "TS_TOKEN_EXPIRATION_TIME_MIN": "token_expiration_min",
    "TS_OPEN_INFERENCE_PROTOCOL": "ts_open_inference_protocol",
}
"""TorchServe's variables, and the key of each: they count where `enable_envvars_config` is true."""


def address(settings: "Settings", connector: Connector) -> Address:
    """Where a connector listens: its own address, else beside the others on `host`, from `port` on.

    Management leaves this machine by its own address only, whatever `host` is.
    """
    own: Address | None = getattr(settings, f"{connector}_address")
    if own is not None:
        return own
    beside = Address("http", settings.host, settings.port + CONNECTORS.index(connector))
    return beside if connector != "management" or beside.is_loopback else replace(beside, host="127.0.0.1")


def connectors(settings: "Settings") -> tuple[tuple[Address, frozenset[Connector]], ...]:
    """One listener each, and what it answers for: those of one address are one."""
    listeners: dict[Address, set[Connector]] = {}
    for connector in CONNECTORS:
        if connector != "metrics" or settings.enable_metrics_api:
            listeners.setdefault(address(settings, connector), set()).add(connector)
    return tuple((where, frozenset(what)) for where, what in listeners.items())


def asks_for_tokens(settings: "Settings") -> bool:
    """Whether requests need TorchServe's tokens: where nothing is said, they do where `model_store` is set."""
    if settings.disable_token_authorization is None:
        return settings.model_store is not None
    return not settings.disable_token_authorization


def warnings(settings: "Settings") -> list[str]:
    """What an operator should know of settings that hold, and may not be meant."""
    found = []
    management = address(settings, "management")
    if not management.is_loopback and not asks_for_tokens(settings):
        what = "register models, which is to run code here" if settings.enable_model_api else "scale its models"
        found.append(f"whoever reaches {management} can {what}: disable_token_authorization is true")
    if management == address(settings, "inference") and asks_for_tokens(settings):
        found.append(
            f"management cannot be asked at {management}, with tokens for predictions there: no request can hold both keys"
        )
    if settings.model_store is not None and not settings.model_store.is_dir():
        found.append(f"the model store {settings.model_store} is not a directory: no .mar file is served")
    if ".*" in settings.allowed_urls or any(re.fullmatch(pattern, _ANYWHERE) for pattern in settings.allowed_urls):
        found.append("allowed_urls lets models be fetched from anywhere")
    return found


def without_effect(keys: Iterable[str]) -> str:
    """The keys, and why they change nothing: those of one reason together."""
    reasons: dict[str, list[str]] = {}
    for key in keys:
        reasons.setdefault(WITHOUT_EFFECT[key], []).append(key)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
