"""The OpenAPI document says what the server takes: schemas, examples and commands agree with the signature's own check."""

import json
import re
import shlex
import subprocess
import sys
from typing import Any

import jsonschema
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from openapi_spec_validator import validate

from artifact.signature import DTYPES, Dim, Signature, TensorSpec
from serving.openapi import docs_assets, docs_page, document
from serving.protocols.schemas import Described
from serving.protocols.tensors import NUMPY

URL = "http://127.0.0.1:8080"
ROWS = {"batch": Dim(2, 16, opt=8)}
LOGITS = TensorSpec("logits", "float32", ("batch", 10), labels="labels.txt")

SIGNATURES = {
    "image": Signature(
        (TensorSpec("image", "float32", ("batch", 3, "height", 8), (-0.1, 0.1)),),
        (LOGITS,),
        {**ROWS, "height": Dim(5, 16, multiple=4, opt=12)},
    ),
    "photo": Signature(
        (TensorSpec("photo", "uint8", ("batch", "side", "side", 3), (0, 255)),),
        (LOGITS,),
        {**ROWS, "side": Dim(32, 256, opt=40)},
    ),
    "tokens": Signature(
        (TensorSpec("ids", "int64", ("batch", "length"), (0, 30521)), TensorSpec("mask", "int64", ("batch", "length"), (0, 1))),
        (LOGITS, TensorSpec("seen", "bool", ("batch",))),
        {**ROWS, "length": Dim(1, 512)},
    ),
    "flags": Signature((TensorSpec("flags", "bool", (2, 3)),), (TensorSpec("any", "bool", ()),)),
    "scalar": Signature((TensorSpec("x", "float16", (), (-1e6, 1e6)),), (TensorSpec("y", "float64", (1, 2)),)),
    "unbounded": Signature((TensorSpec("x", "float64", ("batch", 4)), TensorSpec("n", "int8", ("batch",))), (LOGITS,), ROWS),
    "odd name {#/%}": Signature((TensorSpec('it\'s "x"|ü', "int32", (3,), (-1, 5)),), (TensorSpec("y", "int32", (3,)),)),
}


def make_app():
    app = FastAPI(title="Stateserve", docs_url=None, redoc_url=None)

    def metadata(model: str) -> dict[str, Any]:
        return {"name": model}

    app.add_api_route("/v2/models/{model}", metadata, methods=["GET"])
    app.add_api_route("/models/{model}", metadata, methods=["GET"])
    app.add_api_route("/docs", docs_page, methods=["GET"], include_in_schema=False)
    app.mount("/docs/assets", docs_assets())
    return app


@pytest.fixture(scope="module")
def made():
    """The document of one version of every model above."""
    models = [Described(name, 7, signature, 128) for name, signature in SIGNATURES.items()]
    return document(make_app(), models, {}, URL)


def paths_of(name):
    escaped = name.replace("%", "%25").replace(" ", "%20").replace("{#/", "%7B%23%2F").replace("}", "%7D")
    return f"/v2/models/{escaped}/infer", f"/predictions/{escaped}"


def json_body(made, path):
    return made["paths"][path]["post"]["requestBody"]["content"]["application/json"]


def arrays_of_infer(body):
    return {each["name"]: np.array(each["data"], NUMPY[each["datatype"]]).reshape(each["shape"]) for each in body["inputs"]}


def arrays_of_predictions(body, signature):
    return {spec.name: np.array(body["inputs"][spec.name], DTYPES[spec.dtype]) for spec in signature.inputs}


def accepts(schema, body):
    return jsonschema.Draft202012Validator(schema).is_valid(body)


def test_it_is_valid(made):
    """The document is valid OpenAPI 3.1, with models and without."""
    assert made["openapi"].startswith("3.1")
    validate(made)
    validate(document(make_app(), [], {}, URL))


@pytest.mark.parametrize("name", [name for name in SIGNATURES if name != "photo"])
def test_examples(made, name):
    """A model's examples fit their schema, and the signature's own check takes them."""
    signature = SIGNATURES[name]
    infer, predictions = (json_body(made, path) for path in paths_of(name))
    jsonschema.Draft202012Validator(infer["schema"]).validate(infer["example"])
    jsonschema.Draft202012Validator(predictions["schema"]).validate(predictions["example"])

    for arrays in (arrays_of_infer(infer["example"]), arrays_of_predictions(predictions["example"], signature)):
        sizes = signature.validate(arrays)
        assert signature.batch_dim is None or sizes["batch"] == 2


