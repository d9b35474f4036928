"""An artifact is loaded whole and unchanged, or not at all."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import artifact
from artifact.artifact import served_labels, verified_files
from artifact.check import check, replay_all, require_all
from artifact.engines import EngineOptions, load_engine
from artifact.engines.onnx import OnnxEngine
from artifact.errors import DamagedArtifact, EngineUnavailable, InvalidInput, NotAnArtifact
from artifact.manifest import read_manifest
from artifact.signature import Dim, Signature, TensorSpec
from foundation.storage import sha256_bytes

PROJECT = Path(__file__).parents[2]
LISTED = ["config.yaml", "golden.safetensors", "model.onnx", "model.pt", "model.pt2", "parity.json"]
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("logits", "float32", ("batch", 3)),), {"batch": Dim(1, 8)}
)


@pytest.fixture
def copy(mlp_artifact, tmp_path):
    return shutil.copytree(mlp_artifact, tmp_path / "mlp" / "1")


def test_public_names():
    """The room exports what the other rooms use, and nothing else."""
    assert artifact.__all__ == [
        "Artifact",
        "Dim",
        "GoldenCase",
        "Manifest",
        "Replay",
        "Signature",
        "TensorSpec",
        "load",
        "read_manifest",
        "scaled_error",
    ]


def test_every_file_is_listed(mlp_artifact):
    """The manifest lists every file of an artifact but itself and the facts of the run."""
    unlisted = {path.name for path in mlp_artifact.iterdir()} - set(LISTED)

    assert sorted(artifact.read_manifest(mlp_artifact).listed) == LISTED
    assert unlisted == {"manifest.json", "environment.json", "provenance.json"}


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_changed_byte(copy, name, place):
    """One changed byte in any listed file is refused, with the file's name, both sizes and both hashes."""
    path = copy / name
    before = path.read_bytes()
    at = int(len(before) * place) if place != -1 else len(before) - 1
    after = before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :]
    path.write_bytes(after)

    for use in (artifact.load, check):
        with pytest.raises(DamagedArtifact) as caught:
            use(copy)
        assert str(caught.value) == (
            f"{path} was changed: {len(after)} bytes with sha256 {sha256_bytes(after)}, the manifest says {len(before)} bytes "
            f"with {sha256_bytes(before)}; take the artifact from where it was exported again"
        )


@pytest.mark.parametrize("name", LISTED)
def test_a_missing_file(copy, name):
    """A listed file that is not there is refused by name."""
    (copy / name).unlink()

    with pytest.raises(DamagedArtifact) as caught:
        artifact.load(copy)
    assert str(caught.value) == f"{copy} lacks {name}, which the manifest lists; copy the artifact whole"


@pytest.mark.parametrize("name", ["model.onnx.data", ".hidden", "model.py", "config.yaml~"])
def test_an_extra_file(copy, name):
    """A file that the manifest does not list is refused by name."""
    (copy / name).write_bytes(b"")

    with pytest.raises(DamagedArtifact) as caught:
        artifact.load(copy)
    assert str(caught.value) == (
        f"{copy / name} is not listed in the manifest; an artifact holds what export wrote and nothing else"
    )


@pytest.mark.parametrize("name", [*LISTED, "environment.json", "manifest.json"])
def test_a_link_in_a_files_place(copy, tmp_path, name):
    """A link is refused, also where the bytes behind it are the right ones."""
    shutil.move(copy / name, tmp_path / "behind")
    (copy / name).symlink_to(tmp_path / "behind")

    with pytest.raises(DamagedArtifact) as caught:
        artifact.load(copy)
    assert str(caught.value) == (
        f"{copy / name} is not a regular file (a link or a directory); an artifact holds regular files only"
    )


def test_a_folder_inside(copy):
    """So is a folder."""
    (copy / "bench.json").mkdir()

    with pytest.raises(DamagedArtifact, match=r"bench\.json is not a regular file"):
        artifact.load(copy)


def test_facts_of_the_run_may_change(copy):
    """environment.json, provenance.json and bench.json are not hashed: they may change, or go."""
    (copy / "environment.json").unlink()
    (copy / "provenance.json").write_text("{}")
    (copy / "bench.json").write_text("{}")

    assert artifact.load(copy).engine.name == "onnx"


