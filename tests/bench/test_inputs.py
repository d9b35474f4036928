"""Inputs are made up within the signature, or read from files that fit it."""

import json
import re

import numpy as np
import pytest

from artifact.signature import DTYPES, Dim, Signature, TensorSpec
from bench import inputs
from bench.errors import NotAsked

X = np.array([[1, 2], [3, 4]], np.float32)
Y = (TensorSpec("y", "float32", ("batch",)),)
ONE = Signature((TensorSpec("x", "float32", ("batch", 2), (-9, 9)),), Y, {"batch": Dim(1, 4)})
TWO = Signature((*ONE.inputs, TensorSpec("n", "int8", ("batch",))), Y, ONE.dims)


def one(dtype="float32", shape=("batch", 100), bounds=None, dims=None):
    """A signature with one input."""
    return Signature((TensorSpec("x", dtype, shape, bounds),), Y, {"batch": Dim(1, 4)} | (dims or {}))


def not_made(signature, *asked):
    """Why nothing can be made up."""
    with pytest.raises(NotAsked) as caught:
        inputs.made_up(signature, *asked)
    return str(caught.value)


def not_read(path, signature=ONE, **options):
    """Why a file cannot be sent, without its path."""
    with pytest.raises(NotAsked) as caught:
        inputs.from_files([path], signature, **options)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize("bounds", [None, (0, 1), (-2.5, 7.25), (-1e39, 1e39), (3, 3), (0, 2**40)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_fit_the_signature(dtype, bounds):
    """Whatever the dtype and the range, the signature allows what is made up, and different bodies differ."""
    if dtype == "bool" and bounds == (3, 3):
        return
    signature = one(dtype, bounds=bounds)
    made = inputs.made_up(signature, 4)

    assert len(made) == 8
    for arrays in made:
        signature.validate(arrays)
    assert len({arrays["x"].tobytes() for arrays in made}) == (8 if bounds != (3, 3) else 1)
    assert [arrays["x"].tobytes() for arrays in made] == [arrays["x"].tobytes() for arrays in inputs.made_up(signature, 4)]


def test_values_are_spread_over_the_range():
    """Both ends of a range are reached, or nearly so; without one, floats are 0 to 1, bytes 0 to 255, other integers 0 or 1."""

    def ends(dtype, bounds=None):
        x = inputs.made_up(one(dtype, (1000,), bounds), 1, 1)[0]["x"]
        return round(float(x.min()), 1), round(float(x.max()), 1)

    assert (ends("int16", (-3, 5)), ends("float16", (-4, 4)), ends("bool")) == ((-3, 5), (-4, 4), (0, 1))
    assert (ends("float64"), ends("uint8"), ends("int32")) == ((0, 1), (0, 255), (0, 1))


def test_sizes_of_named_dimensions():
    """A dimension has its usual size, else its largest, both down to a multiple, and no less than its smallest."""
    dims = {"a": Dim(1, 9), "b": Dim(1, 9, opt=4), "c": Dim(5, 64, multiple=8, opt=7), "d": Dim(1, 70, multiple=32)}
    signature = one(shape=("batch", *dims), dims=dims)

    assert inputs.made_up(signature, 3, 1)[0]["x"].shape == (3, 9, 4, 8, 64)


def test_what_cannot_be_made_up():
    """Rows beyond the batch, a range without a value, a size that none fits, and inputs beyond measure are refused."""
    assert not_made(one(), 5) == "--rows 5: the model allows 1 to 4 rows in a request"
    assert (
        not_made(one(dims={"batch": Dim(2, 8, 2)}), 3) == "--rows 3: the model allows 2 to 8 in multiples of 2 rows in a request"
    )
    assert not_made(one(shape=(3,)), 2) == "--rows 2: the model has no batch dimension, a request is one row"
    assert not_made(one("int8", bounds=(200, 300))) == "input 'x' allows no value at all: int8 in the range (200, 300)"
    assert not_made(one(bounds=(2, 1))) == "input 'x' allows no value at all: float32 in the range (2, 1)"
    assert not_made(one(shape=("batch", "w"), dims={"w": Dim(5, 7, 8)})) == (
        "the model's dimension w allows no size at all: 5 to 7 in multiples of 8"
    )
    assert not_made(one(shape=("batch", 2**40))) == (
        "8 different requests with x [1, 1099511627776] have 35,184,372,088,832 bytes, at most 1,073,741,824 are made up: "
        "ask for fewer --rows, or give --input"
    )


@pytest.mark.parametrize(
    ("signature", "document"),
    [
        (TWO, {"inputs": {"n": [5, 6], "x": [[1, 2.0], [3, 4]]}}),
        (
            TWO,
            {
                "inputs": [
                    {"name": "n", "datatype": "INT8", "shape": [2], "data": [5, 6]},
                    {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]},
                ]
            },
        ),
        (ONE, {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]}]}),
        (ONE, {"inputs": [[1, 2], [3, 4]]}),
        (ONE, [[1, 2], [3, 4]]),
    ],
)
def test_json_in_every_form(tmp_path, signature, document):
    """Both protocols' JSON is taken, and bare lists for a model with one input; inputs stand in the signature's order."""
    file = tmp_path / "a.json"
    file.write_text(json.dumps(document))
    (found,) = inputs.from_files([file], signature)

    assert [*found] == [spec.name for spec in signature.inputs]
    assert (found["x"].dtype, found["x"].tolist()) == (np.float32, X.tolist())
    assert found.get("n", np.array([5, 6], np.int8)).tolist() == [5, 6]


