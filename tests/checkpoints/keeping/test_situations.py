"""A Keeper whose disk, rights, clock or neighbours fail it: a clear error or a working fallback, nothing torn or lost."""

import pytest

from tests.checkpoints.keeping.warm import Broken, warm


@pytest.fixture(scope="module")
def process():
    """The warm process, which forks a child for every situation."""
    with warm() as started:
        yield started


@pytest.fixture
def happens(process, tmp_path):
    """A function that makes a situation in a new directory; what the kernel does not let us do is skipped."""

    def happens(name, *arguments):
        try:
            return process(name, str(tmp_path), *arguments)
        except Broken as broken:
            if "kernel.py" in str(broken) and ("PermissionError" in str(broken) or "no numbers of system calls" in str(broken)):
                pytest.skip(f"{name}: the kernel does not allow it here (root, or user namespaces, are needed)")
            raise

    return happens


def whole(found, steps=None, **links):
    """Nothing torn, lost, or left over; and, where they are told, these steps, and these behind the links."""
    assert found["faults"] == []
    assert found["left"] == []
    if steps is not None:
        assert found["steps"] == steps
    for link, step in links.items():
        assert found["links"][f"{link}.pth"] == step
    return True


def test_full_disk(happens, tmp_path):
    """A checkpoint that does not fit is refused, with both figures, before anything is written; the next that fits is kept."""
    found = happens("disk_that_fills")
    assert found["error"]["kind"] == "NotEnoughSpace"
    assert str(tmp_path / "disk" / "run") in found["error"]["message"]
    assert found["error"]["free_bytes"] <= 256 << 10 < found["error"]["needed_bytes"]
    assert whole(found["full"], latest=2)
    assert found["freed"] is None
    assert whole(found["after"], latest=4)


def test_full_disk_at_every_place(happens):
    """Wherever in a save the disk is full, the save fails as a whole, and the checkpoints before it stay as they were."""
    found = happens("disk_that_fills_unseen")
    assert found["faults"] == []
    assert set(found["errors"]) == {"SaveFailed", None}
    assert found["errors"][0] == "SaveFailed"
    assert found["errors"][-1] is None
    assert whole(found["after"], latest=found["last"])


def test_full_of_leftovers(happens):
    """A disk that is full of what a killed save left is no hindrance: the next Keeper removes it, and training goes on."""
    found = happens("full_of_leftovers")
    assert found["free_bytes"] == 0
    assert found["resumed"] == 0
    assert whole(found["after"], [0, 1], latest=1)


def test_disk_without_room_for_a_file(happens, tmp_path):
    """Where bytes are free but no file can be made, the save fails and says so; afterwards the next is written."""
    found = happens("disk_without_files")
    assert found["error"]["kind"] == "SaveFailed"
    assert "No space left on device" in found["error"]["message"]
    assert str(tmp_path / "disk" / "run") in found["error"]["message"]
    assert whole(found["full"], [0], latest=0, best=0)
    assert whole(found["after"], latest=2)


def test_permission_lost(happens, tmp_path):
    """Without the right to write, the save fails and names the directory; with it again, the next is written."""
    found = happens("permission_lost")
    assert found["error"]["kind"] == "SaveFailed"
    assert "Permission denied" in found["error"]["message"]
    assert str(tmp_path / "run") in found["error"]["message"]
    assert whole(found["without"], [0], latest=0)
    assert whole(found["after"], latest=2)


def test_read_only_disk(happens, tmp_path):
    """On a disk that turned read-only saves fail, close() does not hang, and a new Keeper says why it can't start."""
    found = happens("disk_turned_read_only")
    assert found["error"]["kind"] == "SaveFailed"
    assert "Read-only file system" in found["error"]["message"]
    assert found["closing"] is None
    assert found["opening"]["kind"] == "KeeperError"
    assert str(tmp_path / "disk" / "run") in found["opening"]["message"]
    assert whole(found["after"], [0], latest=0)


