"""Compressed bodies are unpacked up to the limit and refused if anything is wrong; answers are packed as clients like it."""

import gzip
import zlib

import pytest

from serving.errors import BadRequest, BodyTooLarge, UnsupportedBody
from serving.protocols.compression import compress, decompress

BODY = b"a body that repeats itself, " * 100
RAW = zlib.compressobj(wbits=-15)
FORMS = {
    "gzip": gzip.compress(BODY, mtime=0),
    "X-GZip": gzip.compress(BODY, mtime=0),
    "deflate": zlib.compress(BODY),
    "deflate ": RAW.compress(BODY) + RAW.flush(),
    "identity": BODY,
    "": BODY,
    "deflate, gzip": gzip.compress(zlib.compress(BODY)),
    "identity, gzip, identity": gzip.compress(BODY, mtime=0),
}


@pytest.mark.parametrize("encoding", FORMS)
def test_bodies_are_unpacked(encoding):
    """gzip, deflate with and without zlib's envelope, and two of them around each other, give the body back."""
    assert decompress(FORMS[encoding], encoding, len(BODY)) == BODY


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "deflate "])
def test_nothing_is_unpacked_beyond_the_limit(encoding):
    """A body of one byte more than the limit is refused."""
    with pytest.raises(BodyTooLarge) as refusal:
        decompress(FORMS[encoding], encoding, len(BODY) - 1)

    assert str(refusal.value) == "the body has more than 2799 bytes once it is unpacked (setting max_body_bytes)"


def test_bombs_stop_at_each_layer():
    """A megabyte of zeros, packed twice, stops at the first layer that is too large."""
    bomb = zlib.compress(zlib.compress(bytes(1 << 20)))
    with pytest.raises(BodyTooLarge):
        decompress(bomb, "deflate, deflate", 10_000)


@pytest.mark.parametrize(
    ("body", "encoding", "error", "message"),
    [
        (FORMS["gzip"][:-3], "gzip", BadRequest, "the body is cut off: its gzip stream does not end"),
        (b"", "deflate", BadRequest, "the body is cut off: its deflate stream does not end"),
        (FORMS["gzip"] + b"!", "gzip", BadRequest, "the body has 1 bytes behind its gzip stream"),
        (
            b"plain text",
            "gzip",
            BadRequest,
            "the body is not gzip: Error -3 while decompressing data: incorrect header check",
        ),
        (
            FORMS["gzip"][:-8] + bytes(8),
            "gzip",
            BadRequest,
            "the body is not gzip: Error -3 while decompressing data: incorrect data check",
        ),
        (BODY, "br", UnsupportedBody, 'content encoding "br" is not one that we read: gzip, deflate, identity'),
        (BODY, "gzip,gzip,gzip", UnsupportedBody, "the body is encoded 3 times; at most 2 encodings are read"),
    ],
)
def test_bodies_that_are_refused(body, encoding, error, message):
    """Streams that are damaged, cut off or followed by something, and other encodings, are refused."""
    with pytest.raises(error) as refusal:
        decompress(body, encoding, 10_000)

    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, None),
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("gzip;q=0", None),
        ("*", "gzip"),
        ("*, gzip;q=0", "deflate"),
        ("*;q=0", None),
        ("gzip;q=0.5, identity", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("GZIP; Q=1.000", "gzip"),
        ("gzip;q=2", None),
        ("br", None),
    ],
)
def test_answers_are_packed_as_the_client_likes_it(accept, expected):
    """The encoding with the highest q-value is taken, gzip before deflate before none; a q that is no number refuses."""
    body, encoding = compress(BODY, accept, 1)

    assert encoding == expected
    assert decompress(body, encoding or "", len(BODY)) == BODY


@pytest.mark.parametrize(("body", "min_bytes"), [(BODY, len(BODY) + 1), (bytes(range(256)), 1)])
def test_answers_that_stay_as_they_are(body, min_bytes):
    """A short body, and one that does not shrink, are not packed."""
    assert compress(body, "gzip", min_bytes) == (body, None)
