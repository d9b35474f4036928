"""A local directory as a place of checkpoints."""

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints.errors import DirectoryTaken, KeeperError
from checkpoints.keeping import local_store
from checkpoints.keeping.fence import claim, this_process
from checkpoints.keeping.local_store import LocalStore
from checkpoints.keeping.store import Written, open_store


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "runs" / "digits")


def put(store, name, data=b"data"):
    return store.write(name, lambda stream: stream.write(data) and None)


def names(store):
    return sorted(path.name for path in Path(store.where).iterdir())


def test_a_file_is_written_with_its_size_and_hash(store):
    """What was written in pieces is one file, and Written says what it holds."""

    def produce(stream):
        for piece in (b"ab", memoryview(b"cdef"), bytearray(3)):
            stream.write(piece)

    data = b"abcdef\0\0\0"
    assert store.write("a", produce) == Written(9, hashlib.sha256(data).hexdigest())
    assert store.read("a") == data
    assert store.sizes() == {"a": 9}
    with store.local("a") as path:
        assert path.read_bytes() == data


def test_a_file_is_never_overwritten(store):
    """A name that is taken is an error, and the file is as it was."""
    put(store, "a", b"first")
    with pytest.raises(FileExistsError):
        put(store, "a", b"second")
    assert store.read("a") == b"first"
    assert names(store) == ["a"]


