"""The FastAPI application: complete under any ASGI server; under ours, the prediction routes are answered before it."""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from foundation.errors import StateserveError
from foundation.memory import give_back_freed_memory
from serving import logs, messages, openapi, ui_files
from serving.body import Arrivals, gathered, require_declared
from serving.error_answer import error_answer
from serving.errors import ClientLeft, ModelNotReady
from serving.execution import Execution
from serving.inference import Inference
from serving.metrics import Measured, Metrics
from serving.model import ServedModel, load_model
from serving.model_versions import LoadedVersion
from serving.plan import Plan
from serving.protocols import management, metadata
from serving.protocols.statistics import statistics
from serving.remote_repository import Mirror
from serving.repository import WHOLE, Event, Readiness, Repository, Routing
from serving.served import ServedVersion, limits_of
from serving.settings import ModelSettings, Settings
from serving.tracked import ID, Tracked

log = logging.getLogger("stateserve")


_LET_GO_S = 0.1
"""After so long nobody holds a version any more that was told to have left."""


class ListedVersion(LoadedVersion, Measured, Protocol):
    """A version that other processes run, as far as it is listed and counted here."""

    @property
    def runs(self) -> str:
        """Where its engines are, and how calls run there, for people."""
        ...

    @property
    def execution(self) -> Execution:
        """How its calls run in each process."""
        ...


class OtherProcesses(Routing, Protocol):
    """Where requests are answered and engines run, if not in this process."""

    async def load(self, name: str, version: int, directory: Path, settings: ModelSettings, /) -> ListedVersion:
        """Loads a version and checks it, there. Raises StateserveError where a check failed."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that they are seen from."""
        ...

    async def fresh(self) -> None:
        """Asks for what was counted up to now; returns when it was told, or it takes too long."""
        ...

    def failed(self) -> Mapping[str, int]:
        """Requests that failed there before their model was found, by reason. Any thread may ask."""
        ...

    def lacking(self) -> str | None:
        """Why no request is answered at all."""
        ...

    def why_not(self, version: Any, /) -> str | None:
        """Why a version that was loaded cannot answer now."""
        ...

    def lost_in(self, version: Any, /) -> str | None:
        """Why some requests for a version are not answered, though others are."""
        ...


@dataclass(slots=True)
class Running:
    """What one server consists of. `draining`: it answers, but says that it is not ready, since it is about to end.

    `why_not_ready` tells of what is served beside the repository, by name: .mar files. `others` are the processes beside this
    one, where there are any: then `repository` holds their versions.
    """

    settings: Settings
    repository: Repository[Any]
    metrics: Metrics
    inference: Inference
    new_id: Callable[[], str]
    draining: bool = False
    why_not_ready: Callable[[], Mapping[str, str]] = dict
    others: OtherProcesses | None = None

    def readiness(self) -> Readiness:
        """The repository's, and that of what is served beside it; where there is a model store, it need not serve a model."""
        found = self.repository.readiness()
        needs_no_model = self.settings.model_store is not None and self.repository.was_tried
        own = {name: why for name, why in found.reasons.items() if not (needs_no_model and name == WHOLE)}
        lost, warnings = self._lost()
        reasons = {**lost, **own, **self.why_not_ready()}
        return Readiness(not reasons, reasons, {**found.warnings, **warnings})

    def runs(self, served: Any) -> str:
        """Where a version's engine is, and how its calls run, for people."""
        return str(served.execution) if self.others is None else served.runs

    def devices(self, served: Any) -> Sequence[str]:
        """What a version's engines run on."""
        return (served.execution.device,) if self.others is None else served.devices

    def why_not(self, served: Any) -> str | None:
        """Why a version that was loaded cannot answer now."""
        return None if self.others is None else self.others.why_not(served)

    async def fresh(self) -> None:
        """Returns when what other processes counted is known here."""
        if self.others is not None:
            await self.others.fresh()

    def page(self) -> bytes:
        """The metrics in Prometheus' own text, for any thread but the event loop's."""
        if self.others is not None:
            asyncio.run_coroutine_threadsafe(self.others.fresh(), self.others.loop).result()
        return self.metrics.text(None)[0]

    def _lost(self) -> tuple[dict[str, str], dict[str, str]]:
        """What has no process to answer it: reasons not to be ready, and warnings, as `Readiness` has them."""
        reasons, warnings = {}, {}
        if self.others is not None and (lacking := self.others.lacking()) is not None:
            reasons[WHOLE] = lacking
        for name in self.repository.names():
            served = self.repository.find(name) if self.repository.has_default(name) else None
            if served is None or self.others is None:
                continue
            if (why := self.others.why_not(served)) is not None:
                (reasons if served.settings.required else warnings)[name] = why
            elif (why := self.others.lost_in(served)) is not None:
                warnings[name] = why
        return reasons, warnings