def test_a_directory_that_is_no_artifact(tmp_path):
    """Where there is no manifest there is no artifact."""
    with pytest.raises(NotAnArtifact, match=r"no readable manifest\.json"):
        artifact.load(tmp_path / "nowhere")


def test_an_unknown_engine(mlp_artifact):
    """An engine that we do not have is refused, and those that we have are named."""
    with pytest.raises(EngineUnavailable) as caught:
        artifact.load(mlp_artifact, engine="tensorrt")

    assert str(caught.value) == "there is no engine 'tensorrt'; the engines are onnx, torchscript, pt2"


def test_a_format_that_is_not_there(write_artifact, tmp_path, mlp_artifact):
    """An engine whose format the artifact does not hold is refused with the flag that would export it."""
    whole = artifact.load(mlp_artifact)
    model = (mlp_artifact / "model.onnx").read_bytes()
    made = write_artifact(tmp_path / "net" / "1", whole.signature, {"onnx": model}, dict(whole.cases[0].inputs))

    with pytest.raises(EngineUnavailable) as caught:
        artifact.load(made, engine="pt2")
    assert str(caught.value) == f"{made} holds onnx, not pt2; export it with --format pt2"
    assert artifact.load(made).engine.name == "onnx"


def test_auto_takes_the_first_that_is_there(mlp_artifact):
    """Left to itself, an artifact with every format runs on ONNX Runtime."""
    assert artifact.load(mlp_artifact).engine.name == "onnx"


def test_requests_are_checked(mlp_artifact):
    """`run` refuses what the signature does not allow before the engine sees it."""
    with pytest.raises(InvalidInput, match=r'^input "x" holds 5\.0; the signature allows -4 to 4$'):
        artifact.load(mlp_artifact).run({"x": np.full((1, 4), 5, np.float32)})


@pytest.mark.parametrize("change", [lambda value: value["engines"].pop("onnx"), lambda value: value.pop("engines")])
def test_parity_without_budgets(copy, rehash, change):
    """An artifact whose parity.json says no budgets for an engine cannot be replayed, and is refused."""
    value = json.loads((copy / "parity.json").read_bytes())
    change(value)
    (copy / "parity.json").write_text(json.dumps(value))
    rehash(copy)

    with pytest.raises(DamagedArtifact, match=r"parity\.json states no budgets: KeyError"):
        artifact.load(copy)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "model.pt2"])
@pytest.mark.parametrize("data", [b"", b"garbage" * 100, b"PK\x03\x04"])
def test_a_model_file_that_is_none(copy, rehash, name, data):
    """Bytes that are no model are refused by the file's name, also with every hash made right."""
    (copy / name).write_bytes(data)
    rehash(copy)
    engine = {"model.onnx": "onnx", "model.pt": "torchscript", "model.pt2": "pt2"}[name]

    with pytest.raises(EngineUnavailable, match=rf"{name}"):
        artifact.load(copy, engine=engine)


def test_check_reads_every_file(mlp_artifact):
    """`check` gives the manifest of an artifact that is whole, and every engine replays it."""
    assert check(mlp_artifact).content_id == artifact.read_manifest(mlp_artifact).content_id
    replayed = list(replay_all(mlp_artifact, ("onnx", "torchscript", "pt2")))
    require_all(replayed)

    assert [(entry.engine, entry.unavailable) for entry in replayed] == [("onnx", None), ("torchscript", None), ("pt2", None)]


