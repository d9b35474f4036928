"""A repository on another storage: a real server that serves what a real S3 server holds."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from artifact import manifest
from foundation.remote import filesystem
from serving.remote_repository import Mirror


def _put(bucket, artifact, version, only=None):
    """Copies an artifact to the bucket as version of `classes`, the manifest first: what is not whole must not be served."""
    storage, _ = filesystem(f"s3://{bucket}")
    files = sorted(artifact.iterdir(), key=lambda path: path.name != manifest.MANIFEST)
    for path in files if only is None else [path for path in files if path.name in only]:
        storage.pipe_file(f"{bucket}/models/classes/{version}/{path.name}", path.read_bytes())


def _bytes_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _asked(server, version=None):
    path = "/predictions/classes" + (f"/{version}" if version else "")
    return server.request("POST", path, json={"inputs": {"x": [[1, 2, 3, 4, 5]]}})


@pytest.fixture
def started(start_server, tmp_path):
    """A function that starts a server of the repository at a URL, with a cache of this test's own."""
    return lambda url, *flags: start_server(url, "--repository-cache", str(tmp_path / "cache"), *flags)


@pytest.fixture
def mirror(s3_bucket, tmp_path):
    return Mirror(f"s3://{s3_bucket}/models", tmp_path / "root")


def test_what_is_there_is_served_and_what_comes_takes_over(s3_bucket, classes_artifact, started, wait_for):
    """Versions come by polling and by load; a damaged one never takes over, and one that leaves the storage is retired."""
    _put(s3_bucket, classes_artifact, 1)
    with started(f"s3://{s3_bucket}/models", "--poll-interval-s", "0.2") as server:
        assert _asked(server).json()["model_version"] == "1"

        _put(s3_bucket, classes_artifact, 2)
        wait_for(lambda: _asked(server).json()["model_version"] == "2")

        _put(s3_bucket, classes_artifact, 3)
        storage, _ = filesystem(f"s3://{s3_bucket}")
        model = f"{s3_bucket}/models/classes/4/model.onnx"
        _put(s3_bucket, classes_artifact, 4)
        data = bytearray(storage.cat_file(model))
        data[-1] ^= 1
        storage.pipe_file(model, bytes(data))
        wait_for(lambda: _asked(server).json()["model_version"] == "3" or _asked(server, 4).status_code == 200)
        loaded = server.request("POST", "/v2/repository/models/classes/load")
        assert loaded.status_code >= 400
        assert "version 4 is damaged on the storage: model.onnx has sha256" in loaded.text
        assert "version 4 is damaged" in server.get("/v2/health/ready").text
        assert _asked(server).json()["model_version"] == "3"

        storage.rm(f"{s3_bucket}/models/classes/4", recursive=True)
        storage.rm(f"{s3_bucket}/models/classes/3", recursive=True)
        wait_for(lambda: _asked(server).json()["model_version"] == "2")
        assert server.stop() == 0


def test_a_storage_that_cannot_be_asked_is_asked_again(s3, s3_bucket, classes_artifact, started, wait_for):
    """At the start the server is not ready, and says why; as soon as the storage can be asked, it serves what is there."""
    with started(f"s3://{s3_bucket}-later/models", "--poll-interval-s", "0.2") as server:
        assert server.get("/v2/health/ready").status_code == 503
        assert "there is no such bucket" in server.get("/ready").text

        s3.make_bucket(f"{s3_bucket}-later")
        _put(f"{s3_bucket}-later", classes_artifact, 1)

        wait_for(lambda: server.get("/v2/health/ready").status_code == 200)
        assert _asked(server).json()["model_version"] == "1"
        assert server.stop() == 0


def test_what_was_fetched_is_served_while_the_storage_is_away(s3_bucket, classes_artifact, started, monkeypatch):
    """A server that starts again while the storage is away serves what it had, and warns."""
    _put(s3_bucket, classes_artifact, 1)
    url = f"s3://{s3_bucket}/models"
    with started(url) as server:
        assert _asked(server).status_code == 200
        assert server.stop() == 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with started(url) as server:
        assert _asked(server).json()["model_version"] == "1"
        ready = server.get("/ready")
        assert ready.status_code == 200
        assert "the storage cannot be reached" in ready.text
        loaded = server.request("POST", "/v2/repository/models/classes/load")
        assert loaded.status_code >= 400
        assert "the storage cannot be reached" in loaded.text
        assert server.stop() == 0