@pytest.mark.parametrize("name", ["photo"])
def test_commands(made, name):
    """An example of more than 2,000 numbers is a command instead, whose body fits the schema and the signature's check."""
    signature = SIGNATURES[name]
    for path in paths_of(name):
        operation = made["paths"][path]["post"]
        body = json_body(made, path)
        (command,) = re.findall(r"```sh\n(.*)\n```", operation["description"])
        python, _, curl = command.partition(" | ")
        _, *arguments = shlex.split(python)
        sent = json.loads(subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60).stdout)

        assert "example" not in body
        assert shlex.split(curl)[-1] == URL + path
        assert accepts(body["schema"], sent)
        arrays = arrays_of_infer(sent) if path.startswith("/v2") else arrays_of_predictions(sent, signature)
        assert signature.validate(arrays) == {"batch": 2, "side": 40}


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": []},
        {"inputs": [{"name": "image", "datatype": "FP64", "shape": [2, 3, 8, 8], "data": [0] * 384}]},
        {"inputs": [{"name": "picture", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": [0] * 384}]},
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 4, 8, 8], "data": [0] * 512}]},
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0] * 192}]},
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3, 9, 8], "data": [0] * 432}]},
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": [0.2] * 384}]},
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": [True] * 384}]},
        {"inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3, 8, 8]}]},
        {"outputs": [{"name": "nothing"}]},
        {"parameters": {"priority": -1}},
    ],
)
def test_infer_refusals(made, change):
    """The schema of infer refuses names, datatypes, shapes and values that the signature does not allow."""
    body = json_body(made, "/v2/models/image/infer")
    good = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3, 8, 8], "data": [0.1] * 384}]}

    assert accepts(body["schema"], good)
    assert accepts(body["schema"], {**good, "inputs": [{**good["inputs"][0], "data": np.zeros((2, 3, 8, 8)).tolist()}]})
    assert not accepts(body["schema"], {**good, **change})


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"ids": [[1], [2]]},
        {"ids": [[1], [2]], "mask": [[1], [1]], "kinds": [[0], [0]]},
        {"ids": [[1]], "mask": [[1]]},
        {"ids": [[1], [30522]], "mask": [[1], [1]]},
        {"ids": [[1], [2.5]], "mask": [[1], [1]]},
        {"ids": [[1], [2]], "mask": [[True], [True]]},
        {"ids": [1, 2], "mask": [[1], [1]]},
        {"ids": [[1] * 513] * 2, "mask": [[1], [1]]},
    ],
)
def test_predictions_refusals(made, inputs):
    """So does the schema of predictions."""
    schema = json_body(made, "/predictions/tokens")["schema"]

    assert accepts(schema, {"inputs": {"ids": [[1], [2]], "mask": [[1], [1]]}})
    assert not accepts(schema, {"inputs": inputs})


def test_rows(made):
    """A request may have more rows than one call of the engine: the schema says how many."""
    schema = json_body(made, "/predictions/unbounded")["schema"]

    assert accepts(schema, {"inputs": {"x": [[0, 1, 2, 3]] * 128, "n": [-128] * 128}})
    assert not accepts(schema, {"inputs": {"x": [[0, 1, 2, 3]] * 129, "n": [-128] * 129}})
    assert not accepts(schema, {"inputs": {"x": [[0, 1, 2, 3]] * 2, "n": [-129, 0]}})


def test_answers(made):
    """The schemas of answers take what is answered: null for NaN, classes where asked for, and no other model's."""
    infer, predictions = (
        made["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"] for path in paths_of("tokens")
    )
    head = {"model_name": "tokens", "model_version": "7"}
    logits = {"name": "logits", "datatype": "FP32", "shape": [2, 10], "data": [None, 0.5] * 10}
    classes = {"name": "logits", "datatype": "BYTES", "shape": [2, 1], "data": ["0.5:1:cat", "0.5:1:cat"]}

    assert accepts(infer, {**head, "id": "a", "outputs": [logits]})
    assert accepts(
        infer, {**head, "outputs": [classes, {"name": "seen", "datatype": "BOOL", "shape": [2], "data": [True, False]}]}
    )
    assert not accepts(infer, {**head, "outputs": [{**logits, "shape": [2, 9]}]})
    assert not accepts(infer, {**head, "model_version": "8", "outputs": [logits]})
    assert accepts(predictions, {**head, "outputs": {"logits": [[None, 0.5] * 5] * 2, "seen": [True, False]}})
    assert not accepts(predictions, {**head, "outputs": {"logits": [[0.5] * 10] * 2}})


def test_versions():
    """Each of several versions has paths of its own, and the default version the model's; one alone has no others."""
    flags, scalar = SIGNATURES["flags"], SIGNATURES["scalar"]
    models = [Described("m", 10, flags, 1), Described("m", 9, scalar, 1), Described("n", 1, flags, 1)]
    found = document(make_app(), models, {"m": 9}, URL)
    summaries = {path: item["post"]["summary"] for path, item in found["paths"].items() if "post" in item and "{" not in path}

    assert summaries == {
        "/v2/models/m/infer": "Ask m, version 9, by the Open Inference Protocol",
        "/v2/models/m/versions/9/infer": "Ask m, version 9, by the Open Inference Protocol",
        "/v2/models/m/versions/10/infer": "Ask m, version 10, by the Open Inference Protocol",
        "/v2/models/n/infer": "Ask n, version 1, by the Open Inference Protocol",
        "/predictions/m": "Ask m, version 9",
        "/predictions/m/9": "Ask m, version 9",
        "/predictions/m/10": "Ask m, version 10",
        "/predictions/n": "Ask n, version 1",
    }
    assert found["tags"] == [
        {"name": "m", "description": "Versions: 9, 10"},
        {"name": "n", "description": "Versions: 1"},
    ]
    validate(found)


