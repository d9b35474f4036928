import asyncio
import json

import pytest

from serving.model import load_model
from serving.protocols.asked import Limits
from serving.repository import Repository
from serving.torchserve.errors import (
    BadRequestException,
    ConflictStatusException,
    InternalServerException,
    InvalidKeyException,
    InvalidModelVersionException,
    MethodNotAllowedException,
    ModelNotFoundException,
    ModelVersionNotFoundException,
    ResourceNotFoundException,
    ServiceUnavailableException,
    TorchServeError,
)
from serving.torchserve.tokens import Tokens

NO_WORKERS = {
    "status": 'Model "m" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers for the model.'
}
ONE_WORKER = {"status": 'Model "m" Version: 1.0 registered with 1 initial workers'}
PROCESSING = {"status": "Processing worker updates..."}
UNREGISTERED = {"status": 'Model "m" unregistered'}
RECORD = {
    "modelName": "m",
    "modelVersion": "1.0",
    "modelUrl": "a.mar",
    "runtime": "python",
    "minWorkers": 0,
    "maxWorkers": 0,
    "batchSize": 1,
    "maxBatchDelay": 100,
    "responseTimeout": 120,
    "startupTimeout": 120,
    "maxRetryTimeoutInSec": 300,
    "clientTimeoutInMills": 0,
    "parallelType": "",
    "parallelLevel": 0,
    "deviceType": "cpu",
    "continuousBatching": False,
    "useJobTicket": False,
    "useVenv": False,
    "stateful": False,
    "sequenceMaxIdleMSec": 0,
    "sequenceTimeoutMSec": 0,
    "maxNumSequence": 0,
    "maxSequenceJobQueueSize": 0,
    "loadedAtStartup": False,
    "workers": [],
    "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
}
"""What TorchServe tells of a model that was registered without workers, with its keys in its order."""


@pytest.fixture(autouse=True)
def archives(write_mar, store):
    write_mar(store / "a.mar", "m")
    write_mar(store / "a2.mar", "m", "2.0")
    write_mar(store / "fails.mar", "fails", handler="fails")
    write_mar(store / "slow.mar", "slow", handler="slow")


@pytest.fixture
def asks(with_registry):
    """A function that asks one thing after another of a registry of its own: `(method, target, status and body, or an error)`."""

    def ask(*wanted, **settings):
        async def test(registry):
            for method, target, expected, *more in wanted:
                if isinstance(expected, TorchServeError):
                    with pytest.raises(type(expected)) as found:
                        await registry.ask(method, target)
                    assert (str(found.value), found.value.status) == (str(expected), more[0]), target
                else:
                    assert await registry.ask(method, target) == expected, target

        with_registry(test, **settings)

    return ask


NOT_ALLOWED = MethodNotAllowedException("Requested method is not allowed, please refer to API document."), 405
NOT_FOUND = ResourceNotFoundException("Requested resource is not found, please refer to API document."), 404
NO_MODEL = ModelNotFoundException("Model not found: m"), 404


def no_version(version):
    return ModelVersionNotFoundException(f"Model version: {version} does not exist for model: m"), 404


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *((method, "/models") for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")),
        *((method, "/models/m") for method in ("POST", "PATCH", "HEAD")),
        *((method, "/models/m/1.0") for method in ("POST", "PATCH")),
        ("POST", "/models/m/1.0/set-default"),
        ("POST", "/v1/models/m"),
        ("PUT", "/models/"),
    ],
)
def test_methods(asks, method, target):
    """A path has the methods that TorchServe's has."""
    asks((method, target, *NOT_ALLOWED))


@pytest.mark.parametrize(
    "target",
    [
        "/model",
        "/models/m/1.0/x",
        "/models/m/1.0/set-default/x",
        "/v1/models",
        "/v1",
        "/v1/models/m/1",
        "//models",
        "/token",
        "/",
    ],
)
def test_paths(asks, target):
    """Other paths are not found."""
    asks(*((method, target, *NOT_FOUND) for method in ("GET", "PUT")))


