"""The config's schema: every mistake has its line, and says what would be right."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

import model_defs
from export.__main__ import app
from export.config import Config, config_from_data, json_schema, parse_config, read_config, read_labels, to_yaml
from export.errors import ConfigError
from export.yaml_document import read_yaml

EXAMPLES = sorted((Path(model_defs.__file__).parent / "configs").glob("*.yaml"))
GOOD = """\
schema: 1
model: {name: mlp, params: {in_features: 4, out_features: 3}}
inputs:
  x: {dtype: float32, shape: [batch, 4], range: [-1, 1]}
dims:
  batch: {min: 1, max: 8, opt: 4}
outputs:
  y: {dtype: float32, shape: [batch, 3]}
"""


def parse(text):
    return parse_config(read_yaml(text.encode(), "best.yaml"))


def refused(*changes):
    """The message for GOOD with the changes (old, new) made."""
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_the_smallest_config():
    """What is left out has a default."""
    config = parse(
        "schema: 1\nmodel: {name: digits_cnn}\ninputs: {image: {dtype: float32, shape: [1, 1, 8, 8]}}\n"
        "outputs: {logits: {dtype: float32, shape: [1, 10]}}\n"
    )

    assert config.formats == ("onnx", "torchscript")
    assert (config.weights.select, config.weights.ignore, config.artifact_name) == (None, (), "digits_cnn")


MISTAKES = {
    "unknown key": ([("dims:", "dimz:")], "best.yaml:5:1: dimz: unknown key; nearest: dims"),
    "unknown key inside": (
        [("shape: [batch, 4]", "shap: [batch, 4]")],
        "best.yaml:4:23: inputs.x.shap: unknown key; nearest: shape",
    ),
    "unknown key far from all": (
        [("opt: 4", "zzz: 4")],
        "best.yaml:6:27: dims.batch.zzz: unknown key; known: min, max, multiple, opt",
    ),
    "missing key": (
        [("dtype: float32, shape: [batch, 3]", "dtype: float32")],
        "best.yaml:8:3: outputs.y.shape: required, but not there",
    ),
    "another schema": ([("schema: 1", "schema: 2")], "best.yaml:1:1: schema: input should be 1, got 2"),
    "a number as text": ([("max: 8", 'max: "8"')], 'best.yaml:6:19: dims.batch.max: input should be a valid integer, got "8"'),
    "a fraction": ([("max: 8", "max: 8.5")], "best.yaml:6:19: dims.batch.max: input should be a valid integer, got 8.5"),
    "zero": ([("min: 1", "min: 0")], "best.yaml:6:11: dims.batch.min: input should be greater than or equal to 1, got 0"),
    "min above max": ([("min: 1, max: 8, opt: 4", "min: 9, max: 8")], "best.yaml:6:3: dims.batch: min 9 is above max 8"),
    "not a multiple": (
        [("min: 1, max: 8, opt: 4", "min: 4, max: 9, multiple: 4")],
        "best.yaml:6:3: dims.batch: max 9 is not a multiple of 4",
    ),
    "opt not a multiple": (
        [("min: 1, max: 8, opt: 4", "min: 4, max: 8, multiple: 4, opt: 6")],
        "best.yaml:6:3: dims.batch: opt 6 is not a multiple of 4",
    ),
    "opt outside": ([("opt: 4", "opt: 9")], "best.yaml:6:3: dims.batch: opt 9 is not within 1 to 8"),
    "an empty range": ([("[-1, 1]", "[1, -1]")], "best.yaml:4:3: inputs.x: range [1.0, -1.0] is empty: low is above high"),
    "an infinite range": (
        [("[-1, 1]", "[-1, .inf]")],
        "best.yaml:4:54: inputs.x.range.1: input should be a finite number, got Infinity",
    ),
    "no range": (
        [("{dtype: float32, shape: [batch, 4], range: [-1, 1]}", "{dtype: int64, shape: [batch, 4]}")],
        "best.yaml:4:3: inputs.x: int64 input needs a range, as [low, high]: token ids [0, 30521], masks [0, 1]",
    ),
    "a fraction in a range": (
        [("float32, shape: [batch, 4], range: [-1, 1]", "int32, shape: [batch, 4], range: [0, 1.5]")],
        "best.yaml:4:3: inputs.x: range [0.0, 1.5] of an int32 input must hold whole numbers",
    ),
    "a range beyond its dtype": (
        [("float32, shape: [batch, 4], range: [-1, 1]", "uint8, shape: [batch, 4], range: [0, 300]")],
        "best.yaml:4:3: inputs.x: range [0, 300] is beyond uint8, which holds 0 to 255",
    ),
    "a range beyond float16": (
        [("float32, shape: [batch, 4], range: [-1, 1]", "float16, shape: [batch, 4], range: [-1, 1e5]")],
        "best.yaml:4:3: inputs.x: range [-1, 100000] is beyond float16, which holds -65504 to 65504",
    ),
    "a range of booleans": (
        [("float32, shape: [batch, 4], range: [-1, 1]", "bool, shape: [batch, 4], range: [0, 1]")],
        "best.yaml:4:3: inputs.x: a bool input has no range",
    ),
    "an undeclared dimension": (
        [("y: {dtype: float32, shape: [batch, 3]}", "y: {dtype: float32, shape: [rows, 3]}")],
        "best.yaml:1:1: the config: dimension rows stands in a shape but not under dims; add dims: {rows: {min: …, max: …}}",
    ),
    "an unused dimension": (
        [("  batch: {", "  height: {min: 1, max: 2}\n  batch: {")],
        "best.yaml:1:1: the config: dimension height stands under dims but in no input's shape; remove it or use it",
    ),
    "an input that is an output": (
        [("  y: {", "  x: {")],
        "best.yaml:1:1: the config: x is both an input and an output; give one of them another name",
    ),
    "an unknown format": (
        [("schema: 1", "schema: 1\nformats: [onxx]")],
        "best.yaml:2:11: formats.0: input should be 'onnx', 'torchscript' or 'pt2', got \"onxx\"",
    ),
    "no format": ([("schema: 1", "schema: 1\nformats: []")], "best.yaml:2:1: formats: "),
    "a bad name": ([("schema: 1", "schema: 1\nname: a/b")], "best.yaml:2:1: name: string should match pattern"),
    "a bad dimension": ([("[batch, 4]", "[1batch, 4]")], "best.yaml:4:31: inputs.x.shape.0: "),
    "an unknown dtype": (
        [("dtype: float32, shape: [batch, 4]", "dtype: float, shape: [batch, 4]")],
        "best.yaml:4:7: inputs.x.dtype: input should be 'bool', 'uint8', ",
    ),
    "params of the model": (
        [("in_features: 4", "in_features: 0")],
        "best.yaml:2:29: model.params.in_features: input should be greater than 0, got 0",
    ),
    "an unknown param": (
        [("in_features: 4", "in_feature: 4")],
        "best.yaml:2:29: model.params.in_feature: unknown key; nearest: in_features",
    ),
    "a list": ([(GOOD, "- 1\n")], "best.yaml is not a mapping; it starts with schema: 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake(mistake):
    """It is told with its line and column, what was found and what would be right."""
    changes, expected = MISTAKES[mistake]

    message = refused(*changes)

    assert expected in message.splitlines() or message.startswith(expected), message


def test_all_mistakes_at_once():
    """One line each."""
    message = refused(("min: 1", "min: 0"), ("opt: 4", "ops: 4"), ("float32, shape: [batch, 3]", "float33, shape: [batch, 3]"))

    assert [line.split(": ")[1] for line in message.splitlines()] == ["dims.batch.min", "dims.batch.ops", "outputs.y.dtype"]


# ---- labels ----


LABELS = GOOD.replace("shape: [batch, 3]}", "shape: [batch, 3], labels: names.txt}")


def labels_of(text, directory):
    document = read_yaml(text.encode(), "best.yaml")
    return read_labels(parse_config(document), document, directory)


def test_labels(tmp_path):
    """One per line, as many as the last dimension; the file's line ends become plain ones."""
    (tmp_path / "names.txt").write_bytes("a\r\nb\r\nü".encode())

    assert labels_of(LABELS, tmp_path) == "a\nb\nü\n".encode()
    assert labels_of(GOOD, tmp_path) is None


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"a\nb\n", "has 2 lines; the output's last dimension is 3, and each place needs one"),
        (b"a\nb\nc\n\n", "has 4 lines; the output's last dimension is 3, and each place needs one"),
        (b"a\nb\n\xff\n", "is not UTF-8 text: invalid start byte at byte 4"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, content, ending):
    """The place that names it, the file and the reason are told."""
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)

    with pytest.raises(ConfigError) as caught:
        labels_of(LABELS, tmp_path)

    assert str(caught.value) == f"best.yaml:8:42: outputs.y.labels: {tmp_path / 'names.txt'} {ending}"


