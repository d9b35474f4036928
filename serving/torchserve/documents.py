"""What can be asked of a connector, as OpenAPI 3.0.1 with TorchServe's paths and operation ids: the answer to `OPTIONS /`."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from serving.torchserve.addresses import Connector

TORCHSERVE_VERSION = "0.12.0"
"""The version whose ways are spoken."""

Json = dict[str, Any]
Operation = dict[str, Any]

_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "integer"}
_SWITCH: Json = {"type": "boolean", "default": False}
_ANYTHING: Json = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@functools.cache
def connector_document(connectors: frozenset[Connector]) -> Mapping[str, Any]:
    """The document of a listener, which is one connector or several."""
    paths: Json = {}
    if connectors != {"metrics"}:
        paths["/"] = {"options": _operation("apiDescription", "This document.", {200: _OPENAPI})}
    if "inference" in connectors:
        paths |= _inference()
    if "management" in connectors:
        paths |= {"/models": {"get": _list_models(), "post": _register_model()}, **_of_one_model()}
    if connectors != {"metrics"}:
        described = _operation("api-description", "The document, under the path of old servers.", {200: _OPENAPI})
        paths["/api-description"] = {"get": {**described, "deprecated": True}}
    paths["/metrics"] = {"get": _metrics()}
    about = {"description": "Models in .mar files, as TorchServe serves them.", "version": TORCHSERVE_VERSION}
    return _document({"title": "TorchServe APIs", **about}, paths)


def prediction_document(model: str) -> Mapping[str, Any]:
    """The document of one model's predictions."""
    operation = _operation(model, f"A prediction of the model {model}.", {200: None})
    paths = (f"/prediction/{model}", "/v1/models/{model_name}:predict", "/v2/models/{model_name}/infer")
    return _document({"title": f"RESTful API for: {model}", "version": "1.0.0"}, {path: {"post": operation} for path in paths})


def management_document(model: str) -> Mapping[str, Any]:
    """The document of one model's management."""
    return _document({"title": f"RESTful Management API for: {model}", "version": TORCHSERVE_VERSION}, _of_one_model())


def _document(info: Json, paths: Json) -> Json:
    return {"openapi": "3.0.1", "info": info, "paths": paths}


def _operation(
    operation_id: str, does: str, answers: Mapping[int, Json | None], *parameters: Json, errors: Sequence[int] = (500,)
) -> Operation:
    """One method of one path; `answers` are schemas of JSON bodies by status."""
    told = {str(status): _answer("What was asked for.", schema) for status, schema in answers.items()}
    failed = {str(status): _answer(_ERRORS[status], _ERROR) for status in errors}
    return {"description": does, "operationId": operation_id, "parameters": list(parameters), "responses": {**told, **failed}}


def _answer(does: str, schema: Json | None) -> Json:
    return {"description": does, **({"content": {"application/json": {"schema": schema}}} if schema else {})}


def _object(properties: Mapping[str, Json], *optional: str) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": dict(properties)}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _in_path(name: str, what: str) -> Json:
    return {"in": "path", "name": name, "description": what, "required": True, "schema": _TEXT}


def _in_query(name: str, what: str, schema: Json, *, required: bool = False, default: Any = None) -> Json:
    full = schema if default is None else {**schema, "default": default}
    return {"in": "query", "name": name, "description": what, "required": required, "schema": full}


_MODEL = _in_path("model_name", "The model's name.")
_VERSION = _in_path("model_version", "The model's version.")
_SYNCHRONOUS = _in_query("synchronous", "Whether the answer waits until it is done.", _SWITCH)
_TIMEOUT = _in_query("timeout", "Has no effect.", _NUMBER, default=-1)
_OPENAPI = _object({"openapi": _TEXT, "info": {"type": "object"}, "paths": {"type": "object"}})
_STATUS = _object({"status": _TEXT})
_ERROR = _object({"code": _NUMBER, "type": _TEXT, "message": _TEXT})
_ERRORS = {
    400: "The request is wrong.",
    404: "There is no such model or version.",
    408: "It took too long.",
    409: "There is such a version already.",
    500: "The server failed.",
    503: "No worker is there for it now.",
}
_NOT_PREDICTED = (404, 500, 503)
_DONE_OR_BEGUN: Mapping[int, Json | None] = dict.fromkeys((200, 202), _STATUS)
_DONE_OR_NOT: Mapping[int, Json | None] = dict.fromkeys((200, 202, 210), _STATUS)
_WORKER = _object({"id": _TEXT, "startTime": _TEXT, "status": _TEXT, "gpu": {"type": "boolean"}, "memoryUsage": _NUMBER})
_DESCRIBED = _object(
    {
        **dict.fromkeys(("modelName", "modelVersion", "modelUrl"), _TEXT),
        **dict.fromkeys(("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay"), _NUMBER),
        "status": _TEXT,
        "workers": _list(_WORKER),
        "metrics": {"type": "object"},
        "jobQueueStatus": _object({"remainingCapacity": _NUMBER, "pendingRequests": _NUMBER}),
    },
    "batchSize",
    "maxBatchDelay",
)


