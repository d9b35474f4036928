"""Checkpoints at URLs: fetched with all that an exporter reads beside them, and only if they are whole."""

import hashlib
from pathlib import Path

import pytest
import torch

import checkpoints
from checkpoints.errors import UnreadableCheckpoint
from checkpoints.fetched import local_checkpoint
from checkpoints.keeping.sidecar import KeptFile, Sidecar
from checkpoints.pointers import pointer_text

CONFIG = {"schema": 1, "outputs": {"logits": {"labels": "labels.txt"}, "other": {"labels": "../secret"}, "third": 3}}


@pytest.fixture
def put(s3, s3_bucket, monkeypatch, tmp_path):
    """A function that puts an object under s3://<bucket>/runs/, None takes it away; its URL. The cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    client = s3.client()

    def put(name, data):
        key = f"runs/{name}"
        client.delete_object(Bucket=s3_bucket, Key=key) if data is None else client.put_object(
            Bucket=s3_bucket, Key=key, Body=data
        )
        return f"s3://{s3_bucket}/{key}"

    return put


@pytest.fixture
def weights(tmp_path):
    """The bytes of a plain torch.save file."""
    torch.save({"layer.weight": torch.arange(6.0).reshape(2, 3)}, tmp_path / "weights")
    return (tmp_path / "weights").read_bytes()


def kept(put, stem, data, *, sha256=None, config=CONFIG):
    """Puts a checkpoint in one file as a Keeper does."""
    file = KeptFile("checkpoint", len(data), sha256 or hashlib.sha256(data).hexdigest())
    sidecar = Sidecar(
        stem=stem,
        step=int(stem.split("-")[1]),
        epoch=None,
        sequence=1,
        run="0" * 16,
        saved_at="2026-01-01T00:00:00Z",
        format="pth",
        files={f"{stem}.pth": file},
        config=config,
    )
    put(f"{stem}.pth", data)
    put(f"{stem}.json", sidecar.encode())
    return put("best.pth", pointer_text(f"{stem}.pth"))


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))


def test_a_path_stays(tmp_path):
    """A local path is itself, whether it is there or not; one that was made of a URL is refused with the URL."""
    assert local_checkpoint(tmp_path / "best.pth") == tmp_path / "best.pth"
    assert local_checkpoint("runs/best.pth") == Path("runs/best.pth")
    with pytest.raises(UnreadableCheckpoint, match=r"was a URL before it became a path: give 's3://bucket/best\.pth' as text"):
        local_checkpoint(Path("s3://bucket/best.pth"))


def test_any_checkpoint(put, weights):
    """A file of any trainer is fetched and read, with the YAML beside it and the labels file that this names."""
    url = put("epoch_12.pth", weights)
    put("epoch_12.yaml", b"outputs: {logits: {labels: names.txt}, x: {labels: /etc/passwd}}")
    put("names.txt", b"a\nb\n")
    put("unrelated.txt", b"")
    path = local_checkpoint(url)
    assert names(path) == ["epoch_12.pth", "epoch_12.yaml", "names.txt"]
    assert checkpoints.read(path).select(None).tensors["layer.weight"].shape == (2, 3)


@pytest.mark.parametrize("yaml", [b"outputs: [", b"\xff\xfe\x00", b"- 1", b"outputs: 3"])
def test_a_yaml_that_is_wrong(put, weights, yaml):
    """A YAML that cannot be read is fetched all the same: the exporter says what is wrong with it."""
    put("x.yaml", yaml)
    assert names(local_checkpoint(put("x.pth", weights))) == ["x.pth", "x.yaml"]


def test_a_pointer_and_all_that_belongs_to_it(put, weights):
    """best.pth is fetched as the pointer that it is, with the checkpoint, its sidecar and its config's labels; not the state."""
    url = kept(put, "step-00000120", weights)
    put("step-00000120.state.pth", b"optimizer")
    put("labels.txt", b"a\nb\n")
    path = local_checkpoint(url)
    assert names(path) == ["best.pth", "labels.txt", "step-00000120.json", "step-00000120.pth"]
    assert path.read_bytes() == pointer_text("step-00000120.pth")
    assert path.with_name("step-00000120.pth").read_bytes() == weights


def test_a_pointer_that_moves(put, weights, monkeypatch):
    """Where the training replaces best.pth and removes what it named while it is fetched, the new one is followed."""
    from checkpoints import fetched

    url = kept(put, "step-00000001", weights)
    read = fetched.read_bytes

    def moved(url, *rest):
        data = read(url, *rest)
        if b"step-00000001" in data:
            kept(put, "step-00000002", weights)
            put("step-00000001.json", None)
            put("step-00000001.pth", None)
        return data

    monkeypatch.setattr(fetched, "read_bytes", moved)
    assert local_checkpoint(url).read_bytes() == pointer_text("step-00000002.pth")


def test_what_is_gone_is_not_read(put, weights):
    """A YAML that was fetched once and was removed from the storage is no longer beside the checkpoint."""
    url = put("x.pth", weights)
    put("x.yaml", b"schema: 1")
    assert names(local_checkpoint(url)) == ["x.pth", "x.yaml"]
    put("x.yaml", None)
    assert names(local_checkpoint(url)) == ["x.pth"]


def test_damaged_on_the_storage(put, weights):
    """A file whose sha256 is not its sidecar's is refused."""
    with pytest.raises(UnreadableCheckpoint, match=r"step-00000001\.pth has the sha256 \w+, expected 1{64}: it is damaged"):
        local_checkpoint(kept(put, "step-00000001", weights, sha256="1" * 64))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("best.pth", pointer_text("latest.pth"), "points to latest.pth, which is a pointer too"),
        ("best.pth", pointer_text("step-00000009.pth"), "is not there, or points to a file that is not there"),
        ("step-00000009.json", b"{}", "step-00000009.json"),
    ],
)
def test_hostile_files(put, weights, name, data, message):
    """A pointer to a pointer, one to nothing, and a sidecar that is none are refused."""
    url = put("step-00000009.pth", weights if name.endswith(".json") else None)
    with pytest.raises(UnreadableCheckpoint, match=message):
        local_checkpoint(put(name, data) if name == "best.pth" else (put(name, data), url)[1])


def test_storages_that_fail(s3_bucket):
    """What the storage refuses or lacks is an UnreadableCheckpoint (exit 3), with what to do."""
    with pytest.raises(UnreadableCheckpoint, match=r"none\.pth is not there"):
        local_checkpoint(f"s3://{s3_bucket}/none.pth")
    with pytest.raises(UnreadableCheckpoint, match="there is no such bucket"):
        local_checkpoint("s3://no-such-bucket-here/best.pth")
    with pytest.raises(UnreadableCheckpoint, match="no storage is known by s4://"):
        local_checkpoint("s4://bucket/best.pth")


def test_a_cache_that_cannot_be_written(put, weights, monkeypatch, tmp_path):
    """Where the cache's place is a file, the error names the URL and the reason."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UnreadableCheckpoint, match=r"x\.pth cannot be kept in the cache: Not a directory\."):
        local_checkpoint(put("x.pth", weights))
