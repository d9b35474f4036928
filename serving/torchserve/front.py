"""What TorchServe's paths answer, on a listener of one connector or several: the order of its handlers, tokens, predictions."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from serving.inference import SMALL_BYTES
from serving.messages import Leaving, Request
from serving.settings import Settings
from serving.torchserve.addresses import Connector
from serving.torchserve.answers import Answer, AnswerHeaders, error_answer, json_answer
from serving.torchserve.documents import TORCHSERVE_VERSION, connector_document, prediction_document
from serving.torchserve.errors import (
    NOT_ALLOWED,
    NOT_FOUND,
    BadRequestException,
    MethodNotAllowedException,
    ResourceNotFoundException,
)
from serving.torchserve.forms import body_inputs, query_inputs
from serving.torchserve.jobs import Input, Job, told_headers
from serving.torchserve.metrics.metrics import CONTENT_TYPE, TorchServeMetrics
from serving.torchserve.registry.models import Models
from serving.torchserve.routes import (
    Place,
    Prediction,
    api_place,
    inference_place,
    is_native,
    is_open,
    management_place,
    manages,
    oip_place,
    segments_of,
)
from serving.torchserve.tokens import Kind, Tokens

log = logging.getLogger("stateserve")

_SINGLE_PORT = frozenset[Connector]({"inference", "management"})
_CHANGING = frozenset({"POST", "PUT", "DELETE"})
"""Methods of the management API that leave a line in the log."""
_MANY_ROUTES = 1024
_LONGEST_KEPT_PATH = 512

Manage = Callable[[Request], Awaitable[Answer]]
"""Answers a request to the management API."""


@dataclass(frozen=True)
class Parts:
    """What the listeners of one server share. `tokens` is None where none are asked for; `is_native` knows the artifacts."""

    models: Models
    metrics: TorchServeMetrics
    manage: Manage
    is_native: Callable[[str], bool]
    tokens: Tokens | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a path goes: which handler answers, and what tokens it asks for before."""

    place: Place
    tokens: tuple[Kind, ...] = ()
    prediction: Prediction | None = None


