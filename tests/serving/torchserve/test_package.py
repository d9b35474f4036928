"""What `stateserve package mar` writes: the artifact as it is, and all that answers from it with NumPy and an engine alone."""

import ast
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzz import raw_models
from packaged_requests import NPY, RAW, REQUESTS, ROWS, Asked, mlp, npy, require_same

from artifact.errors import DamagedArtifact, EngineUnavailable, GoldenMismatch, NotAnArtifact
from serving.torchserve.packed import run_path
from serving.torchserve.packed.package import NotPackaged, package

FORM = "application/x-www-form-urlencoded"


def packed(artifact, folder, **options):
    return package(artifact, folder, **options).path


def unpacked(mar, folder):
    with zipfile.ZipFile(mar) as archive:
        archive.extractall(folder)
    return folder


class Context:
    """What a handler of ours sees of TorchServe's context."""

    def __init__(self, directory, name, gpu_id=None):
        self.model_name = name
        self.manifest = json.loads((directory / "MAR-INF" / "MANIFEST.json").read_bytes())
        self.system_properties = {"model_dir": str(directory), "gpu_id": gpu_id}
        self.headers, self.statuses, self.answered = [], {}, {}

    def get_all_request_header(self, index):
        return self.headers[index]

    def get_request_id(self, index=0):
        return f"id-{index}"

    def set_response_status(self, code, idx):
        self.statuses[idx] = code

    def set_response_header(self, index, name, value):
        self.answered.setdefault(index, {})[name] = value


class Worker:
    """A handler out of an unpacked archive, asked as TorchServe's worker asks it."""

    def __init__(self, directory, name, gpu_id=None):
        self.context = Context(directory, name, gpu_id)
        self.handler = load_handler(directory).StateserveHandler()
        self.handler.initialize(self.context)

    def ask(self, *requests):
        """Status, headers and body of each answer; all are of one batch."""
        self.context.headers = [
            {"explain": "False", "url_path": "", "body": {"content-type": ""}, **each.headers} for each in requests
        ]
        self.context.statuses, self.context.answered = {}, {}
        bodies = self.handler.handle([row_of(each) for each in requests], self.context)
        return [(self.context.statuses[i], self.context.answered[i], body) for i, body in enumerate(bodies)]


def row_of(request):
    """What TorchServe's worker makes of a body: JSON is decoded where it can be, text too; a form has fields of its own."""
    content_type = request.headers.get("content-type", "")
    if content_type.startswith("application/json"):
        try:
            return {"body": json.loads(request.body)}
        except ValueError:
            return {"body": bytearray(request.body)}
    if content_type.startswith("multipart/"):
        return {"data": bytearray(b"1")}
    return {"body": request.body.decode() if content_type.startswith("text") else bytearray(request.body)}


