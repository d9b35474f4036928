"""TorchServe's management API: what a request to its management connector asks, done and answered.

Parameters are read as TorchServe reads them: a number that is none counts as not given, `true` alone is true, and of a parameter
that is given twice the first holds.
"""

import datetime as dt
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from serving.errors import ModelNotFound, ModelNotReady
from serving.messages import Request
from serving.torchserve.answers import Answer, json_answer
from serving.torchserve.archives.mar_manifest import RUNTIMES
from serving.torchserve.documents import management_document
from serving.torchserve.errors import (
    NOT_ALLOWED,
    NOT_FOUND,
    BadRequestException,
    InternalServerException,
    MethodNotAllowedException,
    ModelVersionNotFoundException,
    ResourceNotFoundException,
    ServiceUnavailableException,
)
from serving.torchserve.jobs import told_headers
from serving.torchserve.registry.downloads import is_address
from serving.torchserve.registry.models import Models
from serving.torchserve.registry.records import artifact_record, artifact_url, record
from serving.torchserve.registry.registration import MOST_WORKERS, Registration
from serving.torchserve.tokens import Tokens

if TYPE_CHECKING:
    from serving.repository import Repository
    from serving.settings import Settings

_MOST_LISTED = 100
_MAX_INT = (1 << 31) - 1
_INTEGER = re.compile(r"[+-]?[0-9]+")
_LONGEST_INTEGER = 20
_TEXTS = frozenset({"url", "model_name", "handler", "runtime"})
_NUMBERS = frozenset({"batch_size", "max_batch_delay", "initial_workers", "response_timeout", "startup_timeout"})
_RUNTIMES = (*RUNTIMES, "LSP")
_INSTEAD: Mapping[str, str] = {
    "DELETE": "POST /v2/repository/models/{name}/unload at the inference address takes it away",
    "PUT": "the setting instances says how many calls run side by side",
    "set-default": "PUT /v2/repository/models/{name}/labels/default at the inference address says which version answers",
}
"""What there is for an artifact in place of a method of this API."""


