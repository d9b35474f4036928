"""Hostile texts, as the bytes of a text/plain body; what is UTF-8 is also sent as JSON."""

from collections.abc import Mapping

from tests.hostile.raw.hostile import EITHER, REFUSED, TAKEN, TOO_LARGE, Hostile

_MIB = 1 << 20
MOST_BYTES = _MIB // 4
"""What the server takes of one text by default."""


def _text(why: str, text: str, statuses: frozenset[int] = TAKEN | TOO_LARGE, says: str = "") -> Hostile:
    return Hostile(why, text.encode, statuses, says)


def _filled(piece: str, size: int = MOST_BYTES) -> str:
    """The piece again and again, up to so many bytes."""
    return piece * (size // len(piece.encode()))


FILES: Mapping[str, Hostile] = {
    "empty": Hostile("nothing", lambda: b"", EITHER),
    "blanks": _text("blanks alone", " \t\r\n" * 1000, EITHER),
    "10-mb": Hostile("10 MB of words", lambda: b"a word " * (10_000_000 // 7), TOO_LARGE, "bytes"),
    "one-byte-too-many": Hostile("a byte more than is taken", lambda: b"x" * (MOST_BYTES + 1), TOO_LARGE, "bytes"),
    "one-giant-word": _text("1 MB without a blank: pairs of it are joined one by one", _filled("a")),
    "one-giant-word-of-two-letters": _text("the same of two letters in turn", _filled("ab")),
    "one-giant-number": _text("a million digits", _filled("1234567890")),
    "half-a-million-words": _text("as many tokens as fit", _filled("a ")),
    "punctuation": _text("every character its own word", _filled("!?,.;:")),
    "ligature-of-18": _text("one character that normalises to eighteen", _filled("\ufdfa")),
    "combining": _text("a letter under half a million accents", "e" + _filled("\u0301", MOST_BYTES - 8)),
    "combining-in-wrong-order": _text("accents that must be sorted", "e" + _filled("\u0315\u0300\u05ae", MOST_BYTES - 8)),
    "hangul": _text("syllables that fall into three", _filled("\uac01")),
    "zero-width": _text("joiners between nothing", _filled("\u200d\u200b\ufeff")),
    "right-to-left": _text("marks that turn the line", _filled("\u202e\u2066abc\u2069")),
    "emoji": _text("families of emoji", _filled("\U0001f469\u200d\U0001f469\u200d\U0001f467")),
    "last-characters": _text("the last of every plane", _filled("\U0010ffff\U0001fffe\ufffe")),
    "private": _text("characters that nobody knows", _filled("\ue000\U000f0000")),
    "nul": _text("NUL bytes alone", "\0" * 1000),
    "nul-inside": _text("NUL bytes in words", "a\0b " * 1000),
    "controls": _text("every control character", "".join(map(chr, range(32))) * 100),
    "special-tokens": _text(
        "the words that mean something to the model", "[CLS] [SEP] [PAD] [MASK] [UNK] </s> <|endoftext|> " * 100
    ),
    "not-utf-8": Hostile("bytes that are no UTF-8", lambda: b"\xff\xfe\x80abc", REFUSED, "UTF-8"),
    "latin-1": Hostile("letters of an older time", lambda: "Grüße".encode("latin-1"), REFUSED, "UTF-8"),
    "utf-16": Hostile("two bytes for a letter", lambda: "a text".encode("utf-16"), REFUSED, "UTF-8"),
    "cut-off-inside": Hostile("half of a character", lambda: "a€".encode()[:-1], REFUSED, "UTF-8"),
    "overlong": Hostile("a slash in two bytes", lambda: b"..\xc0\xaf..\xc0\xafetc", REFUSED, "UTF-8"),
    "surrogates": Hostile("half a pair, as some write it", lambda: b"\xed\xa0\x80", REFUSED, "UTF-8"),
    "beyond-the-last": Hostile("a character beyond the last", lambda: b"\xf4\x90\x80\x80", REFUSED, "UTF-8"),
    "a-picture": Hostile("a picture's bytes", lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", REFUSED, "UTF-8"),
}
"""Name -> what is sent as text/plain."""
