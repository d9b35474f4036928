"""Files on another storage: fetched once, checked always, and every failure said in a sentence."""

import errno
import fcntl
import os
import socket
import sys
from pathlib import Path

import pytest

from foundation import remote
from foundation.remote import (
    StorageError,
    beside,
    collapsed_url,
    default_cache,
    fetch,
    fetched_path,
    filesystem,
    is_url,
    list_tree,
    read_bytes,
)
from foundation.storage import sha256_bytes


@pytest.fixture
def put(s3, s3_bucket):
    """A function that puts an object into the test's bucket; its URL."""
    client = s3.client()

    def put(key, data):
        client.put_object(Bucket=s3_bucket, Key=key, Body=data)
        return f"s3://{s3_bucket}/{key}"

    return put


def asked(monkeypatch):
    """The names of the downloads that happen from now on."""
    import s3fs

    names = []
    download = s3fs.S3FileSystem.get_file
    monkeypatch.setattr(
        s3fs.S3FileSystem,
        "get_file",
        lambda self, path, *rest, **more: (names.append(path), download(self, path, *rest, **more))[1],
    )
    return names


def test_urls_and_paths():
    """Text with a scheme is a URL; a Path is none, and one that was made of a URL can be told."""
    assert [is_url(text) for text in ("s3://b/x", "gs://b", "S3://b/x", "runs/x", "s3:/b/x", "://x", Path("s3://b/x"), 3)] == [
        True,
        True,
        True,
        False,
        False,
        False,
        False,
        False,
    ]
    assert collapsed_url(Path("s3://b/x")) == "s3://b/x"
    assert collapsed_url(Path("runs/x")) is None
    assert beside("s3://b/runs/best.pth", "best.yaml") == "s3://b/runs/best.yaml"


def test_fetched_once(put, tmp_path, monkeypatch):
    """A file is fetched once, and again when it was written again, also if its size is the same."""
    url = put("runs/best.pth", b"one")
    downloads = asked(monkeypatch)
    first = fetch(url, tmp_path)
    assert (first.name, first.read_bytes(), fetch(url, tmp_path), len(downloads)) == ("best.pth", b"one", first, 1)
    put("runs/best.pth", b"two")
    assert (fetch(url, tmp_path).read_bytes(), len(downloads)) == (b"two", 2)


def test_who_reads_goes_on(put, tmp_path):
    """A file that is fetched anew is another file: who has the one before open reads that one to its end."""
    url = put("x", b"one")
    with fetch(url, tmp_path).open("rb") as file:
        put("x", b"two")
        assert (fetch(url, tmp_path).read_bytes(), file.read()) == (b"two", b"one")


def test_damage_in_the_cache_is_seen(put, tmp_path, monkeypatch):
    """A file in the cache whose bytes are not those that were fetched is fetched again."""
    url = put("x", b"right")
    fetch(url, tmp_path).write_bytes(b"wrong")
    downloads = asked(monkeypatch)
    assert (fetch(url, tmp_path).read_bytes(), len(downloads)) == (b"right", 1)
    fetch(url, tmp_path).with_name(".fetched-x.json").write_bytes(b"not JSON")
    assert (fetch(url, tmp_path).read_bytes(), len(downloads)) == (b"right", 2)


def test_an_expected_sum_needs_no_question(s3, put, tmp_path, monkeypatch):
    """With a sum, what is in the cache is taken without asking; what is fetched must have it."""
    url = put("x", b"abc")
    path = fetch(url, tmp_path, sha256_bytes(b"abc"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert fetch(url, tmp_path, sha256_bytes(b"abc")) == path
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint_url)
    with pytest.raises(StorageError, match=r"x has the sha256 ba7816bf\w+, expected 0000: it is damaged, or another file\."):
        fetch(url, tmp_path, "0000")
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".fetched-x.json", "x"]


def test_what_changes_while_it_is_fetched_is_refused(put, tmp_path, monkeypatch):
    """A file that is replaced during the download may be half of each: it is refused, and nothing stays."""
    import s3fs

    url = put("x", b"one")
    download = s3fs.S3FileSystem.get_file
    monkeypatch.setattr(s3fs.S3FileSystem, "get_file", lambda self, *given: (download(self, *given), put("x", b"two")))
    with pytest.raises(StorageError, match="x changed while it was fetched"):
        fetch(url, tmp_path)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_trees_and_beginnings(put, s3_bucket):
    """A tree is listed with paths relative to its URL; the beginning of a file can be read, of an empty one too."""
    put("models/digits/1/manifest.json", b"{}")
    put("models/digits/1/empty", b"")
    put("models-of-others/x", b"1")
    assert list_tree(f"s3://{s3_bucket}/models/") == {"digits/1/manifest.json": 2, "digits/1/empty": 0}
    assert list_tree(f"s3://{s3_bucket}/none") == {}
    assert read_bytes(f"s3://{s3_bucket}/models/digits/1/manifest.json", 1) == b"{"
    assert read_bytes(f"s3://{s3_bucket}/models/digits/1/empty", 10) == b""


