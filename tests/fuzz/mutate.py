"""Damage that knows what it damages: one member of the JSON, one size, one header, a length that no longer fits.

A request changed byte by byte is nearly always refused by the first check. These changes reach the ones behind it.
"""

import functools
import json
import random
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from tests.fuzz.models import MODELS
from tests.fuzz.seeds import ACCEPTED_ENCODINGS, ACCEPTS, CONFIG, JSON, KINDS, LENGTH, NPY, RAW
from tests.fuzz.wire import Wire

MOST_BYTES = 1 << 16


class Pairs(list):
    """A JSON object as its members in order, so that one can stand there twice."""


class Text(str):
    """A piece of JSON as it is to be written."""

    __slots__ = ()


def _words(text: str) -> list[str]:
    return text.split()


NUMBERS_IN_JSON = _words("""
0 1 -1 2 -0 0.0 -0.0 0.5 1.0 1e0 5 99 100 127 128 -129 255 256 32768 65504 65520 2147483648 -2147483649 9007199254740993
9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809 18446744073709551615 18446744073709551616
1e39 -1e39 3.4028235677973366e38 3.4028234663852886e+38 1e308 1.8e308 1e400 -1e400 1e-400 5e-324 1e-45 0.1 0.30000000000000004
4.000000000000001 4.0000001 -4.0000003 1E5 1e+2 01 1. .5 +1 0x1 1_0 NaN Infinity -Infinity
""")
OTHERS_IN_JSON = _words(r"""
true false null "" "x" "1" "\u0000" "\ud800" "\ud83d\ude00" "ü" "[[" "\\" [] {} [[]] [{}] [1,[2]] [null] {"a":1}
""")
LONG_IN_JSON = ["1" + "0" * 30, "1" + "0" * 400, "0." + "3" * 60, "[" * 70 + "]" * 70, '{"a":' * 66 + "1" + "}" * 66]
SCALARS = [Text(text) for text in (*NUMBERS_IN_JSON, *OTHERS_IN_JSON, *LONG_IN_JSON)]
"""JSON values as they are written; some are none."""

NAMES = [
    *_words("inputs outputs name shape datatype data parameters id binary_data_size binary_data classification x ü count file:x"),
    *_words("binary_data_output priority timeout shared_memory_region version config ready unload_dependents max_batch_size"),
    *("instance_group", "", "\ud800"),
]
DATATYPES = _words("BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BF16 BYTES fp32 FP8")
WORDS = [*DATATYPES, *NAMES, "FP32 ", *(spec.name for model in MODELS.values() for spec in model.signature.inputs)]
NUMBERS = ["0", "1", "-1", "00", "+1", "1.5", "1e3", "9" * 20, "9" * 5000, "\u0661", "0x10", "", " ", "1 ", "1,2"]
VALUES = [
    *NUMBERS,
    *_words(
        "*/* * */*;q=0 application/json;q=nan application/json;q=-1 application/json;q=1.0001 ;q=1 ,,, text/html application/*"
    ),
    *_words(f"{JSON};charset=utf-16 multipart/form-data APPLICATION/X-NPY ; br identity gzip GZIP x-gzip gzip;q=1 deflate"),
    *_words("0.0001 100 0.000000001 999999999999999 http://localhost http://[::1 null https://example.com %00"),
    *("gzip, gzip", "gzip,gzip,gzip", "application/x-npy; q", "\xfc", "\x7f", "a\tb", '"', "a" * 5000),
    ",".join(f"a{number}" for number in range(300)),
]
"""Values of headers."""
HEADERS = [
    *_words(f"Content-Type Accept Accept-Encoding Content-Encoding {LENGTH} X-Timeout-Ms X-Request-Id Origin Transfer-Encoding"),
    *("Expect", "Connection", "Upgrade", "Cookie"),
]
SEGMENTS = [
    *_words("v2 models infer versions predictions repository load unload labels ready stats config index latest default stable"),
    *_words("1 0 -1 01 .. . %00 %2e%2e %2F %ff%fe %F0%9F%98%80 % %zz con * ~ ; @ $x"),
    *("", "\u0661", "9" * 40, "a" * 3000),
    *map(quote, MODELS),
]
"""Parts of a path."""


