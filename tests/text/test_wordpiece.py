import os
import subprocess
import sys
from collections import Counter

import pytest
from tokenizers import normalizers, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizer

from nlpapp.errors import DataError
from nlpapp.text import wordpiece
from nlpapp.text.wordpiece import (
    SPECIAL_TOKENS,
    check_fingerprint,
    describe,
    fingerprint,
    load_tokenizer,
    save_tokenizer,
    train_wordpiece,
)
from tests.conftest import REPOSITORY

TEXTS = ["The cat sat on the mat.", "The bird flew over the hill!", "A bad film, a good film."] * 3
CORPUS = REPOSITORY / "data" / "sample" / "corpus.txt"


@pytest.fixture(scope="module")
def trained():
    return train_wordpiece(CORPUS.read_text(encoding="utf-8").split("\n"), vocab_size=800)


def test_special_tokens_come_first_and_the_size_is_as_wanted(trained):
    assert [trained.convert_ids_to_tokens(i) for i in range(5)] == list(SPECIAL_TOKENS)
    assert trained.pad_token_id == 0 and len(trained) == 800


def test_ids_and_types_of_a_pair_are_bert_s(trained):
    encoded = trained("The bakery", "A lighthouse")
    tokens = trained.convert_ids_to_tokens(encoded["input_ids"])
    assert tokens[0] == "[CLS]" and tokens[-1] == "[SEP]" and tokens.count("[SEP]") == 2
    first = tokens.index("[SEP]") + 1
    assert encoded["token_type_ids"] == [0] * first + [1] * (len(tokens) - first)


def test_the_segmentation_is_that_of_another_implementation(trained, tmp_path):
    # Greedy longest match first, written down here a second time.
    vocabulary = set(trained.get_vocab())

    def pieces(word):
        found, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in vocabulary:
                    break
            else:
                return ["[UNK]"]
            found.append(piece)
            start = end
        return found

    for word in ("bakery", "unhappiness", "lighthouse", "neighbourhood", "x", "zzz"):
        assert trained.tokenize(word) == pieces(word)


