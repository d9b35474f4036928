"""The sidecar: what is written is read again, and nothing else is."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from checkpoints.errors import UnreadableCheckpoint
from checkpoints.keeping.names import best_link, free_stem, is_link, is_sidecar, stem_of
from checkpoints.keeping.sidecar import KeptFile, Sidecar, parse_sidecar

SHA = "0" * 64
NAME = "step-00000120.json"
SIDECAR = Sidecar(
    stem="step-00000120",
    step=120,
    epoch=3,
    sequence=7,
    run="1f",
    saved_at="2026-01-02T03:04:05Z",
    format="safetensors",
    files={
        "step-00000120.safetensors": KeptFile("weights", 10, SHA),
        "step-00000120.state.pth": KeptFile("state", 20, SHA),
    },
    metrics={"loss": 0.5, "broken": math.inf},
    kept_by=("last-3",),
    config={"schema": 1},
    environment={"python": "3.11.7"},
    git={"commit": "a" * 40, "dirty": False},
    warm_start=({"taken": ["a"]},),
)


def test_what_is_written_is_read_again():
    """Encoding and parsing are inverse, and the bytes are the same on every machine."""
    raw = SIDECAR.encode()
    assert parse_sidecar(raw, NAME) == SIDECAR
    assert parse_sidecar(raw, NAME).encode() == raw
    assert json.loads(raw)["metrics"] == {"loss": 0.5, "broken": "Infinity"}
    assert SIDECAR.name == NAME
    assert SIDECAR.weights == "step-00000120.safetensors"
    assert SIDECAR.state == "step-00000120.state.pth"


def test_nan_is_read_as_nan():
    """JSON has no NaN; the sidecar has it as a text."""
    raw = changed(metrics={"loss": "NaN"})
    assert math.isnan(parse_sidecar(raw, NAME).metrics["loss"])


def test_fields_that_we_do_not_know_are_passed_over():
    """A later stateserve may add some without another schema."""
    assert parse_sidecar(changed(later={"a": 1}), NAME) == SIDECAR


def changed(**fields):
    return json.dumps({**json.loads(SIDECAR.encode()), **fields}).encode()


WEIGHTS = {"role": "weights", "size": 1, "sha256": SHA}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "other"}, 'kind is "other", expected "stateserve-checkpoint"'),
        ({"schema": True}, "schema is true, expected 1"),
        ({"schema": 2}, "has schema 2, this stateserve reads 1"),
        ({"step": -1}, "step is -1, expected a whole number from 0"),
        ({"step": 1.0}, "step is 1.0"),
        ({"step": 10**400}, "step is 1000"),
        ({"epoch": "3"}, 'epoch is "3"'),
        ({"sequence": 0}, "sequence is 0"),
        ({"run": None}, "run is null"),
        ({"format": "zip"}, 'format is "zip", expected pth or safetensors'),
        ({"format": ["pth"]}, 'format is ["pth"]'),
        ({"files": []}, "files is []"),
        ({"files": {}}, "the files' roles are []"),
        ({"files": {"step-00000120.safetensors": WEIGHTS}}, "the files' roles are ['weights']"),
        ({"files": {"../step-00000120.safetensors": WEIGHTS}}, 'it lists "../step-00000120.safetensors"'),
        ({"files": {"step-00000121.safetensors": WEIGHTS}}, "which is not a file of step-00000120"),
        ({"files": {"step-00000120.json": WEIGHTS}}, 'it lists "step-00000120.json"'),
        ({"files": {"step-00000120.pth": {"role": "weights", "size": -1, "sha256": SHA}}}, "expected role, size and sha256"),
        ({"files": {"step-00000120.pth": {"role": "weights", "size": 1, "sha256": "F" * 64}}}, "expected role, size and sha256"),
        ({"metrics": {"loss": "1"}}, "metrics is"),
        ({"metrics": {"loss": 10**400}}, "metrics is"),
        ({"metrics": {"loss": True}}, "metrics is"),
        ({"kept_by": [1]}, "kept_by is [1]"),
        ({"config": []}, "config is []"),
        ({"environment": None}, "environment is null"),
        ({"warm_start": [1]}, "warm_start is [1]"),
    ],
)
def test_what_is_not_a_sidecar_is_refused_with_the_reason(fields, reason):
    """Every field is checked before it is used."""
    with pytest.raises(UnreadableCheckpoint) as error:
        parse_sidecar(changed(**fields), NAME)
    assert reason in str(error.value)


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[]", b"NaN", b'{"kind"', b"[" * 100_000, b"1" * 10_000, b'{"schema": 1}', b"{}"])
def test_hostile_bytes_are_refused(raw):
    """Whatever the bytes are, the error is ours."""
    with pytest.raises(UnreadableCheckpoint):
        parse_sidecar(raw, NAME)


def test_the_largest_sidecar_has_a_limit():
    """A file of gigabytes that is called a sidecar is not parsed."""
    with pytest.raises(UnreadableCheckpoint, match="a sidecar has at most"):
        parse_sidecar(bytes((64 << 20) + 1), NAME)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
)


@given(key=st.sampled_from(sorted(json.loads(SIDECAR.encode()))), value=JSON)
def test_any_value_in_any_field_is_read_or_refused(key, value):
    """Parsing is total: a Sidecar that encodes again, or UnreadableCheckpoint."""
    try:
        sidecar = parse_sidecar(changed(**{key: value}), NAME)
    except UnreadableCheckpoint:
        return
    sidecar.encode()


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("step-00000120.json", "step-00000120"),
        ("step-00000120-2.state.pth", "step-00000120-2"),
        ("step-1000000000000000.pth", "step-1000000000000000"),
        ("step-120.pth", None),
        ("step-00000120-1.txt", None),
        ("step-00000120.pth.bak", None),
        ("step-00000120.pth\n", None),
        ("step-0000012\u0660.pth", None),
        ("best.pth", None),
    ],
)
def test_a_stem_is_read_from_a_checkpoints_file_only(name, stem):
    """Other files are none of a Keeper's business."""
    assert stem_of(name) == stem


def test_a_step_that_is_saved_again_gets_another_stem():
    """Files are never overwritten."""
    assert free_stem(120, frozenset()) == "step-00000120"
    assert free_stem(120, frozenset({"step-00000120", "step-00000120-2"})) == "step-00000120-3"


def test_links_have_names_of_files():
    """A metric's name may hold what a file's name may not."""
    assert best_link("val/acc top1") == "best-val_acc_top1.pth"
    assert all(map(is_link, ("best.pth", "latest.pth", best_link("val/acc"))))
    assert not any(map(is_link, ("best.pth.tar", "latest", "best-.pth", "last.pth")))
    assert is_sidecar("step-00000120.json")
    assert not is_sidecar("config.json")