def create_app(settings: Settings, others: OtherProcesses | None = None) -> FastAPI:
    """The application for one repository, whose models are loaded when it starts. `app.state.running` holds its parts.

    With `others`, versions run there, and this process answers all but predictions.
    """
    running = _running(settings, others)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running.repository:
            yield
        running.inference.close()

    app = FastAPI(
        title="Stateserve",
        version=installed("stateserve"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.running = running
    app.mount("/docs/assets", openapi.docs_assets())
    if settings.ui:
        for path, endpoint in ui_files.routes().items():
            app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False)
    app.add_api_route("/", root, methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)
    app.add_api_route("/v2/", server_metadata, methods=["GET"], include_in_schema=False)
    for path, endpoint, summary in _ROUTES:
        named = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in re.findall(r"{(\w+)}", path)
        ]
        extra = {"parameters": named} if named else None
        app.add_api_route(path, endpoint, methods=["GET"], summary=summary, tags=["server and models"], openapi_extra=extra)
    for path, endpoint, _ in _HEALTH:
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    for path in _PREDICTION_PATHS:
        app.add_api_route(path, predict, methods=["POST"], include_in_schema=False)
    app.include_router(management.router(lambda: running.repository, settings))
    app.openapi = lambda: _document(app, running)
    for kind in (StateserveError, HTTPException, Exception):
        app.add_exception_handler(kind, on_error)
    app.add_middleware(Tracked, new_id=running.new_id)
    return app


def _running(settings: Settings, others: OtherProcesses | None) -> Running:
    limits = limits_of(settings)

    arrivals = Arrivals(settings.body_timeout_s)

    async def load(name: str, version: int, directory: Path, model_settings: ModelSettings) -> ServedModel:
        served = await load_model((name, version), directory, model_settings, limits, arrivals.__len__)
        _log_how(name, version, str(served.execution), served.execution.plan)
        return served

    def told(event: Event) -> None:
        _log_event(event)
        if event.what == "served":
            metrics.loaded(event.name, replaces=event.replaces)
        elif event.what == "failed":
            metrics.load_failed(event.name)
        elif event.what == "retired":
            loop = asyncio.get_running_loop()
            loop.call_later(_LET_GO_S, loop.run_in_executor, None, give_back_freed_memory)

    new_id = logs.request_ids()
    if others is not None:
        there = others

        async def load_there(name: str, version: int, directory: Path, model_settings: ModelSettings) -> ListedVersion:
            served = await there.load(name, version, directory, model_settings)
            _log_how(name, version, served.runs, served.execution.plan)
            return served

        repository = Repository(settings, load_there, told, others, source=_source(settings))
        metrics = Metrics(repository.served, repository.states, others.failed)
        inference = Inference(_ServedElsewhere(repository, others), metrics, arrivals, settings)
        return Running(settings, repository, metrics, inference, new_id, others=others)
    repository = Repository(settings, load, told, source=_source(settings))
    metrics = Metrics(repository.served, repository.states)
    return Running(settings, repository, metrics, Inference(repository, metrics, arrivals, settings), new_id)


def _source(settings: Settings) -> Mirror | None:
    """The storage that the repository is a copy of, where it is at a URL."""
    return Mirror(settings.repository, settings.repository_root) if isinstance(settings.repository, str) else None


class _ServedElsewhere:
    """What a process without engines finds for a prediction: why nobody answers it."""

    def __init__(self, repository: Repository[Any], others: OtherProcesses) -> None:
        self._repository = repository
        self._others = others

    def find(self, name: str, version: str | None = None) -> ServedVersion:
        """Never returns. Raises ModelNotFound, or ModelNotReady."""
        served = self._repository.find(name, version)
        why = self._others.why_not(served) or self._others.lost_in(served)
        raise ModelNotReady(why or f"{name} is about to be served; ask again")


def _log_how(name: str, version: int, runs: str, plan: Plan) -> None:
    facts = {"model": name, "version": version}
    log.info("%s version %s: %s", name, version, runs, extra=facts)
    if plan.told:
        log.log(logging.WARNING if plan.warns else logging.INFO, "%s version %s: %s", name, version, plan.told, extra=facts)