def test_without_the_model_api(asks):
    """Unless `enable_model_api` is set, models can be neither registered nor unregistered; all else is there."""
    asks(
        ("POST", "/models?url=a.mar", *NOT_ALLOWED),
        ("POST", "/models", *NOT_ALLOWED),
        ("DELETE", "/models/m", *NOT_ALLOWED),
        ("DELETE", "/models/nobody", *NOT_ALLOWED),
        ("GET", "/models", (200, {"models": [{"modelName": "m", "modelUrl": "a.mar"}]})),
        ("PUT", "/models/m?synchronous=true", (200, {"status": "Workers scaled to 1 for model: m"})),
        enable_model_api=False,
        load_models="a.mar",
        default_workers_per_model=1,
    )


def test_register_describe_unregister(asks):
    """A model's whole life without workers; trailing slashes count for nothing."""
    asks(
        ("GET", "/models/m", *NO_MODEL),
        ("POST", "/models?url=a.mar", (200, NO_WORKERS)),
        ("GET", "/models/m", (200, [RECORD])),
        ("GET", "/models/m/", (200, [RECORD])),
        ("GET", "/models/m/1.0", (200, [RECORD])),
        ("GET", "/models/m/all", (200, [RECORD])),
        ("GET", "/models/m/2.0", *no_version("2.0")),
        ("DELETE", "/models/m/2.0", *no_version("2.0")),
        ("DELETE", "/models/m/?x=y", (200, UNREGISTERED)),
        ("DELETE", "/models/m", *NO_MODEL),
        ("GET", "/models/m/all", *NO_MODEL),
        ("GET", "/models//1.0", ModelNotFoundException("Model not found: "), 404),
    )


def test_record_has_torchserves_order(with_registry):
    """The record's keys come as TorchServe's do, and only those that are there."""

    async def test(registry):
        await registry.ask("POST", "/models?url=a.mar")
        _, described = await registry.ask("GET", "/models/m")
        assert list(described[0]) == list(RECORD)

    with_registry(test)


def test_record_of_workers(with_registry):
    """A worker is told with its number, start, state, memory and process."""

    async def test(registry):
        assert await registry.ask("POST", "/models?url=a.mar&initial_workers=1") == (200, ONE_WORKER)
        _, described = await registry.ask("GET", "/models/m")
        (worker,) = described[0]["workers"]
        assert list(worker) == ["id", "startTime", "status", "memoryUsage", "pid", "gpu", "gpuUsage"]
        assert (worker["id"], worker["status"], worker["gpu"], worker["gpuUsage"]) == ("9000", "READY", False, "N/A")
        assert worker["pid"] > 0

    with_registry(test)


def test_record_of_gpus(with_registry, write_mar, store):
    """Where there are GPUs, the record says which of them a model may have."""
    write_mar(store / "gpus.mar", "gpus", config="deviceIds: [1, 0]\n")
    write_mar(store / "cpu.mar", "cpu", config="deviceType: cpu\n")

    async def test(registry):
        for name in ("gpus", "cpu"):
            await registry.ask("POST", f"/models?url={name}.mar")
        (_, (gpus,)), (_, (cpu,)) = [await registry.ask("GET", f"/models/{name}") for name in ("gpus", "cpu")]
        assert (gpus["deviceType"], gpus["deviceIds"]) == ("gpu", [1, 0])
        assert cpu["deviceType"] == "cpu"
        assert "deviceIds" not in cpu

    with_registry(test, gpus=2)


@pytest.mark.parametrize(
    ("query", "error", "status", "message"),
    [
        ("", BadRequestException, 400, "Parameter url is required."),
        ("?model_name=m", BadRequestException, 400, "Parameter url is required."),
        ("?url=", ModelNotFoundException, 404, "empty url"),
        ("?url=nobody.mar", ModelNotFoundException, 404, "Model not found at: nobody.mar"),
        ("?url=../a.mar", ModelNotFoundException, 404, "Relative path is not allowed in url: ../a.mar"),
        ("?url=http://h/a.mar", ModelNotFoundException, 404, "Given URL http://h/a.mar does not match any allowed URL(s)"),
        ("?url=a.mar&runtime=ruby", BadRequestException, 400, "Invalid RuntimeType value: ruby"),
        ("?url=a.mar&runtime=PYTHON", BadRequestException, 400, "Invalid RuntimeType value: PYTHON"),
        ("?url=a.mar&runtime=", BadRequestException, 400, "Invalid RuntimeType value: "),
        (
            "?url=http://h/a.mar&s3_sse_kms=true",
            BadRequestException,
            400,
            "s3_sse_kms is not supported: copy the archive into the model store, and register it from there.",
        ),
    ],
)
def test_what_cannot_be_registered(asks, query, error, status, message):
    """What is missing or wrong is told in TorchServe's words, and nothing is registered."""
    asks(("POST", f"/models{query}", error(message), status), ("GET", "/models", (200, {"models": []})))


