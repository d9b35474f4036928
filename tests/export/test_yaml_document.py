"""YAML as plain data: YAML 1.2's scalars, and no construct that could mean two things."""

import pytest

from export.errors import ConfigError
from export.yaml_document import MAX_BYTES, MAX_DEPTH, MAX_NODES, read_yaml


def data(text):
    return read_yaml(text.encode(), "best.yaml").data


def refused(text):
    with pytest.raises(ConfigError) as caught:
        read_yaml(text if isinstance(text, bytes) else text.encode(), "best.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("1.5e-3", 0.0015),
        (".5", 0.5),
        ("010", 10),
        ("0o10", 8),
        ("0x10", 16),
        ("-3", -3),
        ("+3", 3),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("null", None),
        ("~", None),
        ("", None),
        ("'10'", "10"),
        (".inf", float("inf")),
        ("-.Inf", float("-inf")),
        ("NaN", "NaN"),
    ],
)
def test_scalars(text, value):
    """Plain scalars follow YAML 1.2's core schema, where PyYAML's 1.1 would read booleans, dates and base 60."""
    found = data(f"key: {text}")["key"]

    assert found == value
    assert type(found) is type(value)


def test_not_a_number():
    """.nan is a float; whether it is allowed is the schema's to say."""
    assert data("key: .nan")["key"] != data("key: .nan")["key"]


def test_an_empty_document():
    """It holds nothing, which the schema then finds incomplete."""
    assert data("") == {}


def test_duplicate_keys():
    """Both places are named: in PyYAML the last one would win."""
    assert refused("a: 1\nb: 2\na: 3\n") == "best.yaml:3:1: duplicate key 'a', first on line 1"


def test_duplicate_keys_deeper():
    """In any mapping, and in flow style."""
    assert refused("a: {x: 1,\n    y: 2,\n    x: 3}") == "best.yaml:3:5: duplicate key 'x', first on line 1"


@pytest.mark.parametrize("text", ["a: &one [1]\nb: *one", "a: &one {x: 1}\nb:\n  <<: *one"])
def test_aliases(text):
    """A value that is written once and meant twice is refused with its place."""
    assert refused(text).endswith(": alias *one; a config uses no aliases, write the value out")


def test_the_billion_laughs():
    """Aliases are refused before anything is built from them."""
    text = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))

    assert refused(text) == "best.yaml:2:10: alias *a0; a config uses no aliases, write the value out"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!custom", "!!binary", "!!set"])
def test_tags(tag):
    """A tag would choose a class; none is built."""
    assert "; a config holds plain data only" in refused(f"a: {tag} 'x'") or "is not YAML" in refused(f"a: {tag} 'x'")


def test_a_python_tag():
    """The message names the tag and its place."""
    assert refused("a: 1\nb: !!python/name:os.system x") == (
        "best.yaml:2:4: tag tag:yaml.org,2002:python/name:os.system; a config holds plain data only"
    )


@pytest.mark.parametrize("key", ["1", "true", "null", "1.5", "[a, b]"])
def test_keys_that_are_no_strings(key):
    """A key that YAML reads as something else is asked for in quotes."""
    message = refused(f"? {key}\n: 1")

    assert message.startswith("best.yaml:1:3: key ")
    assert message.endswith(" is not a string; put it in quotes")


def test_a_key_that_is_a_number():
    """With the key itself."""
    assert refused("a: {1: x}") == "best.yaml:1:5: key 1 is not a string; put it in quotes"


