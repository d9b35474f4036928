"""The server's settings: what can be set, and to what. `read_settings.py` says where the values come from.

A field of `Settings` is all there is to know about a setting: its name, what it may be, its default, what it does. The flags of
`python -m serving` are made from the fields, and a test holds docs/settings.md to them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, ValidationInfo, field_validator

from foundation.remote import default_cache
from foundation.storage import sha256_bytes
from serving.fields import (
    NONE,
    UNITS,
    Bytes,
    Count,
    Device,
    Label,
    NonNegative,
    OrNone,
    Patterns,
    Place,
    Positive,
    Sizes,
    from_json,
    setting,
)
from serving.torchserve.keys import TorchServeKeys

GROUPS = ("Server", "Models", "Batching", "Limits", "Log", "TorchServe")
"""The panels of --help and the sections of docs/settings.md, in order."""

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


FLAGS = {"load_models": "--models", "models": "", "model_snapshot": ""}
"""Flags that are not named as their setting: TorchServe has --models, for what its file calls load_models."""


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions of a model are served: the `latest` highest, or exactly `versions`; all, where both are None."""

    latest: int | None = None
    versions: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: "str | VersionPolicy") -> "VersionPolicy":
        """The policy that a text says: `latest:2`, `latest` (one), `all`, `versions:1,3` or `1,3`.

        Raises:
            ValueError: the text is none of these.
        """
        if isinstance(text, VersionPolicy):
            return text
        if text == "all":
            return cls()
        kind, _, numbers = "latest:1".rpartition(":") if text == "latest" else str(text).rpartition(":")
        if kind == "latest" and _NUMBER.fullmatch(numbers):
            return cls(latest=int(numbers))
        if kind in {"", "versions"} and all(_NUMBER.fullmatch(number) for number in numbers.split(",")):
            return cls(versions=tuple(sorted({int(number) for number in numbers.split(",")})))
        raise ValueError("it should be latest:N, all, or versions:N,N, with whole numbers from 1")

    def chosen(self, available: Iterable[int]) -> list[int]:
        """The versions to serve of those that are there, ascending; what `versions` names and is not there, is not among them."""
        ascending = sorted(set(available))
        if self.latest is not None:
            return ascending[-self.latest :]
        return ascending if self.versions is None else [version for version in ascending if version in self.versions]

    def __str__(self) -> str:
        if self.latest is not None:
            return f"latest:{self.latest}"
        return "all" if self.versions is None else f"versions:{','.join(map(str, self.versions))}"


Policy = Annotated[VersionPolicy, BeforeValidator(VersionPolicy.parse), PlainSerializer(str)]


class ModelDefaults(BaseModel, frozen=True, extra="forbid", validate_default=True, protected_namespaces=()):
    """What holds for every model, unless `model_settings` says otherwise for one."""

    engine: Literal["auto", "onnx", "torchscript", "pt2"] = setting(
        "Models", "auto", "What runs a model; auto: what `stateserve tune` found, or the artifact's first format."
    )
    threads: OrNone[Count] = setting(
        "Models",
        None,
        "Threads of one engine call; none: what `stateserve tune` found, or the cores over the instances; on the event loop 1.",
    )
    instances: OrNone[Annotated[Count, Field(le=256)]] = setting(
        "Models",
        None,
        "Calls of one version that run side by side, on each device; none: what `stateserve tune` found, or 1; on the event "
        "loop 1.",
    )
    version_policy: Policy = setting(
        "Models", VersionPolicy(latest=1), "Which versions are served: latest:N (the N highest), all, or versions:1,3."
    )
    max_batch_rows: OrNone[Count] = setting(
        "Batching",
        None,
        "Rows of one engine call, at most; none: as many as the signature allows, joined up to what `stateserve tune` found.",
    )
    preferred_batch_sizes: Sizes = setting(
        "Batching", (), "Rows that a batch is cut to, where more wait: ascending, as in 4,8,16; none: as many as there are."
    )
    max_delay_ms: NonNegative = setting("Batching", 0.0, "How long an idle engine waits for more rows; 0: not at all.")
    max_queue_rows: OrNone[Count] = setting(
        "Batching",
        None,
        "Rows that wait, at most; more are refused with 503; none: what five seconds answer, at least 8 calls and 128 rows.",
    )
    priority_levels: Count = setting(
        "Batching", 3, "How many priorities a request can have: 1, the first served, to this.", le=64
    )
    default_priority: Count = setting("Batching", 2, "The priority of a request that says none.")
    default_timeout_s: OrNone[Positive] = setting(
        "Batching", None, "How long a request that says nothing itself waits for an engine before 504; none: without end."
    )
    execution: Literal["auto", "loop", "thread", "process"] = setting(
        "Models",
        "auto",
        "Where engine calls run: on the event loop, in a thread, or in processes of their own; auto: by how long the warm-up's "
        "calls took.",
    )
    device: Device = setting(
        "Models",
        "auto",
        "What engines run on: cpu, cuda (every GPU), cuda:0,cuda:1; auto: every GPU that they can use, else cpu.",
    )
    device_memory_bytes: OrNone[Bytes] = setting("Models", None, "Memory of a GPU that one engine may take; none: all of it.")
    precision: Literal["auto", "float32"] = setting(
        "Models", "auto", "What a GPU computes in; auto: the precision that the artifact declares and was proven with."
    )
    required: bool = setting("Models", default=True, does="Whether the server is not ready without the model.")

    @field_validator("preferred_batch_sizes")
    @classmethod
    def _sizes_fit(cls, sizes: tuple[int, ...], others: ValidationInfo) -> tuple[int, ...]:
        most = others.data.get("max_batch_rows")
        if most is not None and sizes and sizes[-1] > most:
            raise ValueError(f"{sizes[-1]} is above max_batch_rows, which is {most}")
        return sizes

    @field_validator("max_queue_rows")
    @classmethod
    def _queue_holds_a_batch(cls, rows: int | None, others: ValidationInfo) -> int | None:
        batch = others.data.get("max_batch_rows")
        if rows is not None and batch is not None and rows < batch:
            raise ValueError(f"a full batch could not wait: max_batch_rows is {batch}")
        return rows

    @field_validator("default_priority")
    @classmethod
    def _priority_is_a_level(cls, priority: int, others: ValidationInfo) -> int:
        levels = others.data.get("priority_levels", priority)
        if priority > levels:
            raise ValueError(f"it is above priority_levels, which is {levels}")
        return priority

    @field_validator("default_timeout_s")
    @classmethod
    def _timeout_outlasts_the_delay(cls, timeout_s: float | None, others: ValidationInfo) -> float | None:
        delay_ms = others.data.get("max_delay_ms", 0.0)
        if timeout_s is not None and timeout_s * 1000 <= delay_ms:
            raise ValueError(f"a lone request would never be answered: max_delay_ms is {delay_ms:g}")
        return timeout_s