def test_directory_deleted(happens, tmp_path):
    """When the directory was removed, each save says so; none makes a new one in silence. A new Keeper begins anew."""
    found = happens("directory_deleted")
    for error in (found["error"], found["again"]):
        assert error["kind"] == "SaveFailed"
        assert str(tmp_path / "run") in error["message"]
        assert "Was the directory removed?" in error["message"]
    assert found["closing"] is None
    assert not found["there"]
    assert whole(found["after"], latest=found["after"]["steps"][-1])


def test_clock_set_back(happens):
    """Dates and file times of the future change nothing: the newest is the one that was saved last."""
    found = happens("clock_set_back")
    assert found["resumed"] == 3
    assert whole(found["after"], latest=4)


def test_two_trainers(happens):
    """The second trainer is refused, with the first one's process; once that was killed, the next goes on from its checkpoint."""
    found = happens("two_trainers")
    assert found["error"]["kind"] == "DirectoryTaken"
    assert found["error"]["pid"] == found["first_pid"]
    assert str(found["first_pid"]) in found["error"]["message"]
    assert whole(found["during"], [0], latest=0)
    assert found["resumed"] == 0
    assert whole(found["after"], [0, 1], latest=1)


def test_two_trainers_without_locks(happens):
    """Where there are no locks, the newer trainer takes over, and the older one's saves fail before they write anything."""
    found = happens("two_trainers_without_locks")
    assert found["resumed"] == 0
    assert found["error"]["kind"] == found["again"]["kind"] == "DirectoryTaken"
    assert found["closing"] is None
    assert whole(found["after"], [0, 1], latest=1)


def test_no_links(happens):
    """Where there are no links, a text pointer takes their place: latest and best load, and training resumes."""
    found = happens("no_links")
    assert found["resumed"] == 4
    assert found["pointers"]["latest.pth"] == "stateserve-pointer 1\nstep-00000005.pth\n"
    assert found["pointers"]["best.pth"].startswith("stateserve-pointer 1\nstep-0000000")
    assert whole(found["after"], latest=5)


def test_links_that_come_and_go(happens):
    """A link is replaced by a pointer where links are not to be had, and a pointer by a link."""
    found = happens("links_that_come_and_go")
    assert found["links"] == [True, False, True]
    assert whole(found["after"], latest=2)


def test_disk_that_does_not_flush(happens):
    """What could not be flushed does not become a checkpoint: the error says so, the links stay where they were."""
    found = happens("disk_that_does_not_flush")
    assert found["error"]["kind"] == "SaveFailed"
    assert "Input/output error" in found["error"]["message"]
    assert found["closing"] is None
    assert whole(found["after"], [0], latest=0, best=0)


def test_flush_that_fails_once(happens):
    """Whichever flush of a save fails, nothing is torn or lost, and the next goes through; the next Keeper sweeps."""
    found = happens("flush_that_fails_once")
    assert found["faults"] == []
    assert found["flushes"] >= 6
    assert set(found["errors"]) == {"SaveFailed"}
    assert whole(found["after"])


def test_order_of_calls(happens):
    """A file is flushed before it gets its name, the directory before the next change: a power cut is no worse than a kill."""
    calls = [tuple(call) for call in happens("order_of_calls")["calls"]]
    calls = [call for call in calls if call[0] != "os.remove" or call[1].startswith("step-")]
    for number, (call, *names) in enumerate(calls):
        if call == "os.rename" and not any(made[0] == "os.symlink" and made[2] == names[0] for made in calls[:number]):
            assert ("fsync", names[0]) in calls[:number]
        if call in {"os.rename", "os.remove"}:
            assert calls[number + 1] == ("fsync", "run")


def test_order_of_changes(happens):
    """The sidecar comes after the files that it lists, latest after it, best after that; a removal begins with the sidecar."""
    calls = happens("order_of_calls")["calls"]
    renamed = [names[1] for call, *names in calls if call == "os.rename"]
    removed = [names[0] for call, *names in calls if call == "os.remove" and names[0].startswith("step-")]
    new = "step-00000007"
    assert renamed == [f"{new}.safetensors", f"{new}.state.pth", f"{new}.json", "latest.pth", "best.pth"]
    suffixes = (".json", ".safetensors", ".state.pth")
    assert removed == [f"{old}{suffix}" for old in ("step-00000002", "step-00000005") for suffix in suffixes]
