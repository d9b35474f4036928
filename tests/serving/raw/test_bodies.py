"""Which rows a body holds, and what is said of bodies that a person got wrong."""

import httpx
import pytest

from artifact.operations import RawSpec
from serving.errors import BadRequest, UnsupportedBody
from serving.messages import Request
from serving.protocols.asked import Limits
from serving.raw.bodies import raw_rows

IMAGE = RawSpec("image", "image", ("image",), {})
TEXT = RawSpec("text", "text", ("input_ids", "attention_mask"), {})
ROW = RawSpec("features", "row", ("features",), {})
JPEG = b"\xff\xd8\xff\xe0 and so on"


def rows(body, *specs, content_type=None):
    headers = {} if content_type is None else {"content-type": content_type}
    return raw_rows(Request("POST", "/predictions/m", "", httpx.Headers(headers), body), specs, Limits())


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "application/json"])
def test_a_pictures_file_is_known_by_its_bytes(content_type):
    """`curl --data-binary @cat.jpg` calls every file a form: no JSON begins as a picture does."""
    assert rows(JPEG, IMAGE, content_type=content_type) == [{"image": JPEG}]


def test_a_row_may_stand_alone():
    """Of a model with one raw input its name may be left out, also where the row begins with a number."""
    assert rows(b'{"inputs": {"age": 3, "colour": "red"}}', ROW) == [{"features": {"age": 3, "colour": "red"}}]
    assert rows(b'{"inputs": [{"age": 3}, {"age": 4}]}', ROW) == [{"features": {"age": 3}}, {"features": {"age": 4}}]


@pytest.mark.parametrize(
    ("body", "spec"),
    [
        (b'{"inputs": {"input_ids": [[1]], "attention_mask": [[1]]}}', TEXT),
        (b'{"inputs": {"image": [[[[0.5]]]]}}', IMAGE),
        (b'{"inputs": [[1, 2]]}', ROW),
        (b'{"inputs": {"features": [[1, 2]]}}', ROW),
    ],
)
def test_tensors_are_left_to_their_codec(body, spec):
    """Under the tensors' own names, or without any."""
    assert rows(body, spec) is None


@pytest.mark.parametrize(
    ("body", "spec", "message"),
    [
        (b'{"inputs": {"text": 3}}', TEXT, 'raw input "text" is a number; a string is expected'),
        (b'{"inputs": {"txt": "a"}}', TEXT, 'unknown: "txt"; the raw inputs are text, the tensors input_ids, attention_mask'),
        (b'{"inputs": {"img": {"b64": ""}}}', IMAGE, 'unknown: "img"; the raw inputs are image, the tensors image'),
    ],
)
def test_wrong_names_and_values_are_told_as_raw_ones(body, spec, message):
    """What is said names what the client sent, and not tensors that it never heard of."""
    with pytest.raises(BadRequest) as error:
        rows(body, spec)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs": {"foto": "", "features": {}}}', 'unknown: "foto"; the raw inputs are image, features'),
        (b'{"inputs": {"foto": "", "fakts": {}}}', 'unknown: "foto", "fakts"; the raw inputs are image, features, the tensors'),
        (b'{"inputs": {"b64": ""}}', 'unknown: "b64"; the raw inputs are image, features'),
        (b'{"inputs": {"image": ""}}', "the raw inputs are image, features; missing: features: inputs is an object of them all"),
        (b'{"inputs": ["a"]}', "the raw inputs are image, features; missing: features: inputs is an object of them all"),
        (JPEG, "a body of image/* holds one image; the model takes image (image), features (row): send "),
    ],
)
def test_one_value_for_several_raw_inputs(body, message):
    """What is unknown or missing is named."""
    with pytest.raises((BadRequest, UnsupportedBody)) as error:
        rows(body, IMAGE, ROW)
    assert str(error.value).startswith(message)


def test_spaces_are_passed_over_once():
    """A megabyte of them where a value is expected: time that grew with their square would be an hour."""
    spaces = b" " * (1 << 20)
    with pytest.raises(BadRequest):
        rows(b'{"inputs":' + spaces + b'"x"}' + spaces + b"}", TEXT)
    assert rows(b'{"inputs":' + spaces + b"[[1]]}", ROW) is None


@pytest.mark.parametrize("specs", [[TEXT], [IMAGE], [ROW], [IMAGE, ROW]])
def test_too_many_lists_and_rows(specs):
    """They are counted before anything is made of them."""
    with pytest.raises(BadRequest, match="lists and objects; for this model at most"):
        rows(b'{"inputs":[%s{}]}' % (b"{}," * 20_000), *specs)
    with pytest.raises(BadRequest, match=r"the request has 1025 rows; for this model at most 1024 are read"):
        rows(b'{"inputs":{"%s":[%s""]}}' % (specs[0].name.encode(), b'"",' * 1024), specs[0])


def test_a_byte_order_mark():
    """It is passed over, as before the JSON of tensors."""
    assert rows(b'\xef\xbb\xbf{"inputs": "a"}', TEXT) == [{"text": "a"}]
    assert rows(b'\xef\xbb\xbf{"inputs": [[1, 2]]}', ROW) is None


@pytest.mark.parametrize(
    ("content_type", "spec", "right"),
    [("text/plain", IMAGE, "image/jpeg, image/png or image/webp"), ("image/png", TEXT, "text/plain")],
)
def test_another_content_type(content_type, spec, right):
    """The message says which is the right one."""
    with pytest.raises(UnsupportedBody, match=f"send {right}, application/json or multipart/form-data"):
        rows(b"x", spec, content_type=content_type)
