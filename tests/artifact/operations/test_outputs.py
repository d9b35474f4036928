"""Operations on outputs against their formulas, and what they make of NaN, infinities and ties."""

import math

import numpy as np
import pytest

from artifact.operations import make, parse
from artifact.operations.errors import BadOperations
from artifact.operations.outputs import descending, largest
from artifact.signature import Dim, Signature, TensorSpec

LABELS = ("ant", "bee", "cat", "dog")
ROWS = np.random.default_rng(3).normal(0, 5, (40, 4)).astype(np.float32)
INF, NAN = float("inf"), float("nan")


def operations(postprocess, *outputs, labels=None):
    specs = outputs or (TensorSpec("scores", "float32", ("batch", 4)),)
    signature = Signature((TensorSpec("x", "float32", ("batch", 1)),), specs, {"batch": Dim(1, 64)})
    return make(parse(None, postprocess), signature, {}, {} if labels is None else {"scores": labels})


def finished(postprocess, rows, **others):
    return operations(postprocess, **others).finish({"scores": np.asarray(rows, np.float32)})


def test_softmax_is_its_formula():
    """exp(x) / sum exp(x), in float64, for values that would overflow too."""
    rows = [*ROWS.tolist(), [1e30, 0, 0, 0], [-1e30, -1e30, 0, 0]]

    for row, made in zip(rows, finished(["softmax"], rows), strict=True):
        wide = np.array(row, np.float32).astype(np.float64)
        total = math.fsum(math.exp(one - wide.max()) for one in wide)
        assert made == pytest.approx([math.exp(one - wide.max()) / total for one in wide], rel=1e-12, abs=1e-300)


def test_sigmoid_is_its_formula():
    """1 / (1 + exp(-x)), and 0 and 1 far out, without a warning."""
    made = finished(["sigmoid"], [[*ROWS[0]], [1e30, -1e30, 0, 700]])

    assert made[0] == pytest.approx([1 / (1 + math.exp(-float(one))) for one in ROWS[0]], rel=1e-12)
    assert made[1] == [1.0, 0.0, 0.5, 1.0]


def test_normalize_length_is_its_formula():
    """x / max(|x|, 1e-12): of length 1, in the same direction; a vector of zeros stays one."""
    made = finished(["normalize_length"], [*ROWS, [0, 0, 0, 0]])

    for row, vector in zip(ROWS.astype(np.float64), made, strict=False):
        assert math.fsum(one * one for one in vector) == pytest.approx(1, rel=1e-12)
        assert vector == pytest.approx((row / np.linalg.norm(row)).tolist(), rel=1e-12)
    assert made[-1] == [0.0] * 4


def test_topk_gives_names_and_probabilities():
    """The k largest, the first of equal ones first; `probability` after softmax and sigmoid, else `score`."""
    assert finished([{"topk": {"k": 2}}], [[1, 3, 3, 2]], labels=LABELS) == [
        [{"label": "bee", "index": 1, "score": 3.0}, {"label": "cat", "index": 2, "score": 3.0}]
    ]
    (best,) = finished(["softmax", {"topk": {"k": 1}}], [[0, 0, 0, 0]])
    assert best == [{"index": 0, "probability": 0.25}]


def test_topk_is_a_sort():
    """For any numbers, infinities and NaN among them: as sorting pairs would have it, NaN last and null."""
    rng = np.random.default_rng(5)
    rows = rng.choice([-INF, -1.5, 0.0, 2.0, INF, NAN], (200, 4))

    for row, made in zip(rows, finished([{"topk": {"k": 4}}], rows), strict=True):
        order = sorted(
            range(4), key=lambda place: (math.isnan(row[place]), -row[place] if not math.isnan(row[place]) else 0, place)
        )
        assert [entry["index"] for entry in made] == order
        assert [entry["score"] for entry in made] == [row[place] if math.isfinite(row[place]) else None for place in order]


def test_argmax_and_threshold():
    """The best alone; all that reach the threshold, the best first, or none."""
    assert finished(["argmax"], [[1, 5, 2, 5]], labels=LABELS) == [{"label": "bee", "index": 1, "score": 5.0}]
    made = finished(["sigmoid", {"threshold": {"at": 0.5}}], [[0, -1, 3, NAN], [-1, -1, -1, -1]], labels=LABELS)
    assert [[entry["label"] for entry in row] for row in made] == [["cat", "ant"], []]


def test_integers_are_ranked_too():
    """An output of integers, of the largest there are."""
    made = operations([{"topk": {"k": 2}}], TensorSpec("scores", "int64", ("batch", 3)))
    rows = np.array([[-(2**62), 2**62, 2**62 - 1]])

    assert [entry["score"] for entry in made.finish({"scores": rows})[0]] == [2**62, 2**62 - 1]


def test_boxes_by_score():
    """Boxes with scores of classes, or one score each: those that reach the least score, the best first, at most so many."""
    boxes = TensorSpec("boxes", "float32", ("batch", 3, 4))
    arrays = {"boxes": np.arange(12, dtype=np.float32).reshape(1, 3, 4)}
    classes = operations(
        {"boxes": [{"boxes": {"scores": "scores"}}]}, boxes, TensorSpec("scores", "float32", ("batch", 3, 2)), labels=LABELS[:2]
    )
    alone = operations(
        {"boxes": [{"boxes": {"scores": "scores", "most": 1}}]}, boxes, TensorSpec("scores", "float32", ("batch", 3))
    )

    by_class = classes.finish({**arrays, "scores": np.array([[[0.1, 0.75], [0.2, 0.3], [0.875, 0.1]]], np.float32)})
    assert by_class == [
        {
            "boxes": [
                {"box": [8.0, 9.0, 10.0, 11.0], "score": 0.875, "label": "ant", "index": 0},
                {"box": [0.0, 1.0, 2.0, 3.0], "score": 0.75, "label": "bee", "index": 1},
            ]
        }
    ]
    assert alone.finish({**arrays, "scores": np.array([[0.5, 0.75, 0.875]], np.float32)}) == [
        {"boxes": [{"box": [8.0, 9.0, 10.0, 11.0], "score": 0.875}]}
    ]


