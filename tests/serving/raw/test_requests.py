"""Every way to send a raw value to a real server gives the answer that the operations and the model give without one."""

import base64
import json
import re

import numpy as np
import pytest
import tritonclient.http as triton
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from artifact.engines import load_engine
from artifact.operations import RawLimits
from serving.app import create_app
from serving.settings import Settings
from tests.fuzz.raw_models import MODELS
from tests.hostile.raw import png
from tests.serving.raw.conftest import NAMES, PICTURE

PICTURES = [png.many_colours(), png.plain()]
TEXTS = ["a sentence of the model", "is it not a word"]
ROWS = [{"age": 7, "colour": "red"}, {"age": 1.5, "colour": "blue"}, {}]


def b64(data):
    return base64.b64encode(data).decode()


def expected(name, raws):
    """What is due: rows, made one by one, joined, and run by the engine here."""
    model = MODELS[name]
    operations, _ = model.made()
    (spec,) = operations.raw_inputs
    inputs = operations.join([operations.prepare({spec.name: raw}, RawLimits()) for raw in raws])
    outputs = load_engine("onnx", model.onnx(model.signature).SerializeToString(), model.signature).run(inputs)
    return operations.finish(outputs), outputs


def require(answer, name, raws):
    """The answer's predictions are those that are due."""
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "model_name": name,
        "model_version": "1",
        "predictions": json.loads(json.dumps(expected(name, raws)[0])),
    }


def accepts(schema, body):
    Draft202012Validator(schema).validate(body)


def form(*files):
    return [("file", (f"{index}.png", data, "image/png")) for index, data in enumerate(files)]


ONE, BOTH = PICTURES[:1], PICTURES
URL_OF_DATA = f"data:image/png;base64,{b64(PICTURES[0])}"
IN_LINES = base64.encodebytes(PICTURES[0]).decode()
REQUESTS = {
    "image/png": ("pictures", ONE, {"content": PICTURES[0], "headers": {"content-type": "image/png"}}),
    "image/any": ("pictures", ONE, {"content": PICTURES[0], "headers": {"content-type": "image/*"}}),
    "form of one": ("pictures", ONE, {"files": form(*ONE)}),
    "form of two": ("pictures", BOTH, {"files": form(*BOTH)}),
    "b64": ("pictures", ONE, {"json": {"inputs": {"image": {"b64": b64(PICTURES[0])}}}}),
    "b64 in lines": ("pictures", ONE, {"json": {"inputs": {"image": {"b64": IN_LINES}}}}),
    "b64 of two": ("pictures", BOTH, {"json": {"inputs": {"image": [{"b64": b64(each)} for each in BOTH]}}}),
    "base64 alone": ("pictures", BOTH, {"json": {"inputs": [b64(each) for each in BOTH]}}),
    "data URL": ("pictures", ONE, {"json": {"inputs": {"image": URL_OF_DATA}}}),
    "instances": ("pictures", BOTH, {"json": {"instances": [{"data": {"b64": b64(each)}} for each in BOTH]}}),
    "bare instances": ("pictures", ONE, {"json": {"instances": [{"b64": b64(PICTURES[0])}]}}),
    "text/plain": ("words", TEXTS[:1], {"content": TEXTS[0], "headers": {"content-type": "text/plain; charset=utf-8"}}),
    "a string": ("words", TEXTS[:1], {"json": TEXTS[0]}),
    "strings": ("words", TEXTS, {"json": TEXTS}),
    "inputs of a text": ("words", TEXTS[:1], {"json": {"inputs": {"text": TEXTS[0]}}}),
    "inputs of texts": ("words", TEXTS, {"json": {"inputs": {"text": TEXTS}}}),
    "instances of texts": ("words", TEXTS, {"json": {"instances": [{"data": text} for text in TEXTS]}}),
    "a pair": ("pairs", [tuple(TEXTS)], {"json": {"inputs": {"text": TEXTS}}}),
    "pairs": ("pairs", [tuple(TEXTS), ("a", "b")], {"json": {"inputs": {"text": [TEXTS, ["a", "b"]]}}}),
    "a row": ("rows", ROWS[:1], {"json": {"inputs": {"features": ROWS[0]}}}),
    "rows": ("rows", ROWS, {"json": {"inputs": ROWS}}),
    "instances of rows": ("rows", ROWS, {"json": {"instances": ROWS}}),
}


@pytest.mark.parametrize("way", REQUESTS)
def test_predictions(server, way):
    """A body of each form is answered as the operations and the engine answer without a server."""
    name, raws, body = REQUESTS[way]

    require(server.request("POST", f"/predictions/{name}", **body), name, raws)


