"""Files of other kinds that come as image/png, and good ones with something in front of them."""

import io
import zipfile
from collections.abc import Mapping

from PIL import Image

from tests.hostile.raw import png
from tests.hostile.raw.hostile import REFUSED, Hostile

SVG = b"""<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script><text>&b;</text></svg>"""
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n/a (/etc/passwd) (r) file def showpage\n%%EOF\n"
_NONE = "no JPEG, PNG or WebP"


def saved(kind: str, **options: object) -> bytes:
    """A good picture of another kind."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(file, kind, **options)
    return file.getvalue()


def zipped(data: bytes) -> bytes:
    """A zip archive with one file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", data)
    return file.getvalue()


def _other(why: str, data: bytes) -> Hostile:
    return Hostile(why, lambda: data, REFUSED, _NONE)


FILES: Mapping[str, Hostile] = {
    "empty": _other("nothing at all", b""),
    "one-byte": _other("one byte", b"\x89"),
    "svg": _other("a program in a picture's clothes", SVG),
    "svg-with-a-mark": _other("the same behind a byte order mark", b"\xef\xbb\xbf" + SVG),
    "postscript": _other("a program that reads files", POSTSCRIPT),
    "pdf": _other("a document", b"%PDF-1.7\n1 0 obj<</OpenAction 2 0 R>>endobj\n"),
    "photoshop": _other("layers", b"8BPS\0\1" + b"\0" * 6 + b"\0\3\0\0\0\x08\0\0\0\x08\0\x08\0\3" + b"\0" * 64),
    "html": _other("a page", b"<!doctype html><img src=x onerror=alert(1)>"),
    "zip": _other("an archive of a good picture", zipped(png.plain())),
    "zip-in-front": _other("an archive, and the picture behind it", zipped(b"x") + png.plain()),
    "blanks-in-front": _other("blanks, and the picture behind them", b"  \n" + png.plain()),
    "heic": _other("what phones make", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 50),
    "base64-as-it-is": _other(
        "base64 that nobody undid", b"iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAADUlEQVR4nGNgGAUDBgABiAAB"
    ),
    "fits": _other("a telescope's", b"SIMPLE  =                    T" + b" " * 2850),
    **{
        f"{kind.lower()}": Hostile(f"a good {kind}", lambda kind=kind: saved(kind), REFUSED, _NONE)
        for kind in ("GIF", "TIFF", "BMP", "ICO", "PPM", "TGA", "PCX", "SGI", "DDS")
    },
}
"""Name -> what is sent as image/png."""
