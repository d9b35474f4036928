"""The manifest says what an artifact is, and nothing that is not one is taken for one."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact import manifest
from artifact.errors import ArtifactError, DamagedArtifact, NotAnArtifact
from artifact.manifest import FileEntry, Manifest
from artifact.signature import Dim, Signature, TensorSpec
from foundation.storage import canonical_json, sha256_bytes

WHERE = Path("repository/net/1")
MADE = Manifest(
    signature=Signature(
        (TensorSpec("x", "float32", ("batch", 4), (-4.0, 4.0)),),
        (TensorSpec("y", "float32", ("batch", 3), labels="labels.txt"),),
        {"batch": Dim(1, 16, opt=4)},
    ),
    config={"model": {"name": "net", "params": {"größe": 3}}},
    weights_sha256="1" * 64,
    files={"model.onnx": FileEntry.of(b"onnx"), "labels.txt": FileEntry.of(b"a\nb\nc\n")},
    evidence={"golden.safetensors": FileEntry.of(b"golden"), "parity.json": FileEntry.of(b"{}")},
    unstable={"model.pt2": FileEntry.of(b"pt2")},
)


def changed(change, *, content_id=True):
    """The manifest's bytes after a change of its JSON, the content id made right again."""
    value = json.loads(MADE.encode())
    change(value)
    if content_id:
        value["content_id"] = sha256_bytes(canonical_json(value["content"]))
    return json.dumps(value).encode()


def test_round_trip():
    """A manifest comes back from its bytes as it was, and gives the same bytes again."""
    assert manifest.decode(MADE.encode(), WHERE) == MADE
    assert manifest.decode(MADE.encode(), WHERE).encode() == MADE.encode()


def test_a_real_artifact_round_trips(mlp_artifact):
    """So does the one that export wrote."""
    read = manifest.read_manifest(mlp_artifact)

    assert read.encode() == (mlp_artifact / "manifest.json").read_bytes()
    assert read.formats == ("onnx", "torchscript", "pt2")
    assert set(read.unstable) == {"model.pt2"}


def test_evidence_and_unstable_files_are_outside_the_content_id():
    """The content id is that of the content alone: other evidence, or another build of PyTorch, leaves it as it is."""
    other = dataclasses.replace(MADE, evidence={"golden.safetensors": FileEntry.of(b"other")}, unstable={})

    assert other.content_id == MADE.content_id


@pytest.mark.parametrize(
    "changes",
    [
        {"config": {}},
        {"weights_sha256": "2" * 64},
        {"files": {"model.onnx": FileEntry.of(b"other")}},
        {"signature": dataclasses.replace(MADE.signature, dims={"batch": Dim(1, 17, opt=4)})},
    ],
)
def test_content_makes_the_content_id(changes):
    """Whatever says what the model is changes the content id."""
    assert dataclasses.replace(MADE, **changes).content_id != MADE.content_id


def test_changed_content():
    """Content that does not hash to the stated id is refused with both hashes."""
    data = changed(lambda value: value["content"]["config"].update(more=1), content_id=False)
    actual = sha256_bytes(canonical_json(json.loads(data)["content"]))

    with pytest.raises(DamagedArtifact) as caught:
        manifest.decode(data, WHERE)
    assert str(caught.value) == (
        f"repository/net/1/manifest.json was changed: its content hashes to {actual}, it states {MADE.content_id}; "
        "take the artifact from where it was exported again"
    )


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema(schema):
    """A manifest of another schema is refused by its number."""
    with pytest.raises(NotAnArtifact) as caught:
        manifest.decode(changed(lambda value: value.update(schema=schema)), WHERE)

    assert str(caught.value) == f"repository/net/1/manifest.json has schema {schema}; this version reads 1"


ESCAPES = ["../x", "/x", "a\\b", "a/b", "..", ".", "", "/", "x/", "./x"]


@pytest.mark.parametrize("section", ["files", "evidence", "unstable"])
@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_leave_the_directory(section, name):
    """A listed name is a plain file name, or the manifest is none."""

    def change(value):
        entries = value["content"]["files"] if section == "files" else value[section]
        entries[name] = {"sha256": "0" * 64, "size": 1}

    with pytest.raises(NotAnArtifact) as caught:
        manifest.decode(changed(change), WHERE)
    cause = ValueError(f"{name!r} is not a plain file name")
    assert str(caught.value) == f"repository/net/1/manifest.json is not a manifest: {cause!r}"


