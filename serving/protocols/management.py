"""The repository API: the Open Inference Protocol's `model_repository` extension as Triton has it, and our labels of versions.

Source: Triton's "Model Repository Extension", whose clients send no body, `{}`, or `{"parameters": {...}}`.
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from serving.errors import BadRequest, NotAllowed
from serving.protocols.tensors import shortened
from serving.repository import Repository
from serving.settings import ModelSettings, Settings

_TO_BODY = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}
_HONOURED = "version_policy, max_batch_size, dynamic_batching, instance_group and name"
_BATCHING = {"preferred_batch_size", "max_queue_delay_microseconds"}

Name = Annotated[str, Path(description="The model's name: its folder in the repository.")]
Label = Annotated[str, Path(description="A name for a version: a letter, then letters, digits, '_' and '-'.")]


_PASSED_ON = ("forwarded", "x-forwarded-for", "x-real-ip")
"""What a proxy adds: the client is behind it, and its own address, which may well be this machine's, says nothing."""


def router(repository: Callable[[], Repository], settings: Settings) -> APIRouter:
    """The routes below /v2/repository. Changing what is served is for those whom `allowed` lets; the index is for all."""

    def require_allowed(request: Request) -> None:
        is_passed_on = any(name in request.headers for name in _PASSED_ON)
        client_host = None if is_passed_on or request.client is None else request.client.host
        allowed(settings, client_host, request.headers.get("origin"))

    routes = APIRouter(prefix="/v2/repository", tags=["Model repository"])
    guarded = {"dependencies": [Depends(require_allowed)], "response_class": Response}

    async def index_models(request: Request) -> JSONResponse:
        return JSONResponse(await index(repository(), await request.body()))

    async def load_model(name: Name, request: Request) -> Response:
        await load(repository(), settings, name, await request.body())
        return Response()

    async def unload_model(name: Name, request: Request) -> Response:
        await unload(repository(), name, await request.body())
        return Response()

    async def put_label(name: Name, label: Label, request: Request) -> Response:
        set_label(repository(), name, label, await request.body())
        await repository().settled()
        return Response()

    async def delete_label(name: Name, label: Label) -> Response:
        repository().remove_label(name, label)
        await repository().settled()
        return Response()

    def add(method: str, path: str, handler: Callable[..., Any], summary: str, does: str, **options: Any) -> None:
        body = _TO_BODY if method != "DELETE" else None
        routes.add_api_route(path, handler, methods=[method], summary=summary, description=does, openapi_extra=body, **options)

    add("POST", "/index", index_models, "Every version on disk or served, and its state", _INDEX)
    add("POST", "/models/{name}/load", load_model, "Load new and changed versions of a model", _LOAD, **guarded)
    add("POST", "/models/{name}/unload", unload_model, "Stop serving a model", _UNLOAD, **guarded)
    add("PUT", "/models/{name}/labels/{label}", put_label, "Let a label stand for a version", _SET_LABEL, **guarded)
    add("DELETE", "/models/{name}/labels/{label}", delete_label, "Take a label away", _REMOVE_LABEL, **guarded)
    return routes


_INDEX = (
    'The body is empty, or `{"ready": true}` for the served ones only. The answer is a list of objects with `name`, `version`, '
    "`state` (READY, LOADING, UNLOADING or UNAVAILABLE) and `reason`."
)
_LOAD = (
    "Reads the model's folder again and loads what its version policy chooses, beside what is served. A version that passes its "
    "checks takes over between two requests; if one fails, 400 says why, and what was served is served on. The body is empty, or "
    '`{"parameters": {"version": 3}}` to serve a version beside those that the policy chooses, or '
    '`{"parameters": {"config": "..."}}` with a part of Triton\'s model configuration, as a JSON text, that holds until the next '
    f"load: {_HONOURED}."
)
_UNLOAD = (
    "Every version of the model leaves when it has answered what it has begun. Polling does not bring it back; loading does."
)
_SET_LABEL = (
    'The body is `{"version": 3}`; the version must be served. Requests then reach it as `/v2/models/NAME/versions/LABEL/infer` '
    "and `/predictions/NAME/LABEL`. The label `default` says which version answers where a request names none."
)
_REMOVE_LABEL = "A version that was served only because it had this label is retired."


def allowed(settings: Settings, client_host: str | None, origin: str | None = None) -> None:
    """Lets a client change what is served, or not.

    `client_host` is the client's address, None where it is unknown; `origin` the header of that name, which a browser sends for
    the page that asks. Under `repository_api=auto` the server must listen on a loopback address, and the client and the page be
    there too: so no web page from elsewhere can make a browser on this machine do it.

    Raises:
        NotAllowed: the client may not; the message says what to set.
    """
    if settings.repository_api == "off":
        raise NotAllowed("loading, unloading and labels are switched off here (setting repository_api=off)")
    if settings.repository_api == "on":
        return
    for what, host in (("the server listens on", settings.host), ("the request comes from", client_host)):
        if not _is_loopback(host):
            raise NotAllowed(
                f"{what} {host or 'an unknown address'}, and loading, unloading and labels are for loopback addresses only, "
                "unless the setting repository_api is on"
            )
    if origin is not None and not _is_loopback(_host_of(origin)):
        raise NotAllowed(
            f"a page of {shortened(origin)} asks, and only pages of this machine may, unless the setting repository_api is on"
        )


async def index(repository: Repository, body: bytes) -> list[dict[str, Any]]:
    """Triton's repository index.

    Raises:
        BadRequest: the body is none of the two that there are.
    """
    asked = _object(body)
    ready = asked.pop("ready", False)
    if asked or not isinstance(ready, bool):
        raise BadRequest('the body should be empty or {"ready": true} or {"ready": false}')
    return await repository.index(ready_only=ready)


