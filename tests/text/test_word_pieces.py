import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nlpapp.text.word_pieces import Piece, line_starts_are_marked, read_pieces

SPLIT = pre_tokenizers.WhitespaceSplit()


def wrapped(model, pre_tokenizer=None, normalizer=None):
    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def bpe(*pieces, **options):
    return models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], **options)


def wordpiece(*pieces, **options):
    vocabulary = {piece: i for i, piece in enumerate(("[UNK]", *pieces))}
    return models.WordPiece(vocabulary, unk_token="[UNK]", **options)


def unigram(*pieces):
    return models.Unigram([(piece, 0.0) for piece in pieces])


def test_wordpiece():
    pieces = read_pieces(
        wrapped(wordpiece("un", "##able", "##"), pre_tokenizers.BertPreTokenizer())
    )
    assert pieces == [
        Piece("[UNK]", True),
        Piece("un", True),
        Piece("able", False),
        Piece("##", True),
    ]


def test_byte_level():
    tokenizer = wrapped(
        bpe("\u0120the", "ing", "\u0120", "\u010a", "\u00e2\u0122\u013b", "\u00e5\u00a4", "\u00a9"),
        pre_tokenizers.ByteLevel(),
    )
    assert read_pieces(tokenizer) == [
        Piece(" the", True),
        Piece("ing", False),
        Piece(" ", True),
        Piece("\n", True),
        Piece("\u2019", False),
        Piece("\ufffd", True),  # The first two bytes of a Chinese character.
        Piece("\ufffd", False),
    ]


def test_the_byte_alphabet_is_the_tokenizers():
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [chr(code) for code in [*range(0x250), 0x4E00, 0xFFFD, 0x1F600]]
    spelt = ["".join(part for part, _ in pre_tokenizer.pre_tokenize_str(text)) for text in texts]
    pieces = read_pieces(wrapped(bpe(*spelt), pre_tokenizer))
    assert [piece.text for piece in pieces] == texts


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer"),
    [
        (pre_tokenizers.Metaspace(), None),
        (pre_tokenizers.Sequence([SPLIT, pre_tokenizers.Metaspace()]), None),
        (None, normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "\u2581")])),
    ],
)
def test_sentencepiece(pre_tokenizer, normalizer):
    tokenizer = wrapped(unigram("\u2581the", "ing", "\u2581"), pre_tokenizer, normalizer)
    expected = [Piece(" the", True), Piece("ing", False), Piece(" ", True)]
    assert read_pieces(tokenizer) == expected


def test_whole_words():
    tokenizer = wrapped(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"), SPLIT)
    assert read_pieces(tokenizer) == [Piece("[UNK]", True), Piece("the", True)]


@pytest.mark.parametrize(
    "tokenizer",
    [
        wrapped(wordpiece("a", continuing_subword_prefix="")),
        wrapped(bpe("a"), SPLIT),
        wrapped(bpe("a</w>", end_of_word_suffix="</w>"), pre_tokenizers.ByteLevel()),
        wrapped(unigram("a"), SPLIT),
        object(),
    ],
    ids=["no prefix", "no mark", "suffix", "unmarked unigram", "no engine"],
)
def test_other_vocabularies_tell_no_words(tokenizer):
    assert read_pieces(tokenizer) is None


def test_ids_without_a_piece():
    tokenizer = wrapped(models.WordPiece({"[UNK]": 0, "a": 3}, unk_token="[UNK]"))
    assert read_pieces(tokenizer) == [Piece("[UNK]", True), None, None, Piece("a", True)]


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [
        (wrapped(wordpiece("a"), pre_tokenizers.BertPreTokenizer()), True),
        (wrapped(bpe("a"), pre_tokenizers.ByteLevel(add_prefix_space=True)), True),
        (wrapped(bpe("a"), pre_tokenizers.ByteLevel(add_prefix_space=False)), False),
        (wrapped(unigram("a"), pre_tokenizers.Metaspace()), True),
        (wrapped(unigram("a"), pre_tokenizers.Metaspace(prepend_scheme="first")), False),
        (wrapped(unigram("a"), None, normalizers.Replace(" ", "\u2581")), False),
    ],
)
def test_whether_line_starts_are_marked(tokenizer, expected):
    assert line_starts_are_marked(tokenizer) is expected
