"""A prefix of an S3 bucket as a place of checkpoints, on a real server over HTTP."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lossy import lossy
from s3_server import s3_server

from checkpoints.errors import KeeperError
from checkpoints.keeping import remote_store
from checkpoints.keeping.remote_store import RemoteStore
from checkpoints.keeping.store import Store, open_store
from foundation import remote
from foundation.remote import StorageError
from foundation.storage import sha256_bytes

ROOT = Path(__file__).resolve().parents[3]
PART_BYTES = 5 * 2**20  # the smallest that S3 takes
DEADLINE_S = 60


@pytest.fixture
def store(s3_bucket, monkeypatch):
    """The place s3://<bucket>/runs/one, with parts that are small."""
    monkeypatch.setattr(remote_store, "PART_BYTES", PART_BYTES)
    return RemoteStore(f"s3://{s3_bucket}/runs/one/")


def pieces(*data):
    def produce(stream):
        for piece in data:
            assert stream.write(piece) == memoryview(piece).nbytes
        stream.flush()

    return produce


def failing(*data):
    def produce(stream):
        pieces(*data)(stream)
        raise ValueError("the tensor is gone")

    return produce


def test_a_url_opens_it(store: Store, s3_bucket):
    """open_store takes a URL; an empty prefix is an empty place, whose room is unknown."""
    opened = open_store(f"s3://{s3_bucket}/runs/one")
    assert isinstance(opened, RemoteStore)
    assert (opened.where, opened.sizes(), opened.links(), opened.free_bytes(), opened.sweep()) == (
        f"s3://{s3_bucket}/runs/one",
        {},
        [],
        None,
        [],
    )
    with opened.hold({"pid": 1}), store.hold({"pid": 2}):  # no locks here: the fence decides
        pass


@pytest.mark.parametrize("size", [0, PART_BYTES - 1, PART_BYTES, 2 * PART_BYTES + 7])
def test_written_is_there(store, s3, s3_bucket, size):
    """What was written has its size and sum, in one part or several, and no upload is left open."""
    data = os.urandom(size)
    written = store.write("step-00000001.safetensors", pieces(data[:3], bytearray(data[3:])))
    assert (written.size, written.sha256) == (size, sha256_bytes(data))
    assert store.read("step-00000001.safetensors") == data
    assert store.sizes() == {"step-00000001.safetensors": size}
    assert s3.keys(s3_bucket) == {"runs/one/step-00000001.safetensors": size}
    assert s3.unfinished(s3_bucket) == []


def test_a_large_file_goes_in_parts(store, s3, s3_bucket):
    """A file is sent while it is produced: until its end there is an unfinished upload, and no object."""
    seen = []

    def produce(stream):
        for _ in range(3):
            stream.write(bytes(PART_BYTES))
        seen.append((s3.unfinished(s3_bucket), store.sizes()))

    store.write("step-00000001.safetensors", produce)
    assert seen == [(["runs/one/step-00000001.safetensors"], {})]


def test_nothing_is_overwritten(store):
    """A name that is taken is refused before anything is sent; so is one that is taken during the upload."""
    store.write("x.json", pieces(b"one"))
    with pytest.raises(FileExistsError, match="it is there already"):
        store.write("x.json", failing())

    def produce(stream):
        stream.write(b"mine")
        store.write("y.json", pieces(b"another's"))

    with pytest.raises(FileExistsError):
        store.write("y.json", produce)
    assert (store.read("x.json"), store.read("y.json")) == (b"one", b"another's")


@pytest.mark.parametrize("size", [0, 2 * PART_BYTES])
def test_a_write_that_fails_leaves_nothing(store, s3, s3_bucket, size):
    """Where producing fails there is neither an object nor an open upload, and the error is the producer's."""
    with pytest.raises(ValueError, match="the tensor is gone"):
        store.write("x.safetensors", failing(bytes(size)))
    assert (s3.keys(s3_bucket), s3.unfinished(s3_bucket)) == ({}, [])


@pytest.mark.parametrize("size", [10, 2 * PART_BYTES])
def test_an_answer_that_is_lost(s3, s3_bucket, monkeypatch, size):
    """Where the storage did what was asked and its answer was lost, the request is sent again, and the file is ours."""
    monkeypatch.setattr(remote_store, "PART_BYTES", PART_BYTES)
    lost = []

    def loses(data):
        head = data.partition(b"\r\n")[0]
        if not lost and re.match(rb"PUT \S+x\.safetensors HTTP|POST \S+x\.safetensors\?uploadId", head):
            lost.append(head)
            return True
        return False

    with lossy(int(s3.endpoint_url.rpartition(":")[2]), loses) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = RemoteStore(f"s3://{s3_bucket}/runs/one")
        data = os.urandom(size)
        assert store.write("x.safetensors", pieces(data)).sha256 == sha256_bytes(data)
    assert len(lost) == 1
    assert (s3.keys(s3_bucket), s3.unfinished(s3_bucket)) == ({"runs/one/x.safetensors": size}, [])


