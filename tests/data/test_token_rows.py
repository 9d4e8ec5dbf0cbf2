"""Rows are the tokenizer's own, whatever it is: of words, of bytes, of pieces, or of characters."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nlpapp.data import token_rows
from nlpapp.data.token_rows import FlatRows, tokenize_rows

TEXTS = [
    "the cat sat on the mat",
    "",
    "A dog, RAN over the hill and over the hill and over the hill!",
    "the [MASK] sat </s> on the <mask>",
    "two\nlines  of\ttext",
    "café 中文 cats",
    "the\rcat sat",
]
PAIRS = ["on the mat", "the dog", "a bird sat on the mat and ran", "", "a [SEP] b", "x", "the cat"]
WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog", "ran", "over", "hill", "and", "caf", "##s"]


def byte_pairs():
    """Bytes as pieces, and RoBERTa's two separators between the texts of a pair."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("Ġ", "s")]
    pieces = ["<s>", "</s>", "<mask>", *alphabet, *("".join(pair) for pair in merges)]
    engine = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    engine.add_special_tokens(["<s>", "</s>", AddedToken("<mask>", lstrip=True)])
    return PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="</s>")


def last_is_the_class():
    """XLNet's order: what stands behind the texts has types of its own."""
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "<sep>", "<cls>", *WORDS])}
    engine = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        special_tokens=[("<sep>", 1), ("<cls>", 2)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="<sep>")


def not_of_words():
    """One piece may reach over several words, so that no word can be looked up by itself."""
    scores = [("[UNK]", 0.0), ("the cat", -1.0), *((letter, -3.0) for letter in "abcdeht ")]
    engine = Tokenizer(models.Unigram(scores, unk_id=0))
    return PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="[UNK]")


def without_latin_letters():
    """No token at all stands for a letter that is not in the vocabulary."""
    pieces = ["<s>", "</s>", "к", "о", "т", "и", "ко"]
    engine = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [("к", "о")]))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="</s>")


def with_a_token_that_is_normalized():
    vocabulary = {word: i for i, word in enumerate(["[UNK]", "[PAD]", *WORDS])}
    engine = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.add_tokens([AddedToken("cat sat", normalized=True)])
    return PreTrainedTokenizerFast(tokenizer_object=engine, pad_token="[PAD]")


@pytest.fixture(params=["bert", byte_pairs, last_is_the_class, not_of_words, "normalized"])
def tokenizer(request, tiny_tokenizer_folder):
    if request.param == "bert":
        return AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    if request.param == "normalized":
        return with_a_token_that_is_normalized()
    return request.param()


@pytest.mark.parametrize("pairs", [None, PAIRS])
@pytest.mark.parametrize("limit", [6, 9, 64])
def test_rows_are_those_of_the_tokenizer(tokenizer, pairs, limit, monkeypatch):
    monkeypatch.setattr(token_rows, "ROWS_AT_ONCE", 3)
    rows = tokenize_rows(tokenizer, TEXTS, pairs, max_seq_length=limit)
    for index, text in enumerate(TEXTS):
        # Lists: a single empty second text would count as none.
        row = ([text],) if pairs is None else ([text], [pairs[index]])
        (whole,) = tokenizer(*row)["input_ids"]
        expected = tokenizer(
            *row, truncation="longest_first", max_length=limit, return_token_type_ids=True
        )
        assert rows.ids[index].tolist() == expected["input_ids"][0]
        assert rows.types[index].tolist() == expected["token_type_ids"][0]
        assert rows.cut[index] == (len(whole) > limit)
    assert rows.ids.flat.dtype == np.int32
    assert rows.types.flat.dtype == np.int8


def test_which_tokenizers_get_each_word_once(tiny_tokenizer_folder):
    bert = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    for local in (bert, byte_pairs(), last_is_the_class()):
        assert token_rows._word_encoder(local) is not None
    for other in (not_of_words(), with_a_token_that_is_normalized()):
        assert token_rows._word_encoder(other) is None


def test_the_encoder_of_words_is_made_once_and_anew_for_a_tokenizer_that_has_changed(
    tiny_tokenizer_folder,
):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    before = tokenize_rows(tokenizer, ["the cat zyx"], None, max_seq_length=12).ids[0].tolist()
    encoder = token_rows._word_encoder(tokenizer)
    assert token_rows._word_encoder(tokenizer) is encoder
    tokenizer.add_tokens(["zyx"], special_tokens=True)
    assert token_rows._word_encoder(tokenizer) is not encoder
    after = tokenize_rows(tokenizer, ["the cat zyx"], None, max_seq_length=12).ids[0].tolist()
    assert after == tokenizer("the cat zyx")["input_ids"] != before


def test_only_rows_that_need_it_go_through_the_tokenizer(tiny_tokenizer_folder, monkeypatch):
    asked = []
    by_tokenizer = token_rows._by_tokenizer

    def count(tokenizer, sides, limit):
        asked.extend(sides[0])
        return by_tokenizer(tokenizer, sides, limit)

    monkeypatch.setattr(token_rows, "_by_tokenizer", count)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    tokenize_rows(tokenizer, TEXTS, None, max_seq_length=12)
    assert asked == [TEXTS[2], TEXTS[3], TEXTS[4]]


def test_a_tokenizer_without_latin_letters():
    tokenizer = without_latin_letters()
    assert token_rows._word_encoder(tokenizer) is not None
    rows = tokenize_rows(tokenizer, ["кот и кот", "the cat"], None, max_seq_length=9)
    assert [row.tolist() for row in rows.ids] == [[0, 6, 4, 5, 6, 4, 1], [0, 1]]
    pairs = tokenize_rows(tokenizer, ["кот и кот", "the cat"], ["кот", "и"], max_seq_length=9)
    # The longer text of the first pair loses two tokens.
    assert [row.tolist() for row in pairs.ids] == [[0, 6, 4, 5, 1, 1, 6, 4, 1], [0, 1, 1, 5, 1]]
    assert pairs.cut.tolist() == [True, False]


def test_flat_rows_are_a_sequence():
    rows = FlatRows.of([[1, 2], [], [3]], np.int32)
    assert [row.tolist() for row in rows] == [[1, 2], [], [3]]
    assert rows[-1].tolist() == [3]
    assert [row.tolist() for row in rows[1:]] == [[], [3]]
    assert [row.tolist() for row in FlatRows.joined([rows, rows])] == 2 * [[1, 2], [], [3]]
    with pytest.raises(IndexError):
        rows[3]