async def load(repository: Repository, settings: Settings, name: str, body: bytes) -> None:
    """Loads a model's new and changed versions.

    Raises:
        BadRequest: a parameter is not one that we honour.
        ModelNotFound, LoadFailed, ModelNotReady: as `Repository.load`.
    """
    parameters = _parameters(body)
    version, config = parameters.pop("version", None), parameters.pop("config", None)
    for key in sorted(parameters):
        if key.startswith("file:"):
            raise BadRequest(
                f"{shortened(key)}: files cannot be sent; an artifact comes whole and hashed: "
                "export or copy it into the repository"
            )
        raise BadRequest(f"unknown parameter {shortened(repr(key))}; load takes config and version")
    await repository.load(
        name,
        None if version is None else _integer("version", version, 1),
        None if config is None else overridden(settings.model(name), name, config),
    )


async def unload(repository: Repository, name: str, body: bytes) -> None:
    """Retires a model. Models have no dependents here, so `unload_dependents` changes nothing.

    Raises:
        BadRequest: a parameter is not one that we honour.
        ModelNotFound: there is no such model.
    """
    parameters = _parameters(body)
    dependents = parameters.pop("unload_dependents", False)
    if parameters or not isinstance(dependents, bool):
        raise BadRequest('unload takes no body, or {"parameters": {"unload_dependents": true}} (or false)')
    await repository.unload(name)


def set_label(repository: Repository, name: str, label: str, body: bytes) -> None:
    """Lets a label stand for a served version.

    Raises:
        BadRequest: the body is not `{"version": N}`, it looks like no label, or the version is not served.
        ModelNotFound: there is no such model.
    """
    asked = _object(body)
    if asked.keys() != {"version"}:
        raise BadRequest('the body should be {"version": N}, the version that the label shall stand for')
    repository.set_label(name, label, _integer("version", asked["version"], 1))


def overridden(settings: ModelSettings, name: str, config: object) -> ModelSettings:
    """A model's settings under a part of Triton's model configuration, which is a JSON text.

    Raises:
        BadRequest: it is no such text, or holds a key or value that we cannot honour.
    """
    if not isinstance(config, str):
        raise BadRequest("config should be a string: the JSON text of a model configuration")
    changes = dict(_changes(name, _object(config, "config")))
    try:
        return ModelSettings.model_validate({**settings.model_dump(), **changes})
    except ValidationError as cause:
        problems = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in cause.errors())
        raise BadRequest(f"config cannot be applied: {problems}") from cause


def _changes(name: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Triton's keys, as our settings."""
    for key, value in config.items():
        match key:
            case "name":
                if value != name:
                    raise BadRequest(f"config.name is {shortened(repr(value))}, and the model is {name!r}")
            case "version_policy":
                yield "version_policy", _version_policy(value)
            case "max_batch_size":
                yield "max_batch_rows", _integer("config.max_batch_size", value, 1)
            case "dynamic_batching":
                yield from _dynamic_batching(value)
            case "instance_group":
                yield "instances", _instances(value)
            case _:
                raise BadRequest(f"config.{shortened(key)} cannot be changed; those that can: {_HONOURED}")


def _version_policy(value: Any) -> str:
    match value:
        case {"all": {**rest}, **others} if not rest and not others:
            return "all"
        case {"latest": {"num_versions": count, **rest}, **others} if not rest and not others:
            return f"latest:{_integer('config.version_policy.latest.num_versions', count, 1)}"
        case {"specific": {"versions": [*numbers], **rest}, **others} if numbers and not rest and not others:
            what = "config.version_policy.specific.versions"
            return f"versions:{','.join(str(_integer(what, number, 1)) for number in numbers)}"
    raise BadRequest(
        'config.version_policy should be {"latest": {"num_versions": N}}, {"all": {}} or {"specific": {"versions": [N, ...]}}'
    )


def _dynamic_batching(value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value.keys() <= _BATCHING:
        raise BadRequest(f"of config.dynamic_batching only {' and '.join(sorted(_BATCHING))} can be changed")
    if "preferred_batch_size" in value:
        sizes, what = value["preferred_batch_size"], "config.dynamic_batching.preferred_batch_size"
        if not isinstance(sizes, list):
            raise BadRequest(f"{what} should be a list of sizes, not {shortened(repr(sizes))}")
        yield "preferred_batch_sizes", tuple(sorted({_integer(what, size, 1) for size in sizes}))
    if "max_queue_delay_microseconds" in value:
        what = "config.dynamic_batching.max_queue_delay_microseconds"
        yield "max_delay_ms", _integer(what, value["max_queue_delay_microseconds"], 0) / 1000


def _instances(value: Any) -> int:
    match value:
        case [{"count": count, **others}] if not others:
            return _integer("config.instance_group count", count, 1)
    raise BadRequest('config.instance_group should be [{"count": N}]: one group, of which the count can be changed')


def _integer(what: str, value: Any, least: int) -> int:
    """A whole number; as text too, as protobuf's JSON writes those of 64 bits."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 18:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadRequest(f"{what} should be a whole number from {least}, not {shortened(repr(value))}")
    return value


def _parameters(body: bytes) -> dict[str, Any]:
    asked = _object(body)
    parameters = asked.pop("parameters", {})
    if asked or not isinstance(parameters, dict):
        raise BadRequest('the body should be empty or {"parameters": {...}}')
    return parameters


def _object(body: bytes | str, what: str = "the body") -> dict[str, Any]:
    """The JSON object of a body; an empty body is an empty object."""
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise BadRequest(f"{what} is not JSON: {cause}") from cause
    if not isinstance(value, dict):
        raise BadRequest(f"{what} should be a JSON object, not {type(value).__name__}")
    return value


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or (host is not None and ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False
