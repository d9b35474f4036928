"""Triton's own HTTP clients, with their default arguments, against a real server: `tritonclient.http`, and its asyncio twin."""

import asyncio
import json

import numpy as np
import pytest
import tritonclient.http
import tritonclient.http.aio
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

import artifact

COUNT_AND_NS = {"count", "ns"}


@pytest.fixture(scope="module", params=["sync", "aio"])
def ask(request, server):
    """A function that calls a method of the client: `ask("infer", "mlp", inputs)`."""
    address = f"127.0.0.1:{server.port}"
    if request.param == "sync":
        with tritonclient.http.InferenceServerClient(address) as client:
            yield lambda method, *arguments, **options: getattr(client, method)(*arguments, **options)
        return

    async def make():
        return tritonclient.http.aio.InferenceServerClient(address)

    with asyncio.Runner() as runner:
        client = runner.run(make())
        yield lambda method, *arguments, **options: runner.run(getattr(client, method)(*arguments, **options))
        runner.run(client.close())


@pytest.fixture(scope="module")
def expected(mlp_artifact):
    """The logits that the artifact itself gives."""
    loaded = artifact.load(mlp_artifact)
    return lambda x: loaded.run({"x": np.asarray(x, np.float32)})["logits"]


def rows(count):
    return np.random.default_rng(count).uniform(-4, 4, (count, 4)).astype(np.float32)


def tensor(x, datatype="FP32", **options):
    made = InferInput("x", x.shape, datatype)
    made.set_data_from_numpy(x, **options)
    return [made]


def test_health(ask):
    """The server and its models are live and ready, and what is not there is not ready."""
    assert ask("is_server_live") is True
    assert ask("is_server_ready") is True
    assert [ask("is_model_ready", *model) for model in (["mlp"], ["mlp", "1"], ["mlp", "2"], ["resnet"])] == [
        True,
        True,
        False,
        False,
    ]


def test_metadata_and_configuration(ask):
    """What the client asks of a server, a model and its configuration is there."""
    server, model, config = ask("get_server_metadata"), ask("get_model_metadata", "mlp"), ask("get_model_config", "mlp", "1")

    assert server["name"] == "stateserve"
    assert {"binary_tensor_data", "classification", "model_repository", "statistics"} <= set(server["extensions"])
    assert (model["name"], model["versions"], model["platform"]) == ("mlp", ["1"], "onnx_onnxv1")
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]
    assert (config["max_batch_size"], config["input"][0]) == (16, {"name": "x", "data_type": "TYPE_FP32", "dims": [4]})


def test_statistics(ask):
    """Every answered request is counted, its rows too, with every field that the protocol names."""
    (before,) = ask("get_inference_statistics", "mlp", "1")["model_stats"]
    ask("infer", "mlp", tensor(rows(5)))
    (after,) = ask("get_inference_statistics", "mlp")["model_stats"]

    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    assert all(set(each) == COUNT_AND_NS for each in after["inference_stats"].values())
    assert {each["name"] for each in ask("get_inference_statistics")["model_stats"]} == {"classes", "counting", "mlp", "spare"}


def test_the_repository(ask):
    """A model is unloaded, is not found then, and loaded again, with a configuration or without."""

    def states():
        return {each["name"]: each["state"] for each in ask("get_model_repository_index")}

    assert states() == dict.fromkeys(("classes", "counting", "mlp", "spare"), "READY")
    ask("unload_model", "spare")
    assert states()["spare"] in {"UNLOADING", "UNAVAILABLE"}
    assert ask("is_model_ready", "spare") is False
    with pytest.raises(
        InferenceServerException, match="spare was unloaded; POST /v2/repository/models/spare/load loads it again"
    ):
        ask("infer", "spare", tensor(rows(1)))
    ask("load_model", "spare", config=json.dumps({"max_batch_size": 4}))
    assert ask("get_model_config", "spare")["max_batch_size"] == 4
    ask("load_model", "spare")
    assert ask("get_model_config", "spare")["max_batch_size"] == 16
    assert states()["spare"] == "READY"


@pytest.mark.parametrize("count", [1, 7, 40])
def test_an_inference(ask, expected, count):
    """The call with nothing but its arguments is binary both ways, and gives the artifact's own numbers, for many rows too."""
    x = rows(count)
    result = ask("infer", "mlp", tensor(x))

    assert result.as_numpy("logits").tobytes() == expected_in_calls(expected, x).tobytes()
    assert result.get_output("logits")["parameters"] == {"binary_data_size": count * 12}
    assert (result.get_response()["model_name"], result.get_response()["model_version"]) == ("mlp", "1")


def expected_in_calls(expected, x):
    """As many rows at a time as one call of the model takes."""
    return np.concatenate([expected(x[start : start + 16]) for start in range(0, len(x), 16)])


@pytest.mark.parametrize("input_is_binary", [True, False])
@pytest.mark.parametrize("output_is_binary", [True, False])
def test_binary_and_json(ask, expected, input_is_binary, output_is_binary):
    """Inputs and outputs may be JSON or binary, each on its own, and the numbers are the same to the last bit."""
    x = rows(3)
    outputs = [InferRequestedOutput("logits", binary_data=output_is_binary)]
    result = ask("infer", "mlp", tensor(x, binary_data=input_is_binary), outputs=outputs)

    assert result.as_numpy("logits").tobytes() == expected(x).tobytes()
    assert ("data" in result.get_output("logits")) is not output_is_binary


