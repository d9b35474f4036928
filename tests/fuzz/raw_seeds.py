"""Valid requests with raw values, from which fuzzing starts: pictures of every kind, texts, forms, JSON, BYTES tensors."""

import base64
import functools
import io
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import Image

from tests.fuzz.seeds import JSON, LENGTH
from tests.fuzz.wire import Wire
from tests.hostile.raw import exif, jpeg, multipart, png, webp

TEXTS = (
    "a sentence of the model",
    "The picture, is it not WORD?",
    "\u00fcber \u4e2d\u6587 \U0001f469\u200d\U0001f467 \ufdfa e\u0301",
    "a" * 300,
    "[CLS] word [SEP] <pad>",
    "1234567890 " * 30,
)


@functools.cache
def pictures_by_type() -> tuple[tuple[str, bytes], ...]:
    """Small files of every kind that is read, with their content types."""
    noise = Image.frombytes("RGB", (20, 14), bytes((index * 37 + index // 11) % 256 for index in range(840)))
    alpha = noise.convert("RGBA")
    alpha.putalpha(noise.convert("L"))
    saved: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("PNG", noise, {}),
        ("PNG", alpha, {}),
        ("PNG", noise.convert("P"), {"transparency": 3}),
        ("PNG", noise.convert("1"), {}),
        ("PNG", noise.convert("LA"), {}),
        ("PNG", noise.convert("I;16"), {}),
        ("JPEG", noise, {"subsampling": 2}),
        ("JPEG", noise, {"progressive": True, "exif": png_exif()}),
        ("JPEG", noise.convert("L"), {"restart_marker_blocks": 1}),
        ("JPEG", noise.convert("CMYK"), {}),
        ("WEBP", noise, {}),
        ("WEBP", alpha, {"lossless": True}),
        ("WEBP", alpha, {"exif": png_exif()}),
    ]
    found = [(f"image/{kind.lower()}", _saved(kind, image, **options)) for kind, image, options in saved]
    interlaced = png.png(png.header(9, 9, png.RGB, last=b"\0\0\1"), png.chunk(b"IDAT", png.packed(9 * 60, b"\1")))
    keyed = png.plain(8, 8, png.RGB, png.chunk(b"tRNS", b"\0\0" * 3), png.chunk(b"eXIf", exif.turned(6)))
    found += [("image/png", interlaced), ("image/png", keyed), ("image/jpeg", jpeg.progressive(24, 16, 12))]
    found += [("image/webp", webp.with_exif(exif.turned(8)))]
    return tuple(found)


def png_exif() -> bytes:
    """EXIF data that turn a picture, with their prefix."""
    return exif.PREFIX + exif.turned(5)


def pictures(_: int = 0) -> Iterator[Wire]:
    """Files alone."""
    for content_type, data in pictures_by_type():
        yield _predict("pictures", data, content_type)


def texts(_: int = 0) -> Iterator[Wire]:
    """Plain text, and strings of JSON."""
    for model in ("words", "pieces"):
        for text in TEXTS:
            yield _predict(model, text.encode(), "text/plain; charset=utf-8")
            yield _predict(model, json.dumps({"inputs": {"text": [text, text[:9]]}}).encode(), JSON)
            yield _predict(model, json.dumps(text).encode(), JSON)


def pairs(_: int = 0) -> Iterator[Wire]:
    """Two texts."""
    for first, second in itertools.pairwise(TEXTS):
        yield _predict("pairs", json.dumps({"inputs": {"text": [first, second]}}).encode(), JSON)
    yield _predict("pairs", json.dumps({"inputs": {"text": [[*TEXTS[:2]], [*TEXTS[2:4]]]}}).encode(), JSON)


def forms(_: int = 0) -> Iterator[Wire]:
    """One file and several, of pictures and of texts."""
    files = [data for _, data in pictures_by_type()]
    for parts in ([files[0]], files[:3], files[6:8]):
        yield _predict("pictures", multipart.form(*(multipart.part(body=data) for data in parts)), multipart.CONTENT_TYPE)
    named = b'form-data; name="text"'
    yield _predict(
        "words", multipart.form(multipart.part(named, b"a word"), multipart.part(named, b"the")), multipart.CONTENT_TYPE
    )
    row = multipart.part(b'form-data; name="features"', b'{"age": 3, "colour": "red"}')
    yield _predict("rows", multipart.form(row), multipart.CONTENT_TYPE)


def values(_: int = 0) -> Iterator[Wire]:
    """JSON of every form."""
    coded = [base64.b64encode(data).decode() for _, data in pictures_by_type()[:4]]
    for document in (
        {"inputs": {"image": {"b64": coded[0]}}},
        {"inputs": {"image": [{"b64": one} for one in coded]}},
        {"inputs": {"b64": coded[1]}},
        {"inputs": [coded[2]]},
        {"instances": [{"data": {"b64": one}} for one in coded[:2]]},
        {"inputs": {"image": {"url": "http://127.0.0.1:1/a.png"}}},
    ):
        yield _predict("pictures", json.dumps(document).encode(), JSON)
    row = {"age": 7.5, "colour": "green"}
    for document in ({"inputs": {"features": [row, {"colour": None}]}}, {"inputs": [row]}, {"instances": [row, {"age": 1}]}):
        yield _predict("rows", json.dumps(document).encode(), JSON)


def oip_bytes(_: int = 0) -> Iterator[Wire]:
    """BYTES tensors, behind their lengths and in JSON."""
    files = [data for _, data in pictures_by_type()]
    for elements, shape in (([files[0]], [1]), (files[6:9], [3, 1])):
        yield _framed("pictures", "image", elements, shape)
    yield _framed("words", "text", [text.encode() for text in TEXTS[:4]], [4])
    yield _framed("rows", "features", [b'{"age":1,"colour":"red"}'], [1])
    stated = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a word", TEXTS[2]]}
    yield Wire(target="/v2/models/pieces/infer", body=json.dumps({"inputs": [stated]}).encode())


def _framed(model: str, name: str, elements: list[bytes], shape: list[int]) -> Wire:
    data = b"".join(struct.pack("<I", len(one)) + one for one in elements)
    stated = {"name": name, "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"inputs": [stated]}).encode()
    return Wire(target=f"/v2/models/{model}/infer", headers=((LENGTH, str(len(head))),), body=head + data)


def _predict(model: str, body: bytes, content_type: str) -> Wire:
    return Wire(target=f"/predictions/{model}", headers=(("Content-Type", content_type),), body=body)


def _saved(kind: str, image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


KINDS: Mapping[str, Callable[[int], Iterator[Wire]]] = {
    "raw-pictures": pictures,
    "raw-texts": texts,
    "raw-pairs": pairs,
    "raw-forms": forms,
    "raw-values": values,
    "raw-bytes": oip_bytes,
}