def test_depth():
    """Deeper than any config is refused before it is built."""
    assert data("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert refused("[" * 100_000) == f"best.yaml:1:{MAX_DEPTH + 1}: nested deeper than {MAX_DEPTH} levels"


def test_how_many_values():
    """More values than any config has are refused."""
    assert refused("[" + "1," * MAX_NODES + "1]").endswith(f": more than {MAX_NODES} values")


def test_how_many_bytes():
    """A larger file is not parsed at all."""
    assert refused(b"#" * (MAX_BYTES + 1)) == f"best.yaml has {MAX_BYTES + 1} bytes; a config has at most {MAX_BYTES}"


def test_text_that_is_not_utf_8():
    """The byte is named."""
    assert refused(b"a: \xff") == "best.yaml is not UTF-8 text: invalid start byte at byte 3"


OPEN = " that begins here is not closed, or a comma is missing in it: "
KEY = "no key can stand here: indent it as its neighbours, end the line above with a colon, or quote a value that holds one: "
MISTAKES = {
    "a brace": (
        "a:\n  - b: {c: 1\n  - d: 2",
        "2:8: not YAML: the {" + OPEN + "'  - b: {c: 1' (the parser: while parsing a flow mapping ",
    ),
    "a bracket": ("a: [1, 2", "1:4: not YAML: the [" + OPEN + "'a: [1, 2' (the parser: while parsing a flow sequence "),
    "the wrong bracket": ("a: [b, c}", "1:4: not YAML: the [" + OPEN + "'a: [b, c}' (the parser: "),
    "a comma": ("a: {b: 1, c: 2 d: 3}", "1:4: not YAML: the {" + OPEN + "'a: {b: 1, c: 2 d: 3}' (the parser: "),
    "a quote": ("a: 'x\nb: 2", '1:4: not YAML: the quote that begins here is not closed: "a: \'x" (the parser: '),
    "too far in": ("a: 1\n  b: 2", "2:4: not YAML: " + KEY + "'  b: 2' (the parser: mapping values are not allowed "),
    "no colon": ("a\nb: 2", "2:2: not YAML: " + KEY + "'b: 2' (the parser: "),
    "a colon": ("a: b: c", "1:5: not YAML: " + KEY + "'a: b: c' (the parser: "),
    "not far enough in": (
        "a:\n  b: 1\n c: 2",
        "3:2: not YAML: a key is expected here, indented as those above it: ' c: 2' (the parser: while parsing a block mapping ",
    ),
    "no dash": (
        "a:\n - b\n c: 1",
        "3:2: not YAML: a dash is expected here, indented as those above it: ' c: 1' (the parser: while parsing a block collec",
    ),
    "a tab": (
        "a:\n\t- b",
        "2:1: not YAML: nothing can begin so: indent with spaces, and put such a value in quotes: '\\t- b' (the parser: ",
    ),
    "two documents": (
        "a: 1\n---\nb: 2",
        "2:1: not YAML: a second document begins here, and a config is one: '---' (the parser: ",
    ),
    "another": ('a: "\\q"', "1:5: not YAML: it cannot be read on from here: 'a: \"\\\\q\"' (the parser: "),
    "a control character": ("a: \x07", "best.yaml is not YAML: unacceptable character #x0007: "),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_text_that_is_not_yaml(mistake):
    """Where it is, in plain words, with the line itself, and then the parser's words; all on one line."""
    text, expected = MISTAKES[mistake]

    message = refused(text)

    assert message.startswith(expected if expected.startswith("best") else f"best.yaml:{expected}")
    assert "\n" not in message


def test_the_parser_says_where_it_noticed():
    """Which may be far behind the mistake."""
    assert refused("a: {b: 1\nc: 2\n").endswith(" did not find expected ',' or '}' at 2:2)")


def test_a_long_line_that_is_not_yaml():
    """What is near the place is shown of it."""
    message = refused("a: [" + "1," * 400 + "{b: 1], " + "2," * 400 + "3]")

    assert message.startswith("best.yaml:1:805: not YAML: the {" + OPEN + "'" + "1," * 30 + "{b: 1], 2,")
    assert len(message) < 400


def test_places():
    """Every value knows its line and column; what is inside a scalar is at the closest place around it."""
    document = read_yaml(b"a:\n  - {b: 1}\n", "best.yaml")

    assert document.at(("a", 0, "b")) == "best.yaml:2:6"
    assert document.at(("a", 0, "missing")) == "best.yaml:2:5"
    assert document.at(()) == "best.yaml:1:1"


def test_an_integer_of_many_digits():
    """Python refuses to read one of more than 4300; it is told like any other mistake."""
    assert refused("a: " + "1" * 5000) == "best.yaml:1:4: 11111111111111111111… is a number of too many digits"