class Front:
    """Answers the requests of one listener.

    In `compat` mode it answers every path but those of the application beside it; else only those that the application has not.
    """

    def __init__(self, connectors: frozenset[Connector], parts: Parts, settings: Settings) -> None:
        self._connectors = connectors | {"metrics"} if connectors >= _SINGLE_PORT else connectors
        self._parts = parts
        self._headers = AnswerHeaders(settings)
        self._compat = settings.model_store is not None
        self._oip = settings.ts_open_inference_protocol
        self._routes: dict[str, Route] = {}

    def route(self, path: str) -> Route:
        """Where a percent-decoded path goes; remembered, since clients ask for few."""
        try:
            return self._routes[path]
        except KeyError:
            found = self._found(path)
            if len(path) <= _LONGEST_KEPT_PATH:
                if len(self._routes) >= _MANY_ROUTES:
                    self._routes.clear()
                self._routes[path] = found
            return found

    def is_native(self, route: Route) -> bool:
        """Whether the application beside TorchServe's paths answers: a path of its own, or a model that is an artifact."""
        asked = route.prediction
        if asked is None or asked.model is None:
            return route.place == "native"
        return self._parts.is_native(asked.model) or (asked.oip and not self._parts.models.versions(asked.model))

    def require_tokens(self, route: Route, authorization: str | None) -> None:
        """Lets a request pass, or not. Raises InvalidKeyException."""
        if self._parts.tokens is not None:
            for kind in route.tokens:
                self._parts.tokens.require(kind, authorization)

    async def answer(self, route: Route, request: Request, request_id: str, leaving: Leaving) -> Answer:
        """The answer to a request that `require_tokens` let pass, an error's too; raises nothing but CancelledError."""
        answer = await self._outcome(route, request, request_id, leaving)
        if route.place == "management" and request.method in _CHANGING:
            log.info("%s %s: %d", request.method, request.path, answer.status, extra={"request_id": request_id})
        return answer

    async def _outcome(self, route: Route, request: Request, request_id: str, leaving: Leaving) -> Answer:
        try:
            if route.prediction is not None:
                return await self._predicted(route.prediction, request, request_id, leaving)
            return await self._answered(route.place, request)
        except Exception as error:  # noqa: BLE001 - every error has its answer
            return error_answer(error, request_id)

    def finish(self, answer: Answer, request_id: str, *, closes: bool) -> None:
        """Counts the answer, and adds what every answer carries; a body that was too large has an answer of nothing."""
        self._parts.metrics.answered(answer.status)
        if answer.status == 413 and not answer.body:
            answer.headers.append(("connection", "close"))
        else:
            self._headers.add(answer, request_id, closes=closes)

    def _found(self, path: str) -> Route:
        """The first handler that knows the path, in TorchServe's order; what it passes asks for its token."""
        segments, tokens = segments_of(path), ()
        if (described := api_place(segments)) is not None and (self._compat or "inference" not in self._connectors):
            return Route(described)
        if "inference" in self._connectors:
            if not self._compat:
                return self._beside_native(segments)
            tokens = ("inference",)
            if (found := inference_place(segments) or self._oip_place(segments)) is not None:
                return Route(found[0], tokens, found[1])
            if is_native(path) and not (path == "/metrics" and "metrics" in self._connectors):
                return Route("native", () if is_open(path) else ("management",) if manages(path) else tokens)
        return self._managed(segments, tokens) or Route("nowhere", tokens)

    def _beside_native(self, segments: list[str]) -> Route:
        """Without a model store, the application comes first."""
        if segments[1:2] == ["metrics"]:
            return Route("native")
        return self._managed(segments, ()) or Route("native")

    def _managed(self, segments: list[str], before: tuple[Kind, ...]) -> Route | None:
        """What management and metrics answer; `before` are the tokens that were asked for until here."""
        tokens = before
        if "management" in self._connectors:
            place = management_place(segments)
            if place == "token" and self._parts.tokens is not None:
                return Route("management", before)
            tokens = (*before, "management")
            if place == "management":
                return Route(place, tokens)
        if "metrics" in self._connectors and segments[1:2] == ["metrics"]:
            return Route("metrics", tokens if self._connectors >= _SINGLE_PORT else ())
        return Route("nowhere", tokens) if self._compat or "inference" not in self._connectors else None

    def _oip_place(self, segments: list[str]) -> tuple[Place, None] | None:
        if not self._oip:
            return None
        place = oip_place(segments, self._parts.is_native)
        return None if place is None else (place, None)

    async def _answered(self, place: Place, request: Request) -> Answer:
        match place:
            case "ping":
                healthy = self._parts.models.healthy
                return json_answer({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 500)
            case "management":
                return await self._parts.manage(request)
            case "metrics":
                names = parse_qs(request.query, keep_blank_values=True).get("name[]", [])
                return Answer(200, await asyncio.to_thread(self._parts.metrics.text, names), [("content-type", CONTENT_TYPE)])
            case "root" if request.method != "OPTIONS":
                raise MethodNotAllowedException(NOT_ALLOWED)
            case "root" | "api":
                return json_answer(connector_document(self._connectors))
            case "oip_server" | "oip_live" | "oip_ready" | "oip_version":
                return json_answer(*_OIP[place])
        raise ResourceNotFoundException(NOT_FOUND)

    async def _predicted(self, asked: Prediction, request: Request, request_id: str, leaving: Leaving) -> Answer:
        inputs = await self._inputs(asked, request)
        name = asked.model if asked.model is not None else self._unnamed(request.query, inputs)
        model = self._parts.models.find(name, asked.version)
        if request.method == "OPTIONS":
            return json_answer(prediction_document(name))
        self._parts.metrics.requested(name, asked.version)
        job = Job(request_id, (*told_headers(request), *asked.headers), inputs)
        return self._headers.answer(await model.predict(job, leaving, version=asked.version))

    async def _inputs(self, asked: Prediction, request: Request) -> tuple[Input, ...]:
        content_type, body = request.headers.get("content-type"), request.body
        if content_type is not None and len(body) > SMALL_BYTES and "form" in content_type:
            inputs = await asyncio.to_thread(body_inputs, content_type, body)
        else:
            inputs = body_inputs(content_type, body)
        if asked.with_query and request.query:
            inputs = tuple({one.name: one for one in (*query_inputs(request.query), *inputs)}.values())
        return inputs

    def _unnamed(self, query: str, inputs: tuple[Input, ...]) -> str:
        """The model of a path without one: the query's, the only one that the server began with, or the form's.

        Raises:
            BadRequestException: it is none of these.
        """
        at_start = self._parts.models.at_start()
        named = [one for one in (*query_inputs(query), *inputs) if one.name == "model_name"]
        if len(at_start) == 1 and "model_name" not in parse_qs(query):
            return at_start[0]
        if not named:
            raise BadRequestException("Parameter model_name is required.")
        return named[0].value.decode("utf-8", "replace")


_OIP: dict[str, tuple[Any, int]] = {
    "oip_server": ({"name": "Torchserve", "version": TORCHSERVE_VERSION, "extenstion": ["kserve", "kubeflow"]}, 200),
    "oip_live": ({"live": True}, 200),
    "oip_ready": ({"ready": True}, 200),
    "oip_version": ({"error": "Model versioning is not yet supported."}, 501),
}