def test_a_write_that_fails_leaves_nothing(store):
    """Neither the file nor a temporary one."""

    def produce(stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        store.write("a", produce)
    assert names(store) == []


def test_a_file_whose_directory_could_not_be_flushed_is_not_there(store, monkeypatch):
    """After a power cut it might not be there, so it is not there now: what is there can be relied on."""

    def fail(_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(local_store, "fsync_directory", fail)
    with pytest.raises(OSError, match="Input/output error"):
        put(store, "a")
    assert names(store) == []


def test_a_reader_sees_a_replaced_file_whole(store):
    """A small file is as it was, or as it is now."""
    store.replace("state", b"1")
    with Path(store.where, "state").open("rb") as before:
        store.replace("state", b"22")
        assert before.read() == b"1"
    assert store.read("state") == b"22"
    assert names(store) == ["state"]


def test_a_removed_file_may_be_gone_already(store):
    """Removing is done when the file is gone."""
    put(store, "a")
    store.remove("a")
    store.remove("a")
    assert store.sizes() == {}
    with pytest.raises(FileNotFoundError):
        store.read("a")
    with pytest.raises(FileNotFoundError), store.local("a"):
        pass


def test_a_link_names_the_file_beside_it(store):
    """A pointer is a relative symbolic link, replaced in one step, and no file of its own."""
    put(store, "step-00000001.pth")
    store.point("latest.pth", "step-00000000.pth")
    store.point("latest.pth", "step-00000001.pth")
    assert Path(store.where, "latest.pth").readlink() == Path("step-00000001.pth")
    assert store.pointed("latest.pth") == "step-00000001.pth"
    assert store.pointed("best.pth") is None
    assert store.links() == ["latest.pth"]
    assert store.sizes() == {"step-00000001.pth": 4}


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_links_a_small_file_has_the_name(store, monkeypatch, number):
    """Where the file system has no symbolic links, the pointer is a text, and one takes the other's place."""
    put(store, "step-00000001.pth")
    store.point("latest.pth", "step-00000001.pth")

    def refuse(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "symlink", refuse)
    store.point("latest.pth", "step-00000002.pth")
    assert Path(store.where, "latest.pth").read_bytes() == b"stateserve-pointer 1\nstep-00000002.pth\n"
    store.point("latest.pth", "step-00000003.pth")
    assert store.pointed("latest.pth") == "step-00000003.pth"
    assert store.links() == ["latest.pth"]
    assert store.sizes() == {"step-00000001.pth": 4}
    monkeypatch.undo()
    store.point("latest.pth", "step-00000004.pth")
    assert Path(store.where, "latest.pth").is_symlink()


def test_a_file_that_holds_data_is_never_replaced_by_a_link(store):
    """A best.pth of another trainer stays."""
    Path(store.where, "best.pth").write_bytes(b"weights")
    with pytest.raises(FileExistsError):
        store.point("best.pth", "step-00000001.pth")
    assert store.pointed("best.pth") is None
    assert store.sizes() == {"best.pth": 7}


@pytest.mark.parametrize("target", ["../other.pth", "/etc/passwd", "a/b", ".."])
def test_a_link_that_leads_elsewhere_names_nothing(store, target):
    """A pointer names a file beside it only."""
    Path(store.where, "latest.pth").symlink_to(target)
    assert store.pointed("latest.pth") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(store, name):
    """A store is flat."""
    with pytest.raises(KeeperError, match="is not the name of a file in"):
        store.read(name)


def test_what_killed_writes_left_is_swept(store):
    """Temporary files of ours go; what only resembles them stays."""
    left = [".tmp-step-00000001.pth-0123456789abcdef", ".tmp-latest.pth-fedcba9876543210"]
    Path(store.where, left[0]).write_bytes(b"half")
    Path(store.where, left[1]).symlink_to("step-00000001.pth")
    Path(store.where, ".tmp-notes").write_bytes(b"mine")
    Path(store.where, ".tmp-folder-0123456789abcdef").mkdir()
    assert store.sweep() == sorted(left)
    assert names(store) == [".tmp-folder-0123456789abcdef", ".tmp-notes"]
    assert store.sizes() == {}


def test_a_second_holder_is_told_who_holds(store):
    """Host, process and time of the first are in the error."""
    first = this_process("a")
    with store.hold(first.fields()):
        claim(store, first)
        with pytest.raises(DirectoryTaken) as error, LocalStore(Path(store.where)).hold({}):
            pass
    assert (error.value.host, error.value.pid, error.value.since) == (first.host, os.getpid(), first.started_at)
    assert str(error.value) == (
        f"Another trainer keeps its checkpoints in {store.where}: "
        f"process {os.getpid()} on {first.host}, since {first.started_at}. "
        "Wait for its end, or give each trainer a directory of its own."
    )
    with LocalStore(Path(store.where)).hold({}):
        pass


def test_a_killed_holder_holds_no_more_though_its_forked_child_lives(store):
    """A data loader's process that outlives a killed trainer does not keep the next one out."""
    script = """
import os, signal, sys, time
from pathlib import Path
from checkpoints.keeping.local_store import LocalStore
held = LocalStore(Path(sys.argv[1])).hold({})
held.__enter__()
trainer = os.getpid()
if os.fork() == 0:
    os.kill(trainer, signal.SIGKILL)
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
signal.pause()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, store.where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as trainer:
        assert trainer.stdin is not None
        assert trainer.stdout is not None
        child = int(trainer.stdout.readline())
        trainer.wait(timeout=20)
        os.kill(child, 0)
        with store.hold({}):
            pass
        trainer.stdin.close()


def test_without_locks_everybody_holds(store, monkeypatch):
    """Some of NFS has no locks: then only the fence keeps two trainers apart."""

    def refuse(*_args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with store.hold({}), LocalStore(Path(store.where)).hold({}):
        pass


def test_free_bytes_are_those_of_the_file_system(store):
    """As df says."""
    found = os.statvfs(store.where)
    assert 0 < store.free_bytes() <= found.f_blocks * found.f_frsize


def test_a_place_is_a_directory(tmp_path):
    """It is made with its parents, and a file is refused."""
    assert Path(open_store(tmp_path / "a" / "b").where).is_dir()
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(KeeperError, match="is not a directory"):
            open_store(path)


def test_a_url_of_a_file_is_a_local_place_and_a_path_of_a_url_is_none(tmp_path):
    """pathlib takes one slash of a URL away: the directory "s3:" is made by nobody."""
    assert open_store(f"file://{tmp_path}/with%20space").where == str(tmp_path / "with space")
    with pytest.raises(KeeperError) as error:
        open_store(Path("s3://bucket/run"))
    assert str(error.value) == "s3:/bucket/run was a URL once: give 's3://bucket/run' as text, not as a Path."


def test_a_relative_place_stays_where_it_was(tmp_path, monkeypatch):
    """A training that changes its directory goes on in the same place."""
    monkeypatch.chdir(tmp_path)
    store = LocalStore(Path("runs"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    put(store, "a")
    assert (tmp_path / "runs" / "a").is_file()
