"""Token ids of one text or two as a row: cut, and put where the tokenizer's own layout has them, among its special tokens.

The tokenizers package is not let to cut: it keeps what it cuts off, for two texts every combination of the pieces of the one with
those of the other. For two texts of 64 KB that is more memory than machines have, and ends the process.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS = ("a", "0", "the")
"""Texts one of which nearly every tokenizer makes a token of, or more."""
_OWN_WORDS = 100
"""So many of its own tokens are tried, the first ones: a vocabulary of ACGT, say, without a token for what is unknown."""

Part = tuple[int | None, int, int | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a row is put together: special tokens (id, type, None) and texts (None, type, which of them), in order."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, tokenizer: "Tokenizer", *, pair: bool) -> "Layout":
        """The layout of a tokenizer that neither cuts nor fills: where it puts a word that it knows.

        Raises:
            ValueError: it knows none, has no place for so many texts, or has one of them twice, or fails.
        """
        word = _known_word(tokenizer, pair=pair)
        layout = cls(_parts(tokenizer, word, word if pair else None))
        if sorted(text for _, _, text in layout.parts if text is not None) == [0, 1][: 1 + pair]:
            return layout
        if pair:
            raise ValueError("the tokenizer has no place for two texts; declare pair: false, or mend its post_processor")
        raise ValueError("the tokenizer has no place for a text, or has it twice; mend its post_processor: a template has one $A")

    @property
    def special(self) -> int:
        """How many tokens it adds."""
        return sum(text is None for _, _, text in self.parts)

    def filled(self, texts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """Token ids and type ids of the texts with what surrounds them."""
        ids: list[int] = []
        types: list[int] = []
        for token, type_id, text in self.parts:
            part = texts[text] if text is not None else (token or 0,)
            ids += part
            types += [type_id] * len(part)
        return ids, types


def is_failure(cause: BaseException) -> bool:
    """Whether the tokenizers package failed: it raises Exception itself, and a panic of its Rust code is not even that."""
    return isinstance(cause, Exception) or type(cause).__name__ == "PanicException"


def cut(texts: Sequence[Sequence[int]], room: int, side: Literal["right", "left"]) -> list[Sequence[int]]:
    """As many tokens of all as have room; of two texts the longer one is cut first, and then both to one half.

    That is `longest_first` of the tokenizers package (`truncate_encodings` of its `utils/truncation.rs`).
    """
    sizes = [len(text) for text in texts]
    if sum(sizes) <= room:
        return list(texts)
    if len(sizes) == 1:
        most = [room]
    else:
        short = min(*sizes, room // 2)
        most = [short, room - short] if sizes[0] <= sizes[1] else [room - short, short]
    if side == "right":
        return [text[:size] for text, size in zip(texts, most, strict=True)]
    return [text[len(text) - size :] for text, size in zip(texts, most, strict=True)]


def _known_word(tokenizer: "Tokenizer", *, pair: bool) -> str:
    """A text that becomes a token at least; twice, where rows are of two.

    Raises:
        ValueError: the tokenizer makes none of the usual words, nor of its own.
    """
    problem = None
    for word in itertools.chain(_WORDS, _own_words(tokenizer)):
        try:
            if tokenizer.encode(word, word if pair else None, add_special_tokens=False).ids:
                return word
        except BaseException as cause:  # WordLevel, Unigram and WordPiece fail on what is unknown
            if not is_failure(cause):
                raise
            problem = cause
    raise ValueError(
        f"the tokenizer makes no token of {', '.join(map(repr, _WORDS))}, nor of the first {_OWN_WORDS} of its own tokens "
        f"({problem or 'they become nothing'}); give its model an unk_token, or mend its normalizer, pre_tokenizer or "
        "post_processor, whose template has one $A"
    ) from problem


def _own_words(tokenizer: "Tokenizer") -> Iterator[str]:
    vocabulary = tokenizer.get_vocab()
    yield from sorted(vocabulary, key=vocabulary.__getitem__)[:_OWN_WORDS]


def _parts(tokenizer: "Tokenizer", first: str, second: str | None) -> tuple[Part, ...]:
    try:
        found = tokenizer.encode(first, second)
    except BaseException as cause:
        if not is_failure(cause):
            raise
        raise ValueError(f"the tokenizer's post_processor fails on the text {first!r}: {cause}; mend it") from cause
    parts: list[Part] = []
    last = None
    for token, text, type_id, special in zip(
        found.ids, found.sequence_ids, found.type_ids, found.special_tokens_mask, strict=True
    ):
        if text is None and not special:  # of a text that stands there twice
            return ()
        if text is None:
            parts.append((token, type_id, None))
        elif text != last:
            parts.append((None, type_id, text))
        last = text
    return tuple(parts)
