"""Hostile JSON around raw values: base64 that is none, base64 of base64, values of another kind, too many of them."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from tests.hostile.raw import png
from tests.hostile.raw.hostile import EITHER, REFUSED, TAKEN, TOO_LARGE, Hostile

GOOD = base64.b64encode(png.plain()).decode()
_MANY = REFUSED | TOO_LARGE
_NOT_ALLOWED = frozenset({403})


def image(value: Any) -> bytes:
    """The value in the place of a picture."""
    return json.dumps({"inputs": {"image": value}}).encode()


def text(value: Any) -> bytes:
    """The value in the place of a text."""
    return json.dumps({"inputs": {"text": value}}).encode()


def _again(times: int) -> str:
    found = png.plain()
    for _ in range(times):
        found = base64.b64encode(found)
    return found.decode()


def _deep(depth: int) -> bytes:
    return b'{"inputs":{"image":' + b'{"b64":' * depth + b'"' + GOOD.encode() + b'"' + b"}" * depth + b"}}"


IMAGES: Mapping[str, Hostile] = {
    "good": Hostile("a good one: it is taken", lambda: image({"b64": GOOD}), TAKEN),
    "not-base64": Hostile("characters that are none of base64", lambda: image({"b64": "!!!"}), REFUSED),
    "base64-cut-off": Hostile("base64 without its end", lambda: image({"b64": GOOD[:-3]}), REFUSED),
    "base64-with-lines": Hostile("base64 in lines", lambda: image({"b64": "\r\n".join([GOOD[:40], GOOD[40:]])}), EITHER),
    "base64-for-urls": Hostile(
        "the other alphabet", lambda: image({"b64": base64.urlsafe_b64encode(b"\xfb\xff" * 50).decode()}), REFUSED
    ),
    "base64-of-base64": Hostile("base64 of base64", lambda: image({"b64": _again(2)}), REFUSED),
    "base64-ten-times": Hostile("and so on", lambda: image({"b64": _again(10)}), REFUSED),
    "base64-of-50-mb": Hostile("50 MB of nothing", lambda: image({"b64": base64.b64encode(bytes(50 << 20)).decode()}), _MANY),
    "base64-not-ascii": Hostile("letters that are no ASCII", lambda: image({"b64": "ü" * 100}), REFUSED),
    "base64-half-a-character": Hostile("half of a pair", lambda: b'{"inputs":{"image":{"b64":"\\ud800"}}}', REFUSED),
    "base64-number": Hostile("a number", lambda: image({"b64": 7}), REFUSED),
    "base64-null": Hostile("null", lambda: image({"b64": None}), REFUSED),
    "base64-empty": Hostile("nothing", lambda: image({"b64": ""}), REFUSED),
    "base64-list": Hostile("a list of letters", lambda: image({"b64": ["a", "b"]}), REFUSED),
    "two-members": Hostile("two ways at once", lambda: image({"b64": GOOD, "url": "http://127.0.0.1/"}), EITHER),
    "twice": Hostile("the same member twice", lambda: b'{"inputs":{"image":{"b64":"!","b64":"' + GOOD.encode() + b'"}}}', EITHER),
    "other-member": Hostile("a member that is none", lambda: image({"base64": GOOD}), REFUSED),
    "no-member": Hostile("an empty object", lambda: image({}), REFUSED),
    "url-of-this-machine": Hostile(
        "a URL that nobody allowed", lambda: image({"url": "http://127.0.0.1:8081/models"}), _NOT_ALLOWED, "input_urls"
    ),
    "url-of-the-cloud": Hostile(
        "where clouds keep their keys", lambda: image({"url": "http://169.254.169.254/latest/"}), _NOT_ALLOWED, "input_urls"
    ),
    "url-of-a-file": Hostile("a file", lambda: image({"url": "file:///etc/passwd"}), _NOT_ALLOWED, "input_urls"),
    "url-of-data": Hostile(
        "a URL that holds its data", lambda: image({"url": f"data:image/png;base64,{GOOD}"}), _NOT_ALLOWED, "input_urls"
    ),
    "data-url-as-base64": Hostile("the same as base64", lambda: image({"b64": f"data:image/png;base64,{GOOD}"}), EITHER),
    "bytes-as-numbers": Hostile("a picture as a list of numbers", lambda: image(list(png.plain())), REFUSED),
    "nested-10": Hostile("objects in objects", lambda: _deep(10), REFUSED),
    "nested-100000": Hostile("a hundred thousand deep", lambda: _deep(100_000), REFUSED),
    "lists-in-lists": Hostile("lists in lists", lambda: image([[[[{"b64": GOOD}]]]]), EITHER),
    "100-rows": Hostile("more rows than the model takes at once", lambda: image([{"b64": GOOD}] * 100), _MANY | TAKEN),
    "100000-rows": Hostile("a hundred thousand rows", lambda: image([{"b64": GOOD}] * 100_000), _MANY),
    "100000-empty-rows": Hostile("as many of nothing", lambda: image([{}] * 100_000), _MANY),
    "no-rows": Hostile("no row", lambda: image([]), REFUSED),
    "one-bad-row": Hostile("a bad row among good ones", lambda: image([{"b64": GOOD}, {"b64": "AAAA"}]), REFUSED),
    "instances-other": Hostile("TorchServe's form with something else in it", lambda: b'{"instances":[{"data":7}]}', REFUSED),
    "instances-none": Hostile("the same with nothing", lambda: b'{"instances":[]}', REFUSED),
    "instances-mixed": Hostile(
        "one as it should be, one not",
        lambda: json.dumps({"instances": [{"data": {"b64": GOOD}}, {"body": GOOD}]}).encode(),
        EITHER,
    ),
    "two-forms": Hostile(
        "inputs and instances",
        lambda: json.dumps({"inputs": {"image": {"b64": GOOD}}, "instances": [{"data": {"b64": GOOD}}]}).encode(),
        EITHER,
    ),
}
"""Name -> what is sent as application/json to a model of pictures."""

TEXTS: Mapping[str, Hostile] = {
    "good": Hostile("a good one: it is taken", lambda: text(["a sentence"]), TAKEN),
    "half-a-character": Hostile("half of a pair", lambda: b'{"inputs":{"text":["\\ud800"]}}', REFUSED),
    "nul": Hostile("an escaped NUL", lambda: text("a\0b"), TAKEN),
    "number": Hostile("a number", lambda: text(7), REFUSED),
    "null": Hostile("null", lambda: text([None]), REFUSED),
    "base64": Hostile("base64 where a text is due", lambda: text({"b64": GOOD}), REFUSED),
    "no-rows": Hostile("no row", lambda: text([]), REFUSED),
    "empty": Hostile("an empty text", lambda: text(""), EITHER),
    "pair": Hostile("two texts where one is due", lambda: text([["a", "b"]]), REFUSED),
    "100000-rows": Hostile("a hundred thousand rows", lambda: text(["a"] * 100_000), _MANY),
    "10-mb": Hostile("10 MB", lambda: text("a word " * 1_500_000), TOO_LARGE),
    "giant-key": Hostile("a name of 1 MB", lambda: json.dumps({"inputs": {"n" * (1 << 20): "a"}}).encode(), REFUSED),
    "escapes": Hostile("1 MB of escapes", lambda: b'{"inputs":{"text":"' + b"\\u0041" * 170_000 + b'"}}', TAKEN | TOO_LARGE),
    "no-end": Hostile("JSON without its end", lambda: b'{"inputs":{"text":"a', REFUSED),
}
"""Name -> what is sent as application/json to a model of texts."""


def _pair(first: str, second: str) -> bytes:
    return json.dumps({"inputs": {"text": [first, second]}}).encode()


PAIRS: Mapping[str, Hostile] = {
    "good": Hostile("a good one: it is taken", lambda: _pair("a sentence", "is it not"), TAKEN),
    "both-of-16-kb": Hostile(
        "a library that keeps what it cuts off keeps every combination: 2 GB",
        lambda: _pair(*["a word " * 2300] * 2),
        TAKEN | TOO_LARGE,
    ),
    "both-of-500-kb": Hostile(
        "the same, with an end of the process", lambda: _pair(*["a word " * 70_000] * 2), TAKEN | TOO_LARGE
    ),
    "one-giant-word-each": Hostile("two words without a blank", lambda: _pair("a" * 500_000, "b" * 500_000), TAKEN | TOO_LARGE),
    "one": Hostile("one text", lambda: text("a sentence"), REFUSED),
    "three": Hostile("three texts", lambda: text(["a", "b", "c"]), REFUSED),
    "empty": Hostile("two of nothing", lambda: _pair("", ""), EITHER),
}
"""Name -> what is sent as application/json to a model of pairs of texts."""

ROWS: Mapping[str, Hostile] = {
    "good": Hostile("a good one: it is taken", lambda: _row({"age": 3, "colour": "red"}), TAKEN),
    "beyond-float32": Hostile("a number that float32 cannot hold", lambda: _row({"age": 1e300}), REFUSED),
    "nan": Hostile("NaN, which JSON has no word for", lambda: b'{"inputs":{"features":[{"age":NaN}]}}', REFUSED),
    "infinity": Hostile("1e400", lambda: b'{"inputs":{"features":[{"age":1e400}]}}', REFUSED),
    "5000-digits": Hostile(
        "a number of 5,000 digits", lambda: b'{"inputs":{"features":[{"age":' + b"9" * 5000 + b"}]}}", REFUSED
    ),
    "text-for-a-number": Hostile("text where a number is due", lambda: _row({"age": "7"}), REFUSED),
    "true-for-a-number": Hostile("true where a number is due", lambda: _row({"age": True}), REFUSED),
    "list-for-a-number": Hostile("a list where a number is due", lambda: _row({"age": [1]}), REFUSED),
    "object-for-a-category": Hostile("an object where a name is due", lambda: _row({"age": 1, "colour": {"a": 1}}), REFUSED),
    "list-for-a-category": Hostile("a list where a name is due", lambda: _row({"age": 1, "colour": ["red"]}), REFUSED),
    "unknown-category": Hostile("a colour that is none", lambda: _row({"age": 1, "colour": "x" * 100_000}), REFUSED),
    "unknown-column": Hostile("a column that is none", lambda: _row({"age": 1, "n" * 100_000: 1}), REFUSED),
    "100000-columns": Hostile(
        "a hundred thousand columns", lambda: _row({f"c{number}": 1 for number in range(100_000)}), REFUSED
    ),
    "no-columns": Hostile("no column: all are missing", lambda: _row({}), EITHER),
    "a-list": Hostile("a list of values", lambda: b'{"inputs":{"features":[[{"age":1}]]}}', REFUSED),
}
"""Name -> what is sent as application/json to a model of a table's rows."""


def _row(value: Any) -> bytes:
    return json.dumps({"inputs": {"features": [value]}}).encode()
