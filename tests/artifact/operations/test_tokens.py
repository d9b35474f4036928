"""Our own cutting and joining of tokens is that of the tokenizers package, which cannot be let to do it."""

import random

import pytest
from fuzz.raw_models import WORDS, pieces_tokenizer, words_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from artifact.operations import RawLimits
from artifact.operations.errors import BadText, TooLarge
from artifact.operations.kinds import Raw
from artifact.operations.text import Tokenize
from artifact.operations.tokens import Layout

START, END = ("<s>", 6), ("</s>", 5)
PROCESSORS = {
    "roberta": processors.RobertaProcessing(END, START),
    "other": processors.TemplateProcessing(single="<s> $A:3 </s>", pair="<s> $B:1 </s> $A:0 </s>:2", special_tokens=[START, END]),
    "one-text-only": processors.TemplateProcessing(single="$A </s>", pair="$A:0 $B:1 $A:0", special_tokens=[END]),
}


def tokenizer(name):
    """A tokenizer.json: BERT's, a byte-level one without anything around texts, and that with other processors."""
    made = Tokenizer.from_str((words_tokenizer if name == "bert" else pieces_tokenizer)().decode())
    if name in PROCESSORS:
        made.post_processor = PROCESSORS[name]
    return made


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("name", ["bert", "plain", "roberta", "other"])
def test_cut_as_the_package_cuts(name, pair):
    """Random texts, both sides, every size around that of the texts: ids, types and mask are the package's."""
    rng, direct = random.Random(name), tokenizer(name)
    pieces = (*WORDS, "[SEP]", "é", "x1", "\ufdfa", "")
    for side in ("right", "left"):
        for most in (5, 6, 7, 8, 9, 16, 33):
            step = Tokenize(file="t", max_tokens=most, truncation=side, pair=pair, pad_id=0).step(
                Raw("text"), {"t": tokenizer(name).to_str().encode()}
            )
            direct.enable_truncation(most, direction=side)
            for _ in range(25):
                texts = [" ".join(rng.choices(pieces, k=rng.randrange(14))) for _ in range(1 + pair)]
                expected = direct.encode(texts[0], texts[1] if pair else None)
                found = step(tuple(texts) if pair else texts[0], RawLimits())
                assert found["input_ids"].tolist() == expected.ids, texts
                assert found["token_type_ids"].tolist() == expected.type_ids
                assert found["attention_mask"].tolist() == expected.attention_mask


def test_a_tokenizer_without_a_place_for_two_texts():
    """One that would say the first text twice is refused, where the chain is declared."""
    made = tokenizer("one-text-only")

    assert Layout.of(made, pair=False).special == 1
    with pytest.raises(ValueError, match="no place for two texts; declare pair: false, or mend its post_processor"):
        Layout.of(made, pair=True)


def test_a_tokenizer_without_a_place_for_a_text():
    """The part of the file is named that says where texts stand."""
    made = tokenizer("plain")
    for template in ("</s>", "$A </s> $A"):
        made.post_processor = processors.TemplateProcessing(single=template, pair="$A $B", special_tokens=[END])
        with pytest.raises(ValueError, match=r"mend its .*post_processor.* template has one \$A$"):
            Layout.of(made, pair=False)


def letters(model):
    """A tokenizer of single letters, without a token for what is unknown, between two special ones."""
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [("<s>", 0), ("</s>", 1)]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B", special_tokens=ends)
    return made


BASES = {"<s>": 0, "</s>": 1, "<pad>": 2, "A": 3, "C": 4, "G": 5, "T": 6}
OF_BASES = {
    "WordLevel": models.WordLevel(BASES, unk_token="none"),
    "BPE": models.BPE(BASES, []),
    "WordPiece": models.WordPiece(BASES, unk_token="none"),
    "Unigram": models.Unigram([(base, -1.0) for base in BASES], unk_id=None),
}


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("model", OF_BASES.values(), ids=OF_BASES)
def test_a_vocabulary_without_usual_words(model, pair):
    """Its own words show where texts stand: ids are the package's; what it does not know is for each text to fail on."""
    made = letters(model)
    step = Tokenize(file="t", max_tokens=16, pair=pair).step(Raw("text"), {"t": made.to_str().encode()})
    texts = ("GATTACA", "CA")[: 1 + pair]

    found = step(texts, RawLimits())

    assert found["input_ids"].tolist() == made.encode(texts[0], texts[1] if pair else None).ids
    if not isinstance(model, models.BPE):  # which leaves it out
        with pytest.raises(BadText, match="cannot be tokenised"):
            step(("GAX", "C")[: 1 + pair], RawLimits())


def test_a_tokenizer_that_knows_no_word():
    """Not its own either, since it changes every text before: the message says which parts of the file may be wrong."""
    made = letters(models.WordLevel(BASES, unk_token="none"))
    made.normalizer = normalizers.Replace("A", "X")
    Layout.of(made, pair=False)  # of C
    made.normalizer = normalizers.Lowercase()

    with pytest.raises(
        ValueError, match=r"makes no token of 'a', '0', 'the', nor of the first 100 of its own tokens \(.*\); give"
    ):
        Layout.of(made, pair=False)


def test_texts_that_become_many_letters():
    """What a normalizer makes of a long text counts, too: eighteen letters of one, before a token is made."""
    step = Tokenize(file="t", max_tokens=8, pad_id=0).step(Raw("text"), {"t": pieces_tokenizer()})

    with pytest.raises(TooLarge, match="the text becomes 1080000 letters when the tokenizer normalises it; at most 262144"):
        step("\ufdfa" * 60_000, RawLimits())
    assert step("\ufdfa" * 100, RawLimits())["input_ids"].shape == (8,)


def test_two_texts_count_together():
    """The limit of bytes is for both."""
    step = Tokenize(file="t", max_tokens=8, pair=True).step(Raw("pair"), {"t": words_tokenizer()})

    with pytest.raises(TooLarge, match="the text has 120 bytes; at most 100"):
        step(("a" * 60, "b" * 60), RawLimits(text_bytes=100))