class ModelSettings(ModelDefaults, frozen=True):
    """What holds for one model. `labels` are names for versions: `{"stable": 1}`."""

    labels: Mapping[Label, Count] = Field(default={}, description="Names for versions: a request may ask for the name.")


class Settings(TorchServeKeys, ModelDefaults, frozen=True):
    """Every field is a flag, a key of config.properties, and a variable `STATESERVE_<FIELD>`."""

    repository: Place = setting(
        "Server", Path("model_repository"), "The model repository: the folder of NAME/VERSION/, or a URL: s3://BUCKET/FOLDER."
    )
    repository_cache: OrNone[Path] = setting(
        "Server", None, "Where what is fetched of a repository at a URL is kept; none: in the user's cache."
    )
    host: str = setting(
        "Server", "127.0.0.1", "The address to listen on; management listens on it where it is a loopback address.", min_length=1
    )
    port: int = setting(
        "Server", 8080, "The port to listen on: predictions; management on the next, metrics on the one after.", ge=1, le=65535
    )
    frontends: OrNone[Annotated[Count, Field(le=64)]] = setting(
        "Server", None, "Processes that speak HTTP; none: by the cores and devices; 1: one process does everything it can."
    )
    pin_frontends: Literal["auto", "on", "off"] = setting(
        "Server", "auto", "Whether each front end keeps to its own cores; auto: where there are enough, and no quota says less."
    )
    slots_bytes: Bytes = setting(
        "Server",
        256 << 20,
        "Shared memory between a front end and an engine's process, at most; it is taken as needed.",
        ge=1 << 20,
    )
    poll_interval_s: NonNegative = setting("Server", 0.0, "How often the repository is looked at for changes; 0: never.")
    repository_api: Literal["auto", "on", "off"] = setting(
        "Server", "auto", "Whether clients may load and unload models; auto: only where host is a loopback address."
    )
    drain_delay_s: NonNegative = setting("Server", 0.0, "At the end, how long the server answers on while it says not ready.")
    drain_timeout_s: NonNegative = setting("Server", 30.0, "At the end, how long requests in flight may take.")
    ui: bool = setting("Server", default=True, does="Whether the page at /ui is served: people try a model there.")
    decode_threads: OrNone[Annotated[Count, Field(le=256)]] = setting(
        "Server", None, "Threads that decode pictures and tokenise texts beside the engine; none: as many as there are cores."
    )
    compress_min_bytes: Bytes = setting("Server", 1024, "The smallest answer that is compressed, for clients that accept it.")
    max_body_bytes: Bytes = setting("Limits", 64 << 20, "The largest body that is read, also after decompression.", ge=1)
    max_tensors: Count = setting("Limits", 64, "Tensors of one request, at most.")
    max_json_depth: Count = setting("Limits", 64, "How deep a JSON body may nest.", le=1024)
    max_image_pixels: Count = setting(
        "Limits", 25_000_000, "Pixels of one picture, at most; each decoding thread takes up to 16 bytes of memory for each."
    )
    max_image_frames: Count = setting("Limits", 1, "Pictures in one file, at most; of several, the first is taken.")
    max_text_bytes: Bytes = setting("Limits", 256 << 10, "The longest text that is tokenised, in UTF-8.", ge=1)
    max_tokens: Count = setting("Limits", 1 << 18, "Tokens that a text may become, before truncation.")
    input_urls: Patterns = setting(
        "Limits",
        (),
        "Regular expressions, one of which must match the whole URL of a picture that a request names; none: no URLs.",
    )
    input_urls_private: bool = setting(
        "Limits",
        default=False,
        does="Whether such URLs may lead to private addresses: to this machine, and to networks that are not public.",
    )
    max_header_bytes: Bytes = setting("Limits", 64 << 10, "The largest head of a request.", ge=8192)
    max_connections: Count = setting("Limits", 1024, "Connections at the same time, at most.")
    header_timeout_s: Positive = setting(
        "Limits", 60.0, "How long a client may take to send a request's head, and a connection may idle.", le=60
    )
    body_timeout_s: Positive = setting("Limits", 60.0, "How long a client may take to send a request's body.")
    answer_timeout_s: Positive = setting(
        "Limits", 60.0, "How long a client may take nothing of its answer (Linux only).", le=86400
    )
    access_log: bool = setting("Log", default=False, does="Whether every request is logged.")
    log_format: Literal["json", "text"] = setting("Log", "json", "The log's lines on stderr: JSON objects, or text for people.")
    model_settings: Mapping[str, ModelSettings] = setting(
        "Models", {}, 'What differs for one model, and its labels, as JSON: {"digits": {"threads": 2, "labels": {"stable": 1}}}.'
    )

    @field_validator("model_settings", mode="before")
    @classmethod
    def _stands_on_the_defaults(cls, value: Any, others: ValidationInfo) -> Any:
        """Each model's own values over the server's, so that they are checked as they will hold."""
        given = from_json(value)
        shared = {name: others.data[name] for name in ModelDefaults.model_fields if name in others.data}
        if not isinstance(given, Mapping):
            return given
        return {model: {**shared, **own} if isinstance(own, Mapping) else own for model, own in given.items()}

    @property
    def repository_root(self) -> Path:
        """The folder that is served: the repository, or where what is at its URL is kept.

        Raises StorageError where there is no place for a cache.
        """
        if isinstance(self.repository, Path):
            return self.repository
        cache = default_cache() if self.repository_cache is None else self.repository_cache
        return cache / "repositories" / sha256_bytes(self.repository.rstrip("/").encode())[:32]

    @property
    def needs_repository(self) -> bool:
        """Whether the repository must be there: not where there is a model store, and nobody said a repository."""
        return self.model_store is None or not self.model_store.is_dir() or "repository" in self.model_fields_set

    def model(self, name: str) -> ModelSettings:
        """What holds for this model: its own entry in `model_settings` over the defaults for all."""
        own = self.model_settings.get(name)
        return own or ModelSettings(**{field: getattr(self, field) for field in ModelDefaults.model_fields})