def test_labels_of_two_outputs(tmp_path):
    """An artifact holds one labels file."""
    two = LABELS + "  z: {dtype: float32, shape: [batch, 3], labels: names.txt}\n"

    with pytest.raises(ConfigError) as caught:
        labels_of(two, tmp_path)

    assert str(caught.value) == "best.yaml:9:42: outputs.z.labels: outputs y, z each name labels; one output may"


# ---- the same config in other forms ----


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_to_yaml_and_back(path):
    """What is written into the artifact is read as the same config."""
    config = read_config(path)

    again = parse_config(read_yaml(to_yaml(config), "config.yaml"))

    assert again == config
    assert again.signature() == config.signature()


def test_names_that_yaml_would_read_otherwise():
    """Strings that look like booleans or numbers survive the way through YAML."""
    text = GOOD.replace("batch", "on").replace("  x:", "  no:").replace("  y:", "  yes:")
    config = parse(text.replace("schema: 1", 'schema: 1\nname: "1e3"\nweights: {select: "010", ignore: ["~", "null", "0x1F"]}'))

    assert parse_config(read_yaml(to_yaml(config), "config.yaml")) == config


def test_data_that_is_no_yaml():
    """A checkpoint's own config is data; what is more than JSON is refused by its name."""
    data = yaml.safe_load(GOOD)
    data["model"]["params"]["in_features"] = {1, 2}

    with pytest.raises(ConfigError) as caught:
        config_from_data(data, "best.pth (its own config)")

    assert str(caught.value).startswith("best.pth (its own config) holds more than plain data: ")