def test_numpy_files(tmp_path):
    """A .npy file is the one input, a .npz file has all of them by name, in whatever byte and memory order."""
    np.save(tmp_path / "a.npy", np.asfortranarray(X.astype(">f4")))
    np.savez(tmp_path / "a.npz", n=np.array([5, 6], np.int8), x=X)
    (single,) = inputs.from_files([tmp_path / "a.npy"], ONE)
    (both,) = inputs.from_files([tmp_path / "a.npz"], TWO)

    assert (single["x"].dtype, single["x"].tobytes()) == (np.float32, X.tobytes())
    assert (both["x"].tobytes(), both["n"].tolist()) == (X.tobytes(), [5, 6])


def test_folders(tmp_path):
    """Of a folder all files are taken, by name; other files in it are passed over, and kinds are not mixed."""
    for name, value in (("b", 2), ("a", 1), (".c", 3)):
        np.save(tmp_path / f"{name}.npy", np.full((1, 2), value, np.float32))
    (tmp_path / "notes.txt").write_text("here")
    (tmp_path / "none").mkdir()

    assert [found["x"][0, 0] for found in inputs.from_files([tmp_path, tmp_path / "a.npy"], ONE)] == [1, 2, 1]
    assert not_read(tmp_path / "none") == "--input FILE holds no .json, .npy, .npz"
    (tmp_path / "c.json").write_text("[[1, 2]]")
    assert not_read(tmp_path) == "--input has files of several kinds (.json, .npy): give one kind at a time"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "--input FILE: unexpected end of data"),
        ("a.json", b'{"x": 1}', '--input FILE: it is not of the form {"inputs": {name: nested lists}}'),
        ("a.json", b'{"inputs": {"z": 1, "x": 2}}', "--input FILE: the model takes x; the file has z, x"),
        ("a.json", b"[[1, 2], [3]]", '--input FILE: input "x" has lists that are not of one length'),
        ("a.json", b"[[1, 2, 3]]", '--input FILE: input "x" has shape [1, 3]; the signature says [batch, 2]'),
        ("a.json", b"[[true, false]]", '--input FILE: input "x" holds values that are no float32'),
        ("a.json", b'[["1", "2"]]', '--input FILE: input "x" holds values that are no float32'),
        ("a.json", b"[[1, 1e39]]", '--input FILE: input "x" holds values that are no float32'),
        ("a.json", b"[[1, 10]]", '--input FILE: input "x" holds 10.0; the signature allows -9 to 9'),
        ("a.json", b"[[1, 2],[1, 2],[1, 2],[1, 2],[1, 2]]", '--input FILE: input "x": batch is 5; the signature allows 1 to 4'),
        ("a.json", b'{"inputs": [{"name": "x"}]}', "--input FILE: 'datatype' is missing"),
        (
            "a.json",
            b'{"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}]}',
            '--input FILE: input "x" is FP64; the signature says float32',
        ),
        (
            "a.json",
            b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2]}]}',
            '--input FILE: input "x" has 2 values; its shape [2, 2] has 4',
        ),
        ("a.npy", b"oops", "--input FILE: it is no .npy file"),
        ("a.npy", b"\x93NUMPY", "--input FILE: "),
        ("a.npz", b"oops", "--input FILE: it is no .npz file"),
        ("a.npy", b"", "--input FILE is empty"),
        ("a.npy", None, "--input FILE cannot be read: No such file or directory"),
        ("a.csv", b"1,2", "--input FILE is none of .json, .npy, .npz: --protocol raw sends any file as it is"),
        ("a.PNG", b"image", "--input FILE is none of .json, .npy, .npz: images go with --protocol predictions-image"),
    ],
)
def test_files_that_do_not_fit(tmp_path, name, content, message):
    """A file is named with what is wrong in it."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert not_read(tmp_path / name).startswith(message)


def test_arrays_that_do_not_fit(tmp_path):
    """Dtypes are not changed, objects are never read, and a file without a name is for one input only."""
    np.save(tmp_path / "wide.npy", X.astype(np.float64))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=X)

    assert not_read(tmp_path / "wide.npy") == '--input FILE: input "x" is float64; the signature says float32'
    assert not_read(tmp_path / "objects.npy") == "--input FILE: Object arrays cannot be loaded when allow_pickle=False"
    assert not_read(tmp_path / "wide.npy", TWO) == "--input FILE: the model takes x, n; this file has one input without a name"
    assert not_read(tmp_path / "a.npz", TWO) == "--input FILE: the model takes x, n; the file has x"


@pytest.mark.parametrize(("text", "dtype"), [("[1.5]", "int8"), ("[300]", "int8"), ("[-1]", "uint8"), ("[1]", "bool")])
def test_json_numbers_are_not_bent(tmp_path, text, dtype):
    """Fractions are not taken for integers, 1 not for true, and no number for one that the dtype cannot hold."""
    (tmp_path / "a.json").write_text(text)

    assert not_read(tmp_path / "a.json", one(dtype, ("batch",))) == f'--input FILE: input "x" holds values that are no {dtype}'


def test_a_guessed_signature_binds_less(tmp_path):
    """Where sizes and values were guessed, dtype, rank and the sizes that do not vary must fit, and nothing else."""
    many = np.full((9, 2), 99, np.float32)
    np.save(tmp_path / "a.npy", many)
    np.save(tmp_path / "b.npy", many.T)
    np.save(tmp_path / "c.npy", many.astype(int))

    assert inputs.from_files([tmp_path / "a.npy"], ONE, guessed=True)[0]["x"].shape == (9, 2)
    assert not_read(tmp_path / "b.npy", guessed=True) == '--input FILE: input "x" has shape [2, 9]; the server says [any, 2]'
    assert not_read(tmp_path / "c.npy", guessed=True) == '--input FILE: input "x" is int64; the server says float32'


def test_bodies_are_files_as_they_are(tmp_path):
    """Bytes are kept, with a content type by the suffix; a folder's hidden files are passed over."""
    for name in ("b.JPG", "a.bin", ".hidden", "c.json"):
        (tmp_path / name).write_bytes(name.encode())
    found = inputs.bodies([tmp_path])

    assert [(one.content, one.headers) for one in found] == [
        (b"a.bin", {"Content-Type": "application/octet-stream"}),
        (b"b.JPG", {"Content-Type": "image/jpeg"}),
        (b"c.json", {"Content-Type": "application/json"}),
    ]
    assert [one.content for one in inputs.bodies([tmp_path], images_only=True)] == [b"b.JPG"]
    assert [one.content for one in inputs.bodies([tmp_path / ".hidden"])] == [b".hidden"]
    with pytest.raises(
        NotAsked, match=re.escape("c.json is none of .bmp, .gif, .jpeg, .jpg, .png, .tif, .tiff, .webp: --protocol")
    ):
        inputs.bodies([tmp_path / "c.json"], images_only=True)