def flag_name(name: str, *, off: bool = False) -> str:
    """The flag of a setting, "" where it has none; a switch has another that turns it off."""
    return FLAGS.get(name, f"--{'no-' if off else ''}{name.replace('_', '-')}")


def is_switch(name: str) -> bool:
    """Whether a setting is true or false."""
    annotation = Settings.model_fields[name].annotation
    kinds = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in get_args(annotation)] or [annotation]
    return kinds in ([bool], [bool, NoneType])


def group(name: str) -> str:
    """Which of `GROUPS` a setting stands in."""
    extra: Any = Settings.model_fields[name].json_schema_extra
    return extra["group"]


def what_it_does(name: str) -> str:
    """A setting's description, and its values where there are but a few."""
    field = Settings.model_fields[name]
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    return f"{field.description} One of: {', '.join(choices)}." if choices else str(field.description)


def as_text(name: str, value: Any) -> str:
    """A setting's value as config.properties, a variable or a flag says it."""
    if value is None or value == ():
        return NONE
    if isinstance(value, (bool, Mapping)):
        return json.dumps(value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return _with_unit(value) if name.endswith("_bytes") else str(value)


def _with_unit(value: int) -> str:
    unit = max((unit for unit in UNITS if value % UNITS[unit] == 0), key=lambda unit: UNITS[unit]) if value else ""
    return f"{value // UNITS[unit]}{unit}"