def test_a_config_is_frozen():
    """Nothing changes a config once it is read."""
    with pytest.raises(ValueError, match="frozen"):
        parse(GOOD).name = "other"


# ---- the JSON Schema ----


@pytest.fixture(scope="module")
def schema():
    """What --schema prints."""
    result = CliRunner().invoke(app, ["--schema"])
    assert (result.exit_code, result.stderr) == (0, "")
    schema = json.loads(result.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_schema_accepts_the_examples(schema, path):
    """As an editor reads them, by PyYAML."""
    assert list(schema.iter_errors(json.loads(json.dumps(read_yaml(path.read_bytes(), path.name).data)))) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(imputs={}),
        lambda data: data["inputs"]["x"].update(shap=[1]),
        lambda data: data["model"]["params"].update(in_feature=4),
        lambda data: data["model"].update(name="no_such_model"),
        lambda data: data["model"]["params"].pop("in_features"),
        lambda data: data.update(schema=2),
        lambda data: data["dims"]["batch"].update(min=0),
    ],
)
def test_the_schema_refuses(schema, change):
    """Unknown keys at every level, unknown models, params that do not fit."""
    data = yaml.safe_load(GOOD)
    assert list(schema.iter_errors(data)) == []

    change(data)

    assert list(schema.iter_errors(data))


def test_the_schema_has_the_plugins_models(work):
    """With --plugin its params are part of it."""
    path = work.plugin("good")

    result = CliRunner().invoke(app, ["--schema", "--plugin", path])

    definitions = json.loads(result.stdout)["$defs"]
    assert "small" in definitions["ModelSection"]["properties"]["name"]["enum"]
    assert set(definitions["small_params"]["properties"]) == {"width", "classes"}


def test_the_schema_of_operations():
    """What may be empty: the chain of an output that is named."""
    for side, named, declared in (
        ("preprocess", True, {"image": ["decode"]}),
        ("preprocess", False, {"image": []}),
        ("postprocess", True, {"price": []}),
        ("postprocess", False, []),
    ):
        schema = json_schema()
        schema = {"$defs": schema["$defs"], **schema["properties"][side]}
        assert jsonschema.Draft202012Validator(schema).is_valid(declared) == named, (side, declared)


def test_the_schema_is_the_configs():
    """Its keys are the fields that are read."""
    assert set(json_schema()["properties"]) == {field.alias or name for name, field in Config.model_fields.items()}
