"""The OpenAPI document: FastAPI's own, and for every served version typed paths that its signature makes.

It is remade whenever it is asked for, since models come and go while the server runs.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from artifact.operations import Operations, RawLimits
from artifact.signature import Signature, TensorSpec
from serving.protocols import examples, schemas
from serving.protocols.predictions import JSON, NPY, RAW
from serving.protocols.schemas import Described, Schema, any_of
from serving.protocols.tensors import DATATYPES
from serving.raw import described
from serving.raw.examples import example_row

_ERRORS: Mapping[int, str] = {
    400: "The request is not one that the model takes; the message says what was found and what is expected.",
    403: "The server's settings do not allow it: to fetch a picture from that URL, say.",
    404: "No model of that name, or version, is served.",
    406: "None of the forms that the client accepts is one that the server writes.",
    408: "The body did not arrive in time.",
    413: "The body, or a picture or text in it, is larger than the server takes.",
    415: "The body's content type or encoding is not one that the server reads.",
    500: "The server failed; its log says more under the request's id.",
    503: "The model is not ready, more rows wait than the server lets wait, or the engine's process ended.",
    504: "The request's own deadline passed before the engine could begin.",
    507: "The device has no memory for so many rows; fewer may fit.",
}

_ERROR_BODIES: Mapping[str, Schema] = {
    "OipError": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    "TorchServeError": {
        "type": "object",
        "required": ["code", "type", "message"],
        "properties": {"code": {"type": "integer"}, "type": {"type": "string"}, "message": {"type": "string"}},
    },
}

_HEADERS: Mapping[str, tuple[Schema, str]] = {
    "x-request-id": ({"type": "string"}, "The request's name in the server's log; sent back with the answer."),
    "x-timeout-ms": ({"type": "number", "exclusiveMinimum": 0}, "The request's own deadline: milliseconds from its arrival."),
}
_JSON_LENGTH: Mapping[str, tuple[Schema, str]] = {
    "Inference-Header-Content-Length": (
        {"type": "integer", "minimum": 0},
        "Of a binary body: the bytes of JSON before the first tensor.",
    ),
}

_TIMING: Schema = {
    "name": "timing",
    "in": "query",
    "required": False,
    "schema": {"type": "boolean"},
    "description": "Whether the answer's header Server-Timing says how long decode, queue, infer and encode took.",
}

_BYTES: Schema = {"type": "string", "format": "binary"}
_BINARY_TENSORS: Schema = {
    "description": "JSON of so many bytes as Inference-Header-Content-Length says, then every tensor's bytes in the order of the "
    "JSON: little-endian, row-major. A tensor has `parameters.binary_data_size` in the place of `data`.",
    **_BYTES,
}
_ONE_TENSOR: Schema = {
    RAW: {"schema": {"description": "One tensor's bytes: little-endian, row-major.", **_BYTES}},
    NPY: {"schema": {"description": "One tensor as `numpy.save` writes it.", **_BYTES}},
}
_TEXT: Schema = {"schema": {"type": "string"}}
_TEXTS: Mapping[str, Schema] = {
    "/metrics": {"200": {"description": "Metrics.", "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}}}
}
"""Answers that are no JSON, by their paths."""


def document(app: FastAPI, models: Iterable[Described], defaults: Mapping[str, int], url: str) -> dict[str, Any]:
    """The whole document.

    `defaults` says which version answers where a request names none; of a model that it does not name, the newest. `url` is the
    server's own, `http://host:port`, for the commands that stand in the place of long examples.
    """
    tags, paths = [], dict(_any_model())
    for name, versions in _by_name(models):
        default = defaults.get(name, versions[-1].version)
        tags.append({"name": name, "description": f"Versions: {', '.join(str(model.version) for model in versions)}"})
        for model in versions:
            if model.version == default:
                paths |= _model_paths(model, "", "", url)
            if len(versions) > 1:
                paths |= _model_paths(model, f"/versions/{model.version}", f"/{model.version}", url)
    own = FastAPI.openapi(app)  # not `app.openapi`, which calls this
    components = own.get("components", {})
    return {
        **own,
        "paths": {**{path: _with_our_errors(path, item) for path, item in own["paths"].items()}, **paths},
        "components": {**components, "schemas": _schemas(components.get("schemas", {})), "responses": _responses()},
        "tags": [*own.get("tags", []), *tags],
    }


def docs_page(openapi_url: str = "openapi.json", assets_url: str = "docs/assets") -> HTMLResponse:
    """The page that shows the document. Both addresses are relative to the page's own; nothing is loaded from elsewhere."""
    return get_swagger_ui_html(
        openapi_url=openapi_url,
        title="Stateserve",
        swagger_js_url=f"{assets_url}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets_url}/swagger-ui.css",
        swagger_favicon_url="data:,",
        swagger_ui_parameters={
            "tryItOutEnabled": True,
            "requestSnippetsEnabled": True,
            "defaultModelsExpandDepth": -1,
            "validatorUrl": None,
        },
    )