def mutated(data: bytes, seed: int) -> bytes:
    """A request changed in one to four places, chosen by `seed`."""
    rng = random.Random(seed)
    fresh = rng.random() < 0.2
    wire = rng.choice(_valid(rng.randrange(20))) if fresh else Wire.parse(data)
    for _ in range(rng.choice((0, 0, 1) if fresh else (1, 1, 1, 2, 2, 4))):
        wire = change(wire, rng)
    return wire.encode()


@functools.cache
def _valid(seed: int) -> list[Wire]:
    """Requests that are taken, or nearly all of them: what long mutation leaves of the first ones hardly ever is."""
    return [wire for make in KINDS.values() for wire in make(seed)]


def change(wire: Wire, rng: random.Random) -> Wire:
    """A request changed in one place."""
    if rng.random() < 0.15:
        return rng.choice(_OF_HEADERS)(wire, rng)
    if rng.random() < 0.05:
        return _other_target(wire, rng)
    length = wire.header(LENGTH.lower())
    if length is not None and length.isdecimal() and len(length) < 10 and int(length):
        return _framed(wire, int(length), rng)
    return replace(wire, body=_of_body(wire)(wire.body, rng))


def _of_body(wire: Wire) -> Callable[[bytes, random.Random], bytes]:
    if "npy" in (wire.header("content-type") or ""):
        return _npy
    return _json if wire.body[:1] in {b"{", b"["} else _bytes


def _json(body: bytes, rng: random.Random) -> bytes:
    try:
        document = json.loads(body, object_pairs_hook=Pairs)
        _change_node(document, rng)
        text = _written(document, rng.choice((",", ", ", " ,\n\t"))).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return _bytes(body, rng)
    return _bytes(text, rng) if rng.random() < 0.1 else text[:MOST_BYTES]


def _change_node(document: Any, rng: random.Random) -> None:
    """Changes one value, at a depth that is chosen level by level: members of the request are met as often as its numbers."""
    owner = document
    while True:
        children = _children(owner)
        if not children:
            break
        key = rng.choice(children)
        child = _get(owner, key)
        if not isinstance(child, list) or rng.random() < 0.25:
            _replace(owner, key, child, rng)
            return
        owner = child
    if isinstance(owner, list):
        _insert(owner, rng)


def _replace(owner: list, key: int, child: Any, rng: random.Random) -> None:
    """Changes one child of a list or object: by its kind, or whatever it is."""
    if rng.random() < 0.4 and (changed := _changed(child, rng)) is not None:
        _set(owner, key, changed)
    elif rng.random() < 0.5:
        _set(owner, key, rng.choice(SCALARS))
    else:
        rng.choice(_OF_NODES)(owner, key, rng)


def _changed(child: Any, rng: random.Random) -> Any:
    """Another value of the same kind, which has good chances; None where there is none."""
    match child:
        case bool():
            changed = not child
        case int():
            near = child + rng.choice((-1, 1, 256, 2**31, 2**32, 2**63))
            changed = rng.choice((rng.randint(-5, 100), rng.randint(-5, 100), 0, 1, near))
        case float():
            text = Text(f"{child!r}{rng.choice(('0', 'e0', 'e1', '1', 'e38'))}")
            changed = rng.choice((rng.uniform(-4, 4), rng.uniform(-1e3, 1e3), text))
        case str() if child[:1] == "{":  # JSON in a string, as the repository API has it
            changed = _json(child.encode("utf-8", "replace"), rng).decode("utf-8", "replace")
        case str():
            changed = rng.choice(WORDS)
        case [*_] if child and all(type(part) is list for part in child):
            changed = [one for part in child for one in part]
        case [_, *_]:
            changed = child[:-1]
        case _:
            changed = None
    return changed


def _remove(owner: list, key: int, rng: random.Random) -> None:
    del rng, owner[key]


def _repeat(owner: list, key: int, rng: random.Random) -> None:
    owner.insert(rng.randrange(len(owner) + 1), owner[key])


def _wrap(owner: list, key: int, rng: random.Random) -> None:
    del rng
    _set(owner, key, [_get(owner, key)])


def _rename(owner: list, key: int, rng: random.Random) -> None:
    if isinstance(owner, Pairs):
        owner[key] = (rng.choice(NAMES), owner[key][1])


def _other_config(owner: list, key: int, rng: random.Random) -> None:
    if isinstance(owner, Pairs) and owner[key][0] == "config":
        name = rng.choice(tuple(CONFIG))
        _set(owner, key, json.dumps({name: CONFIG[name]}))


