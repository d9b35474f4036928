"""Text: tokenised by a `tokenizer.json` of the `tokenizers` package. docs/operations.md says what is made of it."""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from artifact.operations.errors import BadParameter, BadText, OperationsUnavailable, TooLarge
from artifact.operations.kinds import Files, InputOperation, Kind, Raw, Step, Tensor, Tensors
from artifact.operations.raw import RawKind
from artifact.operations.tokens import Layout, cut, is_failure
from artifact.raw_limits import RawLimits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

What = Literal["input_ids", "attention_mask", "token_type_ids"]
WHAT: tuple[What, ...] = ("input_ids", "attention_mask", "token_type_ids")
IDS, MASK, TYPES = WHAT
PADS = ("[PAD]", "<pad>", "<|padding|>")
"""What the token for padding is called, where the file does not say it."""

Side = Literal["right", "left"]

_SHORT_BYTES = 1 << 14
"""A text of so many bytes is small whatever a normalizer makes of it: at most eighteen times as many letters."""


class Tokenize(InputOperation):
    """`tokenize: {file: tokenizer.json, max_tokens: 128}`, and how to cut, to fill up, and to call what it makes.

    `padding`: to the longest row of a request, or to `max_tokens` always. `truncation`: the side on which tokens beyond
    `max_tokens` are left out. `pair`: the raw value is two texts. `names`: what the model calls its inputs.
    """

    file: str
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)]
    padding: Literal["longest", "max"] = "longest"
    padding_side: Side = "right"
    truncation: Side = "right"
    pair: bool = False
    pad_id: Annotated[int, Field(ge=0)] | None = None
    dtype: Literal["int64", "int32"] = "int64"
    names: Mapping[What, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_differ(self) -> "Tokenize":
        names = [self._name(what) for what in WHAT]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names: two of them are called {', '.join(twice)}")
        return self

    def begins_with(self) -> RawKind:
        """A text, or two."""
        return "pair" if self.pair else "text"

    def file_fields(self) -> tuple[str, ...]:
        """The tokenizer."""
        return ("file",)

    def details(self) -> dict[str, Any]:
        """What a client should know: how much of a text counts."""
        return {"max_tokens": self.max_tokens}

    def kind_of(self, given: Kind, files: Files) -> Kind:
        """A text -> token ids, their mask, and which of two texts each is of."""
        if not isinstance(given, Raw):
            raise ValueError(f"it takes a text as it was sent, not {given}")  # noqa: TRY004 - as every `kind_of`
        tokenizer = self._tokenizer(files)
        size = self.max_tokens if self.padding == "max" else None
        pad_id = self._pad_id(tokenizer)
        largest = {IDS: max([*tokenizer.get_vocab(with_added_tokens=True).values(), pad_id]), MASK: 1, TYPES: 1}
        fills = {IDS: pad_id, MASK: 0, TYPES: 0}
        if largest[IDS] > np.iinfo(self.dtype).max:
            raise ValueError(f"token ids reach {largest[IDS]}, which {self.dtype} cannot hold")
        return Tensors(
            {
                self._name(what): Tensor(
                    self.dtype, (size,), 0, largest[what], fills[what], self.padding_side, {0: self.max_tokens}
                )
                for what in WHAT
            }
        )

    def step(self, given: Kind, files: Files) -> Step:  # noqa: ARG002 - the interface
        """The function; its tokenizer is never changed again, so that threads may share it."""
        tokenizer = self._tokenizer(files)
        pad_id = self._pad_id(tokenizer)
        layout = Layout.of(tokenizer, pair=self.pair)
        room = self.max_tokens - layout.special
        fills = {IDS: pad_id, MASK: 0, TYPES: 0}

        def tokenize(value: str | tuple[str, str], limits: RawLimits) -> dict[str, np.ndarray]:
            texts = value if isinstance(value, tuple) else (value,)
            if len(texts) != 1 + self.pair:
                wanted = "two texts are" if self.pair else "one text is"
                raise BadText(f"{wanted} expected, not {len(texts)}")
            ids, types = layout.filled(cut(token_ids(tokenizer, texts, limits), room, self.truncation))
            found = {IDS: ids, MASK: [1] * len(ids), TYPES: types}
            return {self._name(what): self._filled(found[what], fills[what]) for what in WHAT}

        return tokenize

    def _name(self, what: What) -> str:
        """What the model calls it."""
        return self.names.get(what, what)

    def _filled(self, numbers: list[int], fill: int) -> np.ndarray:
        rest = [fill] * (self.max_tokens - len(numbers)) if self.padding == "max" else []
        return np.array(rest + numbers if self.padding_side == "left" else numbers + rest, self.dtype)

    def _tokenizer(self, files: Files) -> "Tokenizer":
        try:
            tokenizer = _read(files[self.file])
        except OperationsUnavailable:
            raise
        except BaseException as cause:
            if not is_failure(cause):
                raise
            problem = f"{self.file} is no tokenizer.json that the tokenizers package reads: {cause}"
            raise BadParameter(problem, "file") from cause
        if dropout := getattr(tokenizer.model, "dropout", None):
            problem = f"{self.file} has a dropout of {dropout:g}: a text would become other tokens each time; set it to null"
            raise BadParameter(problem, "file")
        try:
            special = Layout.of(tokenizer, pair=self.pair).special
        except ValueError as cause:
            raise BadParameter(f"{self.file}: {cause}", "file") from cause
        if self.max_tokens <= special:
            raise BadParameter(f"{self.max_tokens} leaves no room: {self.file} adds {special} tokens to every text", "max_tokens")
        return tokenizer

    def _pad_id(self, tokenizer: "Tokenizer") -> int:
        if self.pad_id is not None:
            return self.pad_id
        found = next((number for pad in PADS if (number := tokenizer.token_to_id(pad)) is not None), None)
        if found is None:
            raise BadParameter(f"{self.file} has no token for padding ({', '.join(PADS)}); declare pad_id", "file")
        return found


@functools.lru_cache(maxsize=1)
def _read(data: bytes) -> "Tokenizer":
    """The tokenizer of a file, which nobody changes any more: the check and the step of one chain share it."""
    try:
        from tokenizers import Tokenizer
    except ImportError as cause:
        raise OperationsUnavailable(f"texts need the tokenizers package: pip install 'stateserve[text]' ({cause})") from cause
    tokenizer = Tokenizer.from_str(data.decode("utf-8"))
    tokenizer.no_padding()
    tokenizer.no_truncation()  # `cut` does that
    return tokenizer


def token_ids(tokenizer: "Tokenizer", texts: Sequence[str], limits: RawLimits) -> list[list[int]]:
    """The tokens of each text, all of them, without special ones.

    Raises:
        BadText: one is no text, or holds half of a character (a lone surrogate), or the tokenizer fails on it.
        TooLarge: they are longer than the limits allow: in bytes before, in tokens after tokenising.
    """
    size = sum(_utf8_bytes(text) for text in texts)
    if size > limits.text_bytes:
        raise TooLarge(f"the text has {size} bytes; at most {limits.text_bytes} are tokenised (setting max_text_bytes)")
    try:
        if size > _SHORT_BYTES and tokenizer.normalizer is not None:
            _require_short(sum(len(tokenizer.normalizer.normalize_str(text)) for text in texts), limits)
        found = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    except TooLarge:
        raise
    except BaseException as cause:
        if not is_failure(cause):
            raise
        raise BadText(f"the text cannot be tokenised: {cause}") from cause
    tokens = sum(map(len, found))
    if tokens > limits.tokens:
        raise TooLarge(f"the text has {tokens} tokens; at most {limits.tokens} are taken (setting max_tokens)")
    return found


def _require_short(letters: int, limits: RawLimits) -> None:
    """A letter can become many when it is normalised, and each may become a token."""
    if letters > limits.text_bytes:
        raise TooLarge(
            f"the text becomes {letters} letters when the tokenizer normalises it; at most {limits.text_bytes} are tokenised "
            "(setting max_text_bytes)"
        )


def _utf8_bytes(text: Any) -> int:
    if not isinstance(text, str):
        raise BadText(f"a text is a string, not {type(text).__name__}")
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as cause:
        raise BadText(f"the text holds half of a character at position {cause.start} (a lone surrogate)") from cause


OPERATIONS: Mapping[str, type[InputOperation]] = {"tokenize": Tokenize}
"""Every operation on texts, by the name that the YAML gives it."""