def test_the_storage_goes_away(s3, s3_bucket, monkeypatch):
    """Where the storage is gone in the middle of an upload, the error says so, and what is there stays as it is."""
    monkeypatch.setattr(remote_store, "PART_BYTES", PART_BYTES)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with lossy(int(s3.endpoint_url.rpartition(":")[2]), lambda data: b"partNumber=2" in data.partition(b"\r\n")[0]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = RemoteStore(f"s3://{s3_bucket}/runs/one")
        store.replace(".keeper.json", b"{}")
        with pytest.raises(StorageError, match=r"runs/one/x\.safetensors: the storage cannot be reached: "):
            store.write("x.safetensors", pieces(*[bytes(PART_BYTES)] * 3))
    assert (s3.keys(s3_bucket), s3.unfinished(s3_bucket)) == ({"runs/one/.keeper.json": 2}, [])


def test_pointers(store):
    """A pointer names a file beside it; it is listed as a link and not as a file, and can be moved and removed."""
    store.point("best.pth", "step-00000001.safetensors")
    store.point("best.pth", "step-00000002.safetensors")
    assert (store.pointed("best.pth"), store.links(), store.sizes()) == ("step-00000002.safetensors", ["best.pth"], {})
    assert store.read("best.pth") == b"stateserve-pointer 1\nstep-00000002.safetensors\n"
    store.remove("best.pth")
    store.remove("best.pth")
    assert (store.pointed("best.pth"), store.links()) == (None, [])


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", bytes(10_000)])
def test_a_file_with_a_pointers_name(store, data):
    """A best.pth that is a checkpoint itself is a file; no pointer replaces it."""
    store.write("best.pth", pieces(data))
    assert (store.pointed("best.pth"), store.links(), store.sizes()) == (None, [], {"best.pth": len(data)})
    with pytest.raises(FileExistsError, match="a file of its own"):
        store.point("best.pth", "step-00000001.safetensors")


def test_only_what_lies_here(store, s3, s3_bucket):
    """Objects deeper down, of a neighbour, hidden ones, and a console's folder marks are none of the place's files."""
    for key in ("runs/one/deeper/x", "runs/one-more/x", "runs/one/.keeper.json", "runs/one/", "runs/one/here.json"):
        s3.client().put_object(Bucket=s3_bucket, Key=key, Body=b"1")
    assert store.sizes() == {"here.json": 1}


def test_more_files_than_one_page():
    """A listing of several pages is whole."""
    with s3_server(MOTO_S3_DEFAULT_MAX_KEYS="2") as paging, paging.environment():
        store = RemoteStore(f"s3://{paging.make_bucket('bucket')}/runs/one")
        for number in range(5):
            store.replace(f"{number}.json", b"1")
        assert store.sizes() == {f"{number}.json": 1 for number in range(5)}


def test_a_local_copy(store):
    """A file can be had as a local one while the context lasts."""
    store.write("x.safetensors", pieces(b"abc"))
    with store.local("x.safetensors") as path:
        assert (path.name, path.read_bytes()) == ("x.safetensors", b"abc")
    assert not path.exists()
    with pytest.raises(FileNotFoundError), store.local("none"):
        pass
    with pytest.raises(FileNotFoundError):
        store.read("none")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0"])
def test_names_stay_here(store, name):
    """A name cannot lead elsewhere."""
    with pytest.raises(KeeperError, match="is not the name of a file"):
        store.read(name)
    with pytest.raises(KeeperError, match="is not the name of a file"):
        store.write(name, pieces(b""))


def test_sweep_ends_what_a_kill_left(store, s3, s3_bucket):
    """A process killed in an upload leaves no object; the next sweep aborts its upload, and nobody else's."""
    others = ["other/x", "runs/one-more/x", "runs/one/deeper/x"]
    for key in others:
        s3.client().create_multipart_upload(Bucket=s3_bucket, Key=key)
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, f"s3://{s3_bucket}/runs/one", str(PART_BYTES)],
        cwd=ROOT,
        env={**os.environ, **s3.variables},
    )
    try:
        deadline = time.monotonic() + DEADLINE_S
        while "runs/one/x.safetensors" not in s3.unfinished(s3_bucket):
            assert writer.poll() is None
            assert time.monotonic() < deadline
    finally:
        writer.kill()
        writer.wait(DEADLINE_S)
    assert s3.keys(s3_bucket) == {}
    assert store.sweep() == ["x.safetensors"]
    assert (s3.unfinished(s3_bucket), store.sweep()) == (sorted(others), [])
    store.write("x.safetensors", pieces(b"again"))


_WRITER = """
import itertools, sys
from checkpoints.keeping import remote_store
remote_store.PART_BYTES = int(sys.argv[2])
def produce(stream):
    for _ in itertools.count():
        stream.write(bytes(1 << 20))
remote_store.RemoteStore(sys.argv[1]).write("x.safetensors", produce)
"""


def test_more_unfinished_uploads_than_one_page(store, s3, s3_bucket, monkeypatch):
    """Every page of the unfinished uploads is swept."""
    import s3fs

    ask = s3fs.S3FileSystem.call_s3

    def two_a_page(self, method, *rest, **more):
        return ask(self, method, *rest, **({"MaxUploads": 2} if method == "list_multipart_uploads" else {}), **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", two_a_page)
    for number in range(5):
        s3.client().create_multipart_upload(Bucket=s3_bucket, Key=f"runs/one/{number}")
    assert store.sweep() == ["0", "1", "2", "3", "4"]
    assert s3.unfinished(s3_bucket) == []


def test_places_that_do_not_fit(s3_bucket):
    """A whole bucket, a missing one, and storages whose writes are not known to be whole are refused at once."""
    with pytest.raises(KeeperError, match=r"is a whole bucket: checkpoints are kept under a prefix of their own, like s3://"):
        RemoteStore(f"s3://{s3_bucket}")
    with pytest.raises(StorageError, match="there is no such bucket"):
        RemoteStore("s3://no-such-bucket-here/runs")
    for url in ("memory://runs/one", "sftp://host/runs", "file:///tmp/runs"):
        with pytest.raises(KeeperError, match=r"given as its path, or on s3://, s3a://, gs://, gcs://\."):
            RemoteStore(url)