def _shift(owner: list, key: int, rng: random.Random) -> None:
    """As many numbers and as many lists as before, in other places: unseen, where only sums are compared."""
    other = rng.randrange(len(owner))
    one, two = _get(owner, key), _get(owner, other)
    if isinstance(one, list) and type(one) is type(two) and one:
        two.insert(rng.randrange(len(two) + 1), one.pop())
    elif not isinstance(owner, Pairs) and other != key:
        owner[key] = [one, two]
        del owner[other]


def _insert_beside(owner: list, key: int, rng: random.Random) -> None:
    del key
    _insert(owner, rng)


_OF_NODES = (_remove, _repeat, _wrap, _wrap, _shift, _shift, _rename, _other_config, _insert_beside)


def _insert(owner: list, rng: random.Random) -> None:
    value = rng.choice(SCALARS)
    owner.insert(rng.randrange(len(owner) + 1), (rng.choice(NAMES), value) if isinstance(owner, Pairs) else value)


def _children(owner: Any) -> range:
    return range(len(owner)) if isinstance(owner, list) else range(0)


def _get(owner: list, key: int) -> Any:
    return owner[key][1] if isinstance(owner, Pairs) else owner[key]


def _set(owner: list, key: int, value: Any) -> None:
    owner[key] = (owner[key][0], value) if isinstance(owner, Pairs) else value


def _written(value: Any, comma: str) -> str:
    if isinstance(value, Text):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + comma.join(f"{json.dumps(name)}:{_written(one, comma)}" for name, one in value) + "}"
    if isinstance(value, list):
        return "[" + comma.join(_written(one, comma) for one in value) + "]"
    return json.dumps(value)


def _framed(wire: Wire, length: int, rng: random.Random) -> Wire:
    """A binary request: its JSON, its bytes, or what they say of each other."""
    head, tail = wire.body[:length], wire.body[length:]
    choice = rng.randrange(8)
    if choice < 4:
        head = _json(head, rng)
    elif choice == 4:
        tail = _bytes(tail, rng)
    elif choice == 5:
        tail = rng.choice((tail + tail, tail[:-1], tail[1:], b"", tail + b"\0" * rng.choice((1, 8, 1000))))
        if rng.random() < 0.5:
            head = re.sub(rb'("binary_data_size": ?)\d+', rb"\g<1>%d" % len(tail), head)
    elif choice == 6:
        head += rng.choice((b" ", b"   ", b"\n", b"\0", b"}"))  # the bytes behind it are no longer aligned
    else:
        return wire.with_header(LENGTH, rng.choice((str(length + rng.choice((-1, 1, 4))), *NUMBERS)))
    return replace(wire, body=(head + tail)[:MOST_BYTES]).with_header(LENGTH, str(len(head)))


def _npy(body: bytes, rng: random.Random) -> bytes:
    """A .npy file whose header says something else, with its size put right; or its bytes changed."""
    end = body.find(b"}") + 1
    begin = body.find(b"{")
    if begin < 0 or not end or rng.random() < 0.2:
        return _bytes(body, rng)
    version, text = body[6:8], body[begin:end]
    old, new = rng.choice(
        (
            (
                rb"'[<>|=]\w+'",
                rng.choice((b"'<f4'", b"'>f2'", b"'|O'", b"'<U4'", b"'f4'", b"'=i8'", b"'|b1'", b"'<c8'", b"'|V4'", b"[]")),
            ),
            (rb"True|False", rng.choice((b"True", b"False", b"1", b"None"))),
            (
                rb"\([^)]*\)",
                rng.choice((b"()", b"(1,)", b"(1)", b"(,)", b"(-1,)", b"(1,,2)", b"(01,)", b"(1,4,)", b"[1, 4]", b"(9" * 9)),
            ),
            (
                rb"\d+(?=[,)])",
                rng.choice((b"0", b"1", b"2", b"-1", b"4294967296", b"18446744073709551616", b"1e1", b"0x1", b"1L")),
            ),
            (rb"'(\w+)':", rng.choice((rb'"\1":', rb"'x':", rb"'\1' :", rb"b'\1':", b""))),
            (rb", ", rng.choice((b",", b" ", b",,", b", 'descr': '<f8', ", b"\n,\t"))),
            (rb"}", rng.choice((b"", b"},", b"} #", b", }", b",,}", b"}\0"))),
        )
    )
    spots = list(re.finditer(old, text))
    if spots:
        spot = rng.choice(spots)
        text = text[: spot.start()] + spot.expand(new) + text[spot.end() :]
    if rng.random() < 0.1:
        version = rng.choice((b"\1\0", b"\2\0", b"\3\0", b"\1\1", b"\4\0", b"\0\0"))
    rest = body[end:].partition(b"\n")[2]
    text += rng.choice((b"\n", b"\n", b"", b" " * rng.randrange(64) + b"\n", b" " * 20_000))
    size = len(text).to_bytes(2 if version[:1] == b"\1" else 4, "little")
    return (b"\x93NUMPY" + version + size + text + rest)[:MOST_BYTES]


