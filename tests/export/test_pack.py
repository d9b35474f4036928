"""Writing: an artifact is there whole or not at all, and never over another (exit 9)."""

import os
import sys
from pathlib import Path

import pytest

import artifact
from artifact.manifest import read_manifest


@pytest.fixture
def exported(work):
    """A first version of `small`."""
    work.net("good", "small")
    return work.export()


def test_versions_count_up(work, exported):
    """Other content takes the next free number."""
    work.net("good", "small", seed=2)

    second = work.export()

    assert exported.path == work.repository / "small" / "1"
    assert second.path == work.repository / "small" / "2"
    assert second.created


def test_the_same_content_is_found_again(work, exported):
    """Whatever has been exported since."""
    work.net("good", "small", seed=2)
    work.export()
    work.net("good", "small")
    before = work.files()

    again = work.export()

    assert (again.path, again.created, again.content_id) == (exported.path, False, exported.content_id)
    assert work.files() == before


def test_the_same_content_under_the_same_version(work, exported):
    """Asking for it by number is no conflict."""
    again = work.export(version=1)

    assert (again.path, again.created) == (exported.path, False)


def test_the_same_content_under_another_version(work, exported):
    """A number that is free is taken, since it was asked for."""
    again = work.export(version=7)

    assert (again.path, again.created) == (work.repository / "small" / "7", True)
    assert again.content_id == exported.content_id


def test_other_content_under_the_same_version(work, exported):
    """A version is never overwritten."""
    work.net("good", "small", seed=2)

    assert work.refuse(9, version=1) == (
        f"{exported.path} holds other content; versions are never overwritten, choose another --version"
    )
    assert read_manifest(exported.path).content_id == exported.content_id


def test_another_file_in_the_place_of_a_version(work):
    """What is not an artifact is not overwritten either."""
    work.net("good", "small")
    place = work.repository / "small" / "3"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")

    assert work.refuse(9, version=3).startswith(f"{place} holds other content; ")
    assert work.export().path.name == "4"


def test_other_formats_of_the_same_content(work, exported):
    """.pt2 is outside the content id, and yet an artifact without it is not what was asked for."""
    both = work.export(formats=("onnx", "pt2"))

    assert both.created
    assert both.content_id == exported.content_id
    assert both.path.name == "2"
    assert artifact.load(both.path, engine="pt2")
    assert work.export(formats=("onnx", "pt2")).path == both.path
    assert work.export().path == exported.path


def test_a_damaged_artifact_is_not_called_the_same(work, exported):
    """A version with this content id whose bytes are not those is named, with what to do."""
    (exported.path / "model.onnx").write_bytes(b"other bytes")

    message = work.refuse(9)

    assert message.startswith(f"{exported.path} has this content id, but is damaged: ")
    assert message.endswith("Move it away, and export again")


def test_a_repository_that_is_a_file(work):
    """The system's reason is given."""
    work.net("good", "small")
    work.repository.write_text("not a directory")

    message = work.refuse(9)

    assert message.startswith(f"the artifact could not be written below {work.repository}/small: ")
    assert message.endswith("; nothing was written")


def test_a_name_that_is_a_file(work):
    """The same one level below."""
    work.net("good", "small")
    work.repository.mkdir()
    (work.repository / "small").write_text("not a directory")

    assert work.refuse(9).endswith("Not a directory; nothing was written")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_place_that_cannot_be_written(work):
    """Not even root makes a directory in /proc."""
    work.net("good", "small")

    message = work.refuse(9, repository=Path("/proc/repository"))

    assert message.startswith("the artifact could not be written below /proc/repository/small: ")
    assert message.endswith("; nothing was written")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory(work):
    """Permissions hold."""
    work.net("good", "small")
    work.repository.mkdir(mode=0o500)

    assert work.refuse(9).endswith("Permission denied; nothing was written")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
from export.__main__ import app
app(sys.argv[1:])
"""


def test_a_disk_that_is_full(work):
    """A write that fails half-way leaves no artifact and no temporary file."""
    work.net("good", "small")
    before = work.files()

    finished = work.command("--ckpt", "best.pth", "--plugin", work.plugins[0], program=("-B", "-c", LIMITED))

    assert finished.returncode == 9, finished.stderr
    assert finished.stdout == ""
    assert finished.stderr.splitlines()[-1] == (
        "error: the artifact could not be written below model_repository/small: File too large; nothing was written"
    )
    left = {name: kind for name, kind in work.files().items() if name not in before}
    assert left == {"model_repository": "directory", "model_repository/small": "directory"}


def test_the_files_of_an_artifact(small):
    """What the format promises, and nothing else."""
    _, exported = small

    assert {path.name for path in exported.path.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "model.pt",
        "model.pt2",
        "golden.safetensors",
        "parity.json",
        "labels.txt",
        "config.yaml",
        "environment.json",
        "provenance.json",
    }


def test_the_manifest_has_no_time_stamps_nor_names(work, exported):
    """The same content from another folder, under another name, has the same content id."""
    other = type(work)(work.folder / "elsewhere")
    other.folder.mkdir()
    other.net("good", "small")

    assert other.export(name="another").content_id == exported.content_id


def test_labels_belong_to_the_content(work, exported):
    """A labels file is hashed with the rest, under one name whatever its own was."""
    (work.folder / "classes.txt").write_text("a\nb\nc\n")
    work.write({**work.data("small"), "outputs": {"y": {"dtype": "float32", "shape": ["batch", 3], "labels": "classes.txt"}}})

    labelled = work.export()

    assert labelled.content_id != exported.content_id
    assert (labelled.path / "labels.txt").read_text() == "a\nb\nc\n"
    assert "labels.txt" in read_manifest(labelled.path).files
