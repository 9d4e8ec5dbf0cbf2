import random
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from nlpapp.errors import ConfigError
from nlpapp.text import word_encoding
from nlpapp.text.word_encoding import LineEncoder, plain_encoder
from nlpapp.text.wordpiece import load_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SENTENCES = [
    "The cat sat on the mat, and the dog's friend didn't see it: \u201cNever!\u201d she said.",
    "Unaffordable prices (12.50 dollars) rose 3-4 % in Z\u00fcrich; na\u00efve caf\u00e9s...",
    "\u0410\u043b\u0435\u043a\u0441\u0435\u0439 \u0447\u0438\u0442\u0430\u043b, \u03c4\u03bf.",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u3002",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8, \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17",
    "``quoted'' it's we'll they've I'm 1234567 x_y a/b <html> # ## ##ing",
]
PIECES = (
    *("the", "The", "cat", "DOG'S", "un", "affordable", "walking", "it's", "a", "I", "12", "3.5"),
    *(" ", " ", " ", " ", "  ", "   ", "\t", "\r", "\v", "\f", "\x1c", "\x85", "\u00a0", "\u2028"),
    *("\u3000", "\u2003", "\u200b", "\u200d", "\ufeff", "\u00ad", "\x00", "\x01", "\x7f", "\ufffd"),
    *(".", ",", "-", "'", '"', "``", "''", "#", "##", "##s", "[MASK]", "[CLS]", "<mask>", "</s>"),
    *("\u0301", "\u0308", "e\u0301", "\u00e9", "\u0130", "\u212a", "\u00df", "\u03a3", "\u1e9e"),
    *("\u00a8", "\u037e", "\u2026", "\u201c", "\u2014", "\ufb01", "\uff01", "\ufdfa", "\u0600"),
    *("\u4eca", "\u5929", "\u4e00", "\u9fff", "\u3400", "\uf900", "\u3042", "\ud55c", "\u1112"),
    *("\u4dff", "\ua000", "\U00020000", "\U0001f600", "\U0001f468\u200d\U0001f469", "\u0e33"),
    *("\u0939\u093f", "\u0634\u0651", "\u2581", "\u0120", "x" * 101, "Y" * 100, "\u00e9" * 101),
    *("\u0345", "\u0f71\u0f72", "\u1100\u1161", "\U0001f1e9\U0001f1ea", "\ue000", "\u0d4e"),
)


def nasty_lines(count, seed):
    rng = random.Random(seed)
    lines = ["", " ", "  ", "\r", "\u00a0", *SENTENCES]
    for _ in range(count):
        lines.append("".join(rng.choices(PIECES, k=rng.choice([1, 2, 3, 5, 8, 20]))))
    for _ in range(count // 4):
        # Any code point that UTF-8 can write, blanks between them.
        codes = [rng.choice([rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x30000)])]
        codes += [rng.choice([0x20, rng.randrange(11, 0x3100)]) for _ in range(rng.randrange(12))]
        lines.append("".join(map(chr, codes)))
    rng.shuffle(lines)
    return [line.replace("\n", "") for line in lines]


def trained(model, trainer, normalizer, pre_tokenizer):
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(SENTENCES * 3 + nasty_lines(200, 1), trainer)
    return tokenizer


def wordpiece(*, pre_tokenizer=None, normalizer=None, **options):
    return trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False),
        normalizer or normalizers.BertNormalizer(**options),
        pre_tokenizer or pre_tokenizers.BertPreTokenizer(),
    )


def byte_level(normalizer=None, **options):
    return trained(
        models.BPE(),
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["<pad>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
        normalizer,
        pre_tokenizers.ByteLevel(**options),
    )


def unigram(pre_tokenizer, normalizer=None):
    return trained(
        models.Unigram(),
        trainers.UnigramTrainer(
            vocab_size=500, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        ),
        normalizer,
        pre_tokenizer,
    )


def split_metaspace(scheme):
    return pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
    )