def _inference() -> Json:
    health = {200: _object({"status": _TEXT})}
    of_model = {"post": _prediction("predictions", _MODEL)}
    return {
        "/ping": {"get": _operation("ping", "Whether every model has the workers that it should have.", health)},
        "/v1/models/{model_name}:predict": of_model,
        "/v2/models/{model_name}/infer": of_model,
        "/predictions/{model_name}": of_model,
        "/predictions/{model_name}/{model_version}": {"post": _prediction("version_predictions", _MODEL, _VERSION)},
    }


def _prediction(operation_id: str, *parameters: Json) -> Operation:
    operation = _operation(
        operation_id, "A prediction: the model's handler reads the body.", {}, *parameters, errors=(404, 500, 503)
    )
    asked = {"description": "What the handler takes.", "content": _ANYTHING, "required": True}
    answered = {"200": {"description": "What the handler answers.", "content": _ANYTHING}}
    return {**operation, "requestBody": asked, "responses": {**answered, **operation["responses"]}}


def _metrics() -> Operation:
    operation = _operation(
        "metrics", "Metrics for Prometheus.", {}, _in_query("name[]", "Only metrics of this name.", _TEXT), errors=(500,)
    )
    page = _object({"# HELP": _TEXT, "# TYPE": _TEXT, "metric": _TEXT})
    answered = {"200": {"description": "The metrics.", "content": {_METRICS_TYPE: {"schema": page}}}}
    return {**operation, "responses": {**answered, **operation["responses"]}}


def _list_models() -> Operation:
    found = _object({"nextPageToken": _TEXT, "models": _list(_object({"modelName": _TEXT, "modelUrl": _TEXT}))}, "nextPageToken")
    limit = _in_query("limit", "How many models are listed, at most.", _NUMBER, default=100)
    token = _in_query("next_page_token", "Where the page before this one ended.", _TEXT)
    return _operation("listModels", "The models that are registered.", {200: found}, limit, token)


def _register_model() -> Operation:
    return _operation(
        "registerModel",
        "Registers a .mar file.",
        _DONE_OR_NOT,
        _in_query("url", "The file: its name in the model store, or its address.", _TEXT, required=True),
        _in_query("model_name", "The model's name, instead of the archive's.", _TEXT),
        _in_query("handler", "The handler, instead of the archive's.", _TEXT),
        _in_query("runtime", "The runtime, instead of the archive's.", _TEXT),
        _in_query("batch_size", "Requests that the handler is given at once, at most.", _NUMBER, default=1),
        _in_query("max_batch_delay", "Milliseconds that a batch may wait to be full.", _NUMBER, default=100),
        _in_query("response_timeout", "Seconds that a worker may take to answer.", _NUMBER, default=2),
        _in_query("startup_timeout", "Seconds that a worker may take to start.", _NUMBER, default=120),
        _in_query("initial_workers", "Workers that are started.", _NUMBER, default=0),
        _SYNCHRONOUS,
        _in_query("s3_sse_kms", "Has no effect.", _SWITCH),
        errors=(400, 404, 409, 500),
    )


def _of_one_model() -> Json:
    default = "the default version"
    return {
        "/models/{model_name}": _methods("", f"of {default}", _MODEL),
        "/models/{model_name}/{model_version}": _methods("version_", "of a version", _MODEL, _VERSION),
        "/models/{model_name}/{model_version}/set-default": {
            "put": _operation("setDefault", f"Makes a version {default}.", {200: _STATUS}, _MODEL, _VERSION, errors=(404, 500))
        },
    }


def _methods(prefix: str, which: str, *place: Json) -> Json:
    workers = (
        _in_query("min_worker", "Workers, at least.", _NUMBER, default=1),
        _in_query("max_worker", "Workers, at most.", _NUMBER, default=1),
        _in_query("number_gpu", "Has no effect.", _NUMBER, default=0),
        _SYNCHRONOUS,
        _TIMEOUT,
    )
    described = _operation(f"{prefix}describeModel", f"What holds {which}.", {200: _DESCRIBED}, *place, errors=(404, 500))
    return {
        "get": described,
        "put": _operation(
            f"{prefix}setAutoScale", f"Sets the workers {which}.", _DONE_OR_NOT, *place, *workers, errors=(400, 404, 500)
        ),
        "delete": _operation(
            f"{prefix}unregisterModel",
            f"Ends the workers {which}.",
            _DONE_OR_BEGUN,
            *place,
            _SYNCHRONOUS,
            _TIMEOUT,
            errors=(404, 408, 500),
        ),
    }