@pytest.mark.parametrize(
    ("query", "changed"),
    [
        ("batch_size=8&max_batch_delay=50&response_timeout=30&startup_timeout=60", (8, 50, 30, 60)),
        ("batch_size=x&max_batch_delay=y&response_timeout=z&startup_timeout=q&initial_workers=w", (1, 100, 120, 120)),
        ("batch_size=1.5&max_batch_delay=&response_timeout=%204&startup_timeout=4%20", (1, 100, 120, 120)),
        ("batch_size=%2B4&max_batch_delay=0", (4, 0, 120, 120)),
        ("batch_size=99999999999&max_batch_delay=-99999999999", (1, 100, 120, 120)),
        ("batch_size=2&batch_size=3", (2, 100, 120, 120)),
        ("batch_size=-1&max_batch_delay=-1&response_timeout=-1&startup_timeout=-1&initial_workers=-1", (1, 100, 120, 120)),
        ("initial_workers=x&unknown=1&s3_sse_kms=true&handler=", (1, 100, 120, 120)),
    ],
)
def test_parameters(with_registry, query, changed):
    """A number that is none counts as not given, the first of several holds, and unknown parameters count for nothing."""

    async def test(registry):
        assert await registry.ask("POST", f"/models?url=a.mar&{query}") == (200, NO_WORKERS)
        _, (found,) = await registry.ask("GET", "/models/m")
        assert tuple(found[key] for key in ("batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout")) == changed

    with_registry(test)


@pytest.mark.parametrize(
    "said",
    [
        {"url": "a.mar", "batch_size": 3, "response_timeout": "9"},
        {"url": "a.mar", "batch_size": 3.0, "response_timeout": 9, "max_batch_delay": None, "other": {"a": [1]}},
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_json_body(with_registry, said, content_type):
    """A JSON object takes the query's place, whole; its numbers may be texts, and null says nothing."""

    async def test(registry):
        body = json.dumps(said).encode()
        asked = await registry.ask("POST", "/models?url=nobody.mar&batch_size=9", body, content_type=content_type)
        assert asked == (200, NO_WORKERS)
        _, (found,) = await registry.ask("GET", "/models/m")
        assert (found["batchSize"], found["responseTimeout"], found["maxBatchDelay"]) == (3, 9, 100)

    with_registry(test)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "The body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"", "The body is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xff", "The body is not JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[]", "The body should be a JSON object."),
        (b"null", "The body should be a JSON object."),
        (b"{}", "Parameter url is required."),
        (b'{"url": null}', "Parameter url is required."),
        (b'{"url": "a.mar", "batch_size": "many"}', "batch_size should be a whole number, not many"),
        (b'{"url": "a.mar", "batch_size": 1.5}', "batch_size should be a whole number, not 1.5"),
        (b'{"url": "a.mar", "initial_workers": true}', "initial_workers should be a whole number, not true"),
    ],
)
def test_json_body_that_is_none(with_registry, body, message):
    """What is no JSON object, or has another type, is the client's mistake (500 in TorchServe)."""

    async def test(registry):
        with pytest.raises(BadRequestException) as found:
            await registry.ask("POST", "/models?url=a.mar", body, content_type="application/json")
        assert str(found.value) == message

    with_registry(test)


def test_other_bodies_are_not_read(with_registry):
    """A body of another type counts for nothing: the query holds."""

    async def test(registry):
        form = "application/x-www-form-urlencoded"
        assert await registry.ask("POST", "/models?url=a.mar", b"url=nobody.mar", content_type=form) == (200, NO_WORKERS)

    with_registry(test)


