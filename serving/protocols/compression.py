"""Compressed bodies: what a client sends is unpacked up to a limit, what it gets is packed where it accepts that."""

import functools
import zlib

from serving.errors import BadRequest, BodyTooLarge, UnsupportedBody
from serving.protocols.accepted import accepted

ENCODINGS = ("gzip", "deflate")
"""Content encodings that are read and written, the preferred one first."""

MAX_LAYERS = 2
"""Encodings that one body may have, one around the other."""

LEVEL = 1
"""zlib's fastest: an answer is packed while its client waits."""

_WINDOW = {"gzip": 31, "deflate": 15}  # zlib's wbits: 16 more for gzip's envelope, negative for none
_RAW_DEFLATE = -15


def decompress(body: bytes, content_encoding: str, limit: int) -> bytes:
    """The body without its encodings (`gzip`, `deflate`, `identity`, or two of them, the outermost last).

    `deflate` is a zlib stream; one without zlib's envelope, which some clients send, is read too. A body is one stream, with
    nothing behind it.

    Raises:
        UnsupportedBody: another encoding, or more than two.
        BadRequest: the stream is damaged, cut off, or followed by something.
        BodyTooLarge: it would have more than `limit` bytes; nothing beyond them is unpacked.
    """
    layers = [name.strip().lower() for name in content_encoding.split(",")]
    layers = [{"x-gzip": "gzip"}.get(name, name) for name in layers if name not in {"", "identity"}]
    unknown = next((name for name in layers if name not in ENCODINGS), None)
    if unknown is not None:
        raise UnsupportedBody(f'content encoding "{unknown:.80}" is not one that we read: {", ".join(ENCODINGS)}, identity')
    if len(layers) > MAX_LAYERS:
        raise UnsupportedBody(f"the body is encoded {len(layers)} times; at most {MAX_LAYERS} encodings are read")
    for name in reversed(layers):
        body = _unpacked(body, name, limit)
    return body


def compress(body: bytes, accept_encoding: str | None, min_bytes: int) -> tuple[bytes, str | None]:
    """The body in the encoding that the client likes best, and that encoding; as it is, and None, where that is as good.

    So it is for a body of fewer than `min_bytes`, one that does not shrink, and a client that prefers none of `ENCODINGS`.
    """
    if accept_encoding is None or len(body) < min_bytes:
        return body, None
    encoding = _preferred(accept_encoding)
    if encoding is None:
        return body, None
    packed = zlib.compress(body, LEVEL, _WINDOW[encoding])
    return (packed, encoding) if len(packed) < len(body) else (body, None)


@functools.lru_cache(maxsize=256)
def _preferred(accept_encoding: str) -> str | None:
    weights = accepted(accept_encoding)
    others = weights.get("*", 0.0)
    best = max(ENCODINGS, key=lambda name: weights.get(name, others))  # the first of equals
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def _unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    try:
        return _stream(body, encoding, _WINDOW[encoding], limit)
    except zlib.error as cause:
        if encoding == "deflate":
            try:
                return _stream(body, encoding, _RAW_DEFLATE, limit)
            except zlib.error:
                pass  # what is wrong with it as a zlib stream says more
        raise BadRequest(f"the body is not {encoding}: {cause}") from cause


def _stream(body: bytes, encoding: str, window: int, limit: int) -> bytes:
    stream = zlib.decompressobj(window)
    content = stream.decompress(body, limit + 1)
    if len(content) > limit:
        raise BodyTooLarge(f"the body has more than {limit} bytes once it is unpacked (setting max_body_bytes)")
    if not stream.eof:
        raise BadRequest(f"the body is cut off: its {encoding} stream does not end")
    if stream.unused_data:
        raise BadRequest(f"the body has {len(stream.unused_data)} bytes behind its {encoding} stream")
    return content