ALBERT = normalizers.Sequence(
    [
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
    ]
)
DEBERTA = normalizers.Sequence(
    [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
)
BIG_BIRD = normalizers.Sequence(
    [
        normalizers.Strip(left=False, right=False),
        normalizers.Replace(Regex(r" {2,}"), "\u2581"),
    ]
)
LOCAL = {
    "bert uncased": lambda: wordpiece(lowercase=True),
    "bert cased": lambda: wordpiece(lowercase=False),
    "bert with accents": lambda: wordpiece(lowercase=True, strip_accents=False),
    "bert cased without accents": lambda: wordpiece(lowercase=False, strip_accents=True),
    "bert raw": lambda: wordpiece(clean_text=False, handle_chinese_chars=False),
    "gpt2": lambda: byte_level(add_prefix_space=False),
    "gpt2 prefix": lambda: byte_level(add_prefix_space=True),
    "gpt2 nfc": lambda: byte_level(normalizers.NFC(), add_prefix_space=False),
    "gpt2 nfkc": lambda: byte_level(normalizers.NFKC(), add_prefix_space=True),
    "xlm-r": lambda: unigram(split_metaspace("always"), normalizers.NFKC()),
    "xlm-r first": lambda: unigram(split_metaspace("first")),
    "albert": lambda: unigram(split_metaspace("always"), ALBERT),
    "metaspace": lambda: unigram(pre_tokenizers.Metaspace()),
    "metaspace first": lambda: unigram(pre_tokenizers.Metaspace(prepend_scheme="first")),
    "metaspace never": lambda: unigram(pre_tokenizers.Metaspace(prepend_scheme="never")),
    "deberta": lambda: unigram(pre_tokenizers.Metaspace(), DEBERTA),
    "big bird": lambda: unigram(pre_tokenizers.Metaspace(prepend_scheme="first"), BIG_BIRD),
    "words at blanks": lambda: wordpiece(
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(), normalizer=normalizers.NFD()
    ),
}
PLAIN = {
    "no regex": lambda: byte_level(add_prefix_space=False, use_regex=False),
    "strips left": lambda: unigram(
        pre_tokenizers.Metaspace(), normalizers.Strip(left=True, right=True)
    ),
    "whole lines": lambda: unigram(pre_tokenizers.Metaspace(split=False)),
    "blank in pattern": lambda: unigram(
        pre_tokenizers.Metaspace(), normalizers.Replace("t s", "ts")
    ),
    "unknown pattern": lambda: unigram(
        pre_tokenizers.Metaspace(), normalizers.Replace(Regex("t s"), "ts")
    ),
    "vanishing letter": lambda: unigram(pre_tokenizers.Metaspace(), normalizers.Replace("t", "")),
    "unknown normalizer": lambda: unigram(
        pre_tokenizers.Metaspace(), normalizers.Prepend("\u2581")
    ),
    "unknown pre-tokenizer": lambda: wordpiece(
        pre_tokenizer=pre_tokenizers.Split(Regex("t [a-z]"), "isolated")
    ),
}


def plain_ids(tokenizer, lines):
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return [e.ids for e in tokenizer.encode_batch_fast(lines, add_special_tokens=False)]


def encoded_ids(encoder, lines):
    encoded = encoder.encode("".join(f"{line}\n" for line in lines).encode())
    assert encoded.ends.dtype == np.int64
    assert len(encoded.ends) == len(lines)
    assert not len(lines) or encoded.ends[-1] == len(encoded.ids)
    starts = [0, *encoded.ends.tolist()]
    return [encoded.ids[a:b].tolist() for a, b in zip(starts, starts[1:], strict=False)]


def check_equal(tokenizer, encoder, lines):
    wrong = [
        (line, got, want)
        for line, got, want in zip(
            lines, encoded_ids(encoder, lines), plain_ids(tokenizer, lines), strict=True
        )
        if got != want
    ]
    assert not wrong, f"{len(wrong)} of {len(lines)} lines differ, first {wrong[0]}"


@pytest.mark.parametrize("name", LOCAL)
def test_words_one_by_one_give_the_ids_of_the_plain_tokenizer(name):
    tokenizer = LOCAL[name]()
    encoder = LineEncoder(tokenizer)
    assert encoder.local
    for seed in (2, 3):  # The second call meets remembered words.
        check_equal(tokenizer, encoder, nasty_lines(2500, seed))


@pytest.mark.parametrize("name", PLAIN)
def test_other_tokenizers_take_the_plain_path(name):
    tokenizer = PLAIN[name]()
    encoder = LineEncoder(tokenizer)
    assert not encoder.local
    check_equal(tokenizer, encoder, nasty_lines(300, 4))


def test_tokens_added_to_the_vocabulary_are_found_as_the_tokenizer_finds_them():
    tokenizer = wordpiece(lowercase=True)
    tokenizer.add_tokens(["cat sat", AddedToken("mat", single_word=True)])
    encoder = LineEncoder(tokenizer)
    assert not encoder.local
    lines = ["the cat sat on the mat", "mats", *nasty_lines(300, 5)]
    check_equal(tokenizer, encoder, lines)
    assert tokenizer.token_to_id("cat sat") in encoded_ids(encoder, lines[:1])[0]


def test_dropout_takes_the_plain_path():
    tokenizer = byte_level()
    assert LineEncoder(tokenizer).local
    tokenizer.model.dropout = 0.5
    assert not LineEncoder(tokenizer).local


def test_special_tokens_in_a_text_are_text():
    tokenizer = wordpiece(lowercase=True)
    (ids,) = encoded_ids(LineEncoder(tokenizer), ["a [MASK] b"])
    assert tokenizer.token_to_id("[MASK]") not in ids
    assert ids[:2] == [tokenizer.token_to_id("a"), tokenizer.token_to_id("[")]


def test_the_tokenizer_given_stays_as_it_is():
    tokenizer = wordpiece(lowercase=True)
    tokenizer.enable_truncation(3)
    check_equal(tokenizer, LineEncoder(tokenizer), SENTENCES)
    assert tokenizer.truncation["max_length"] == 3
    assert not tokenizer.encode_special_tokens


@pytest.mark.parametrize("name", ["bert uncased", "gpt2 prefix", "whole lines"])
def test_empty_text_and_empty_lines(name):
    encoder = LineEncoder((LOCAL | PLAIN)[name]())
    empty = encoder.encode(b"")
    assert (empty.ids.tolist(), empty.ends.tolist()) == ([], [])
    assert (empty.ids.dtype, empty.ends.dtype) == (np.uint16, np.int64)
    blank = encoder.encode(b"\n\n")
    assert (blank.ids.tolist(), blank.ends.tolist()) == ([], [0, 0])


@pytest.mark.parametrize("name", ["bert uncased", "whole lines"])
def test_a_text_must_end_with_a_line_feed_and_be_utf_8(name):
    encoder = LineEncoder((LOCAL | PLAIN)[name]())
    with pytest.raises(ValueError, match="line feed"):
        encoder.encode(b"the cat")
    with pytest.raises(ValueError, match="utf-8"):
        encoder.encode(b"the c\xe9t\n")


@pytest.mark.parametrize("name", ["bert uncased", "gpt2", "whole lines"])
def test_a_large_text_is_cut_at_line_ends(name, monkeypatch):
    tokenizer = (LOCAL | PLAIN)[name]()
    lines = ["", *nasty_lines(300, 6), "one line " * 40, "", ""]
    whole = LineEncoder(tokenizer).encode("".join(f"{line}\n" for line in lines).encode())
    for size in (1, 50, 333):
        monkeypatch.setattr(word_encoding, "CUT_AT_ONCE", size)
        parts = LineEncoder(tokenizer).encode("".join(f"{line}\n" for line in lines).encode())
        assert parts.ids.tolist() == whole.ids.tolist()
        assert parts.ends.tolist() == whole.ends.tolist()
        assert (parts.ids.dtype, parts.ends.dtype) == (whole.ids.dtype, whole.ends.dtype)


@pytest.mark.parametrize("limit", ["KEPT_CHUNKS", "KEPT_CHARACTERS"])
def test_what_is_remembered_is_bounded(limit, monkeypatch):
    monkeypatch.setattr(word_encoding, limit, 200)
    tokenizer = wordpiece(lowercase=True)
    encoder = LineEncoder(tokenizer)
    held = []
    for seed in range(8):
        lines = nasty_lines(60, seed)
        check_equal(tokenizer, encoder, lines)
        held.append(len(encoder._row_of))
    fresh = LineEncoder(tokenizer)
    check_equal(tokenizer, fresh, lines)
    assert held[-1] == len(fresh._row_of), "all was forgotten before the last call"


def test_a_vocabulary_beyond_two_bytes_gives_wider_ids():
    vocabulary = {f"w{i}": i for i in range(70_000)} | {"[UNK]": 70_000}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    encoded = LineEncoder(tokenizer).encode(b"w5 w69999 zzz\n")
    assert encoded.ids.dtype == np.uint32
    assert encoded.ids.tolist() == [5, 69_999, 70_000]


def test_a_word_in_the_vocabulary_that_is_too_long_is_unknown():
    vocabulary = {"[UNK]": 0, "a": 1, "long": 2, "##a": 3}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=3)
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert encoded_ids(LineEncoder(tokenizer), ["a Long aaa a"]) == [[1, 0, 1, 3, 3, 1]]


