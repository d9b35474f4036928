"""Hostile multipart bodies (RFC 7578): every one with its Content-Type. The good part in them is a picture of 8 x 8."""

from collections.abc import Mapping

from tests.hostile.raw import png
from tests.hostile.raw.hostile import EITHER, REFUSED, TAKEN, TOO_LARGE, Hostile

BOUNDARY = b"x-x-x"
CONTENT_TYPE = "multipart/form-data; boundary=x-x-x"
GOOD = png.plain()
_MIB = 1 << 20
_MANY = REFUSED | TOO_LARGE
_NAMED = b'form-data; name="image"; filename="a.png"'


def part(disposition: bytes | None = _NAMED, body: bytes = GOOD, *lines: bytes, boundary: bytes = BOUNDARY) -> bytes:
    """One part with its boundary; `lines` are more of its headers."""
    named = () if disposition is None else (b"Content-Disposition: " + disposition,)
    return b"\r\n".join([b"--" + boundary, *named, *lines, b"", body, b""])


def form(*parts: bytes) -> bytes:
    """A whole body."""
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def named(name: bytes = b"image", filename: bytes = b"a.png") -> bytes:
    """A good part under a name, with the name of a file; both stand between quotes as they are."""
    return form(part(b'form-data; name="' + name + b'"; filename="' + filename + b'"'))


def _filename(why: str, filename: bytes) -> Hostile:
    return Hostile(why, lambda: named(filename=filename), EITHER)