def test_ids_and_versions(ask):
    """The request's id comes back, and a version can be asked for."""
    result = ask("infer", "mlp", tensor(rows(1)), model_version="1", request_id='of "mine"')

    assert (result.get_response()["id"], result.get_response()["model_version"]) == ('of "mine"', "1")


@pytest.mark.parametrize("binary", [True, False])
def test_classification(ask, binary):
    """class_count gives the largest scores of each row, with the labels that the artifact has."""
    x = np.array([[0.5, 3, 1, 2, 0], [9, 0, 0, -1, 0.25]], np.float32)
    outputs = [InferRequestedOutput("scores", binary_data=binary, class_count=2)]
    result = ask("infer", "classes", tensor(x), outputs=outputs)
    classes = [[each if isinstance(each, str) else each.decode() for each in row] for row in result.as_numpy("scores")]

    assert classes == [["3.000000:1:bee", "2.000000:3:dog"], ["9.000000:0:ant", "0.250000:4:emu"]]


@pytest.mark.parametrize(("datatype", "dtype"), [("FP16", np.float16), ("BF16", np.float32)])
def test_halves_are_widened(ask, datatype, dtype):
    """FP16 and BF16 are taken by a float32 model: each of their values is a float32."""
    x = np.array([[0.5, -1.25, 3, 0, 1024]], dtype)

    assert ask("infer", "classes", tensor(x, datatype)).as_numpy("scores").tolist() == x.tolist()


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compression(ask, algorithm, binary):
    """Requests may be compressed, and answers are where the client asks for it; the numbers are the same."""
    x = np.tile(np.arange(5, dtype=np.float32), (100, 1))
    outputs = [InferRequestedOutput("scores", binary_data=binary)]
    options = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    result = ask("infer", "classes", tensor(x, binary_data=binary), outputs=outputs, **options)

    assert result.as_numpy("scores").tobytes() == x.tobytes()


def test_an_answer_is_compressed_as_asked(server):
    """It has its encoding, and a quarter of the size."""
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [100, 5], "data": [0.5] * 500}]}
    sizes = {}
    for algorithm in ("identity", "gzip", "deflate"):
        answer = server.request("POST", "/v2/models/classes/infer", json=body, headers={"accept-encoding": algorithm})
        sizes[algorithm] = int(answer.headers["content-length"])
        assert answer.headers.get("content-encoding", "identity") == algorithm
        assert answer.json()["outputs"][0]["data"] == [0.5] * 500

    assert max(sizes["gzip"], sizes["deflate"]) < sizes["identity"] / 4


def test_priority_and_timeout(ask, expected):
    """Every level of priority is answered, and so is a request that is quick enough for its own timeout."""
    x = rows(2)
    for priority in (0, 1, 3):
        result = ask("infer", "mlp", tensor(x), priority=priority, timeout=60_000_000)
        np.testing.assert_array_equal(result.as_numpy("logits"), expected(x))


REFUSALS = {
    "no such model": ("resnet", {}, "404", "no model is called 'resnet'; there are: classes, counting, mlp, spare"),
    "no such version": (
        "mlp",
        {"model_version": "9"},
        "404",
        "mlp has no version or label '9'; versions served: 1; labels: none",
    ),
    "no such output": (
        "mlp",
        {"outputs": [InferRequestedOutput("scores")]},
        "400",
        "the model gives logits; unknown: scores",
    ),
    "no such priority": (
        "mlp",
        {"priority": 4},
        "400",
        "priority is 4; the model has levels 1 (first) to 3, and 0 for its default",
    ),
    "another shape": ("classes", {}, "400", 'input "x" has shape [1, 4]; the signature says [batch, 5]'),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(ask, case):
    """A refusal is the client's own exception, with the status and what is wrong."""
    model, options, status, message = REFUSALS[case]
    with pytest.raises(InferenceServerException) as caught:
        ask("infer", model, tensor(rows(1)), **options)

    assert (caught.value.status(), caught.value.message()) == (status, message)


@pytest.mark.parametrize(
    ("method", "arguments", "status", "message"),
    [
        ("get_model_metadata", ["resnet"], "404", "no model is called 'resnet'; there are: classes, counting, mlp, spare"),
        ("load_model", ["resnet"], "404", "no model is called 'resnet'; on disk: classes, counting, mlp, spare"),
        ("unload_model", ["resnet"], "404", "no model is called 'resnet'; there are: classes, counting, mlp, spare"),
        (
            "load_model",
            ["spare", None, None, '{"max_batch_size": 0}'],
            "400",
            "config.max_batch_size should be a whole number from 1, not 0",
        ),
    ],
)
def test_other_refusals(ask, method, arguments, status, message):
    """So it is for metadata and the repository."""
    with pytest.raises(InferenceServerException) as caught:
        ask(method, *arguments)

    assert (caught.value.status(), caught.value.message()) == (status, message)


def test_a_value_out_of_range(ask):
    """Values are checked against the signature, whichever way they come."""
    with pytest.raises(InferenceServerException, match=r'input "x" holds 4.5; the signature allows -4 to 4'):
        ask("infer", "mlp", tensor(np.full((1, 4), 4.5, np.float32)))


def test_many_at_once(server, expected):
    """async_infer has many requests on their way at once, and each gets its own answer."""
    inputs = [rows(number % 5 + 1) for number in range(60)]
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=20) as client:
        asked = [client.async_infer("mlp", tensor(x), request_id=str(number)) for number, x in enumerate(inputs)]
        results = [each.get_result() for each in asked]

    assert [result.get_response()["id"] for result in results] == [str(number) for number in range(60)]
    for x, result in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(result.as_numpy("logits"), expected(x))