@pytest.mark.parametrize("synchronous", ["", "&synchronous=true", "&synchronous=TRUE"])
def test_register_and_wait(asks, synchronous):
    """Workers are waited for, unless `synchronous` is something else than true."""
    asks(
        ("POST", f"/models?url=a.mar&initial_workers=1{synchronous}", (200, ONE_WORKER)),
        ("GET", "/v1/models/m", (200, {"name": "m", "ready": True})),
    )


@pytest.mark.parametrize("synchronous", ["false", "1", "yes", ""])
def test_register_without_waiting(with_registry, until, synchronous):
    """With `synchronous=false`, the answer is 202 and the workers come up later."""

    async def test(registry):
        answer = await registry.ask("POST", f"/models?url=a.mar&initial_workers=1&synchronous={synchronous}")
        assert answer == (202, PROCESSING)
        await until(lambda: registry.models.find("m").ready)

    with_registry(test)


def test_workers_of_the_settings(asks):
    """`default_workers_per_model` is how many there are where the client says none."""
    asks(
        ("POST", "/models?url=a.mar", (200, ONE_WORKER)),
        (
            "POST",
            "/models?url=a.mar&model_name=n&initial_workers=0",
            (200, {"status": NO_WORKERS["status"].replace('"m"', '"n"')}),
        ),
        default_workers_per_model=1,
    )


def test_workers_that_fail(asks):
    """A registration whose workers fail is undone; without waiting, it stays, and its workers are tried again."""
    failed = InternalServerException("Failed to start workers for model fails version: 1.0"), 500
    asks(
        ("POST", "/models?url=fails.mar&initial_workers=1", *failed),
        ("GET", "/models/fails", ModelNotFoundException("Model not found: fails"), 404),
        ("POST", "/models?url=fails.mar&initial_workers=1&synchronous=false", (202, PROCESSING)),
        (
            "POST",
            "/models?url=fails.mar",
            ConflictStatusException("Model version 1.0 is already registered for model fails"),
            409,
        ),
        ("GET", "/v1/models/fails", (200, {"name": "fails", "ready": False})),
    )


def test_start_that_takes_too_long(asks):
    """Workers that are not up after `startup_timeout` have failed."""
    failed = InternalServerException("Failed to start workers for model slow version: 1.0"), 500
    asks(("POST", "/models?url=slow.mar&initial_workers=1&startup_timeout=1", *failed))


def test_scale(asks):
    """How many workers there are is answered as TorchServe does; parameters are read as leniently."""
    scaled = "Workers scaled to {} for model: m"
    asks(
        ("POST", "/models?url=a.mar", (200, NO_WORKERS)),
        ("PUT", "/models/m", (202, PROCESSING)),
        ("PUT", "/models/m?synchronous=true", (200, {"status": scaled.format(1)})),
        ("PUT", "/models/m/1.0?min_worker=2&synchronous=TRUE", (200, {"status": f"{scaled.format(2)}, version: 1.0"})),
        (
            "PUT",
            "/models/m?min_worker=1&model_version=1.0&synchronous=true",
            (200, {"status": f"{scaled.format(1)}, version: 1.0"}),
        ),
        ("PUT", "/models/m?min_worker=x&max_worker=y&synchronous=true", (200, {"status": scaled.format(1)})),
        ("PUT", "/models/m?min_worker=0&max_worker=0&synchronous=true", (200, {"status": scaled.format(0)})),
        ("GET", "/models/m", (200, [RECORD])),
        ("PUT", "/models/m?synchronous=yes&timeout=0&number_gpu=1", (202, PROCESSING)),
    )


def test_scale_that_cannot_be(asks):
    """Numbers that contradict each other, and models that are not there, are refused."""
    less = BadRequestException("max_worker cannot be less than min_worker."), 400
    asks(
        ("PUT", "/models/nobody?min_worker=2&max_worker=1", *less),
        ("PUT", "/models/m", *NO_MODEL),
        ("POST", "/models?url=a.mar", (200, NO_WORKERS)),
        ("PUT", "/models/m?max_worker=0", *less),
        ("PUT", "/models/m?min_worker=-1", InternalServerException("min_worker cannot be less than 0: -1"), 500),
        ("PUT", "/models/m/9", *no_version("9")),
        ("PUT", "/models/m?model_version=9&synchronous=true", *no_version("9")),
        ("GET", "/models/m", (200, [RECORD])),
    )