def test_plain_encoder_needs_an_engine():
    with pytest.raises(ConfigError, match="object is a tokenizer in pure Python"):
        plain_encoder(object())
    tokenizer = wordpiece(lowercase=True)
    tokenizer.enable_padding(length=50)
    encoder = plain_encoder(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert encoder.padding is None
    assert encoder.encode_special_tokens


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["uncased_en", "cased_en", "chinese"])
def test_real_vocabularies(name, shared_data):
    tokenizer = plain_encoder(load_tokenizer(shared_data / "bert" / f"{name}_vocab.txt"))
    text = (shared_data / "bert" / "sample_text.txt").read_text(encoding="utf-8")
    encoder = LineEncoder(tokenizer)
    assert encoder.local
    check_equal(tokenizer, encoder, text.split("\n") + nasty_lines(3000, 7))


def test_importing_is_light():
    code = (
        "import sys, nlpapp.text.word_encoding as e; from tokenizers import *;"
        "t = Tokenizer(models.WordPiece({'[UNK]': 0, 'a': 1}, unk_token='[UNK]'));"
        "t.normalizer = normalizers.BertNormalizer();"
        "t.pre_tokenizer = pre_tokenizers.BertPreTokenizer();"
        "assert e.LineEncoder(t).encode(b'a b\\n').ids.tolist() == [1, 0];"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
