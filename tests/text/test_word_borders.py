import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from nlpapp.text.word_borders import word_cutter

METASPACE = pre_tokenizers.Metaspace()


def tokenizer_of(normalizer, pre_tokenizer, model=None):
    tokenizer = Tokenizer(model or models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def bert(**options):
    pieces = ("[UNK]", "the", "##s", "\u00e9", "\u5929", "##\u5929")
    model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    return tokenizer_of(
        normalizers.BertNormalizer(**options), pre_tokenizers.BertPreTokenizer(), model
    )


def chunks(tokenizer, text):
    cutter = word_cutter(tokenizer)
    data = text.encode()
    starts = cutter.starts(np.frombuffer(data, dtype=np.uint8)).tolist()
    return [data[a:b].decode() for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nthe cat", ["\nthe", " cat"]),
        ("\na  b \nc", ["\na ", " b ", "\nc"]),
        ("\n\n\nx", ["\n", "\n", "\nx"]),
        ("\ndon't.", ["\ndon", "'", "t", "."]),
        ("\na, (b)", ["\na", ",", " (", "b", ")"]),
        ("\n\u4eca\u5929x\u4e00.\u9fff", ["\n\u4eca", "\u5929", "x", "\u4e00", ".", "\u9fff"]),
        ("\n\u4dff\ua000\u00e9\x00b\u00a0c", ["\n\u4dff\ua000\u00e9\x00b\u00a0c"]),
        ("\na\tb\r", ["\na", "\tb\r"]),
    ],
)
def test_bert_is_cut_at_blanks_punctuation_and_chinese(text, expected):
    assert chunks(bert(), text) == expected


def test_bert_without_chinese_handling_takes_ideographs_for_letters():
    assert chunks(bert(handle_chinese_chars=False), "\n\u4eca\u5929x") == ["\n\u4eca\u5929x"]


def test_bert_unifies_letter_case_and_blanks():
    text = "\nThe\tCAF\u00c9 Z".encode()
    assert word_cutter(bert(lowercase=True)).unify(text) == " the caf\u00c9 z".encode()
    assert word_cutter(bert(lowercase=False)).unify(text) == " The CAF\u00c9 Z".encode()


def test_words_known_from_the_vocabulary_alone():
    assert dict(word_cutter(bert()).whole_words) == {"the": 1, "\u5929": 4}
    assert dict(word_cutter(bert(handle_chinese_chars=False)).whole_words) == {"the": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\nthe cat", ["\nthe", " cat"]),
        ("\n the   cat  ", ["\n the", "   cat", "  "]),
        ("\na\t b", ["\na\t b"]),
        ("\na\x01 b", ["\na\x01 b"]),
        ("\na\u00a0 b", ["\na\u00a0 b"]),
        ("\na\u3000 b", ["\na\u3000 b"]),
        ("\ne\u0301 b", ["\ne\u0301 b"]),
        (
            "\n\u00e9 b\u2019 c\u3002 d\ud55c e",
            ["\n\u00e9", " b\u2019", " c\u3002", " d\ud55c", " e"],
        ),
        ("\n\U0001f600 b c", ["\n\U0001f600 b", " c"]),
    ],
)
@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        METASPACE,
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), METASPACE]),
    ],
    ids=["byte level", "metaspace", "whitespace", "both"],
)
def test_others_are_cut_before_blanks_after_visible_characters(text, expected, pre_tokenizer):
    assert chunks(tokenizer_of(None, pre_tokenizer), text) == expected
    assert word_cutter(tokenizer_of(None, pre_tokenizer)).unify(b"\nA b") == b"\nA b"


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.NFC(),
        normalizers.NFKD(),
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()]),
        normalizers.Lowercase(),
        normalizers.Replace("``", '"'),
        normalizers.Replace(Regex(" {2,}"), " "),
        normalizers.Strip(left=False, right=True),
    ],
    ids=["nfc", "nfkd", "accents", "lower", "quotes", "runs", "strip"],
)
def test_known_normalizers_leave_the_borders_where_they_are(normalizer):
    tokenizer = tokenizer_of(normalizer, METASPACE)
    assert chunks(tokenizer, "\nThe T\u00fcr is  on") == ["\nThe", " T\u00fcr", " is", "  on"]


def test_no_border_after_what_a_normalizer_makes_a_blank():
    # NFKD gives a blank and a mark, of which the mark goes.
    both = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])
    assert chunks(tokenizer_of(both, METASPACE), "\na\u00a8 b c") == ["\na\u00a8 b", " c"]
    assert chunks(tokenizer_of(None, METASPACE), "\na\u00a8 b c") == ["\na\u00a8", " b", " c"]


@pytest.mark.parametrize(
    "tokenizer",
    [
        tokenizer_of(normalizers.Prepend("x"), METASPACE),
        tokenizer_of(normalizers.Strip(left=True, right=False), METASPACE),
        tokenizer_of(normalizers.Replace("a b", "c"), METASPACE),
        tokenizer_of(normalizers.Replace("a", " "), METASPACE),
        tokenizer_of(normalizers.Replace(Regex("a."), "c"), METASPACE),
        tokenizer_of(normalizers.Sequence([normalizers.Prepend("x")]), METASPACE),
        tokenizer_of(normalizers.BertNormalizer(), METASPACE),
        tokenizer_of(None, pre_tokenizers.Metaspace(split=False)),
        tokenizer_of(None, pre_tokenizers.ByteLevel(use_regex=False)),
        tokenizer_of(None, pre_tokenizers.Punctuation()),
        Tokenizer(models.BPE()),
    ],
)
def test_what_is_not_known_is_not_cut(tokenizer):
    assert word_cutter(tokenizer) is None