def _log_event(event: Event) -> None:
    facts = {"model": event.name, "version": event.version}
    match event.what:
        case "served":
            log.info("%s version %s passed its golden cases, in %.2f s", event.name, event.version, event.seconds, extra=facts)
        case "retired" if event.error is None:
            log.info("%s version %s answered all that it had begun, and left", event.name, event.version, extra=facts)
        case _:
            unforeseen = event.error if not isinstance(event.error, StateserveError) else None
            log.error(
                "%s version %s: %s: %s", event.name, event.version, event.what, event.error, extra=facts, exc_info=unforeseen
            )


async def root() -> RedirectResponse:
    """A person who opens the address wants to know what can be asked."""
    return RedirectResponse("docs")


async def docs() -> HTMLResponse:
    """The page that shows every model's own requests, and tries them."""
    return openapi.docs_page()


async def ping(request: Request) -> JSONResponse:
    """TorchServe's health: 200 Healthy, or 500 Unhealthy."""
    healthy = _of(request).readiness().ready
    return JSONResponse({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 500)


async def live() -> JSONResponse:
    """The process answers."""
    return JSONResponse({"live": True})


async def ready(request: Request) -> JSONResponse:
    """200 if every required model has a version that passed its checks; else, and before the end, 503 with the reasons."""
    running = _of(request)
    found = running.readiness()
    if running.draining:
        return JSONResponse({"ready": False, "error": "the server is about to end", "models": {}}, 503)
    if found.ready:
        return JSONResponse({"ready": True, **({"warnings": dict(found.warnings)} if found.warnings else {})})
    return JSONResponse({"ready": False, "error": "; ".join(found.reasons.values()), "models": dict(found.reasons)}, 503)


async def server_metadata(request: Request) -> dict[str, Any]:
    """Name, version, and the extensions of the protocol that are spoken."""
    return metadata.server_metadata(request.app.version)


async def models(request: Request) -> dict[str, list[str]]:
    """The models that are served, as KServe lists them."""
    return {"models": _of(request).repository.names()}


async def model_metadata(request: Request) -> dict[str, Any]:
    """Inputs, outputs and versions of a model."""
    repository = _of(request).repository
    served = repository.find(*_asked_for(request))
    versions = [one.version for one in repository.served(served.name)]
    properties = metadata.model_properties(served.artifact.manifest, repository.labels(served.name))
    engine = served.artifact.engine.name
    properties |= {"execution": _of(request).runs(served)}
    told = metadata.model_metadata(served.name, versions, served.signature, engine, properties)
    return {**told, **metadata.raw_metadata(served.artifact.operations)}


async def model_ready(request: Request) -> JSONResponse:
    """200 if the version passed its checks and is served; 503, with the reason, if it did not."""
    running, (model, version) = _of(request), _asked_for(request)
    try:
        why_not = running.why_not(running.repository.find(model, version))
    except ModelNotReady as error:
        why_not = str(error)
    if why_not is not None:
        return JSONResponse({"name": model, "ready": False, "error": why_not}, 503)
    return JSONResponse({"name": model, "ready": True})


async def model_config(request: Request) -> dict[str, Any]:
    """How a version joins requests and runs, as Triton's ModelConfig."""
    running = _of(request)
    served = running.repository.find(*_asked_for(request))
    settings, execution, devices = served.settings, served.execution, running.devices(served)
    instances = execution.instances if running.others is None else served.instances
    batching = metadata.Batching(
        max_rows=served.most_rows,
        max_queue_rows=served.max_queue_rows,
        instances=instances,
        devices=devices,
        preferred_rows=settings.preferred_batch_sizes,
        max_delay_ms=settings.max_delay_ms,
        priority_levels=settings.priority_levels,
        default_priority=settings.default_priority,
        default_timeout_s=settings.default_timeout_s,
        version_policy=str(settings.version_policy),
    )
    engine = served.artifact.engine.name
    facts = {
        "content_id": served.artifact.manifest.content_id,
        "execution": running.runs(served),
        "signature": metadata.signature_text(served.signature),
        "engine": engine,
        "device": ", ".join(devices),
        "precision": execution.precision,
        "threads": str(execution.threads),
        "instances": str(instances),
        "max_rows": str(execution.max_rows),
        **({"tuned": execution.plan.told} if execution.plan.told else {}),
        **({"labels": metadata.labels_text(served.labels)} if served.labels else {}),
    }
    return metadata.model_config(served.name, served.signature, engine, batching, facts)


async def model_statistics(request: Request) -> dict[str, Any]:
    """What was asked and how long it took, as Triton counts it: of one version, or of all of a model."""
    repository, (model, version) = _of(request).repository, _asked_for(request)
    found = repository.find(model, version)  # says what there is, if there is no such model
    await _of(request).fresh()
    return statistics(repository.served(model) if version is None else [found])


async def all_statistics(request: Request) -> dict[str, Any]:
    """What was asked of every model, and how long it took, as Triton counts it."""
    await _of(request).fresh()
    return statistics(_of(request).repository.served())


async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms, as Prometheus or OpenMetrics text."""
    await _of(request).fresh()
    text, content_type = await asyncio.to_thread(_of(request).metrics.text, request.headers.get("accept"))
    return Response(text, headers={"content-type": content_type})


async def predict(request: Request) -> Response:
    """The ASGI face of the prediction handlers; under our own server the RSGI face (serving/rsgi.py) answers first."""
    running = _of(request)
    inference, request_id, path = running.inference, _request_id(request), request.scope["path"]
    route = inference.route(path)
    if route is None:  # a name that holds a slash
        raise HTTPException(404, "Not Found")
    inference.active += 1
    try:
        body = await _body(request, running)
        asked = messages.Request("POST", path, request.scope["query_string"].decode("latin-1"), request.headers, body)
        answer = await inference.answer(route, asked, request_id, lambda: _left(request))
    except StateserveError as error:
        answer = inference.refuse(error, "POST", path, request_id)
    finally:
        inference.active -= 1
    return _response(answer)


async def on_error(request: Request, error: Exception) -> Response:
    """See serving/error_answer.py."""
    return _response(error_answer(error, request.method, request.scope["path"], _request_id(request)))


async def _body(request: Request, running: Running) -> bytes:
    """The body, within its limits.

    Raises:
        BodyTooLarge, BodyTimeout, BadRequest: it is larger than allowed, comes too slowly, or says no length that we read.
        ClientLeft: the client left before it was whole.
    """
    require_declared(request.headers.get("content-length"), running.settings.max_body_bytes)
    arrivals = running.inference.arrivals
    task = arrivals.begin(asyncio.get_running_loop(), time.perf_counter())
    try:
        body = await gathered(request.stream(), running.settings.max_body_bytes)
        arrivals.end(task)
    except ClientDisconnect as cause:
        arrivals.end(task)
        raise ClientLeft("the client left before its body was whole") from cause
    except (Exception, asyncio.CancelledError) as error:
        raise arrivals.ended_by(error, task) from error
    return body


async def _left(request: Request) -> None:
    """Ends when the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _response(answer: messages.Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    return response


def _of(request: Request) -> Running:
    return request.app.state.running


def _asked_for(request: Request) -> tuple[str, str | None]:
    """The model, and the version or its label, that the path names."""
    return request.path_params["model"], request.path_params.get("version")


def _request_id(request: Request) -> str:
    return request.scope[ID]


def _document(app: FastAPI, running: Running) -> dict[str, Any]:
    """The OpenAPI document, with every served version's own typed requests."""
    repository = running.repository
    served = repository.served()
    described = [
        openapi.Described(one.name, one.version, one.signature, one.max_queue_rows, one.artifact.operations) for one in served
    ]
    defaults = {name: repository.find(name).version for name in repository.names() if repository.has_default(name)}
    host = running.settings.host
    reached_at = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - it is compared
    return openapi.document(app, described, defaults, f"http://{reached_at}:{running.settings.port}")


_PREDICTION_PATHS = (
    "/v2/models/{model}/infer",
    "/v2/models/{model}/versions/{version}/infer",
    "/predictions/{model}",
    "/predictions/{model}/{version}",
)
_HEALTH = (
    ("/ping", ping, "Health, as TorchServe says it"),
    ("/ready", ready, "Whether everything that should be served can answer"),
    ("/v2/health/live", live, "Whether the process answers"),
    ("/v2/health/ready", ready, "Whether every required model passed its golden cases"),
)
_ROUTES = (
    *_HEALTH,
    ("/v2", server_metadata, "The server's metadata"),
    ("/v2/models", models, "The models that are served"),
    ("/v2/models/stats", all_statistics, "The statistics of all models"),
    ("/v2/models/{model}", model_metadata, "A model's metadata"),
    ("/v2/models/{model}/versions/{version}", model_metadata, "A version's metadata"),
    ("/v2/models/{model}/ready", model_ready, "Whether a model is ready"),
    ("/v2/models/{model}/versions/{version}/ready", model_ready, "Whether a version is ready"),
    ("/v2/models/{model}/config", model_config, "A model's configuration"),
    ("/v2/models/{model}/versions/{version}/config", model_config, "A version's configuration"),
    ("/v2/models/{model}/stats", model_statistics, "A model's statistics"),
    ("/v2/models/{model}/versions/{version}/stats", model_statistics, "A version's statistics"),
    ("/metrics", metrics, "Metrics for Prometheus"),
)