def load_handler(directory):
    path = directory / "stateserve_handler.py"
    module = types.ModuleType("stateserve_handler")
    exec(compile(path.read_text(), path, "exec"), module.__dict__)
    return module


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch):
    """What a handler puts on sys.path, and imports from there, is this test's."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {name: module for name, module in sys.modules.items() if name.startswith(run_path.PACKAGE)}
    assert not before
    yield
    for name in [name for name in sys.modules if name.startswith(run_path.PACKAGE)]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def archives(artifacts, tmp_path_factory):
    """The archives of three artifacts, unpacked: by name."""
    folder = tmp_path_factory.mktemp("archives")
    models = {}
    for place in ("mlp/1", "counting/7", "classes/2"):
        copy = shutil.copytree(artifacts[place], folder / "repository" / place)
        name = place.partition("/")[0]
        models[name] = unpacked(packed(copy, folder), folder / name)
    return models


@pytest.fixture
def worker(archives):
    return Worker(archives["mlp"], "mlp")


def test_what_is_in_it(mlp_artifact, tmp_path):
    """TorchServe's manifest, our handler, the run path, and the artifact's files, each byte of them."""
    made = package(mlp_artifact, tmp_path)

    assert (made.path, made.name, made.version, made.format) == (tmp_path / "mlp.mar", "mlp", "1", "onnx")
    with zipfile.ZipFile(made.path) as archive:
        names = archive.namelist()
        assert names == [
            "MAR-INF/MANIFEST.json",
            "stateserve_handler.py",
            "stateserve_run.zip",
            *(f"stateserve_artifact/{path.name}" for path in sorted(mlp_artifact.iterdir())),
        ]
        for path in mlp_artifact.iterdir():
            assert archive.read(f"stateserve_artifact/{path.name}") == path.read_bytes()
        assert json.loads(archive.read(names[0])) == {
            "runtime": "python",
            "archiverVersion": "0.12.0",
            "model": {
                "modelName": "mlp",
                "modelVersion": "1",
                "handler": "stateserve_handler.py",
                "serializedFile": "stateserve_artifact/model.onnx",
            },
        }
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_bytes_are_the_same_every_time(mlp_artifact, tmp_path):
    """The same artifact gives the same archive, whenever its files were written."""
    copy = shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")
    for path in copy.iterdir():
        os.utime(path, (1, 1))

    assert packed(mlp_artifact, tmp_path / "a.mar").read_bytes() == packed(copy, tmp_path / "b.mar").read_bytes()


def test_a_format_that_is_asked_for(mlp_artifact, tmp_path):
    """With a format, the archive says that its file is to run; the others stay, since they are the artifact's."""
    made = package(mlp_artifact, tmp_path, "torchscript")

    with zipfile.ZipFile(made.path) as archive:
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
        assert {"stateserve_artifact/model.onnx", "stateserve_artifact/model.pt"} <= set(archive.namelist())
    assert (made.format, manifest["model"]["serializedFile"]) == ("torchscript", "stateserve_artifact/model.pt")


@pytest.mark.parametrize("wanted", ["torchscript", "pt2", "tensorrt"])
def test_a_format_that_is_not_there(counting_artifact, tmp_path, wanted):
    """A format that the artifact lacks, or that TorchServe's hosts do not run, is refused."""
    with pytest.raises(EngineUnavailable) as caught:
        package(counting_artifact, tmp_path, wanted)

    assert str(caught.value) == f"{counting_artifact} holds onnx, not {wanted}; export it with --format onnx"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["mlp/latest", "mlp/01", "a name/1", "-mlp/1"])
def test_a_directory_that_says_no_name_and_version(mlp_artifact, tmp_path, place):
    """The name and the version are the directory's; TorchServe takes not every name."""
    copy = shutil.copytree(mlp_artifact, tmp_path / place)

    with pytest.raises(NotPackaged) as caught:
        package(copy, tmp_path / "store")
    assert str(caught.value) == (
        f"{copy} is not <name>/<version>: TorchServe takes a name of letters, digits, '_', '-' and '.', and the version of an "
        "artifact is a positive integer"
    )