def test_pictures_by_url(server, source):
    """They are fetched where a pattern allows it; one that is not there is told, and nobody's request is led elsewhere."""
    place = f"http://127.0.0.1:{source.server_port}"
    asked = [server.predict("pictures", {"inputs": [{"url": place + path}, b64(PICTURE)]}) for path in ("/picture", "/moved")]

    require(asked[0], "pictures", [PICTURE] * 2)
    assert asked[1].status_code == 400
    assert "redirects are not followed" in asked[1].json()["message"]


def test_many_rows_at_once(server):
    """Rows that several threads decode keep their order, beyond the largest batch too."""
    raws = [PICTURES[index % 2] for index in range(30)]

    require(server.request("POST", "/predictions/pictures", files=form(*raws)), "pictures", raws)


def test_tensors(server):
    """`?outputs=tensors` gives the outputs as they are; tensors may be sent as ever, and are answered with predictions."""
    predictions, outputs = expected("rows", ROWS)
    tensors = server.predict("rows?outputs=tensors", {"inputs": ROWS}).json()
    sent = server.predict("rows", {"inputs": {"features": [[7.0, 1, 0, 0]]}}).json()

    assert np.allclose(tensors["outputs"]["scores"], outputs["scores"])
    assert sent["predictions"] == predictions[:1]


@pytest.mark.parametrize("binary", [True, False])
def test_triton(server, binary):
    """tritonclient sends pictures, texts and rows as BYTES; in JSON a picture is base64."""
    pictures = [each if binary else b64(each).encode() for each in BOTH]
    sent = {
        "pictures": ("image", pictures, BOTH),
        "words": ("text", [text.encode() for text in TEXTS], TEXTS),
        "rows": ("features", [json.dumps(row).encode() for row in ROWS], ROWS),
    }
    for model, (name, elements, raws) in sent.items():
        for shape in ([len(elements)], [len(elements), 1]):
            client = triton.InferenceServerClient(f"127.0.0.1:{server.port}", connection_timeout=60, network_timeout=60)
            tensor = triton.InferInput(name, shape, "BYTES")
            tensor.set_data_from_numpy(np.array(elements, np.object_).reshape(shape), binary_data=binary)
            found = client.infer(model, [tensor])
            for output, array in expected(model, raws)[1].items():
                answered = found.as_numpy(output)
                assert answered is not None
                assert np.allclose(answered, array)
            client.close()


@pytest.mark.parametrize("shape", [[1], [1, 1]])
def test_openvino(server, shape):
    """A picture alone behind the JSON, which states neither its size nor its length: as OpenVINO Model Server takes it."""
    head = json.dumps({"inputs": [{"name": "image", "shape": shape, "datatype": "BYTES"}]}).encode()
    answer = server.request(
        "POST",
        "/v2/models/pictures/infer",
        content=head + PICTURE,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )

    assert answer.status_code == 200, answer.text
    data = answer.json()["outputs"][0]["data"]
    assert np.allclose(data, next(iter(expected("pictures", [PICTURE])[1].values())).ravel())