def test_scale_that_fails(asks):
    """Workers that fail are told of; where no version is named, TorchServe calls it null."""
    asks(
        ("POST", "/models?url=fails.mar&initial_workers=0", (200, {"status": NO_WORKERS["status"].replace('"m"', '"fails"')})),
        (
            "PUT",
            "/models/fails?synchronous=true",
            InternalServerException("Failed to start workers for model fails version: null"),
            500,
        ),
        ("PUT", "/models/fails?min_worker=0&synchronous=true", (200, {"status": "Workers scaled to 0 for model: fails"})),
    )


def test_not_settled(with_registry, monkeypatch):
    """Where workers are neither up nor failed, the answer is 206."""
    settling = (206, {"status": "Workers scaling in progress..."})

    async def never(*_):
        return False

    monkeypatch.setattr("serving.torchserve.workers.workers.Workers.scale", never)

    async def test(registry):
        assert await registry.ask("POST", "/models?url=a.mar&initial_workers=1") == settling
        assert await registry.ask("PUT", "/models/m?synchronous=true") == settling

    with_registry(test)


def test_versions(asks):
    """The default version is described, listed, and kept while there are others."""
    second = {**RECORD, "modelVersion": "2.0", "modelUrl": "a2.mar"}
    stays = InvalidModelVersionException("Cannot remove default version for model m"), 403
    asks(
        ("POST", "/models?url=a.mar", (200, NO_WORKERS)),
        ("POST", "/models?url=a2.mar", (200, {"status": NO_WORKERS["status"].replace("1.0", "2.0")})),
        ("GET", "/models/m", (200, [RECORD])),
        ("GET", "/models/m/all?customized=true", (200, [RECORD, second])),
        ("PUT", "/models/m/9/set-default", ModelVersionNotFoundException("Model version 9 does not exist for model m"), 404),
        ("PUT", "/models/x/9/set-default", ModelNotFoundException("Model not found: x"), 404),
        ("PUT", "/models/m/2.0/set-default/", (200, {"status": 'Default version successfully updated for model "m" to "2.0"'})),
        ("GET", "/models/m", (200, [second])),
        ("GET", "/models/m/1.0/set-default", (200, [RECORD])),
        ("GET", "/models", (200, {"models": [{"modelName": "m", "modelUrl": "a2.mar"}]})),
        ("DELETE", "/models/m", *stays),
        ("DELETE", "/models/m/2.0", *stays),
        ("DELETE", "/models/m/1.0", (200, UNREGISTERED)),
        ("DELETE", "/models/m/2.0", (200, UNREGISTERED)),
    )


def test_two_at_once(with_registry):
    """Of two clients that register one version, one is told that it is there."""

    async def test(registry):
        target = "/models?url=a.mar&initial_workers=1"
        found = await asyncio.gather(*(registry.ask("POST", target) for _ in range(2)), return_exceptions=True)
        (error,) = [one for one in found if isinstance(one, ConflictStatusException)]
        assert str(error) == "Model version 1.0 is already registered for model m"
        assert (200, ONE_WORKER) in found

    with_registry(test)


def test_customized(with_registry):
    """`customized=true`, in any case, asks a worker what the handler says of itself, which comes last."""

    async def test(registry):
        await registry.ask("POST", "/models?url=a.mar")
        with pytest.raises(ServiceUnavailableException) as found:
            await registry.ask("GET", "/models/m?customized=true")
        assert str(found.value) == (
            'Model "m" has no worker to serve describe request. Please use scale workers API to add workers.'
        )
        await registry.ask("PUT", "/models/m?synchronous=true")
        for query, is_asked in (("customized=true", True), ("customized=True", True), ("customized=1", False)):
            _, (described,) = await registry.ask("GET", f"/models/m?{query}")
            assert (described.get("customizedMetadata") == {"described": "True"}) is is_asked
        _, (described,) = await registry.ask("GET", "/models/m?customized=true")
        assert list(described)[-1] == "customizedMetadata"

    with_registry(test)


