"""Real raw samples from a folder, and made-up ones: what is read, and what is refused by name."""

import json
from typing import Any

import pytest

from artifact.operations import RawSpec
from artifact.signature import Dim, Signature, TensorSpec
from export.errors import ConfigError
from export.samples import MAX_SAMPLES, Sample, made_samples, read_samples

COLUMNS = [
    {"name": "age", "kind": "number", "min": 18.0, "max": 30.0},
    {"name": "grade", "kind": "category", "values": [1, True, "1a"]},
]
ROW = RawSpec("x", "row", ("x",), {"columns": COLUMNS})
TEXT = RawSpec("text", "text", ("ids",), {"max_tokens": 8})
PAIR = RawSpec("text", "pair", ("ids",), {"max_tokens": 8})
IMAGE = RawSpec("photo", "image", ("photo",), {"mode": "L"})


def read(folder, files, *specs):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_samples(folder, specs)


def test_rows_of_a_csv(tmp_path):
    """Numbers, values of the declared types, null for nothing; Excel's byte order mark and other columns do not count."""
    samples = read(tmp_path, {"a.csv": "\ufeffage,grade,target\r\n20,1,x\r\n,true,y\r\nold,,z\r\n"}, ROW)

    assert samples == [
        Sample(f"{tmp_path}/a.csv:2", {"x": {"age": 20.0, "grade": 1}}),
        Sample(f"{tmp_path}/a.csv:3", {"x": {"age": None, "grade": True}}),
        Sample(f"{tmp_path}/a.csv:4", {"x": {"age": "old", "grade": None}}),
    ]


@pytest.mark.parametrize("text", ["age;grade\n20;1\n", "age\n20\n", ""])
def test_a_csv_without_the_columns(tmp_path, text):
    """A header that lacks a column would prove nothing but what stands for missing values."""
    with pytest.raises(ConfigError, match=r"a\.csv cannot be read: its header, .*, lacks (age, )?grade; cells are separated by"):
        read(tmp_path, {"a.csv": text}, ROW)


def test_texts(tmp_path):
    """A line is a text, an empty one too; what only Unicode calls the end of a line is none."""
    samples = read(tmp_path, {"a.txt": "one\u2028two\r\n\nthree\n"}, TEXT)
    assert [sample.raw["text"] for sample in samples] == ["one\u2028two", "", "three"]


def test_json_lines(tmp_path):
    """Pairs, and several raw inputs: a picture is a file beside it; an empty line is none."""
    lines = json.dumps({"text": ["a\u2028", "b"], "photo": "1.png"}, ensure_ascii=False)
    samples = read(tmp_path, {"a.jsonl": f"\n{lines}\n", "1.png": b"png"}, PAIR, IMAGE)
    assert samples == [Sample(f"{tmp_path}/a.jsonl:2", {"text": ("a\u2028", "b"), "photo": b"png"})]


def test_no_more_is_read_than_is_used(tmp_path):
    """A folder of a million pictures does not fit into memory: the first ones are read, and the others not even opened."""
    files = {f"{number:02}.png": b"x" for number in range(MAX_SAMPLES)}
    (tmp_path / "99.png").touch(mode=0)
    assert len(read(tmp_path, files, IMAGE)) == MAX_SAMPLES


@pytest.mark.parametrize(
    ("spec", "files", "message"),
    [
        (PAIR, {"a.jsonl": '{"text": []}'}, "sample {}/a.jsonl:1 cannot be read: text is []; a list of two texts is expected"),
        (TEXT, {"a.jsonl": '{"txt": "a"}'}, 'a.jsonl:1 cannot be read: it is {{"txt": "a"}}; an object of text is expected'),
        (TEXT, {"a.jsonl": "[1]"}, "a.jsonl:1 cannot be read: it is [1]; an object of text is expected"),
        (TEXT, {"a.jsonl": "{}\n{"}, "a.jsonl:1 cannot be read: it is {{}}; an object"),
        (TEXT, {"a.jsonl": "\n{"}, "a.jsonl:2 cannot be read: Expecting property name"),
        (ROW, {"a.jsonl": '{"x": {"age": NaN}}'}, "a.jsonl:1 cannot be read: NaN is no number of JSON"),
        (IMAGE, {"a.jsonl": '{"photo": 5}'}, "photo is 5; the name of a picture's file is expected"),
        (IMAGE, {"a.jsonl": '{"photo": "no.png"}'}, "a.jsonl:1 cannot be read: [Errno 2] No such file or directory: "),
        (IMAGE, {"a.jsonl": '{"photo": "a\\u0000"}'}, "a.jsonl:1 cannot be read: embedded null byte"),
        (TEXT, {"a.txt": b"\xff"}, "samples {}/a.txt cannot be read: 'utf-8' codec can't decode"),
        (IMAGE, {"cats/1.png": b"x"}, "put *.jpg, *.png, *.webp there (not in a folder below)"),
    ],
)
def test_samples_that_cannot_be_read(tmp_path, spec, files, message):
    """The file is named, and the line; what was found, and what was expected."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, files, spec)
    assert message.format(tmp_path) in str(caught.value)


def test_made_up_rows_are_within_the_columns_bounds():
    """Numbers are moved to the nearest that the column takes."""
    signature = Signature((TensorSpec("x", "float32", ("batch", 4)),), (), {"batch": Dim(1, 2)})
    rows: list[Any] = [sample.raw["x"] for sample in made_samples([ROW], signature)]
    assert {row["age"] for row in rows} == {18.0, 30.0}
