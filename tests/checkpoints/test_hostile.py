"""Hostile files are refused with the right error, and nothing in them is ever run."""

import runpy
import shutil
from pathlib import Path

import pytest

import checkpoints
from checkpoints import CheckpointError, UnreadableCheckpoint, UnsafeCheckpoint

HOSTILE = Path(__file__).parents[1] / "hostile" / "checkpoints"
MARKER = "stateserve-hostile-marker"


def load_files():
    return runpy.run_path(str(HOSTILE / "make_hostile.py"))["FILES"]


FILES = load_files()
UNSAFE = sorted(
    name
    for name in FILES
    if name.startswith(("runs-", "escaped-", "object-"))
    or name.endswith(".pt2")
    or name
    in {
        "zip-doubled-pickle.pth",
        "zip-other-case.pth",
        "zip-two-roots.pth",
        "zip-after-stop.pth",
        "zip-before.pth",
        "zip-bomb.pth",
    }
)
UNREADABLE = sorted(FILES.keys() - set(UNSAFE))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_files_are_what_their_script_makes():
    """The files on disk are byte for byte those of make_hostile.py, and there is no other."""
    on_disk = {path.name for path in HOSTILE.iterdir()} - {"README.md", "make_hostile.py", "__pycache__"}

    assert on_disk == FILES.keys()
    for name, data in FILES.items():
        assert (HOSTILE / name).read_bytes() == data, name


def test_the_pickles_are_live(tmp_path):
    """The hostile pickles do create the marker when something does run them: the proof below is not empty."""
    import pickle

    pickle.loads((HOSTILE / "runs-protocol-4.pkl").read_bytes())

    assert (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", UNSAFE)
def test_what_would_run_code_is_unsafe(name, tmp_path):
    """A file that carries or names code is refused as unsafe, and does not run."""
    with pytest.raises(UnsafeCheckpoint):
        checkpoints.read(HOSTILE / name)

    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_damaged_is_unreadable(name):
    """A damaged file, or none at all, is refused as unreadable."""
    with pytest.raises(UnreadableCheckpoint) as caught:
        checkpoints.read(HOSTILE / name)

    assert str(caught.value).startswith(name)


@pytest.mark.parametrize("name", sorted(FILES))
def test_recognition_never_fails_nor_runs(name, tmp_path):
    """Recognising a hostile file gives an answer and runs nothing."""
    found = checkpoints.recognise(HOSTILE / name)

    assert found.size_bytes == len(FILES[name])
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("runs-memo.pth", "needs os.system, which is no part of a state_dict. Loading it runs code."),
        ("runs-inst.pth", "needs os.system,"),
        ("runs-in-storage-keys.pth", "needs posix.system,"),
        ("runs-computed-name.pth", "needs a global whose name is computed,"),
        ("runs-extension.pth", "needs copyreg extension 7,"),
        ("escaped-name.pth", r"needs collection\x73.OrderedDict,"),
        ("object-dtype.pth", "needs numpy.dtype with a state of its own,"),
        ("runs-protocol-3.pkl", "is a plain pickle, not a torch.save file; it names posix.system."),
        ("zip-doubled-pickle.pth", 'has two members named "archive/data.pkl", so readers could see different ones.'),
        ("zip-other-case.pth", 'has two members named "archive/DATA.PKL", so readers could see different ones.'),
        ("zip-two-roots.pth", "has 2 folders at its root; torch.save writes one, so readers could differ."),
        ("zip-after-stop.pth", "carries 63 bytes after the end of its pickle."),
        ("zip-before.pth", "carries bytes before or after its zip archive, which torch.save never writes."),
        ("zip-bomb.pth", 'has a compressed member, "archive/data.pkl"; torch.save writes none.'),
        ("zip-flipped-bit.pth", 'is damaged: the bytes of its member "data/0" do not have their checksum. Copy it again.'),
        (
            "storage-past-its-record.pth",
            "is damaged: storage 0 is 1000 elements of FloatStorage, 4000 bytes; the file holds 16 bytes. Copy or save it again.",
        ),
        (
            "tensor-past-its-storage.pth",
            "is damaged: torch's safe reader says RuntimeError: Trying to resize storage that is not resizable",
        ),
        ("bad-offsets.safetensors", 'tensor "w", F32 [4], needs 16 bytes; its data_offsets [0, 12] hold 12.'),
        ("overlap.safetensors", 'tensor "b" overlaps "a": it begins at byte 4, before 8.'),
        ("gap.safetensors", '4 bytes between "a" and tensor "b" belong to no tensor.'),
        ("bytes-at-end.safetensors", "8 bytes at its end belong to no tensor."),
        ("cut-off.safetensors", "it is cut off: its tensors need 16 bytes, 12 are there."),
        ("oversized-header.safetensors", "its header claims 1099511627776 bytes; the format allows 100000000."),
        ("doubled-key.safetensors", 'its header holds the key "w" twice.'),
        ("negative-size.safetensors", 'tensor "w" has the shape [-1, -1]; sizes are integers from 0.'),
        ("true-as-size.safetensors", 'tensor "w" has the shape [True]; sizes are integers from 0.'),
        ("unknown-dtype.safetensors", "tensor \"w\" has the dtype 'F31', which we do not read."),
        ("custom-object.pt2", "loading it would unpickle program/data/constants/opaque_obj_0."),
        ("lfs-pointer.pth", "is a Git LFS pointer, not the model itself. Fetch the model: git lfs pull."),
        ("empty.pth", "is an empty file (0 bytes): its writing was cut off. No whole checkpoint stands beside it."),
    ],
)
def test_messages_name_what_was_found(name, message, tmp_path):
    """Each refusal says in a sentence what is wrong with the file, which lies alone here: a whole one beside it is named."""
    shutil.copy(HOSTILE / name, tmp_path)

    with pytest.raises(CheckpointError) as caught:
        checkpoints.read(tmp_path / name)

    assert message in str(caught.value)