@dataclass(frozen=True)
class Management:
    """Answers what is asked of one server's models. `tokens` is None where none are asked for; `since` is the server's start.

    The artifacts of the repository are listed and described beside the archives; they are changed by an API of their own.
    """

    models: Models
    settings: "Settings"
    repository: "Repository"
    tokens: Tokens | None = None
    since: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))

    async def answer(self, request: Request) -> Answer:
        """The answer.

        Raises:
            TorchServeError: what was asked cannot be done.
        """
        query = Parameters(_first_of_each(request.query))
        match request.path.rstrip("/").split("/")[1:]:
            case ["token", *_] if self.tokens is not None:
                self.tokens.renew(query.text("type"), request.headers.get("authorization"))
                return Answer(200, b"\n", [("content-type", "application/json")])
            case ["v1", "models", asked]:
                _require(request.method, "GET")
                name, _, _ = asked.partition(":")
                return json_answer({"name": name, "ready": self._is_ready(name)})
            case ["models"]:
                return await self._of_all(request, query)
            case ["models", name, *version] if len(version) <= 1:
                return await self._of_one(request, query, name, version[0] if version else None)
            case ["models", name, version, "set-default"]:
                if request.method == "PUT":
                    return self._set_default(name, version)
                return await self._of_one(request, query, name, version)  # as TorchServe
        raise ResourceNotFoundException(NOT_FOUND)

    async def _of_all(self, request: Request, query: "Parameters") -> Answer:
        if request.method == "GET":
            return self._list(query)
        if request.method == "POST" and self.settings.enable_model_api:
            return await self._register(_asked(request, query))
        raise MethodNotAllowedException(NOT_ALLOWED)

    async def _of_one(self, request: Request, query: "Parameters", name: str, version: str | None) -> Answer:
        match request.method:
            case "GET":
                customized_by = request if query.switch("customized") else None
                return json_answer(await self._described(name, version, customized_by))
            case "PUT":
                return await self._scale(query, name, version or query.text("model_version"))
            case "DELETE" if self.settings.enable_model_api:
                self._refuse_artifact(name, "DELETE")
                await self.models.unregister(name, version)
                return _status(f'Model "{name}" unregistered')
            case "OPTIONS":
                if not self.repository.serves(name):
                    self.models.find(name)
                return json_answer(management_document(name))
        raise MethodNotAllowedException(NOT_ALLOWED)

    def _list(self, query: "Parameters") -> Answer:
        limit, first = query.number("limit", _MOST_LISTED), max(0, query.number("next_page_token", 0))
        if not 0 <= limit <= _MOST_LISTED:
            limit = _MOST_LISTED
        listed = {version.name: version.url for version in self.models.listed()}
        listed |= self._artifact_urls()
        names = sorted(listed)[first : first + limit]
        page: dict[str, Any] = {}
        if first + limit <= len(listed):  # also where the page ends with the last model
            page["nextPageToken"] = str(first + limit)
        page["models"] = [{"modelName": name, "modelUrl": listed[name]} for name in names]
        return json_answer(page)

    async def _described(self, name: str, version: str | None, customized_by: Request | None) -> list[dict[str, Any]]:
        """Records; what the handler itself says is in them where it is asked with this request's headers."""
        if self.repository.serves(name):
            return self._artifact_described(name, version)
        if version == "all":
            self.models.find(name)
            return [record(one, self.models.gpus) for one in self.models.versions(name)]
        found = self.models.find(name, version)
        described = record(found, self.models.gpus)
        if customized_by is not None:
            said = await found.workers.describe(told_headers(customized_by))
            described["customizedMetadata"] = said if isinstance(said, dict) else {}
        return [described]

    async def _register(self, asked: "Parameters") -> Answer:
        version = await self.models.register(_registration(asked, self.settings.default_workers_per_model))
        held = version.parameters
        told = f'Model "{version.name}" Version: {version.version} registered with {held.min_workers} initial workers'
        if not held.min_workers:
            return _status(f"{told}. Use scale workers API to add workers for the model.")
        if not asked.switch("synchronous", default=True):
            self.models.scale_soon(version, held.min_workers, held.max_workers)
            return _status("Processing worker updates...", 202)
        return _settled(told, is_settled=await self.models.start_workers(version))

    async def _scale(self, query: "Parameters", name: str, version: str | None) -> Answer:
        self._refuse_artifact(name, "PUT")
        least = query.workers("min_worker", 1)
        most = query.number("max_worker", least)
        if most < least:
            raise BadRequestException("max_worker cannot be less than min_worker.")
        found = self.models.find(name, version)
        if least < 0:
            raise InternalServerException(f"min_worker cannot be less than 0: {least}")
        if not query.switch("synchronous"):
            self.models.scale_soon(found, least, most)
            return _status("Processing worker updates...", 202)
        told = f"Workers scaled to {least} for model: {name}{'' if version is None else f', version: {version}'}"
        return _settled(told, is_settled=await self.models.scale(name, version, least, most))

    def _set_default(self, name: str, version: str) -> Answer:
        self._refuse_artifact(name, "set-default")
        self.models.set_default(name, version)
        return _status(f'Default version successfully updated for model "{name}" to "{version}"')

    def _is_ready(self, name: str) -> bool:
        if self.repository.serves(name):
            return self.repository.has_default(name)
        return self.models.find(name).ready

    def _refuse_artifact(self, name: str, what: str) -> None:
        """An archive whose name an artifact has taken over can still be scaled, and unregistered."""
        if self.repository.serves(name) and not self.models.versions(name):
            raise BadRequestException(
                f"{name} is an artifact of the model repository, not an archive: {_INSTEAD[what].format(name=name)}"
            )

    def _artifact_urls(self) -> dict[str, str]:
        return {one.name: artifact_url(one) for one in reversed(self.repository.served())} | {
            name: artifact_url(self.repository.find(name))
            for name in self.repository.names()
            if self.repository.has_default(name)
        }

    def _artifact_described(self, name: str, version: str | None) -> list[dict[str, Any]]:
        if version == "all":
            return [artifact_record(one, self.since) for one in self.repository.served(name)]
        try:
            return [artifact_record(self.repository.find(name, version), self.since)]
        except ModelNotReady as cause:
            raise ServiceUnavailableException(str(cause)) from cause
        except ModelNotFound as cause:
            raise ModelVersionNotFoundException(f"Model version: {version} does not exist for model: {name}") from cause


