"""config.properties: its format, and the keys in it that are TorchServe's."""

from pathlib import Path

from serving.errors import SettingsError

TORCHSERVE_KEYS = frozenset(
    """
    inference_address management_address metrics_address
    grpc_inference_address grpc_management_address grpc_inference_port grpc_management_port enable_grpc_ssl
    grpc_inference_max_connection_age_ms grpc_inference_max_connection_age_grace_ms
    grpc_management_max_connection_age_ms grpc_management_max_connection_age_grace_ms
    model_store workflow_store load_models models model_snapshot version
    default_workers_per_model job_queue_size default_response_timeout default_startup_timeout unregister_model_timeout
    number_of_gpu number_of_netty_threads netty_client_threads prefer_direct_buffer
    use_native_io io_ratio vmargs metric_time_interval plugins_path system_metrics_cmd
    enable_envvars_config use_env_allowed_urls allowed_urls
    max_request_size max_response_size limit_max_image_pixels decode_input_request
    default_service_handler service_envelope model_server_home install_py_dep_per_model
    cors_allowed_origin cors_allowed_methods cors_allowed_headers
    keystore keystore_pass keystore_type certificate_file private_key_file
    disable_token_authorization token_expiration_min enable_model_api
    enable_metrics_api metrics_mode metrics_config model_metrics_auto_detect disable_system_metrics
    async_logging debug blacklist_env_vars initial_worker_port initial_distribution_port
    ipex_enable ipex_gpu_enable cpu_launcher_enable cpu_launcher_args
    ts_open_inference_protocol ts_header_key_sequence_id ts_header_key_sequence_start ts_header_key_sequence_end
    cpp_log_config
    """.split()  # noqa: SIM905 - a list of names would be a page long
)
"""TorchServe 0.12's keys: accepted, so that one file drives both servers, though they have no effect here yet."""


def read_properties(path: Path) -> dict[str, tuple[str, int]]:
    """The keys of a Java properties file, each with its value and line.

    `key=value` lines, # and ! comments; a backslash that ends a line goes on with the next, without what that is indented by.

    Raises:
        SettingsError: the file cannot be read, a line is no `key=value`, or a key stands twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise SettingsError(f"{path} cannot be read: {cause}") from cause
    found: dict[str, tuple[str, int]] = {}
    for number, text in _logical_lines(lines):
        key, separator, value = (part.strip() for part in text.partition("="))
        if not separator or not key:
            raise SettingsError(f"{path}:{number}: {text!r} is not key=value")
        if key in found:
            raise SettingsError(f"{path}:{number}: {key} stands twice, first on line {found[key][1]}")
        found[key] = (value, number)
    return found


def _logical_lines(lines: list[str]) -> list[tuple[int, str]]:
    """What stands in the file without comments and empty lines, continued lines joined; with the line where each begins."""
    logical: list[tuple[int, str]] = []
    goes_on = False
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not goes_on and (not text or text[0] in "#!"):
            continue
        begun, before = logical.pop() if goes_on else (number, "")
        goes_on = (len(text) - len(text.rstrip("\\"))) % 2 == 1  # an even number of backslashes is a value's own
        logical.append((begun, before + (text[:-1] if goes_on else text)))
    return logical