@pytest.mark.parametrize("section", ["evidence", "unstable"])
def test_a_file_that_is_listed_twice(section):
    """One file has one hash: a second one outside the content id would let other bytes run under the same id."""

    def change(value):
        value[section]["model.onnx"] = {"sha256": sha256_bytes(b"other"), "size": 5}

    with pytest.raises(NotAnArtifact, match="a file is listed twice"):
        manifest.decode(changed(change), WHERE)


@pytest.mark.parametrize("missing", ["model.onnx", "golden.safetensors", "parity.json"])
def test_what_every_artifact_has(missing):
    """A manifest lists a model, golden cases and parity."""

    def change(value):
        value["unstable"].clear()
        for entries in (value["content"]["files"], value["evidence"]):
            entries.pop(missing, None)

    with pytest.raises(NotAnArtifact, match=r"it lists no model file, no golden\.safetensors or no parity\.json"):
        manifest.decode(changed(change), WHERE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema":1}',
        changed(lambda value: value["content"].update(config=float("nan")), content_id=False),
        changed(lambda value: value["content"].update(config="\ud800"), content_id=False),
        changed(lambda value: value["content"]["signature"]["inputs"][0].update(dtype="object")),
        changed(lambda value: value["content"]["signature"]["dims"]["batch"].update(min="1")),
    ],
    ids=range(11),
)
def test_bytes_that_are_no_manifest(data):
    """Whatever is no manifest of ours is refused as such."""
    with pytest.raises(NotAnArtifact, match=r"^repository/net/1/manifest\.json is not a manifest: "):
        manifest.decode(data, WHERE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
PATHS = st.sampled_from(
    [
        ("schema",),
        ("content_id",),
        ("content",),
        ("content", "config"),
        ("content", "weights"),
        ("content", "weights", "sha256"),
        ("content", "files"),
        ("content", "files", "model.onnx"),
        ("content", "files", "model.onnx", "size"),
        ("content", "signature"),
        ("content", "signature", "inputs"),
        ("content", "signature", "inputs", 0),
        ("content", "signature", "inputs", 0, "name"),
        ("content", "signature", "inputs", 0, "dtype"),
        ("content", "signature", "inputs", 0, "shape"),
        ("content", "signature", "inputs", 0, "range"),
        ("content", "signature", "outputs", 0, "labels"),
        ("content", "signature", "dims"),
        ("content", "signature", "dims", "batch"),
        ("content", "signature", "dims", "batch", "multiple"),
        ("evidence",),
        ("evidence", "parity.json"),
        ("unstable",),
    ]
)


@settings(max_examples=300, deadline=None)
@given(JSON)
def test_arbitrary_json(value):
    """Arbitrary JSON never raises anything but an ArtifactError."""
    with pytest.raises(ArtifactError):
        manifest.decode(json.dumps(value).encode(), WHERE)


@settings(max_examples=500, deadline=None)
@given(PATHS, JSON, st.booleans())
def test_arbitrary_json_in_one_place(path, value, content_id):
    """Nor does a manifest with anything at all in one place, its content id made right or not."""
    document = json.loads(MADE.encode())
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    if content_id:
        try:
            document["content_id"] = sha256_bytes(canonical_json(document["content"]))
        except ValueError:
            content_id = False
    try:
        read = manifest.decode(json.dumps(document).encode(), WHERE)
    except ArtifactError:
        return
    assert read.signature.inputs
    assert manifest.decode(read.encode(), WHERE).content_id == read.content_id


@settings(max_examples=200, deadline=None)
@given(st.binary())
def test_arbitrary_bytes(data):
    """Arbitrary bytes never raise anything but an ArtifactError."""
    with pytest.raises(ArtifactError):
        manifest.decode(data, WHERE)


def test_no_manifest(tmp_path):
    """A directory without a manifest is no artifact."""
    with pytest.raises(NotAnArtifact) as caught:
        manifest.read_manifest(tmp_path)

    assert str(caught.value) == (
        f"{tmp_path} has no readable manifest.json: an artifact is a directory <name>/<version> that export wrote"
    )


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("elsewhere.json")])
def test_a_manifest_that_is_no_file(tmp_path, make):
    """A pipe, a folder or a link in the manifest's place is refused before it is opened."""
    (tmp_path / "elsewhere.json").write_bytes(MADE.encode())
    make(tmp_path / "manifest.json")

    with pytest.raises(DamagedArtifact, match=r"manifest\.json is not a regular file \(a link or a directory\)"):
        manifest.read_manifest(tmp_path)