def _bytes(body: bytes, rng: random.Random) -> bytes:
    """Bytes changed, lost, or added: a few, or many."""
    if rng.random() < 0.05:
        return _swollen(body, rng)
    at, size = rng.randrange(len(body) + 1), rng.choice((1, 1, 2, 4, 8, 64))
    piece = rng.choice((b"", b"\0", b"\xff" * size, rng.randbytes(size), body[at : at + size] * 2, b"[" * size, b"\xef\xbb\xbf"))
    return (body[:at] + piece + body[at + rng.choice((0, len(piece), size)) :])[:MOST_BYTES]


def _swollen(body: bytes, rng: random.Random) -> bytes:
    """A piece of the body, or one that is dear to read, again and again."""
    at, size = rng.randrange(len(body) + 1), rng.choice((1, 2, 8, 40, 200))
    pieces = (
        b"[",
        b"[]",
        b"[],",
        b'{"":',
        b'\\"',
        b"\\\\",
        b'"',
        b",",
        b"1,",
        b"0.1e-300,",
        b" ",
        b"(1,",
        b'{"name":"x"},',
        b"\xff",
    )
    piece = rng.choice((body[at : at + size], body[at : at + size], *pieces))
    times = rng.choice((10, 100, 1000, 10_000)) // (len(piece) + 1) + 1
    return (body[:at] + piece * times + body[at:])[:MOST_BYTES]


def _other_header(wire: Wire, rng: random.Random) -> Wire:
    return wire.with_header(rng.choice(HEADERS), rng.choice(VALUES))


def _no_header(wire: Wire, rng: random.Random) -> Wire:
    return wire.with_header(rng.choice([name for name, _ in wire.headers] or HEADERS).lower(), None)


def _form(wire: Wire, rng: random.Random) -> Wire:
    return wire.with_header("content-type", rng.choice((JSON, NPY, RAW, None)))


def _deadline(wire: Wire, rng: random.Random) -> Wire:
    return wire.with_header("x-timeout-ms", rng.choice(NUMBERS))


def _accept(wire: Wire, rng: random.Random) -> Wire:
    pieces = [part for header in (*ACCEPTS, *ACCEPTED_ENCODINGS, *VALUES) for part in re.split("([,;=])", header)]
    value = rng.choice((rng.choice(ACCEPTS), "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 9)))))
    return wire.with_header(rng.choice(("accept", "accept-encoding")), value)


def _packed(wire: Wire, rng: random.Random) -> Wire:
    """The body in one encoding more, and the header that says so: rightly, or not."""
    encoding, window = rng.choice((("gzip", 31), ("deflate", 15), ("deflate", -15), ("gzip", 15), ("br", 31)))
    packer = zlib.compressobj(wbits=window)
    body = (packer.compress(wire.body) + packer.flush())[:MOST_BYTES]
    before = wire.header("content-encoding")
    return replace(wire, body=body).with_header("content-encoding", f"{before}, {encoding}" if before else encoding)


def _other_target(wire: Wire, rng: random.Random) -> Wire:
    parts = wire.target.split("/")
    at = rng.randrange(len(parts))
    if rng.random() < 0.2:
        parts.insert(at, rng.choice(SEGMENTS))
    elif rng.random() < 0.1:
        return replace(wire, target=f"{wire.target}?{rng.choice(VALUES)}={rng.choice(VALUES)}")
    else:
        parts[at] = rng.choice(SEGMENTS)
    return replace(wire, target="/".join(parts).replace(" ", "%20"))


_OF_HEADERS: tuple[Callable[[Wire, random.Random], Wire], ...] = (
    _other_header, _no_header, _form, _deadline, _accept, _packed,
)  # fmt: skip
