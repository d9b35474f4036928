"""Texts against the tokenizers package asked directly, and texts and tokenizers that are hostile."""

import json
import threading

import numpy as np
import pytest
from fuzz.raw_models import pieces_tokenizer, words_tokenizer
from tokenizers import Tokenizer

from artifact.operations import RawLimits, make, parse
from artifact.operations.errors import BadOperations, BadText, TooLarge
from artifact.signature import Dim, Signature, TensorSpec

WORDS, PIECES = words_tokenizer(), pieces_tokenizer()
TEXTS = (
    "the picture of a sentence",
    "",
    "   ",
    "\x00 zero \x00",
    "Größe, naïveté, 東京, \U0001f642\u200d\U0001f525, e\u0301",
    "word " * 500,
    "x" * 5000,
    "\u202e\ufeff\u0300\U000e0001",
)
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def operations(tokenizer=WORDS, inputs=NAMES, least=1, multiple=1, **parameters):
    given = {"file": "t.json", "max_tokens": 32, **parameters}
    specs = tuple(TensorSpec(name, given.get("dtype", "int64"), ("batch", "length")) for name in inputs)
    signature = Signature(
        specs, (TensorSpec("y", "float32", ("batch", 1)),), {"batch": Dim(1, 16), "length": Dim(least, 32, multiple)}
    )
    return make(parse([{"tokenize": given}]), signature, {"t.json": tokenizer}, {})


def by_hand(tokenizer, text, **truncation):
    direct = Tokenizer.from_str(tokenizer.decode())
    direct.enable_truncation(32, **truncation)
    return direct.encode(*(text if isinstance(text, tuple) else (text,)))


@pytest.mark.parametrize("tokenizer", [WORDS, PIECES], ids=["words", "pieces"])
@pytest.mark.parametrize("direction", ["right", "left"])
def test_ids_are_those_of_the_package(tokenizer, direction):
    """Ids, masks and types of every text are what the package gives to who asks it directly."""
    made = operations(tokenizer, truncation=direction)

    for text in TEXTS:
        if text.strip() or tokenizer is WORDS:
            row, expected = made.prepare({"text": text}, RawLimits()), by_hand(tokenizer, text, direction=direction)
            assert row["input_ids"].tolist() == [expected.ids]
            assert row["attention_mask"].tolist() == [expected.attention_mask]
            assert row["token_type_ids"].tolist() == [expected.type_ids]
            assert row["input_ids"].dtype == np.int64


def test_pairs_are_those_of_the_package():
    """Two texts: the special tokens between them, their types, and cut to fit, as the package does it."""
    made = operations(pair=True)

    for pair in (("a sentence", "is it not"), ("word " * 40, "a picture"), ("", "")):
        row, expected = made.prepare({"text": pair}, RawLimits()), by_hand(WORDS, pair)
        assert row["input_ids"].tolist() == [expected.ids]
        assert row["token_type_ids"].tolist() == [expected.type_ids]
    assert made.raw_inputs[0].kind == "pair"


@pytest.mark.parametrize("texts", ["a", ("a",), ("a", "b", "c")])
def test_a_pair_is_two_texts(texts):
    """One or three are refused: nothing is left out in silence."""
    with pytest.raises(BadText, match="two texts are expected, not"):
        operations(pair=True).prepare({"text": texts}, RawLimits())


@pytest.mark.parametrize("side", ["right", "left"])
def test_rows_of_several_lengths_are_filled(side):
    """Joined, each row is what it is alone, filled with the padding's id and a mask of 0, to a size that the model takes."""
    made = operations(padding_side=side)
    rows = [made.prepare({"text": text}, RawLimits()) for text in TEXTS]
    joined = made.join(rows)

    longest = max(row["input_ids"].shape[1] for row in rows)
    assert joined["input_ids"].shape == (len(TEXTS), longest)
    for place, row in enumerate(rows):
        size = row["input_ids"].shape[1]
        own = slice(longest - size, None) if side == "left" else slice(0, size)
        np.testing.assert_array_equal(joined["input_ids"][place, own], row["input_ids"][0])
        np.testing.assert_array_equal(joined["attention_mask"][place, own], 1)
        assert joined["attention_mask"][place].sum() == size
        assert np.delete(joined["input_ids"][place], np.arange(longest)[own]).tolist() == [0] * (longest - size)
    in_eights = operations(least=8, multiple=8)
    assert in_eights.join([in_eights.prepare({"text": "a"}, RawLimits())])["input_ids"].shape == (1, 8)


def test_padding_to_the_most():
    """`padding: max`: every row has max_tokens, whatever it holds."""
    row = operations(padding="max", max_tokens=12).prepare({"text": "a picture"}, RawLimits())

    assert {array.shape for array in row.values()} == {(1, 12)}
    assert row["attention_mask"].sum() == 4


def test_only_what_the_model_takes_is_made():
    """A model without types, or with names of its own; int32 where it takes that."""
    assert set(operations(inputs=("input_ids",)).prepare({"text": "a"}, RawLimits())) == {"input_ids"}
    named = operations(inputs=("tokens", "attention_mask"), names={"input_ids": "tokens"}, dtype="int32")
    assert {name: str(array.dtype) for name, array in named.prepare({"text": "a"}, RawLimits()).items()} == {
        "tokens": "int32",
        "attention_mask": "int32",
    }