def test_customized_with_something_else(with_registry, monkeypatch):
    """What a handler says of itself that is no JSON object, as a prediction, is told as an empty one."""

    async def describe(_, __):
        return ["ok"]

    monkeypatch.setattr("serving.torchserve.workers.workers.Workers.describe", describe)

    async def test(registry):
        await registry.ask("POST", "/models?url=a.mar&initial_workers=1")
        _, (described,) = await registry.ask("GET", "/models/m?customized=true")
        assert described["customizedMetadata"] == {}

    with_registry(test)


def page(*names, token=None):
    listed = {"models": [{"modelName": name, "modelUrl": "a.mar"} for name in names]}
    return 200, listed if token is None else {"nextPageToken": token, **listed}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", page("a", "b", "c")),
        ("limit=1", page("a", token="1")),
        ("limit=2", page("a", "b", token="2")),
        ("limit=3", page("a", "b", "c", token="3")),
        ("limit=4", page("a", "b", "c")),
        ("limit=0", page(token="0")),
        ("limit=0&next_page_token=2", page(token="2")),
        ("limit=-1", page("a", "b", "c")),
        ("limit=101", page("a", "b", "c")),
        ("limit=x&next_page_token=y", page("a", "b", "c")),
        ("limit=1&next_page_token=1", page("b", token="2")),
        ("limit=2&limit=1", page("a", "b", token="2")),
        ("next_page_token=2", page("c")),
        ("next_page_token=3", page()),
        ("next_page_token=99", page()),
        ("next_page_token=-4", page("a", "b", "c")),
    ],
)
def test_pages(with_registry, query, expected):
    """Lists are cut as TorchServe cuts them: a token follows also where the page ends with the last model."""

    async def test(registry):
        for name in ("c", "a", "b"):
            await registry.ask("POST", f"/models?url=a.mar&model_name={name}")
        assert await registry.ask("GET", f"/models?{query}") == expected
        assert list(expected[1]) == list((await registry.ask("GET", f"/models?{query}"))[1])

    with_registry(test)


def test_kserve(asks):
    """KServe asks whether a model is ready: when a worker of its default version can answer."""
    asks(
        ("GET", "/v1/models/m", *NO_MODEL),
        ("POST", "/models?url=a.mar", (200, NO_WORKERS)),
        ("GET", "/v1/models/m", (200, {"name": "m", "ready": False})),
        ("PUT", "/models/m?synchronous=true", (200, {"status": "Workers scaled to 1 for model: m"})),
        ("GET", "/v1/models/m:predict", (200, {"name": "m", "ready": True})),
    )


def test_document_of_a_model(with_registry):
    """OPTIONS gives the OpenAPI document of one model's management, if there is that model."""

    async def test(registry):
        with pytest.raises(ModelNotFoundException):
            await registry.ask("OPTIONS", "/models/m")
        await registry.ask("POST", "/models?url=a.mar")
        for target in ("/models/m", "/models/m/1.0"):
            status, document = await registry.ask("OPTIONS", target)
            assert (status, document["openapi"]) == (200, "3.0.1")

    with_registry(test)


def test_token(with_registry, tmp_path):
    """The key that renews gets a new key into the file, by any method; where no tokens are asked for, there is no such path."""
    path = tmp_path / "key_file.json"
    tokens = Tokens(60, path)

    async def test(registry):
        before = json.loads(path.read_text())
        bearer = f"Bearer {before['API']['key']}"
        for method in ("GET", "POST"):
            assert await registry.ask(method, "/token?type=management", authorization=bearer) == (200, b"\n")
        after = json.loads(path.read_text())
        assert after["management"]["key"] != before["management"]["key"]
        assert after["inference"] == before["inference"]
        with pytest.raises(InvalidKeyException):
            await registry.ask("GET", "/token", authorization=bearer)

    with_registry(test, tokens=tokens)