@pytest.mark.parametrize("ask", [fetch, lambda url: read_bytes(url, 1)])
def test_missing_files(s3_bucket, ask, tmp_path, monkeypatch):
    """A file that is not there is FileNotFoundError; a bucket that is not there is a StorageError."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        ask(f"s3://{s3_bucket}/none")
    with pytest.raises(
        StorageError, match=r"^s3://no-such-bucket-here/x: there is no such bucket\. Make it, or correct the name\.$"
    ):
        ask("s3://no-such-bucket-here/x")


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/runs/", "s3://bucket/.."])
def test_no_file_named(url):
    """A URL must end in a file's name."""
    with pytest.raises(StorageError, match="names no file"):
        fetch(url)


def test_a_folder_is_no_file(put, s3_bucket, tmp_path):
    """What has files under it is refused with its kind."""
    put("runs/digits/best.pth", b"1")
    with pytest.raises(StorageError, match="runs/digits is a folder; expected a file"):
        fetch(f"s3://{s3_bucket}/runs/digits", tmp_path)


def test_unreachable(s3_bucket, monkeypatch):
    """Where nobody listens, the error names the endpoint and the settings."""
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(
        StorageError, match=r"cannot be reached: .*http://127\.0\.0\.1:9/.* Check the network and the endpoint \(AWS_"
    ):
        read_bytes(f"s3://{s3_bucket}/x", 1)


def test_one_that_never_answers_is_given_up(s3_bucket, monkeypatch):
    """A server that takes requests and stays silent is given up after the bounds."""
    monkeypatch.setattr(remote, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"cannot be reached: .*[Tt]imeout"):
            read_bytes(f"s3://{s3_bucket}/x", 1)


def test_a_persons_own_bounds_go_first(monkeypatch):
    """What fsspec's own configuration says of the connection is kept; ours fill what it leaves open."""
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {"config_kwargs": {"read_timeout": 7, "signature_version": "s3v4"}})
    files, path = filesystem("s3://bucket/runs/x")
    assert (files.config_kwargs["read_timeout"], files.config_kwargs["connect_timeout"], path) == (7, 5, "bucket/runs/x")
    assert files.config_kwargs["signature_version"] == "s3v4"


def test_no_credentials(s3_bucket, monkeypatch):
    """Without keys the error says which settings there are."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"there are no credentials: Unable to locate credentials\. Set AWS_ACCESS_KEY_ID, "):
        read_bytes(f"s3://{s3_bucket}/x", 1)


def test_wrong_credentials():
    """Keys that the storage does not know are refused by it, in its words."""
    from s3_server import s3_server

    with (
        s3_server(INITIAL_NO_AUTH_ACTION_COUNT="0") as strict,
        strict.environment(),
        pytest.raises(StorageError, match=r"the storage refuses: .* Check the credentials and what they are allowed"),
    ):
        list_tree("s3://bucket/x")


def test_libraries_that_are_missing(monkeypatch):
    """A missing library is named with the line that installs it; an unknown scheme with those that are expected."""
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match=r"the library for gs:// is not installed: pip install 'stateserve\[gcs\]'\."):
        filesystem("gs://bucket/x")
    with pytest.raises(StorageError, match=r"no storage is known by s4://; expected s3:// or gs://\."):
        filesystem("s4://bucket/x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(StorageError, match=r"the library for s3:// is not installed: pip install 'stateserve\[s3\]'\."):
        filesystem("s3://bucket/x")


def test_what_killed_fetches_left(put, tmp_path):
    """The next fetch of a file removes what killed ones left, and leaves alone what another process is writing."""
    url = put("x", b"1")
    folder = fetched_path(url, tmp_path).parent
    folder.mkdir(parents=True)
    (folder / ".tmp-x-0123456789abcdef").write_bytes(b"half")
    with (folder / ".tmp-x-fedcba9876543210").open("wb") as writing:
        fcntl.flock(writing, fcntl.LOCK_EX)
        fetch(url, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [".fetched-x.json", ".tmp-x-fedcba9876543210", "x"]


def test_a_large_file(put, tmp_path):
    """A file that is fetched in several parts at once is whole."""
    data = os.urandom(51 << 20)
    assert fetch(put("x", data), tmp_path).read_bytes() == data


def test_a_cache_that_cannot_be_written(put, tmp_path, monkeypatch):
    """What is wrong with this machine's disk is an OSError and no word about the storage."""
    import s3fs

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        fetch(put("x", b"1"), tmp_path / "file")
    monkeypatch.setattr(s3fs.S3FileSystem, "get_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        fetch(put("x", b"1"), tmp_path)


def test_a_user_without_a_home(monkeypatch):
    """Where nobody says where a cache may be, the error names the setting."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(StorageError, match=r"Set XDG_CACHE_HOME\."):
        default_cache()


def test_where_the_cache_is(monkeypatch, tmp_path):
    """The cache is the user's own, where XDG says; a relative XDG_CACHE_HOME does not count."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "stateserve"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache() == Path.home() / ".cache" / "stateserve"