FILES: Mapping[str, Hostile] = {
    "empty": Hostile("no bytes", lambda: b"", REFUSED),
    "no-part": Hostile("an end without a beginning", form, REFUSED),
    "no-end": Hostile("a part, and no end", part, EITHER),
    "no-end-of-headers": Hostile("headers that go on", lambda: b"--x-x-x\r\nContent-Disposition: " + _NAMED, REFUSED),
    "endless-header": Hostile("1 MB of a header's name", lambda: b"--x-x-x\r\n" + b"a" * _MIB, _MANY),
    "endless-header-value": Hostile("1 MB of a header's value", lambda: form(part(_NAMED, GOOD, b"X: " + b"a" * _MIB)), _MANY),
    "10000-headers": Hostile("a part of 10,000 headers", lambda: form(part(_NAMED, GOOD, *[b"X: a"] * 10_000)), _MANY),
    "10000-parts": Hostile("10,000 pictures", lambda: form(*[part()] * 10_000), _MANY),
    "10000-empty-parts": Hostile("10,000 of nothing", lambda: form(*[part(_NAMED, b"")] * 10_000), _MANY),
    "10000-fields": Hostile(
        "10,000 fields beside the picture", lambda: form(part(), *[part(b'form-data; name="a"', b"b")] * 10_000), _MANY
    ),
    "100-parts": Hostile("more rows than the model takes at once", lambda: form(*[part()] * 100), _MANY | TAKEN),
    "100-large-pictures": Hostile(
        "as many pixels as the limit allows, a hundred times in one request of 7 MB",
        lambda: form(*[part(body=_large())] * 100),
        _MANY,
    ),
    "million-boundaries": Hostile("boundaries and nothing between them", lambda: b"--x-x-x\r\n" * 100_000, _MANY),
    "almost-boundaries": Hostile(
        "1 MB that is nearly a boundary, again and again", lambda: form(part(_NAMED, b"\r\n--x-x-" * (_MIB // 8))), _MANY
    ),
    "line-ends": Hostile("1 MB of line ends before the first boundary", lambda: b"\r\n" * (_MIB // 2) + form(part()), EITHER),
    "before-the-first": Hostile("1 MB before the first boundary", lambda: b"a" * _MIB + b"\r\n" + form(part()), EITHER),
    "after-the-last": Hostile("1 MB after the last boundary", lambda: form(part()) + b"a" * _MIB, EITHER),
    "other-boundary": Hostile("another boundary than was told", lambda: form(part(boundary=b"y-y-y")), REFUSED),
    "no-disposition": Hostile("a part without a name", lambda: form(part(None)), EITHER),
    "no-name": Hostile("a part whose name is missing", lambda: form(part(b'form-data; filename="a.png"')), EITHER),
    "another-name": Hostile("a name that is no input", lambda: named(b"other"), EITHER),
    "empty-name": Hostile("an empty name", lambda: named(b""), EITHER),
    "odd-name": Hostile("a name of quotes and dots", lambda: named(b'../%00\\"; filename="x'), EITHER),
    "name-not-utf-8": Hostile("a name that is no UTF-8", lambda: named(b"\xff\xfe"), EITHER),
    "name-of-1-mb": Hostile("a long name", lambda: named(b"n" * _MIB), _MANY),
    "filename-up": _filename("a path that leads up", b"../../../../etc/passwd"),
    "filename-absolute": _filename("one from the root", b"/etc/passwd"),
    "filename-of-windows": _filename("one with a drive", b"C:\\\\windows\\\\win.ini"),
    "filename-nul": _filename("a name that ends twice", b"a.png\0.exe"),
    "filename-program": _filename("a command", b"$(touch /tmp/hostile); `id`"),
    "filename-script": _filename("a script", b"<script>alert(1)</script>"),
    "filename-not-utf-8": _filename("no UTF-8", b"\xff\xfe.png"),
    "filename-of-4-kb": _filename("a long one", b"a" * 4096),
    "filename-with-a-line": Hostile(
        "a header within a name", lambda: named(filename=b'a.png"\r\nX-Injected: yes\r\nY: "'), EITHER
    ),
    "filename-encoded": Hostile(
        "an encoding that is none",
        lambda: form(part(b"form-data; name=\"image\"; filename*=utf-99''%ff%zz%" + b"25" * 1000)),
        EITHER,
    ),
    "bare-line-feeds": Hostile("lines that end half", lambda: form(part()).replace(b"\r\n", b"\n"), EITHER),
    "nested": Hostile(
        "a multipart in a multipart",
        lambda: form(part(b'form-data; name="image"', form(part()), b"Content-Type: multipart/mixed; boundary=x-x-x")),
        EITHER,
    ),
    "nested-100": Hostile("a hundred deep", lambda: _nested(100), REFUSED | TAKEN),
    "base64-part": Hostile(
        "an encoding of another time", lambda: form(part(_NAMED, b"aGFsbG8=", b"Content-Transfer-Encoding: base64")), REFUSED
    ),
    "part-of-text": Hostile(
        "text where a picture is due", lambda: form(part(_NAMED, b"hello", b"Content-Type: text/plain")), REFUSED
    ),
    "part-says-its-length": Hostile("a length that lies", lambda: form(part(_NAMED, GOOD, b"Content-Length: 999999999")), EITHER),
    "good-and-bad": Hostile("one row that is none beside a good one", lambda: form(part(), part(_NAMED, b"none")), REFUSED),
    "good": Hostile("a good one: it is taken", lambda: form(part()), TAKEN),
}
"""Name -> the body under CONTENT_TYPE."""

CONTENT_TYPES: Mapping[str, str] = {
    "no-boundary": "multipart/form-data",
    "empty-boundary": "multipart/form-data; boundary=",
    "quoted-empty-boundary": 'multipart/form-data; boundary=""',
    "boundary-of-1000": f"multipart/form-data; boundary={'a' * 1000}",
    "boundary-not-ascii": "multipart/form-data; boundary=\xfc\xfc",
    "two-boundaries": "multipart/form-data; boundary=a; boundary=x-x-x",
    "quote-without-end": 'multipart/form-data; boundary="x-x-x',
    "mixed": "multipart/mixed; boundary=y",
    "related": "multipart/related",
    "byteranges": "multipart/byteranges; boundary=y",
}
"""Name -> a Content-Type under which the good body is none, or may be one; 400, 415 or a good answer."""


def _large() -> bytes:
    return png.plain(4900, 4900)


def _nested(deep: int) -> bytes:
    body = GOOD
    for number in range(deep):
        boundary = b"b%d" % number
        line = b"Content-Type: multipart/mixed; boundary=b%d" % (number - 1)
        body = part(_NAMED, body, line, boundary=boundary) + b"--" + boundary + b"--\r\n"
    return form(part(_NAMED, body))