def test_a_picture_of_no_stated_size(server):
    """What else lacks its size is refused, with what is missing."""
    stated = {"name": "image", "shape": [2], "datatype": "BYTES"}
    for inputs, what in (([stated], "not 2 BYTES elements"), ([stated, stated], "neither data nor"), ([], "missing: image")):
        head = json.dumps({"inputs": inputs}).encode()
        answer = server.request(
            "POST",
            "/v2/models/pictures/infer",
            content=head + PICTURE,
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
        assert answer.status_code == 400
        assert re.search(what, answer.json()["error"])


def test_metadata(server):
    """A model's metadata names its raw inputs, and what is done with them."""
    told = server.get("/v2/models/words").json()

    assert told["raw_inputs"] == [{"name": "text", "kind": "text", "makes": ["input_ids", "attention_mask"], "max_tokens": 32}]
    assert [list(one) for one in told["preprocess"]] == [["tokenize"]]
    assert [list(one) for one in told["postprocess"]] == [["sigmoid"]]


def test_the_document(server):
    """Every example of the OpenAPI document is one that the server takes and its schema allows; so is what is answered."""
    document = server.get("/openapi.json").json()
    validate(document)
    posts = {path: item["post"] for path, item in document["paths"].items() if "post" in item}
    asked = {path: operation for path, operation in posts.items() if set(operation["tags"]) & set(NAMES)}
    assert len(asked) == 2 * len(NAMES)
    for path, operation in asked.items():
        answers = operation["responses"]["200"]["content"]["application/json"]["schema"]
        for mime, body in operation["requestBody"]["content"].items():
            if "example" in body:
                accepts(body["schema"], body["example"])
                content = body["example"] if mime == "text/plain" else json.dumps(body["example"])
                answer = server.request("POST", path, content=content, headers={"content-type": mime})
                assert answer.status_code == 200, answer.text
                accepts(answers, answer.json())


def test_forms_of_bodies(server):
    """The document lists the forms that a model's raw inputs have, and how to send one with curl."""
    paths = server.get("/openapi.json").json()["paths"]
    forms = {name: [*paths[f"/predictions/{name}"]["post"]["requestBody"]["content"]] for name in NAMES}

    pictures = ["image/jpeg", "image/png", "image/webp", "multipart/form-data"]
    assert forms["pictures"] == ["application/json", *pictures, "application/octet-stream", "application/x-npy"]
    assert forms["words"] == ["application/json", "text/plain", "multipart/form-data"]
    assert forms["pairs"] == ["application/json"]
    assert forms["rows"] == ["application/json", "application/octet-stream", "application/x-npy"]
    described = paths["/predictions/pictures"]["post"]["description"]
    assert "| raw | `image` | image | | a JPEG, PNG or WebP file, read as RGB |" in described
    assert "curl -H 'Content-Type: image/jpeg' --data-binary @picture.jpg http://127.0.0.1:" in described


def test_timing(server):
    """`?timing=true` adds the stages of the request, and nothing else does."""
    asked = [server.request("POST", f"/predictions/words{query}", json=TEXTS) for query in ("?timing=true", "")]

    stages = [stage.partition(";dur=") for stage in asked[0].headers["server-timing"].split(", ")]
    assert [stage for stage, _, _ in stages] == ["decode", "queue", "infer", "encode"]
    assert all(float(ms) >= 0 for _, _, ms in stages)
    assert "server-timing" not in asked[1].headers


REFUSALS = {
    "no picture": ("pictures", {"content": b"no picture", "headers": {"content-type": "image/png"}}, 400, "no JPEG, PNG or WebP"),
    "a bad row among good ones": ("pictures", {"files": form(*BOTH, b"no picture")}, 400, "^row 2: the picture is no JPEG"),
    "a text for a picture": (
        "pictures",
        {"content": b"a", "headers": {"content-type": "text/plain"}},
        415,
        "one text; the model takes image",
    ),
    "a picture for a text": ("words", {"content": PICTURES[0], "headers": {"content-type": "image/png"}}, 415, "takes text"),
    "no base64": ("pictures", {"json": {"inputs": {"image": {"b64": "§"}}}}, 400, '"image" is not base64'),
    "null": ("pictures", {"json": {"inputs": {"image": {"b64": None}}}}, 400, '"b64": null'),
    "a URL": ("pictures", {"json": {"inputs": {"image": {"url": "http://127.0.0.1/cat.png"}}}}, 403, "input_urls"),
    "too many rows": ("pictures", {"json": {"inputs": [b64(PICTURES[1])] * 65}}, 400, "65 rows; for this model at most 64"),
    "too many parts": ("pictures", {"files": form(*[PICTURES[1]] * 65)}, 400, "more than 64 rows"),
    "too long a text": ("words", {"json": ["a " * 2500]}, 413, "max_text_bytes"),
    "another column": ("rows", {"json": {"inputs": [ROWS[0], {"size": 1}]}}, 400, "^row 1: "),
    "predictions as bytes": (
        "rows?outputs=predictions",
        {"json": {"inputs": ROWS}, "headers": {"accept": "application/x-npy"}},
        406,
        "accepts application/x-npy alone, and predictions are application/json",
    ),
    "other outputs": ("rows?outputs=all", {"json": {"inputs": ROWS}}, 400, 'outputs is "all"'),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refusals(server, what):
    """What cannot be taken is refused with what was found; of several rows, with the row's place."""
    name, body, status, says = REFUSALS[what]
    answer = server.request("POST", f"/predictions/{name}", **body)

    assert answer.status_code == status, answer.text
    assert re.search(says, answer.json()["message"]), answer.text


def test_a_deadline(server):
    """A request whose time has passed before its rows were made tensors is answered with 504."""
    answer = server.request("POST", "/predictions/pictures", files=form(*[PICTURES[0]] * 60), headers={"x-timeout-ms": "0.001"})

    assert answer.status_code == 504, answer.text


def test_any_asgi_server(raw_repository):
    """The application under another server answers the same, several rows too."""
    settings = Settings(repository=raw_repository, decode_threads=2)
    with TestClient(create_app(settings)) as client:
        require(client.post("/predictions/pictures", files=form(*BOTH)), "pictures", BOTH)
        require(client.post("/predictions/words", json=TEXTS), "words", TEXTS)