def external_model(kind, location):
    """A model whose weight, (4, 3), lies in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 3], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        weight.external_data.add(key=key, value=value)
    matmul = helper.make_node("MatMul", ["x", "w"], ["logits"])
    nodes, weights = {
        "initializer": ([matmul], [weight]),
        "constant": ([helper.make_node("Constant", [], ["w"], value=weight), matmul], []),
        "subgraph": (
            [helper.make_node("If", ["yes"], ["logits"], then_branch=branch(weight), else_branch=branch(weight))],
            [helper.make_tensor("yes", TensorProto.BOOL, [], [True])],
        ),
    }[kind]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])]
    return model_bytes(helper.make_graph(nodes, "net", inputs, outputs, weights))


def branch(weight):
    output = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", 3])
    return helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"])], "branch", [], [output], [weight])


def model_bytes(graph):
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


@pytest.fixture
def external(copy, rehash, tmp_path):
    """The artifact with a model whose weight lies in `weights.bin`, a link beside it to a file outside; hashes made right."""
    (tmp_path / "secret.bin").write_bytes(np.full((4, 3), 7, np.float32).tobytes())
    (copy / "model.onnx").write_bytes(external_model("initializer", "weights.bin"))
    rehash(copy)
    (copy / "weights.bin").symlink_to(tmp_path / "secret.bin")
    return copy


def test_a_linked_external_data_file_is_refused_by_the_listing(external):
    """A link beside the model that nobody listed is refused by name."""
    with pytest.raises(DamagedArtifact, match=r"weights\.bin is not a regular file \(a link or a directory\)"):
        artifact.load(external)


def test_a_linked_external_data_file_is_refused_even_if_listed(external, rewrite_manifest, tmp_path):
    """Nor does it help to list it with the right hash of what is behind it."""
    data = (tmp_path / "secret.bin").read_bytes()
    entry = {"sha256": sha256_bytes(data), "size": len(data)}
    rewrite_manifest(external, lambda value: value["content"]["files"].update({"weights.bin": entry}))

    with pytest.raises(DamagedArtifact, match=r"weights\.bin is not a regular file \(a link or a directory\)"):
        verified_files(external, artifact.read_manifest(external))


def test_listing_and_engine_never_open_the_external_file(external):
    """Neither opens it: it is a pipe here, on which whoever opens it waits for ever, and both end."""
    (external / "weights.bin").unlink()
    os.mkfifo(external / "weights.bin")
    code = """
from pathlib import Path
import artifact
from artifact.engines import load_engine

stated = artifact.read_manifest(Path())
model = Path("model.onnx").read_bytes()
for use in (lambda: artifact.load("."), lambda: load_engine("onnx", model, stated.signature)):
    try:
        use()
    except artifact.errors.ArtifactError as error:
        print(type(error).__name__)
"""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=external, env=environment, capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.stdout.split(), done.returncode) == (["DamagedArtifact", "EngineUnavailable"], 0), done.stderr


@pytest.mark.parametrize("kind", ["initializer", "constant", "subgraph"])
@pytest.mark.parametrize(
    "location", ["weights.bin", "./weights.bin", "link.bin", "../inside/weights.bin", "/ABSOLUTE/weights.bin"]
)
def test_the_engine_takes_no_external_data(tmp_path, monkeypatch, kind, location):
    """ONNX Runtime would look in the current directory: from there, above it, or through a link, nothing is taken."""
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "weights.bin").write_bytes(np.full((4, 3), 7, np.float32).tobytes())
    (inside / "link.bin").symlink_to("weights.bin")
    monkeypatch.chdir(inside)
    model = external_model(kind, location.replace("/ABSOLUTE", str(inside)))

    with pytest.raises(EngineUnavailable, match=r"^ONNX Runtime .* refuses model\.onnx: "):
        OnnxEngine(model, SIGNATURE, EngineOptions())


def test_the_same_model_with_its_weight_inside_runs(tmp_path, monkeypatch):
    """What is refused above is the place of the weight, not the model."""
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(external_model("initializer", "weights.bin"))
    (weight,) = model.graph.initializer
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full((4, 3), 7, np.float32), "w"))
    engine = load_engine("onnx", model.SerializeToString(), SIGNATURE)

    assert engine.run({"x": np.ones((1, 4), np.float32)})["logits"].tolist() == [[28, 28, 28]]


def test_labels_that_are_no_text(write_artifact, rehash, tmp_path):
    """A server reads labels from the disk: those that are no UTF-8 are a damaged artifact's, and not an error of Python's."""
    signature = dataclasses.replace(
        SIGNATURE, outputs=tuple(dataclasses.replace(spec, labels="labels.txt") for spec in SIGNATURE.outputs)
    )
    model = onnx.load_from_string(external_model("initializer", "weights.bin"))
    (weight,) = model.graph.initializer
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full((4, 3), 7, np.float32), "w"))
    inputs = {"x": np.ones((1, 4), np.float32)}
    place = write_artifact(tmp_path / "m" / "1", signature, {"onnx": model.SerializeToString()}, inputs, labels="a\nb\nc\n")

    assert served_labels(place, read_manifest(place)) == {"logits": ("a", "b", "c")}
    (place / "labels.txt").write_bytes(b"\xff\n")
    rehash(place)
    with pytest.raises(DamagedArtifact, match="has no labels that can be read"):
        served_labels(place, read_manifest(place))