class Parameters:
    """What a request says, by name, as TorchServe reads it."""

    def __init__(self, said: Mapping[str, str]) -> None:
        self._said = said

    def text(self, name: str) -> str | None:
        """The value; None where there is none."""
        return self._said.get(name)

    def number(self, name: str, default: int) -> int:
        """The whole number; the default where none is said, or something else."""
        value = self._said.get(name, "")
        number = int(value) if _INTEGER.fullmatch(value) and len(value) <= _LONGEST_INTEGER else None
        return default if number is None or not -_MAX_INT - 1 <= number <= _MAX_INT else number

    def natural(self, name: str) -> int | None:
        """The whole number from 0; None where none is said, or something else."""
        number = self.number(name, -1)
        return None if number < 0 else number

    def workers(self, name: str, default: int) -> int:
        """The whole number, as `number`.

        Raises:
            BadRequestException: it is more than `MOST_WORKERS`.
        """
        number = self.number(name, default)
        if number > MOST_WORKERS:
            raise BadRequestException(f"{name} cannot be larger than {MOST_WORKERS}: {number}")
        return number

    def switch(self, name: str, *, default: bool = False) -> bool:
        """Whether it is `true`, in any case; the default where nothing is said."""
        value = self._said.get(name)
        return default if value is None else value.lower() == "true"


def _first_of_each(query: str) -> dict[str, str]:
    return dict(reversed(parse_qsl(query, keep_blank_values=True)))


def _asked(request: Request, query: Parameters) -> Parameters:
    """The parameters of a registration: those of a JSON body, where there is one, else the query's."""
    content_type, _, _ = (request.headers.get("content-type") or "").partition(";")
    return Parameters(_from_json(request.body)) if content_type.strip().lower() == "application/json" else query


def _from_json(body: bytes) -> dict[str, str]:
    """What a JSON object says, as the texts that a query would say it with."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as cause:
        raise BadRequestException(f"The body is not JSON: {cause}") from cause
    if not isinstance(said, dict):
        raise BadRequestException("The body should be a JSON object.")
    return {name: _as_text(name, value) for name, value in said.items() if value is not None}


def _as_text(name: str, value: Any) -> str:
    """A value of a JSON object as a text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if name in _TEXTS and isinstance(value, list | dict):
        raise BadRequestException(f"{name} should be a text, a number, or true or false, not {json.dumps(value)[:80]}")
    text = value if isinstance(value, str) else json.dumps(value)
    if name in _NUMBERS and not _INTEGER.fullmatch(text):
        raise BadRequestException(f"{name} should be a whole number, not {text[:80]}")
    return text


def _registration(asked: Parameters, default_workers: int) -> Registration:
    url, runtime = asked.text("url"), asked.text("runtime")
    if url is None:
        raise BadRequestException("Parameter url is required.")
    if runtime is not None and runtime not in _RUNTIMES:
        raise BadRequestException(f"Invalid RuntimeType value: {runtime}")
    if asked.switch("s3_sse_kms") and is_address(url):
        raise BadRequestException(
            "s3_sse_kms is not supported: copy the archive into the model store, and register it from there."
        )
    return Registration(
        url=url,
        name=asked.text("model_name") or "",
        handler=asked.text("handler") or "",
        runtime=runtime or "",
        batch_size=asked.natural("batch_size"),
        max_batch_delay_ms=asked.natural("max_batch_delay"),
        response_timeout_s=asked.natural("response_timeout"),
        startup_timeout_s=asked.natural("startup_timeout"),
        workers=max(0, asked.workers("initial_workers", default_workers)),
    )


def _require(method: str, allowed: str) -> None:
    if method != allowed:
        raise MethodNotAllowedException(NOT_ALLOWED)


def _status(text: str, status: int = 200) -> Answer:
    return json_answer({"status": text}, status)


def _settled(text: str, *, is_settled: bool) -> Answer:
    return _status(text) if is_settled else _status("Workers scaling in progress...", 206)