def docs_assets() -> StaticFiles:
    """The files of Swagger UI that the page loads, as the package fastapi-offline ships them."""
    return StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")


def _by_name(models: Iterable[Described]) -> Iterator[tuple[str, list[Described]]]:
    """Every model's versions, oldest first."""
    ordered = sorted(models, key=lambda model: (model.name, model.version))
    for name, versions in itertools.groupby(ordered, lambda model: model.name):
        yield name, list(versions)


def _model_paths(model: Described, oip_suffix: str, predictions_suffix: str, url: str) -> dict[str, Schema]:
    name = quote(model.name, safe="")
    infer, predictions = f"/v2/models/{name}{oip_suffix}/infer", f"/predictions/{name}{predictions_suffix}"
    return {infer: {"post": _infer(model, infer, url)}, predictions: {"post": _predictions(model, predictions, url)}}


def _infer(model: Described, path: str, url: str) -> Schema:
    example, command = examples.infer_example, examples.infer_command
    schema, raw = schemas.infer_request(model), model.operations
    if raw is not None and raw.raw_inputs:
        tensors = [described.infer_tensor(spec) for spec in raw.raw_inputs]
        sent = {"type": "array", "minItems": len(tensors), "maxItems": len(tensors), "items": any_of(tensors)}
        members = schema["properties"]
        schema = {**schema, "properties": {**members, "inputs": any_of([sent, members["inputs"]])}}
        json_body = {"schema": schema, "example": described.infer_example(raw.raw_inputs, example_row(raw, RawLimits()))}
        description = _description(model)
    else:
        json_body, description = _asked(model, schema, example, lambda: command(model.signature, url + path))
    return {
        "operationId": path.removeprefix("/v2/"),
        "tags": [model.name],
        "summary": f"Ask {model.name}, version {model.version}, by the Open Inference Protocol",
        "description": description,
        **_infer_bodies(json_body, schemas.infer_answer(model)),
    }


def _predictions(model: Described, path: str, url: str) -> Schema:
    signature, example, command = model.signature, examples.predictions_example, examples.predictions_command
    schema, answer, raw = schemas.predictions_request(model), schemas.predictions_answer(model), model.operations
    bodies, parameters = _one_tensor_bodies(signature.inputs), []
    if raw is not None and raw.predicts:
        answer = any_of([described.predictions_answer(schemas.served(model), model.max_rows), answer])
        parameters = [described.OUTPUTS]
    if raw is not None and raw.raw_inputs:
        json_body, raw_bodies = _raw_bodies(raw, schema, model.max_rows)
        bodies, description = {**raw_bodies, **bodies}, _description(model) + described.commands(raw.raw_inputs, url + path)
    else:
        json_body, description = _asked(model, schema, example, lambda: command(signature, url + path))
    asked = _predictions_bodies(json_body, answer, bodies, _ONE_TENSOR if len(signature.outputs) == 1 else {})
    return {
        "operationId": path.removeprefix("/"),
        "tags": [model.name],
        "summary": f"Ask {model.name}, version {model.version}",
        "description": description,
        **asked,
        "parameters": parameters + asked["parameters"],
    }


def _raw_bodies(raw: Operations, tensors: Schema, max_rows: int) -> tuple[Schema, Schema]:
    """A JSON body of raw values, or of tensors, with an example that can be sent; and the other forms of raw values."""
    row = example_row(raw, RawLimits())
    schema = any_of([described.predictions_request(raw, max_rows), tensors])
    return {"schema": schema, "example": described.predictions_example(row)}, described.bodies(raw, row, max_rows)


def _infer_bodies(json_body: Schema, answer: Schema) -> Schema:
    content = {JSON: json_body, RAW: {"schema": _BINARY_TENSORS}}
    answers = {JSON: {"schema": answer}, RAW: {"schema": _BINARY_TENSORS}}
    return {
        "parameters": [*_header_parameters({**_HEADERS, **_JSON_LENGTH}), _TIMING],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": {"description": "The outputs.", "content": answers}, **_error_references("OipError")},
    }


def _predictions_bodies(json_body: Schema, answer: Schema, bodies: Schema, answers: Schema) -> Schema:
    """`bodies` and `answers` are the forms other than JSON."""
    content = {JSON: {"schema": answer}, **answers}
    return {
        "parameters": [*_header_parameters(_HEADERS), _TIMING],
        "requestBody": {"required": True, "content": {JSON: json_body, **bodies}},
        "responses": {"200": {"description": "The outputs.", "content": content}, **_error_references("TorchServeError")},
    }