@pytest.fixture
def with_artifacts(with_registry, repository):
    """As `with_registry`, with the artifacts of the model repository beside the archives."""

    def run(test, **settings):
        loaded = []

        def artifacts(held):
            async def load(name, version, directory, model_settings):
                limits = Limits(max_body_bytes=1 << 20, max_tensors=8, max_json_depth=8)
                return await load_model((name, version), directory, model_settings, limits, lambda: 0)

            loaded.append(Repository(held, load))
            return loaded[0]

        async def whole(registry):
            async with loaded[0]:
                await test(registry)

        with_registry(whole, artifacts=artifacts, repository=repository, **settings)

    return run


def test_artifacts_are_listed(with_artifacts):
    """The artifacts of the model repository are listed among the archives, by name."""

    async def test(registry):
        await registry.ask("POST", "/models?url=a.mar")
        _, found = await registry.ask("GET", "/models")
        assert found == {
            "models": [
                {"modelName": "classes", "modelUrl": "classes/2"},
                {"modelName": "counting", "modelUrl": "counting/7"},
                {"modelName": "m", "modelUrl": "a.mar"},
                {"modelName": "mlp", "modelUrl": "mlp/1"},
                {"modelName": "spare", "modelUrl": "spare/1"},
            ]
        }

    with_artifacts(test)


def test_artifact_is_described(with_artifacts):
    """An artifact has TorchServe's record: an instance counts as a worker that is ready, and its largest batch as a batch."""

    async def test(registry):
        status, (found,) = await registry.ask("GET", "/models/classes")
        assert (status, list(found)) == (200, list(RECORD))
        expected = {"modelName": "classes", "modelVersion": "2", "modelUrl": "classes/2", "runtime": "stateserve", "batchSize": 8}
        assert {key: found[key] for key in expected} == expected
        assert (found["minWorkers"], [worker["status"] for worker in found["workers"]]) == (1, ["READY"])
        for target in ("/models/classes/2", "/models/classes/all"):
            assert await registry.ask("GET", target) == (200, [found])
        assert await registry.ask("GET", "/v1/models/classes") == (200, {"name": "classes", "ready": True})
        with pytest.raises(ModelVersionNotFoundException, match=r"^Model version: 9 does not exist for model: classes$"):
            await registry.ask("GET", "/models/classes/9")
        assert (await registry.ask("OPTIONS", "/models/classes"))[0] == 200

    with_artifacts(test)


@pytest.mark.parametrize(
    ("method", "target", "instead"),
    [
        ("PUT", "/models/mlp", "the setting instances says how many calls run side by side"),
        ("DELETE", "/models/mlp", "POST /v2/repository/models/mlp/unload at the inference address takes it away"),
        (
            "PUT",
            "/models/mlp/1/set-default",
            "PUT /v2/repository/models/mlp/labels/default at the inference address says which version answers",
        ),
    ],
)
def test_artifact_is_not_changed_here(with_artifacts, method, target, instead):
    """What cannot be done to an artifact here is told with what there is instead."""

    async def test(registry):
        with pytest.raises(BadRequestException) as found:
            await registry.ask(method, target)
        assert str(found.value) == f"mlp is an artifact of the model repository, not an archive: {instead}"

    with_artifacts(test)


def test_archive_with_an_artifacts_name(with_artifacts):
    """An archive cannot take an artifact's name."""

    async def test(registry):
        with pytest.raises(ConflictStatusException) as found:
            await registry.ask("POST", "/models?url=a.mar&model_name=mlp")
        assert str(found.value) == (
            "The model repository holds an artifact called mlp, which answers: give the archive another model_name, or take the "
            "artifact away"
        )

    with_artifacts(test)


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("PUT", "/models/m?min_worker=1025&max_worker=1025", "min_worker"),
        ("POST", "/models?url=a2.mar&initial_workers=1025", "initial_workers"),
    ],
)
def test_too_many_workers(asks, method, target, name):
    """A client cannot ask for more than 1024 workers."""
    asks(
        (method, target, BadRequestException(f"{name} cannot be larger than 1024: 1025"), 400),
        load_models="a.mar",
        default_workers_per_model=1,
    )
