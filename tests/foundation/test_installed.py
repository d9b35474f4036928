"""What is installed is read from directories' names, and agrees with what the packages' own records say."""

import hashlib
import importlib.metadata
import sys

from foundation import installed as facts


def test_it_agrees_with_the_packages_own_records():
    """The same names and versions as `importlib.metadata` reads from every METADATA."""
    records = {}
    for found in importlib.metadata.distributions():
        records.setdefault(facts.normalised(found.metadata["Name"]), found.version)

    assert facts.installed() == dict(sorted(records.items()))


def test_the_first_on_the_path_counts(monkeypatch, tmp_path):
    """Of a package that is there twice, that which `import` would take; places that are not there are passed over."""
    for place, version in (("first", "2.0"), ("second", "1.0")):
        (tmp_path / place / f"My_Net-{version}.dist-info").mkdir(parents=True)
    (tmp_path / "second" / "old-0.1-py3.11.egg-info").mkdir()
    (tmp_path / "second" / "~orch-2.0").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in ("absent", "first", "second")])

    assert facts.installed() == {"my-net": "2.0", "old": "0.1"}


def test_one_word_for_all():
    """Equal for equal packages in any order, another for another version."""
    there = {"a": "1", "b": "2"}

    assert facts.installed_sha256(there) == facts.installed_sha256({"b": "2", "a": "1"})
    assert facts.installed_sha256(there) != facts.installed_sha256({"a": "1", "b": "3"})


def test_the_lock_files_of_a_project(tmp_path):
    """Those that pin versions, by their bytes; another file, or a directory of that name, is none."""
    (tmp_path / "uv.lock").write_bytes(b"version = 1")
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / "requirements.txt").mkdir()

    assert facts.lock_files(tmp_path) == {"uv.lock": hashlib.sha256(b"version = 1").hexdigest()}