@pytest.mark.processes
def test_several_processes_read_the_cache(s3_bucket, classes_artifact, started):
    """With front ends of their own, control alone asks the storage."""
    _put(s3_bucket, classes_artifact, 1)
    with started(f"s3://{s3_bucket}/models", "--frontends", "2") as server:
        assert _asked(server).json()["model_version"] == "1"
        _put(s3_bucket, classes_artifact, 2)
        assert server.request("POST", "/v2/repository/models/classes/load").status_code == 200
        assert _asked(server).json()["model_version"] == "2"
        assert server.stop() == 0


def test_a_damaged_cache_is_fetched_again(s3_bucket, classes_artifact, mirror, tmp_path):
    """A new process compares every fetched file with its manifest; one that runs does so for a model that is asked for."""
    _put(s3_bucket, classes_artifact, 1)
    mirror.update()
    model = tmp_path / "root" / "classes" / "1" / "model.onnx"
    whole = model.read_bytes()

    model.write_bytes(whole[:-1])
    Mirror(mirror.url, mirror.root).update()
    assert model.read_bytes() == whole

    shutil.rmtree(model.parent)
    model.parent.mkdir()
    mirror.update("classes")
    assert model.read_bytes() == whole


def test_a_version_that_is_not_complete_is_left_alone(s3_bucket, classes_artifact, mirror):
    """Whatever order a copy takes: without the manifest it is nothing, without a file of it not complete yet."""
    names = {path.name for path in classes_artifact.iterdir()}
    _put(s3_bucket, classes_artifact, 1, only=names - {manifest.MANIFEST})
    mirror.update()
    assert (dict(mirror.failures), list(mirror.root.iterdir())) == ({}, [])

    _put(s3_bucket, classes_artifact, 2, only=names - {"model.onnx"})
    mirror.update()
    assert mirror.failures["classes"].startswith("version 2 is not complete on the storage yet")

    _put(s3_bucket, classes_artifact, 2)
    mirror.update()
    assert (dict(mirror.failures), sorted(mirror.root.glob("*/*"))) == ({}, [mirror.root / "classes" / "2"])


def test_a_version_that_changes_on_the_storage_changes_here(s3_bucket, classes_artifact, mirror, tmp_path):
    """Another artifact under the same number replaces what was fetched, whole."""
    _put(s3_bucket, classes_artifact, 1)
    mirror.update()
    other = tmp_path / "other"
    shutil.copytree(classes_artifact, other)
    value = json.loads((other / manifest.MANIFEST).read_bytes())
    value["evidence"][manifest.PARITY]["sha256"] = manifest.FileEntry.of((other / manifest.PARITY).read_bytes() + b" ").sha256
    value["evidence"][manifest.PARITY]["size"] += 1
    (other / manifest.PARITY).write_bytes((other / manifest.PARITY).read_bytes() + b" ")
    (other / manifest.MANIFEST).write_bytes(json.dumps(value).encode())

    _put(s3_bucket, other, 1)
    mirror.update()

    assert _bytes_of(mirror.root / "classes" / "1") == _bytes_of(other)


def test_an_empty_storage_removes_nothing(s3_bucket, classes_artifact, mirror):
    """So looks a wrong name, or a bucket that is just being filled anew."""
    _put(s3_bucket, classes_artifact, 1)
    mirror.update()
    storage, _ = filesystem(mirror.url)
    storage.rm(f"{s3_bucket}/models", recursive=True)

    mirror.update()

    assert (mirror.root / "classes" / "1" / manifest.MANIFEST).is_file()


def test_names_that_lead_elsewhere_are_no_models(s3_bucket, classes_artifact, mirror, tmp_path):
    """Objects may be called anything; nothing is written outside the cache."""
    storage, _ = filesystem(mirror.url)
    data = (classes_artifact / manifest.MANIFEST).read_bytes()
    for name in ("../1/manifest.json", ".hidden/1/manifest.json", "classes/01/manifest.json", "classes/1/deep/manifest.json"):
        storage.pipe_file(f"{s3_bucket}/models/{name}", data)

    mirror.update()

    assert list(mirror.root.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def test_a_path_made_of_a_url_is_refused():
    """`s3://…` loses a slash as a path: better an error than a folder of that name."""
    from serving.settings import Settings

    with pytest.raises(ValueError, match="give 's3://models/production' as text"):
        Settings(repository=Path("s3://models/production"))


def test_numbers_come_back_as_they_are(s3_bucket, classes_artifact, mirror):
    """What was fetched is an artifact as any other."""
    import artifact

    _put(s3_bucket, classes_artifact, 1)
    mirror.update()

    scores = artifact.load(mirror.root / "classes" / "1").run({"x": np.ones((2, 5), np.float32)})["scores"]

    assert np.array_equal(scores, np.ones((2, 5), np.float32))