def test_training_twice_gives_the_same_ids_in_another_process(trained):
    # The trainer of `tokenizers` alone numbers inner letters differently in every process.
    code = (
        "from nlpapp.text.wordpiece import *; "
        f"texts = open({str(CORPUS)!r}, encoding='utf-8').read().split('\\n'); "
        "print(fingerprint(train_wordpiece(texts, vocab_size=800)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert run.stdout.strip() == fingerprint(trained)


def test_uncased_folds_case_and_accents_and_cased_does_not():
    uncased = train_wordpiece(TEXTS, vocab_size=100)
    assert uncased.tokenize("Thé CAT") == uncased.tokenize("the cat")
    cased = train_wordpiece(TEXTS, vocab_size=100, lowercase=False)
    assert cased.tokenize("The") != cased.tokenize("the")


def test_every_letter_of_the_text_can_be_spelled():
    tokenizer = train_wordpiece(TEXTS, vocab_size=60)
    assert describe(tokenizer, TEXTS)["unknown_rate"] == 0.0


def test_rare_letters_are_dropped_at_the_limit():
    tokenizer = train_wordpiece(["aaa bbb"] * 5 + ["cc"], vocab_size=20, limit_alphabet=2)
    assert tokenizer.tokenize("c") == ["[UNK]"] and tokenizer.tokenize("ab") != ["[UNK]"]


def test_sample_tokenizer_is_the_one_our_code_trains():
    texts = CORPUS.read_text(encoding="utf-8").split("\n")
    sample = load_tokenizer(REPOSITORY / "data" / "sample" / "tokenizer")
    assert fingerprint(train_wordpiece(texts, vocab_size=1500)) == fingerprint(sample)
    bare = load_tokenizer(REPOSITORY / "data" / "sample" / "vocab.txt")
    assert fingerprint(bare) == fingerprint(sample)


def test_a_saved_folder_loads_offline_with_the_same_fingerprint(trained, tmp_path):
    save_tokenizer(trained, tmp_path)
    for loaded in (
        AutoTokenizer.from_pretrained(tmp_path),
        load_tokenizer(tmp_path),
        load_tokenizer(tmp_path / "vocab.txt"),
        BertTokenizer.from_pretrained(tmp_path),
    ):
        assert fingerprint(loaded) == fingerprint(trained)
        assert loaded("The bakery, the quay!") == trained("The bakery, the quay!")


def test_fingerprint_ignores_padding_and_truncation_and_sees_the_rest(tiny_tokenizer_folder):
    one, two = load_tokenizer(tiny_tokenizer_folder), load_tokenizer(tiny_tokenizer_folder)
    two(["the cat", "a"], padding=True, truncation=True, max_length=3)
    assert fingerprint(one) == fingerprint(two)
    cased = train_wordpiece([text.lower() for text in TEXTS], vocab_size=60, lowercase=False)
    uncased = train_wordpiece([text.lower() for text in TEXTS], vocab_size=60)
    assert cased.get_vocab() == uncased.get_vocab()
    assert fingerprint(cased) != fingerprint(uncased)
    before = fingerprint(one)
    one.add_tokens(["zyx"])
    assert fingerprint(one) != before


def test_check_fingerprint():
    check_fingerprint(found="a", expected="a", found_in="x", expected_by="y")
    with pytest.raises(DataError, match="The data was made with another .* than the model"):
        check_fingerprint(found="a", expected="b", found_in="The data", expected_by="the model")


def test_describe_counts_exactly():
    tokenizer = train_wordpiece(["ab ab ab ab c"], vocab_size=10)
    assert tokenizer.tokenize("ab c d") == ["ab", "c", "[UNK]"]
    figures = describe(tokenizer, ["ab c", "d"])
    assert figures["words"] == 3 and figures["tokens"] == 3
    assert figures["unknown_rate"] == pytest.approx(1 / 3)
    assert figures["vocabulary_used"] == pytest.approx(3 / len(tokenizer))


def test_words_that_are_too_long_are_counted(caplog):
    texts = ["ab ab " + "x" * 101 + " " + "y" * 100 + " " + "x" * 101 + ","] * 3
    tokenizer = train_wordpiece(texts, vocab_size=30)
    assert "6 words of more than 100 characters were left out, such as 'xxxx" in caplog.text
    figures = describe(tokenizer, texts)
    assert figures["long_words"] == 6 and figures["words"] == 18
    assert describe(tokenizer, ["ab"])["long_words"] == 0


def test_memory_for_words_is_bounded(monkeypatch, caplog):
    caplog.set_level("INFO", logger="nlpapp")
    monkeypatch.setattr(wordpiece, "MOST_WORDS", 50)
    normalizer = normalizers.BertNormalizer(lowercase=True)
    texts = [f"often again rare{i} again" for i in range(500)]
    counts = wordpiece.count_words([*texts, "z" * 101], normalizer)
    assert len(counts) <= 51 and (counts["often"], counts["again"]) == (500, 1000)
    assert "Words seen 1 times or less were forgotten" in caplog.text
    monkeypatch.undo()
    assert len(wordpiece.count_words(texts, normalizer)) == 502


def test_max_bytes_stops_reading():
    def texts():
        yield "aa aa aa"
        yield "bb bb bb"
        raise AssertionError("read too far")

    tokenizer = train_wordpiece(texts(), vocab_size=20, max_bytes=10)
    assert tokenizer.tokenize("bb") != ["[UNK]"]


@pytest.mark.parametrize("texts", [[], ["", "  "], ["x" * 200]])
def test_no_words(texts):
    with pytest.raises(DataError, match="no words"):
        train_wordpiece(texts, vocab_size=100)


def test_vocabulary_too_small_for_the_letters():
    with pytest.raises(DataError, match="vocab_size 10 is too small"):
        train_wordpiece(TEXTS, vocab_size=10)


def vocabulary_file(path, pieces):
    path.write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    return path


def test_bare_vocabulary_tells_its_letter_case(tmp_path, caplog):
    caplog.set_level("INFO", logger="nlpapp")
    special = [*SPECIAL_TOKENS, "[unused1]", "<S>"]
    uncased = load_tokenizer(vocabulary_file(tmp_path / "u.txt", [*special, "the", "##s"]))
    assert uncased.tokenize("THE") == ["the"] and "uncased" in caplog.text
    cased = load_tokenizer(vocabulary_file(tmp_path / "c.txt", [*special, "the", "The"]))
    assert cased.tokenize("The the") == ["The", "the"] and "it holds 'The'" in caplog.text


def test_pieces_may_be_line_separators(tmp_path):
    pieces = [*SPECIAL_TOKENS, "\u2028", "\x85", "a"]
    tokenizer = load_tokenizer(vocabulary_file(tmp_path / "vocab.txt", pieces))
    assert tokenizer.convert_tokens_to_ids("a") == 7


def test_vocabulary_errors(tmp_path):
    path = tmp_path / "vocab.txt"
    with pytest.raises(DataError, match=r"\[MASK\] missing"):
        load_tokenizer(vocabulary_file(path, [*SPECIAL_TOKENS[:4], "a"]))
    with pytest.raises(DataError, match=r"line 7: piece 'a' stands there already in line 6"):
        load_tokenizer(vocabulary_file(path, [*SPECIAL_TOKENS, "a", "a"]))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        load_tokenizer(path)


def test_nothing_to_load(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(DataError, match="Did you mean 'tokenizer'"):
        load_tokenizer(tmp_path / "tokeniser")
    with pytest.raises(DataError, match="holds no tokenizer"):
        load_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError):
        load_tokenizer(tmp_path / "tokenizer")


def test_word_counts_are_those_of_the_pre_tokenizer():
    text = CORPUS.read_text(encoding="utf-8")[:5000] + " \u529b\u52a0 a\u00a0b-c\u200b d"
    normalizer = normalizers.BertNormalizer(lowercase=True)
    cut = pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text))
    assert wordpiece.count_words([text], normalizer) == Counter(word for word, _ in cut)