def test_many_threads_may_use_one():
    """What threads prepare at once is what one prepares."""
    made = operations()
    expected = [made.prepare({"text": text}, RawLimits())["input_ids"].tolist() for text in TEXTS]
    wrong = []

    def work():
        for _ in range(50):
            found = [made.prepare({"text": text}, RawLimits())["input_ids"].tolist() for text in TEXTS]
            if found != expected:
                wrong.append(found)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "limits", "error", "message"),
    [
        ("a" * 100, RawLimits(text_bytes=99), TooLarge, "the text has 100 bytes; at most 99 are tokenised"),
        ("é" * 60, RawLimits(text_bytes=100), TooLarge, "the text has 120 bytes"),
        ("word " * 50, RawLimits(tokens=40), TooLarge, "tokens; at most 40 are taken"),
        ("half \ud83d", RawLimits(), BadText, "half of a character at position 5"),
        (7, RawLimits(), BadText, "a text is a string, not int"),
        (("a", "b"), RawLimits(), BadText, "one text is expected, not 2"),
        ((), RawLimits(), BadText, "one text is expected, not 0"),
    ],
)
def test_texts_that_are_refused(text, limits, error, message):
    """Too long in bytes or tokens, half a character, no text at all."""
    with pytest.raises(error) as caught:
        operations().prepare({"text": text}, limits)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("tokenizer", "parameters", "message"),
    [
        (b"", {}, "tokenize.file: t.json is no tokenizer.json that the tokenizers package reads"),
        (b"\xff", {}, "t.json is no tokenizer.json"),
        (b'{"version": "1.0"}', {}, "t.json is no tokenizer.json"),
        (b"[" * 100_000, {}, "t.json is no tokenizer.json"),
        (WORDS, {"max_tokens": 2}, "tokenize.max_tokens: 2 leaves no room: t.json adds 2 tokens to every text"),
        (WORDS, {"max_tokens": 64}, "the chain makes [up to 64] for a row, but input input_ids is [length: 1 to 32]"),
        (WORDS.replace(b"[PAD]", b"[PUT]"), {}, "no token for padding"),
        (WORDS, {"names": {"ids": "x"}}, "input_ids"),
        (WORDS, {"names": {"input_ids": "attention_mask"}}, "two of them are called attention_mask"),
        (WORDS, {"truncation": "middle"}, "'right' or 'left'"),
    ],
)
def test_tokenizers_that_do_not_fit(tokenizer, parameters, message):
    """Damaged files, too few or too many tokens, no padding: refused when they are declared, at their place."""
    with pytest.raises(BadOperations) as caught:
        operations(tokenizer, **parameters)
    assert message in str(caught.value)
    assert caught.value.path[:3] == ("preprocess", 0, "tokenize")


def test_a_tokenizer_that_is_no_function():
    """BPE with dropout makes other tokens of the same text each time."""
    model = {"type": "BPE", "dropout": 0.5, "vocab": {"[PAD]": 0, "a": 1}, "merges": []}
    with pytest.raises(BadOperations, match=r"tokenize\.file: t\.json has a dropout of 0\.5: a text would become other tokens"):
        operations(json.dumps({**json.loads(WORDS), "model": model}).encode())


def test_a_range_that_the_vocabulary_exceeds():
    """Ids beyond the declared range were never proven: the message says what to declare."""
    ids = TensorSpec("input_ids", "int64", ("batch", "length"), (0, 10))
    signature = Signature((ids,), (TensorSpec("y", "float32", ("batch", 1)),), {"batch": Dim(1, 2), "length": Dim(1, 32)})

    with pytest.raises(BadOperations, match=r"declares the range \[0, 10\]; declare what it makes"):
        make(parse([{"tokenize": {"file": "t.json", "max_tokens": 32}}]), signature, {"t.json": WORDS}, {})


PARTS = [{"SpecialToken": {"id": "[X]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
TEXT_B = {"Sequence": {"id": "B", "type_id": 1}}
FAILS = {
    "on reading": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "on its layout": {
        "post_processor": {"type": "TemplateProcessing", "single": PARTS, "pair": [*PARTS, TEXT_B], "special_tokens": {}}
    },
    "on words": {"model": {"type": "Unigram", "unk_id": None, "vocab": [["[PAD]", 0.0]]}},
}


@pytest.mark.parametrize("changes", FAILS.values(), ids=FAILS)
def test_tokenizers_that_the_package_fails_on(changes):
    """Its Rust code may panic, which is no Exception of Python: the tokenizer is refused all the same."""
    hostile = json.dumps({**json.loads(WORDS), **changes}).encode()
    with pytest.raises(BadOperations, match=r"^preprocess\.0\.tokenize\.file: t\.json"):
        operations(hostile)


def test_ids_that_the_dtype_cannot_hold():
    """Refused when declared, and not by NumPy when a row is filled up."""
    with pytest.raises(BadOperations, match="token ids reach 1099511627776, which int32 cannot hold"):
        operations(pad_id=2**40, dtype="int32")