def test_an_empty_chain_gives_the_numbers():
    """`price: []`: as they are, NaN as null; an output that is not named is not in the answer."""
    specs = [TensorSpec(name, "float32", ("batch", 2)) for name in ("scores", "price", "hidden")]
    declared = {"scores": ["argmax"], "price": []}
    made = operations(declared, *specs)
    outputs = {name: np.array([[1, 2], [0.5, NAN]], np.float32) for name in ("scores", "price", "hidden")}

    assert made.finish(outputs) == [
        {"scores": {"index": 1, "score": 2.0}, "price": [1.0, 2.0]},
        {"scores": {"index": 0, "score": 0.5}, "price": [0.5, None]},
    ]
    assert made.chains.to_json() == {"postprocess": {"scores": [{"argmax": {}}], "price": []}}


def test_the_largest_of_a_row_is_the_first_in_order():
    """With ties, NaN, infinities, and rows of nothing else."""
    rows = np.random.default_rng(5).choice([NAN, -INF, INF, -1, 0, 1], (2000, 4)).astype(np.float32)

    assert largest(rows).tolist() == [descending(row)[0] for row in rows]


def test_a_batch_holds_the_same_as_its_rows():
    """Batched equals single, exactly."""
    made = operations(["softmax", {"topk": {"k": 3}}], labels=LABELS)

    assert made.finish({"scores": ROWS}) == [made.finish({"scores": row[None]})[0] for row in ROWS]


@pytest.mark.parametrize(
    ("postprocess", "message"),
    [
        ([{"softmax": {"axis": 1}}], "axis 1 is not in a row of 1 dimension"),
        ([{"topk": {"k": 5}}], "k is 5; the row has 4 values"),
        ([{"topk": {"k": 0}}], "greater than or equal to 1"),
        ([{"topk": {"k": 2}}, "softmax"], "not what an operation made of it"),
        (["argmax", "argmax"], "not what an operation made of it"),
        ([{"boxes": {"scores": "nothing"}}], "'nothing' is no output"),
        ([{"boxes": {"scores": "scores"}}], "it takes boxes [n, 4]"),
        ([{"threshold": {"at": float("inf")}}], "finite"),
        ({"other": ["argmax"]}, "'other' is no output of the model; they are scores"),
    ],
)
def test_chains_that_do_not_fit(postprocess, message):
    """Refused when they are declared."""
    with pytest.raises(BadOperations) as error:
        operations(postprocess)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("postprocess", "message"),
    [
        (["softmax", {"topk": {"k": 5}}], "postprocess.1.topk: k is 5; the row has 4 values"),
        ([{"softmax": {"axis": 1}}], "postprocess.0.softmax: axis 1 is not in a row of 1 dimension(s)"),
        (["argmax", "softmax"], "postprocess.1.softmax: it takes floating-point numbers, not what an operation made of it"),
        (
            ["argmax", "argmax"],
            "postprocess.1.argmax: it takes a row that is a vector of numbers, not what an operation made of it",
        ),
        ([{"boxes": {"scores": "x"}}], "postprocess.0.boxes: 'x' is no output of the model; they are scores"),
        (5, "postprocess: a list of operations is expected, or a mapping of names to such lists, not 5"),
    ],
)
def test_a_message_names_the_operation_once(postprocess, message):
    """Its place says which it is."""
    with pytest.raises(BadOperations) as error:
        operations(postprocess)
    assert str(error.value) == message


def test_numbers_are_compared_in_float64():
    """0.7 of float32 is a little less than 0.7: it is not 0.7 or more, whatever NumPy compares by itself."""
    assert finished([{"threshold": {"at": 0.7}}], [[0.7, 0.1, 0.8, 0]])[0] == [{"index": 2, "score": pytest.approx(0.8)}]
    boxes = TensorSpec("boxes", "float32", ("batch", 2, 4)), TensorSpec("scores", "float32", ("batch", 2))
    made = operations({"boxes": [{"boxes": {"scores": "scores", "min_score": 0.7}}]}, *boxes)
    answer = made.finish({"boxes": np.zeros((1, 2, 4), np.float32), "scores": np.array([[0.7, 0.8]], np.float32)})[0]["boxes"]
    assert [entry["score"] for entry in answer] == [pytest.approx(0.8)]


def test_the_least_integer_is_the_last():
    """Its negative is none that int64 holds."""
    made = operations([{"topk": {"k": 3}}], TensorSpec("scores", "int64", ("batch", 3)))
    assert [entry["index"] for entry in made.finish({"scores": np.array([[-(2**63), 0, 5]])})[0]] == [2, 1, 0]


def test_lengths_are_no_probabilities():
    """What was made of probabilities by another operation is called a score again."""
    assert "score" in finished(["softmax", "normalize_length", "argmax"], ROWS[:1])[0]


def test_labels_that_do_not_fit():
    """A label for each place of the last dimension, or the operations are refused."""
    with pytest.raises(BadOperations, match=r"^postprocess: output scores has 3 labels; its shape is \[batch, 4\], and the last"):
        operations(["argmax"], labels=LABELS[:3])
