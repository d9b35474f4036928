"""What a place holds: complete checkpoints by age, and what is passed over."""

import json
from pathlib import Path

import pytest

from checkpoints.keeping.local_store import LocalStore
from checkpoints.keeping.scan import Skipped, scan
from checkpoints.keeping.sidecar import KeptFile, Sidecar


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


def put(store, step, sequence, stem=None):
    stem = stem or f"step-{step:08}"
    written = store.write(f"{stem}.pth", lambda stream: stream.write(b"data") and None)
    sidecar = Sidecar(
        stem=stem,
        step=step,
        epoch=None,
        sequence=sequence,
        run="r",
        saved_at="",
        format="pth",
        files={f"{stem}.pth": KeptFile("checkpoint", written.size, written.sha256)},
    )
    store.write(sidecar.name, lambda stream: stream.write(sidecar.encode()) and None)
    return sidecar


def test_newest_is_the_largest_sequence(store):
    """Neither the step nor the time nor the name decides: a training that went back has newer ones with smaller steps."""
    old = put(store, 200, 1)
    newer = put(store, 100, 2)
    newest = put(store, 100, 3, "step-00000100-2")
    found = scan(store)
    assert found.complete == (old, newer, newest)
    assert found.skipped == found.orphans == ()
    assert found.taken == {"step-00000100", "step-00000100-2", "step-00000200"}


def test_an_incomplete_one_is_passed_over_with_the_reason(store):
    """A missing file, a short one, a sidecar that is none: each is named, none stops the search."""
    for step in (1, 2, 3, 4):
        put(store, step, step)
    Path(store.where, "step-00000001.pth").unlink()
    Path(store.where, "step-00000002.pth").write_bytes(b"da")
    Path(store.where, "step-00000003.json").write_bytes(b"{")
    found = scan(store)
    assert [sidecar.step for sidecar in found.complete] == [4]
    assert found.skipped[:2] == (
        Skipped("step-00000001.json", "step-00000001.pth is missing; step-00000001.json lists it."),
        Skipped("step-00000002.json", "step-00000002.pth has 2 bytes, step-00000002.json says 4."),
    )
    assert found.skipped[2].reason.startswith("step-00000003.json is not JSON:")
    assert found.orphans == ()


def test_files_without_a_sidecar_are_orphans(store):
    """Those of a checkpoint whose sidecar was not written yet, or is removed already; other files are nobody's."""
    put(store, 1, 1)
    for name in ("step-00000002.safetensors", "step-00000002.state.pth", "notes.txt", "step-2.pth", "epoch-1.pth"):
        Path(store.where, name).write_bytes(b"data")
    assert scan(store).orphans == ("step-00000002.safetensors", "step-00000002.state.pth")


def test_links_and_folders_are_no_checkpoints(store):
    """A link to a sidecar elsewhere is not followed."""
    sidecar = put(store, 1, 1)
    Path(store.where, "step-00000002.json").symlink_to(sidecar.name)
    Path(store.where, "step-00000003.json").mkdir()
    found = scan(store)
    assert found.complete == (sidecar,)
    assert found.skipped == ()


def test_known_sidecars_are_not_read_again(store):
    """Sidecars never change, so that a scan of an object store reads the new ones only."""
    known = put(store, 1, 1)
    other = put(store, 2, 2)
    path = Path(store.where, known.name)
    path.write_bytes(json.dumps({}).encode())
    assert scan(store, {known.name: known}).complete == (known, other)
