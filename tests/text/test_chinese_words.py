import random
import sys

import pytest

from nlpapp.errors import ConfigError, DataError
from nlpapp.text.chinese_words import (
    DictionaryWord,
    check_segmenter,
    is_ideograph,
    longest_match,
    read_dictionary,
    segmenter_cut,
)


def test_ideographs_are_those_that_bert_sets_apart():
    from tokenizers import normalizers

    bert = normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
    )
    codes = [*range(0x20, 0xD800), *range(0xE000, 0x10000), *range(0x1F000, 0x30000, 7)]
    codes += [0x2A6DF, 0x2A6E0, 0x2A700, 0x2CEAF, 0x2CEB0, 0x2F800, 0x2FA1F, 0x2FA20]
    wrong = [
        hex(code)
        for code in codes
        if is_ideograph(chr(code)) != (bert.normalize_str(chr(code)) != chr(code))
    ]
    # A gap of BERT's own, between two blocks of rare characters.
    assert [code for code in wrong if not 0x2B740 <= int(code, 16) < 0x2B920] == []


def test_longest_match_takes_the_longest_word_from_the_left():
    words = frozenset(["研究", "研究生", "生命", "起源"])
    assert longest_match("研究生命起源", words=words, longest=3) == ["研究生", "命", "起源"]
    assert longest_match("生命研究", words=words, longest=3) == ["生命", "研究"]
    assert longest_match("", words=words, longest=3) == []


def test_longest_match_against_a_plain_search():
    rng = random.Random(0)
    words = frozenset("".join(rng.choices("甲乙丙", k=rng.randint(1, 4))) for _ in range(15))
    for _ in range(200):
        text = "".join(rng.choices("甲乙丙丁", k=rng.randint(0, 12)))
        rest, expected = text, []
        while rest:
            fitting = [word for word in words if rest.startswith(word)] + [rest[0]]
            expected.append(max(fitting, key=len))
            rest = rest[len(expected[-1]) :]
        assert longest_match(text, words=words, longest=4) == expected


def test_max_match_cuts_by_the_dictionary():
    cut = segmenter_cut("max_match", [DictionaryWord("天气"), DictionaryWord("今天", 5)])
    assert list(cut("今天天气很好")) == ["今天", "天气", "很", "好"]


def test_jieba_cuts_as_jieba_does_and_knows_the_users_words():
    jieba = pytest.importorskip("jieba")
    text = "我来到北京清华大学研究生命起源"
    own = list(segmenter_cut("jieba", [])(text))
    assert own == list(jieba.Tokenizer().cut(text))
    assert "来到北京" not in own
    cut = segmenter_cut("jieba", [DictionaryWord("来到北京")])
    assert "来到北京" in list(cut(text))


def test_jieba_writes_no_cache(tmp_path, monkeypatch):
    pytest.importorskip("jieba")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert list(segmenter_cut("jieba", [])("我们去公园")) == ["我们", "去", "公园"]
    assert list(tmp_path.iterdir()) == []


def test_missing_jieba_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ConfigError, match=r"pip install nlpapp\[zh\]"):
        check_segmenter("jieba", None)
    check_segmenter("none", None)


@pytest.mark.parametrize(
    ("segmenter", "dictionary", "message"),
    [
        ("jeiba", None, "Did you mean 'jieba'"),
        ("none", "words.txt", "segmenter: none looks up no words"),
        ("max_match", None, "needs user_dictionary"),
    ],
)
def test_choices_that_do_not_fit(segmenter, dictionary, message):
    with pytest.raises(ConfigError, match=message):
        check_segmenter(segmenter, dictionary)


def test_dictionary_lines(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff天气\r\n\n今天 30\n公园 5 n\n云计算 nz\n".encode())
    assert read_dictionary(path) == [
        DictionaryWord("天气"),
        DictionaryWord("今天", 30),
        DictionaryWord("公园", 5),
        DictionaryWord("云计算"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no word"),
        (b"\n  \n", "holds no word"),
        ("天气\n今天 三十\n".encode(), "line 2: '今天 三十' is no dictionary line"),
        ("天气 1 n n\n".encode(), "line 1: .* is no dictionary line"),
        ("天气 0\n".encode(), "frequency of 1 or more"),
        ("天气 -3\n".encode(), "line 1"),
        ("天气\n今天\n".encode() + "天".encode("gb18030") + b"\n", "line 3: not UTF-8 .byte 0"),
    ],
)
def test_bad_dictionaries(tmp_path, content, message):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_dictionary(path)
    assert str(path) in str(error.value)


def test_missing_dictionary(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_dictionary(tmp_path / "none.txt")
