"""Bodies and queries as the inputs that a handler is given."""

import pytest

from serving.torchserve.errors import BadRequestException
from serving.torchserve.forms import MAX_FIELDS, body_inputs, query_inputs
from serving.torchserve.jobs import Input

MULTIPART = "multipart/form-data; boundary=BB"
FORM = "application/x-www-form-urlencoded"
FIELD = b'Content-Disposition: form-data; name="%s"%s\r\n'


def form(*parts, end=b"--BB--\r\n"):
    return b"".join(b"--BB\r\n" + part + b"\r\n" for part in parts) + end


def field(name, value, file=b"", content_type=None):
    typed = b"" if content_type is None else b"Content-Type: %s\r\n" % content_type
    return FIELD % (name, file) + typed + b"\r\n" + value


def found(content_type, body):
    return [(one.name, one.content_type, one.value) for one in body_inputs(content_type, body)]


@pytest.mark.parametrize(
    ("content_type", "mime"),
    [
        (None, ""),
        ("", ""),
        ("application/json; charset=utf-8", "application/json"),
        ("Application/JSON", "Application/JSON"),
        ("multipart/form-data", "multipart/form-data"),
        ("multipart/mixed; boundary=BB", "multipart/mixed"),
    ],
)
def test_a_body_that_is_no_form(content_type, mime):
    """It is one input called body, whose type is the header's without parameters; a form without a boundary is none."""
    assert body_inputs(content_type, b"[1]") == (Input("body", mime, b"[1]"),)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=1&b=2&a=3", {"a": b"3", "b": b"2"}),
        (b"a=%41+%2B", {"a": b"A +"}),
        (b"a=1=2;c", {"a": b"1=2;c"}),
        (b"a=\xe9&b=%e9", {"a": b"\xe9", "b": b"\xe9"}),
        (b"a&b=1", {"a": b"", "b": b"1"}),
        (b"a=1&b", {"a": b"1"}),
        (b'{"a": 1}', {}),
        (b"a=1\r\n", {"a": b"1"}),
        (b"a=1&&b=2&", {"a": b"1", "b": b"2"}),
        (b"", {}),
    ],
)
def test_an_url_encoded_form(body, fields):
    """Of fields of one name the last holds, values are bytes without a type, and what stands last without `=` is no field."""
    assert body_inputs(FORM, body) == tuple(Input(name, "", value) for name, value in fields.items())


def test_types_in_a_multipart_form():
    """A text field has no type, whatever it says; a file has its own, without parameters, or that of bytes."""
    body = form(
        field(b"text", b"{}", content_type=b"application/json"),
        field(b"json", b"[1]", b'; filename="x"', b"application/json; charset=utf-8"),
        field(b"bytes", b"\xff\x00\r\n--B\r", b'; filename="x"'),
        field(b"star", b"1", b"; filename*=UTF-8''x", b"text/x"),
        field(b"unnamed", b"1", b'; filename=""', b"text/plain"),
    )

    assert found(MULTIPART, body) == [
        ("text", "", b"{}"),
        ("json", "application/json", b"[1]"),
        ("bytes", "application/octet-stream", b"\xff\x00\r\n--B\r"),
        ("star", "text/x", b"1"),
        ("unnamed", "text/plain", b"1"),
    ]


def test_names_in_a_multipart_form():
    """They are UTF-8, quoted or not, and of those that are the same the last part holds."""
    body = form(field("é".encode(), b"1"), field(b"a", b"2"), b"Content-Disposition: form-data; name=a\r\n\r\n3")

    assert found('multipart/form-data; boundary="BB"', body) == [("é", "", b"1"), ("a", "", b"3")]
    assert found("Multipart/Form-Data; Boundary=BB", form(field(b"a", b""))) == [("a", "", b"")]


def test_a_multipart_form_without_parts():
    """It has no inputs, as has an empty body."""
    assert found(MULTIPART, b"--BB--\r\n") == found(MULTIPART, b"") == []


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        (MULTIPART, form(field(b"a", b"1"), end=b""), "The multipart form breaks off: its last boundary is missing."),
        (MULTIPART, b"--BB\r\n" + field(b"a", b"1"), "The multipart form breaks off: its last boundary is missing."),
        (MULTIPART, form(b"Content-Disposition: form-data\r\n\r\n1"), "A part of the form has no name."),
        (MULTIPART, form(b"\r\n1"), "A part of the form has no name."),
        (
            MULTIPART,
            b"[1]",
            "The multipart form cannot be read: Expected boundary character 45, got 91 at index 2",
        ),
        (FORM, b"a=1&=2", "A field of the form has no name."),
        (FORM, b"&".join([b"a=1"] * (MAX_FIELDS + 1)), "The request has more than 1000 fields."),
        (MULTIPART, form(*[field(b"a", b"1")] * (MAX_FIELDS + 1)), "The request has more than 1000 fields."),
    ],
)
def test_forms_that_are_refused(content_type, body, message):
    """What is damaged, breaks off, or has too many fields is the client's fault, and told."""
    with pytest.raises(BadRequestException) as refused:
        body_inputs(content_type, body)
    assert str(refused.value) == message


def test_a_boundary_that_is_too_long():
    """It is the client's fault."""
    with pytest.raises(BadRequestException, match=r"^The multipart form cannot be read: "):
        body_inputs(f"multipart/form-data; boundary={'B' * 300}", b"x")


def test_a_query():
    """Its parameters are separated by & or ;, decoded, and of those of one name the last holds."""
    assert [(one.name, one.value) for one in query_inputs("a=%41+b;c=3&d&=e&a=%C3%A9")] == [
        ("a", "é".encode()),
        ("c", b"3"),
        ("d", b""),
        ("e", b""),
    ]
    assert query_inputs("") == ()
    with pytest.raises(BadRequestException):
        query_inputs("&".join(["a=1"] * (MAX_FIELDS + 1)))