def _one_tensor_bodies(specs: Sequence[TensorSpec]) -> Schema:
    """The forms that hold one input and nothing else; bytes alone do not tell several sizes."""
    if len(specs) > 1:
        return {}
    return _ONE_TENSOR if sum(isinstance(size, str) for size in specs[0].shape) <= 1 else {NPY: _ONE_TENSOR[NPY]}


def _any_model() -> dict[str, Schema]:
    """The routes with a placeholder for the model, of which nothing is known."""
    infer = _infer_bodies({"schema": _component("InferRequest")}, _component("InferAnswer"))
    predictions = _predictions_bodies(
        {"schema": _component("PredictionsRequest")},
        _component("PredictionsAnswer"),
        {**described.ANY_BODIES, **_ONE_TENSOR},
        _ONE_TENSOR,
    )
    routes = {
        "/v2/models/{model}/infer": ("Ask a model, by the Open Inference Protocol", infer),
        "/v2/models/{model}/versions/{version}/infer": ("Ask one version, by the Open Inference Protocol", infer),
        "/predictions/{model}": ("Ask a model", predictions),
        "/predictions/{model}/{version}": ("Ask one version", predictions),
    }
    return {path: {"post": _templated(path, summary, bodies)} for path, (summary, bodies) in routes.items()}


def _templated(path: str, summary: str, bodies: Schema) -> Schema:
    named = [name for name in ("model", "version") if f"{{{name}}}" in path]
    parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named]
    return {
        "operationId": path,
        "tags": ["any model"],
        "summary": summary,
        **bodies,
        "parameters": parameters + bodies["parameters"],
    }


def _asked(
    model: Described, schema: Schema, example: Callable[[Signature], Any], command: Callable[[], str]
) -> tuple[Schema, str]:
    """A JSON body with an example, and its description; where the example is too long, that tells the command instead."""
    if examples.is_short(model.signature):
        return {"schema": schema, "example": example(model.signature)}, _description(model)
    return {"schema": schema}, _description(model) + _too_long(command())


def _description(model: Described) -> str:
    """A table of what goes in and what comes out."""
    rows = [] if model.operations is None else described.table_rows(model.operations.raw_inputs)
    rows += [_row("in", spec) for spec in model.signature.inputs]
    rows += [_row("out", spec) for spec in model.signature.outputs]
    sizes = [f"- `{name}`: {dim}" for name, dim in model.dims.items()]
    table = "\n".join(["| | name | datatype | shape | values |", "|---|---|---|---|---|", *rows])
    return table + ("\n\n" + "\n".join(sizes) if sizes else "")


def _row(direction: str, spec: TensorSpec) -> str:
    values = "" if spec.range is None else f"{spec.range[0]} to {spec.range[1]}"
    if spec.labels is not None:
        values = f"one for each line of {spec.labels}"
    shape = ", ".join(str(size) for size in spec.shape)
    return f"| {direction} | `{spec.name}` | {DATATYPES[spec.dtype]} | `[{shape}]` | {values} |"


def _too_long(command: str) -> str:
    return f"\n\nA body is too long to stand here. This makes one and sends it:\n\n```sh\n{command}\n```"


def _with_our_errors(path: str, item: Schema) -> Schema:
    """Without FastAPI's 422, which we never answer, and with the errors that we do."""
    error = _error_content("OipError" if path.startswith("/v2") else "TorchServeError")
    return {
        method: {
            **operation,
            "responses": {
                **{status: answer for status, answer in operation["responses"].items() if status != "422"},
                **_TEXTS.get(path, {}),
                "default": {"description": "An error.", "content": error},
            },
        }
        for method, operation in item.items()
    }


def _schemas(own: Schema) -> Schema:
    kept = {name: schema for name, schema in own.items() if name not in {"HTTPValidationError", "ValidationError"}}
    return {**kept, **schemas.ANY_MODEL, **_ERROR_BODIES}


def _responses() -> Schema:
    """Every error in both protocols' words, under names such as OipError503."""
    return {f"{kind}{status}": _error(kind, status, text) for kind in _ERROR_BODIES for status, text in _ERRORS.items()}


def _error(kind: str, status: int, description: str) -> Schema:
    headers: Schema = {"x-request-id": {"schema": {"type": "string"}}}
    if status == 503:
        headers["Retry-After"] = {
            "description": "Seconds until the rows that wait should be answered; where the queue is full.",
            "schema": {"type": "integer", "minimum": 0},
        }
    return {"description": description, "headers": headers, "content": _error_content(kind)}


def _error_content(kind: str) -> Schema:
    return {JSON: {"schema": _component(kind)}}


def _error_references(kind: str) -> Schema:
    return {str(status): {"$ref": f"#/components/responses/{kind}{status}"} for status in _ERRORS}


def _component(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _header_parameters(headers: Mapping[str, tuple[Schema, str]]) -> list[Schema]:
    return [
        {"name": name, "in": "header", "required": False, "schema": schema, "description": description}
        for name, (schema, description) in headers.items()
    ]