def test_what_is_damaged_is_not_packaged(mlp_artifact, tmp_path):
    """Every hash is checked first; a directory that is no artifact is named."""
    copy = shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")
    (copy / "model.onnx").write_bytes(b"other")

    with pytest.raises(DamagedArtifact, match=rf"^{re.escape(str(copy))}/model\.onnx was changed: "):
        package(copy, tmp_path / "store")
    with pytest.raises(NotAnArtifact):
        package(tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_file_that_is_there(mlp_artifact, tmp_path):
    """An archive is never written over, unless that is asked for."""
    target = tmp_path / "mine.mar"
    target.write_bytes(b"before")

    with pytest.raises(NotPackaged) as caught:
        package(mlp_artifact, target)
    assert (str(caught.value), target.read_bytes()) == (f"{target} is there already; --force replaces it", b"before")
    assert zipfile.is_zipfile(packed(mlp_artifact, target, force=True))
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_be_written(mlp_artifact, tmp_path):
    """A place that cannot be written is named."""
    (tmp_path / "file").write_bytes(b"")
    target = tmp_path / "file" / "mlp.mar"

    with pytest.raises(NotPackaged, match=rf"^{re.escape(str(target))} cannot be written: "):
        package(mlp_artifact, target)


def run_command(*arguments, cwd):
    command = [Path(sys.executable).with_name("stateserve"), "package", "mar", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_the_command(mlp_artifact, tmp_path):
    """It prints the archive's path, model_store/NAME.mar unless another is given; with --json one object, errors too."""
    done = run_command(mlp_artifact, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "model_store/mlp.mar\n", "")

    done = run_command(mlp_artifact, "--json", cwd=tmp_path)
    message = "model_store/mlp.mar is there already; --force replaces it"
    assert (done.returncode, json.loads(done.stdout)) == (
        1,
        {"error": {"type": "NotPackaged", "exit_code": 1, "message": message}},
    )

    done = run_command(mlp_artifact, "--force", "--format", "torchscript", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {
        "path": "model_store/mlp.mar",
        "name": "mlp",
        "version": "1",
        "format": "torchscript",
    }


def answer_of(server, request):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", f"/predictions/{request.model}", request.body, request.headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_answers_are_those_of_our_server(archives, server):
    """Every request, good or bad, gets from the handler what it gets from our server: status, content type, and body."""
    for model, directory in archives.items():
        asked = {name: request for name, request in REQUESTS.items() if request.model == model}
        worker = Worker(directory, model)
        for name, request in asked.items():
            (answer,) = worker.ask(request)
            require_same(name, answer_of(server, request), answer)
        for module in [module for module in sys.modules if module.startswith(run_path.PACKAGE)]:
            del sys.modules[module]


def test_a_batch_is_one_call_and_a_bad_request_fails_alone(worker):
    """The good requests of a batch run together, up to 16 rows; each bad one gets its own error, wherever it stands."""
    called = calls_of(worker)
    asked = [
        mlp({"inputs": ROWS[:2].tolist()}),
        mlp({"inputs": [[9, 0, 0, 0]]}),
        Asked("mlp", ROWS[2:5].tobytes(), RAW),
        mlp(b"{"),
        Asked("mlp", npy(ROWS[5:6]), NPY | {"accept": "application/x-npy"}),
    ]
    alone = [worker.ask(request)[0] for request in asked]
    called.clear()

    together = worker.ask(*asked)

    assert [status for status, _, _ in together] == [200, 400, 200, 400, 200]
    assert called == [6]
    assert [answer[1:] for answer in together] == [answer[1:] for answer in alone]


def test_more_rows_than_were_proven_are_split(worker):
    """No call has more rows than were proven; a request of more gets all of its rows in one answer."""
    called = calls_of(worker)

    (first, second) = worker.ask(mlp({"inputs": ROWS.tolist()}), mlp({"inputs": ROWS[:13].tolist()}))

    assert called == [16, 4, 13]
    outputs = [np.array(json.loads(body)["outputs"]["logits"]) for _, _, body in (first, second)]
    assert [len(rows) for rows in outputs] == [20, 13]
    np.testing.assert_allclose(outputs[0][:13], outputs[1], rtol=1e-5)


def calls_of(worker):
    """The rows of each call of the worker's engine, as they are made."""
    engine, called = worker.handler._model._engine._engine, []
    session = engine._session

    class Counted:
        def run(self, names, inputs):
            called.append(len(inputs["x"]))
            return session.run(names, inputs)

    engine._session = Counted()
    return called


def test_a_failing_engine_is_told_by_its_kind(worker, caplog):
    """What fails here is answered with 500 and the request's id; the log has the rest."""

    class Broken:
        def run(self, *_):
            raise RuntimeError("out of tea")

    worker.handler._model._engine._engine._session = Broken()
    ((status, headers, body),) = worker.ask(mlp({"inputs": ROWS[:1].tolist()}))

    assert (status, headers["content-type"], json.loads(body)) == (
        500,
        "application/json",
        {
            "code": 500,
            "type": "EngineFailed",
            "message": "EngineFailed: the server failed; its log says more under request id id-0",
        },
    )
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["request id-0 failed"]
    assert "out of tea" in caplog.text


@pytest.mark.parametrize(
    ("headers", "row", "error"),
    [
        (
            {"Content-Type": FORM},
            {},
            (
                415,
                "UnsupportedBody",
                f'content type "{FORM}" reaches a handler of TorchServe as a form: send application/json',
            ),
        ),
        ({"explain": "True"}, {"body": {}}, (400, "BadRequest", "the model gives predictions, and no explanations of them")),
        (
            {"Content-Type": "application/json"},
            {"body": {"inputs": float("inf")}},
            (400, "BadRequest", "the body is not JSON: Out of range float values are not JSON compliant: inf"),
        ),
    ],
    ids=["a form", "an explanation", "infinity"],
)
def test_what_only_torchserve_brings(worker, headers, row, error):
    """A form's text is lost before the handler sees it; explanations there are none; its JSON reader lets infinity through."""
    worker.context.headers = [{"explain": "False", **headers}]
    (body,) = worker.handler.handle([row], worker.context)

    answer = json.loads(body)
    status, kind, message = error
    assert (worker.context.statuses[0], answer["code"], answer["type"]) == (status, status, kind)
    assert message.startswith(answer["message"])  # Python says since 3.12 which value it was


def test_the_name_is_that_under_which_it_is_registered(archives):
    """TorchServe may serve an archive under another name: the answers have that."""
    ((_, _, body),) = Worker(archives["mlp"], "other").ask(mlp({"inputs": ROWS[:1].tolist()}))

    assert json.loads(body)["model_name"] == "other"


def changed(mlp_artifact, tmp_path):
    return unpacked(packed(mlp_artifact, tmp_path), tmp_path / "unpacked")


def test_a_changed_model_file_is_not_run(mlp_artifact, tmp_path):
    """A file that is not what was exported ends the worker's start."""
    directory = changed(mlp_artifact, tmp_path)
    file = directory / "stateserve_artifact" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")

    with pytest.raises(Exception, match=rf"^{re.escape(str(file))} was changed: ") as caught:
        Worker(directory, "mlp")
    assert caught.type.__name__ == "DamagedArtifact"


def test_golden_cases_that_disagree_are_not_served(mlp_artifact, rehash, tmp_path):
    """Golden cases that the engine does not answer as recorded end the worker's start, also with every hash made right."""
    import safetensors.numpy

    directory = changed(mlp_artifact, tmp_path)
    path = directory / "stateserve_artifact" / "golden.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    arrays[next(key for key in sorted(arrays) if "/output/onnx/" in key)].flat[0] += 1
    path.write_bytes(safetensors.numpy.save(arrays))
    rehash(path.parent)

    with pytest.raises(Exception, match=r"^golden case \S+ disagrees on engine onnx: output logits, ") as caught:
        Worker(directory, "mlp")
    assert caught.type.__name__ == GoldenMismatch.__name__


@pytest.mark.parametrize("model_format", ["onnx", "torchscript"])
def test_a_gpu_that_the_engine_does_not_know(mlp_artifact, tmp_path, model_format):
    """On a GPU that TorchServe assigns the model runs there, or not at all: never on the CPU in silence."""
    made = package(mlp_artifact, tmp_path, model_format)
    directory = unpacked(made.path, tmp_path / "unpacked")

    with pytest.raises(Exception, match=r"cannot run on cuda:0 here|refuses model\.pt: .*CUDA") as caught:
        Worker(directory, "mlp", gpu_id=0)
    assert caught.type.__name__ == "EngineUnavailable"


def test_a_python_that_is_too_old(archives, monkeypatch):
    """TorchServe's own images have older Pythons: the worker says which is needed."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    monkeypatch.setattr(sys, "version", "3.9.18 (main)")

    with pytest.raises(RuntimeError, match=r"^this archive needs Python 3\.11 or newer; this is 3\.9\.18$"):
        Worker(archives["mlp"], "mlp")


def test_threads_are_those_of_the_environment(archives, monkeypatch):
    """OMP_NUM_THREADS, which TorchServe's users set, is how many threads the engine has."""
    made = []
    monkeypatch.setattr("onnxruntime.InferenceSession", spy_on_threads(made))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    Worker(archives["mlp"], "mlp")

    assert made == [1]


def spy_on_threads(made):
    import onnxruntime

    session = onnxruntime.InferenceSession

    def spy(model, options, **rest):
        made.append(options.intra_op_num_threads)
        return session(model, options, **rest)

    return spy


def test_the_run_path_needs_numpy_and_the_engine_only(archives):
    """Where nothing else can be imported, neither ours nor anyone's, the archive's handler loads, replays and answers."""
    script = f"""
import sys, json, importlib.util
import numpy, onnxruntime
sys.path[:] = [{str(archives["mlp"])!r}] + [path for path in sys.path if path != {str(Path.cwd())!r}]
allowed = sys.stdlib_module_names | {{"numpy", "onnxruntime", "stateserve_run", "stateserve_handler"}}
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed:
            raise ModuleNotFoundError(f"no {{name}} here", name=name)
sys.meta_path.insert(0, Only())
import stateserve_handler
class Context:
    model_name = "mlp"
    manifest = json.load(open({str(archives["mlp"] / "MAR-INF" / "MANIFEST.json")!r}))
    system_properties = {{"model_dir": {str(archives["mlp"])!r}, "gpu_id": None}}
    def get_all_request_header(self, index): return {{"Content-Type": "application/json", "explain": "False"}}
    def get_request_id(self, index): return "id"
    def set_response_status(self, code, idx): print(code)
    def set_response_header(self, index, name, value): print(name, value)
handler = stateserve_handler.StateserveHandler()
handler.initialize(Context())
print(handler.handle([{{"body": {{"inputs": [[1, 2, 3, 4]]}}}}], Context())[0].decode())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    status, content_type, body = done.stdout.splitlines()
    assert (status, content_type) == ("200", "content-type application/json")
    assert json.loads(body)["model_name"] == "mlp"


def imports_of(source):
    """The names that a module imports, and whether each is imported when the module is."""
    tree = ast.parse(source)
    at_top = set(tree.body)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node in at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node in at_top


def test_every_import_of_the_run_path_is_there():
    """What the run path's modules import is Python's, NumPy's, an engine's, or among them.

    Apart from what writes golden cases, and what only a model with operations needs: those are imported inside functions.
    """
    modules = run_path.modules()
    for file, source in modules.items():
        for name, at_top in imports_of(source):
            root = name.partition(".")[0]
            own = name.removeprefix(f"{run_path.PACKAGE}.")
            if own.startswith(run_path.LEFT_OUT):
                assert not at_top, (file, name)
            elif root == run_path.PACKAGE:
                assert {f"{name.replace('.', '/')}.py", f"{name.replace('.', '/')}/__init__.py"} & modules.keys(), (file, name)
            elif (root, at_top) != ("safetensors", False):
                assert root in sys.stdlib_module_names | {"numpy", "onnxruntime", "torch"}, (file, name)


def test_an_artifact_with_operations_is_not_packaged(tmp_path):
    """The handler inside a .mar runs none: the message says what does."""
    artifact = raw_models.write_artifact(tmp_path / "pictures" / "1", raw_models.MODELS["pictures"])

    with pytest.raises(NotPackaged, match=r"declares preprocess and postprocess, which the handler inside a \.mar does not run"):
        package(artifact, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_only_imports_are_renamed():
    """Our rooms are below a package of the archive's own, and stand-ins take the place of what no host need have."""
    source = (
        "from artifact import golden\n    from serving.errors import X\nimport orjson\nfrom artifacts import y\nimport simdjson\n"
    )

    assert run_path.renamed(source) == (
        "from stateserve_run.artifact import golden\n    from stateserve_run.serving.errors import X\n"
        "import stateserve_run.serving.torchserve.packed.plain_json as orjson\nfrom artifacts import y\n"
        "import stateserve_run.serving.torchserve.packed.no_simdjson as simdjson\n"
    )


def test_a_call_without_memory(archives, monkeypatch):
    """It is answered with 507; the calls after it have half as many rows at most, as few as the model takes in the end."""
    worker = Worker(archives["mlp"], "mlp")
    model = worker.handler._model
    errors = sys.modules[f"{run_path.PACKAGE}.artifact.errors"]
    whole, seen = model._engine._engine.run, []

    def run(inputs):
        seen.append(len(inputs["x"]))
        if seen[-1] > 4:
            raise errors.OutOfMemory("cuda:0 has no memory for this call")
        return whole(inputs)

    monkeypatch.setattr(model._engine, "_engine", types.SimpleNamespace(run=run))
    large = mlp({"inputs": ROWS[:16].tolist()})
    answers = [worker.ask(large)[0] for _ in range(3)]

    assert [status for status, _, _ in answers] == [507, 507, 200]
    assert json.loads(answers[0][2]) == {
        "code": 507,
        "type": "OutOfMemory",
        "message": "OutOfMemory: the server failed; its log says more under request id id-0",
    }
    assert seen == [16, 8, 8, 4, 4, 4, 4]
