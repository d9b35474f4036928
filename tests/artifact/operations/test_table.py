"""Rows of tables: columns to numbers by their formula, and rows that are none."""

import math

import numpy as np
import pytest

from artifact.operations import RawLimits, make, parse
from artifact.operations.errors import BadOperations, BadRow
from artifact.signature import Dim, Signature, TensorSpec

AGE = {"name": "age", "kind": "number", "missing": 40, "mean": 40, "std": 8, "min": 0, "max": 120}
COLOUR = {"name": "colour", "kind": "category", "values": ["red", "green", 3, True], "missing": "green"}
SIZE = {"name": "size", "kind": "category", "values": ["S", "M", "L"], "encode": "index"}
LIMITS = RawLimits()


def operations(*columns, size=None, dtype="float32", range_=None):
    wide = sum(
        len(column["values"]) if column["kind"] == "category" and column.get("encode") != "index" else 1 for column in columns
    )
    spec = TensorSpec("x", dtype, ("batch", size or wide), range_)
    signature = Signature((spec,), (TensorSpec("y", "float32", ("batch", 1)),), {"batch": Dim(1, 8)})
    return make(parse([{"table": {"columns": list(columns), "dtype": dtype}}]), signature, {}, {})


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def vector(row, *columns, **options):
    return operations(*columns, **options).prepare({"x": row}, LIMITS)["x"]


def test_columns_become_numbers():
    """(x - mean) / std; a 1 at a category's place; a category's place; in the order of the columns, not of the row."""
    for colour in (3, 3.0):
        row = {"size": "L", "colour": colour, "age": 44}
        np.testing.assert_array_equal(vector(row, AGE, COLOUR, SIZE), np.array([[0.5, 0, 0, 1, 0, 2]], np.float32))


def test_every_number_is_its_formula():
    """float64 until the end, then one cast."""
    made = operations({**AGE, "mean": 38.58, "std": 13.64})

    for age in np.linspace(0, 120, 241):
        assert made.prepare({"x": {"age": float(age)}}, LIMITS)["x"].item() == np.float32((float(age) - 38.58) / 13.64)


def test_what_is_missing():
    """Null, or not there: what is declared stands for it; without that the row is refused."""
    for row in ({}, {"age": None, "colour": None}):
        np.testing.assert_array_equal(vector(row, AGE, COLOUR), np.array([[0, 0, 1, 0, 0]], np.float32))
    with pytest.raises(BadRow, match="column 'size' is missing, and the model declares nothing in its place"):
        vector({}, SIZE)


def test_unknown_categories():
    """Refused with those that are known; or, where it is declared, zeros."""
    with pytest.raises(BadRow, match=r"column 'size' is 'XL'; one of 'S', 'M', 'L' is expected"):
        vector({"size": "XL"}, SIZE)
    np.testing.assert_array_equal(vector({"colour": "pink"}, {**COLOUR, "unknown": "zeros"}), np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"age": "44"}, "column 'age' is '44'; a finite number is expected"),
        ({"age": True}, "a finite number is expected"),
        ({"age": math.nan}, "a finite number is expected"),
        ({"age": math.inf}, "a finite number is expected"),
        ({"age": [44]}, "a finite number is expected"),
        ({"age": 121}, "column 'age' is 121; 0 to 120 is expected"),
        ({"age": 10**400}, "column 'age' is a whole number of 1329 bits; a finite number is expected"),
        ({"colour": 1}, "column 'colour' is 1; one of 'red', 'green', 3, True is expected"),
        ({"colour": "Red"}, "column 'colour' is 'Red'"),
        ({"colour": {"a": []}}, "column 'colour' is an object; one of 'red'"),
        ({"colour": nested(100_000)}, "column 'colour' is a list"),
        ({"age": nested(100_000)}, "column 'age' is a list; a finite number is expected"),
        ({"age": 10**5000}, "column 'age' is a whole number of 16610 bits"),
        ({"age": "9" * 10_000_000}, f"column 'age' is '{'9' * 80}'; a finite number is expected"),
        ({"agee": 1}, "the row has an unknown column 'agee'; they are age, colour"),
        ([44, "red"], "a row is an object by column, not list"),
    ],
)
def test_rows_that_are_refused(row, message):
    """Each with its column, its value, and what is expected."""
    with pytest.raises(BadRow) as error:
        vector(row, AGE, COLOUR)
    assert message in str(error.value)


def test_numbers_that_the_tensor_cannot_hold():
    """Beyond float32; or no whole number, where the model takes those."""
    number = {"name": "n", "kind": "number"}
    with pytest.raises(BadRow, match=r"column 'n' makes 1e\+300, which float32 cannot hold"):
        vector({"n": 1e300}, number)
    with pytest.raises(BadRow, match=r"column 'n' makes 1.5, but the model takes whole numbers"):
        vector({"n": 1.5}, number, dtype="int64")
    with pytest.raises(BadRow, match=r"column 'n' makes 1e\+300, which float32 cannot hold"):
        vector({"age": 1, "colour": "red", "n": 1e300}, AGE, COLOUR, number)
    for beyond in (2**53, 2**53 + 1, -(2**53) - 1, 2**62):
        with pytest.raises(BadRow, match=r"but whole numbers are exact only below 2\^53"):
            vector({"n": beyond}, number, dtype="int64")
    with pytest.raises(BadRow, match=r"column 'n' makes 2.14748e\+09, which int32 cannot hold"):
        vector({"n": 2**31}, number, dtype="int32")
    assert vector({"n": 2**53 - 1}, number, dtype="int64").tolist() == [[2**53 - 1]]
    assert vector({"n": 1e-60}, number).tolist() == [[0.0]]