def test_the_newest_is_the_default():
    """Of a model without a stated default, the newest version answers."""
    models = [Described("m", version, SIGNATURES["flags"], 1) for version in (9, 10)]

    assert document(make_app(), models, {}, URL)["paths"]["/predictions/m"]["post"]["summary"] == "Ask m, version 10"


def test_placeholders(made):
    """The routes that take any model's name are there once, without a model too."""
    templated = [path for path in made["paths"] if "{" in path and "post" in made["paths"][path]]

    assert templated == [
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}/infer",
        "/predictions/{model}",
        "/predictions/{model}/{version}",
    ]
    assert {path for path in document(make_app(), [], {}, URL)["paths"] if "{" in path} >= set(templated)


def test_errors(made):
    """Below /v2 an error is `{"error"}`, elsewhere TorchServe's three fields; FastAPI's 422, which is never answered, is gone."""
    infer, predictions = (made["paths"][path]["post"]["responses"] for path in paths_of("image"))
    statuses = ["200", "400", "403", "404", "406", "408", "413", "415", "500", "503", "504", "507"]
    busy = made["components"]["responses"]["OipError503"]

    assert list(infer) == list(predictions) == statuses
    assert infer["503"] == {"$ref": "#/components/responses/OipError503"}
    assert predictions["503"] == {"$ref": "#/components/responses/TorchServeError503"}
    assert "Retry-After" in busy["headers"]
    assert made["components"]["schemas"]["OipError"]["required"] == ["error"]
    assert made["components"]["schemas"]["TorchServeError"]["required"] == ["code", "type", "message"]
    for path, kind in (("/v2/models/{model}", "OipError"), ("/models/{model}", "TorchServeError")):
        responses = made["paths"][path]["get"]["responses"]
        assert list(responses) == ["200", "default"]
        assert responses["default"]["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{kind}"}
    assert "HTTPValidationError" not in made["components"]["schemas"]


def test_other_bodies(made):
    """Infer takes bytes behind JSON; predictions takes and gives one tensor, as bytes where their number tells its shape."""

    def forms(path):
        operation = made["paths"][path]["post"]
        return [list(part["content"]) for part in (operation["requestBody"], operation["responses"]["200"])]

    json_only, binary, one_tensor = (
        ["application/json"],
        ["application/json", "application/octet-stream"],
        ["application/json", "application/octet-stream", "application/x-npy"],
    )
    infer, predictions = (made["paths"][path]["post"] for path in paths_of("flags"))

    assert forms(paths_of("flags")[0]) == [binary, binary]
    assert forms("/predictions/flags") == [one_tensor, one_tensor]
    assert forms("/predictions/tokens") == [json_only, json_only]
    assert forms("/predictions/image") == [["application/json", "application/x-npy"], one_tensor]
    headers = ["x-request-id", "x-timeout-ms"]
    assert [each["name"] for each in infer["parameters"]] == [*headers, "Inference-Header-Content-Length", "timing"]
    assert [each["name"] for each in predictions["parameters"]] == [*headers, "timing"]


def test_an_only_input(made):
    """Its lists can stand without its name; the lists of one among several can not."""
    flags, tokens = (json_body(made, f"/predictions/{name}")["schema"] for name in ("flags", "tokens"))

    assert accepts(flags, {"inputs": [[True, False, True]] * 2})
    assert not accepts(flags, {"inputs": [[True, False]] * 2})
    assert not accepts(tokens, {"inputs": [[1], [2]]})


def test_description(made):
    """A person reads what goes in and what comes out as a table."""
    assert made["paths"]["/predictions/image"]["post"]["description"] == (
        "| | name | datatype | shape | values |\n"
        "|---|---|---|---|---|\n"
        "| in | `image` | FP32 | `[batch, 3, height, 8]` | -0.1 to 0.1 |\n"
        "| out | `logits` | FP32 | `[batch, 10]` | one for each line of labels.txt |\n"
        "\n"
        "- `batch`: 2 to 128\n"
        "- `height`: 5 to 16 in multiples of 4"
    )


def test_the_application_is_not_changed():
    """The document is made anew each time: FastAPI's own, which it keeps, is left as it was."""
    app = make_app()
    before = json.dumps(app.openapi())
    document(app, [Described("m", 1, SIGNATURES["flags"], 1)], {}, URL)

    assert json.dumps(app.openapi()) == before


def test_docs_page():
    """The page loads what it needs from this server, and nothing from elsewhere."""
    with TestClient(make_app()) as client:
        page = client.get("/docs").text
        loaded = re.findall(r'(?:src|href)="([^"]*)"', page)

        assert loaded == ["docs/assets/swagger-ui.css", "data:,", "docs/assets/swagger-ui-bundle.js"]
        assert "url: 'openapi.json'" in page
        assert "//" not in "".join(loaded)
        assert [client.get("/" + path).status_code for path in (loaded[0], loaded[2])] == [200, 200]