class Untouchable(list):
    """A list that must not be written out."""

    def __repr__(self):
        raise AssertionError("it was written out")


def test_a_value_is_never_written_out():
    """What nests is not looked into, neither to find it among the values nor to name it: that could take as long as one likes."""
    for column in (COLOUR, AGE):
        with pytest.raises(BadRow, match="is a list"):
            vector({column["name"]: Untouchable([1])}, column)
    np.testing.assert_array_equal(vector({"colour": Untouchable()}, {**COLOUR, "unknown": "zeros"}), np.zeros((1, 4)))


def test_many_categories():
    """Each value at its place, of as many as may be declared."""
    values = [f"v{place}" for place in range(10_000)]
    made = operations({"name": "c", "kind": "category", "values": values})

    for place in (0, 4321, 9999):
        row = made.prepare({"x": {"c": values[place]}}, LIMITS)["x"]
        assert np.flatnonzero(row).tolist() == [place]
        assert row[0, place] == 1


def test_a_batch_holds_the_same_as_its_rows():
    """Batched equals single."""
    made = operations(AGE, COLOUR)
    rows = [made.prepare({"x": {"age": age, "colour": "red"}}, LIMITS) for age in range(8)]

    np.testing.assert_array_equal(made.join(rows)["x"], np.concatenate([row["x"] for row in rows]))


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ([], {"size": 1}, "at least 1 item"),
        ([AGE, AGE], {}, "two columns are called age"),
        ([{**AGE, "std": 0}], {}, "greater than 0"),
        ([{**AGE, "missing": 121}], {}, "missing is 121, which is not within min and max"),
        ([{**COLOUR, "missing": "pink"}], {}, "missing is 'pink', which is none of its values"),
        ([{**COLOUR, "values": ["a", "a"], "missing": None}], {}, "a value stands twice"),
        ([{**AGE, "kind": "date"}], {"size": 1}, "kind"),
        ([AGE], {"size": 2}, "the chain makes [1] for a row, but input x is [2]"),
        (
            [AGE],
            {"range_": (-5, 1)},
            "columns.0: column 'age', of 0 to 120, makes -5 to 10, but input x declares the range [-5, 1]; declare what it makes",
        ),
        (
            [{**AGE, "std": 120}, SIZE],
            {"range_": (-1, 1)},
            "preprocess.0.table.columns.1: column 'size' makes 0 to 2, but input x declares the range [-1, 1]; declare what",
        ),
        (
            [AGE, {"name": "n", "kind": "number"}],
            {"range_": (-5, 10)},
            "columns.1: declare min and max of column 'n': without, it makes any number, and input x declares the range [-5, 10]",
        ),
        (
            [{**COLOUR, "kind": "categoric"}],
            {},
            "columns.0.kind: input should be 'number' or 'category', got \"categoric\"; nearest: category",
        ),
        (
            [{**COLOUR, "unknown": "zero"}],
            {},
            "columns.0.unknown: input should be 'refuse' or 'zeros', got \"zero\"; nearest: zeros",
        ),
    ],
)
def test_tables_that_do_not_fit(columns, options, message):
    """Refused when they are declared."""
    with pytest.raises(BadOperations) as error:
        operations(*columns, **options)
    assert message in str(error.value)


def test_what_a_client_is_told():
    """Columns with their kinds, values and bounds; not how they are computed."""
    (spec,) = operations(AGE, SIZE).raw_inputs

    assert spec.to_json() == {
        "name": "x",
        "kind": "row",
        "makes": ["x"],
        "columns": [
            {"name": "age", "kind": "number", "missing": 40.0, "min": 0.0, "max": 120.0},
            {"name": "size", "kind": "category", "values": ["S", "M", "L"], "unknown": "refuse"},
        ],
    }


@pytest.mark.parametrize(("bound", "lacking"), [({"max": -5}, "min"), ({"min": -5}, "max"), ({}, "min and max")])
def test_numbers_without_bounds(bound, lacking):
    """Nobody knows what they make: that is accepted where no range is declared, and where one is, the bounds are asked for."""
    column = {"name": "n", "kind": "number", **bound}

    operations(column)
    with pytest.raises(BadOperations, match=f"declare {lacking} of column 'n': without, it makes any number, and input x"):
        operations(column, range_=(-100, 100))


def test_what_a_column_makes_can_be_declared():
    """The numbers of the message, and those of the formula, are a range that holds all that the column makes."""
    for place in range(50):
        column = {**AGE, "missing": None, "mean": place / 7 + 0.1, "std": 3.1 + place / 13}
        ends = tuple((bound - column["mean"]) / column["std"] for bound in (0, 120))
        with pytest.raises(BadOperations) as error:
            operations(column, range_=(0, 0))
        told = str(error.value).split(" makes ")[1].split(", but")[0].split(" to ")

        for range_ in (ends, tuple(map(float, told))):
            operations(column, range_=range_)


def test_a_column_without_its_kind():
    """The parameter is asked for at the column."""
    with pytest.raises(BadOperations, match=r"^preprocess\.0\.table\.columns\.0: parameter 'kind' is required, but not there$"):
        parse([{"table": {"columns": [{"name": "a"}]}}])


def test_unknown_parameters_of_a_category():
    """The nearest one is looked for among those of the column's own kind."""
    with pytest.raises(BadOperations, match="unknown parameter 'valus'; nearest: values"):
        operations({**COLOUR, "valus": ["red"]})
