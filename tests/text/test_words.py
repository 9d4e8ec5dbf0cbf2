import random
import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from nlpapp.errors import ConfigError, DataError
from nlpapp.text.word_encoding import LineEncoder, plain_encoder
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.text.words import is_punctuation, word_marker, word_table

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENGLISH = ["un", "##afford", "##able", "the", "dog", "don", "t", "walk", "##ing", *",.'()-\u201c"]
CHINESE = list("今天气很好我们去公园大学生命研究起源，。")


@pytest.fixture(scope="module")
def bert():
    vocabulary = {piece: i for i, piece in enumerate(SPECIAL + ENGLISH + CHINESE)}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True)


def trained(model, trainer, pre_tokenizer):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    texts = ["The dog's unaffordable, truly. She walks (walking) on; 今天天气很好。"] * 3
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def byte_level(*, prefix=False, vocab_size=290):
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=prefix))


def unigram(scheme="always"):
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(prepend_scheme=scheme))


def marked(tokenizer, lines, marker):
    text = "".join(f"{line}\n" for line in lines).encode()
    encoded = LineEncoder(plain_encoder(tokenizer)).encode(text)
    return encoded, marker.mark(text, encoded)


def words(tokenizer, lines, **options):
    """Return the words of each line, pieces of a word joined by '+'."""
    marker = word_marker(tokenizer, **options)
    assert marker is not None
    encoded, flags = marked(tokenizer, lines, marker)
    return grouped(tokenizer, encoded, flags)


def grouped(tokenizer, encoded, flags):
    found, start = [], 0
    for end in encoded.ends.tolist():
        pieces = tokenizer.convert_ids_to_tokens(encoded.ids[start:end].tolist())
        groups = []
        for piece, continues in zip(pieces, flags[start:end].tolist(), strict=True):
            if continues:
                groups[-1] += f"+{piece}"  # Fails if a line begins in the middle of a word.
            else:
                groups.append(piece)
        found.append(groups)
        start = end
    return found


def by_table(tokenizer, lines):
    """Return the words as the table alone has them, the rule that masking applies to ids."""
    table = word_table(tokenizer)
    encoded = LineEncoder(plain_encoder(tokenizer)).encode(
        "".join(f"{line}\n" for line in lines).encode()
    )
    flags = table.continues[encoded.ids] & ~table.alone[encoded.ids]
    flags[1:] &= ~table.alone[encoded.ids[:-1]]
    return grouped(tokenizer, encoded, flags)


def test_punctuation_is_no_part_of_a_wordpiece_word(bert):
    assert by_table(bert, ["The unaffordable, walking dog.", "Don't (zzz)"]) == [
        ["the", "un+##afford+##able", ",", "walk+##ing", "dog", "."],
        ["don", "'", "t", "(", "[UNK]", ")"],
    ]
    assert word_marker(bert) is None, "the ids alone tell as much"


def test_punctuation_is_no_part_of_a_word_where_only_blanks_are_cut():
    tokenizer = Tokenizer(
        models.WordPiece({"[UNK]": 0, "un": 1, "##able": 2, "##,": 3, "##x": 4}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    assert by_table(wrapped, ["unable,x un"]) == [["un+##able", "##,", "##x", "un"]]


def test_a_chinese_line_is_not_one_word(bert):
    line = "今天天气很好" * 21
    assert by_table(bert, [line]) == [list(line)]
    for tokenizer in (unigram(), byte_level(vocab_size=270), byte_level(vocab_size=400)):
        groups = by_table(tokenizer, [line])[0]
        assert len(groups) >= 126 / 6  # No piece of the training text is longer than a clause.


def test_byte_level_words():
    tokenizer = byte_level(vocab_size=400)
    (found,) = words(tokenizer, ["The unaffordable, dogs (walking); truly. 'on'"])
    assert found[3].startswith("\u0120dog+"), "a word of several pieces"
    joined = [word.replace("+", "").replace("\u0120", "_") for word in found]
    assert joined[:7] == ["The", "_unaffordable", ",", "_dogs", "_(", "walking", ")"]
    assert joined[7:10] == [";", "_truly", "."]


def test_chinese_characters_in_bytes_are_words_of_their_own():
    tokenizer = byte_level(vocab_size=258)  # No merges: three pieces a character.
    (found,) = words(tokenizer, ["a天气"])
    assert [word.count("+") + 1 for word in found] == [1, 3, 3]


def test_a_line_begins_a_word_whatever_the_line_before_ends_with():
    tokenizer = byte_level(vocab_size=400)
    found = words(tokenizer, ["The dog", "", "walks", "dog"])
    assert [[word.replace("+", "") for word in line] for line in found] == [
        ["The", "\u0120dog"],
        [],
        ["walks"],
        ["dog"],
    ]


@pytest.mark.parametrize(
    ("tokenizer", "needed"),
    [
        (byte_level(), True),
        (byte_level(prefix=True), False),
        (unigram("always"), False),
        (unigram("first"), True),
        (unigram("never"), True),
    ],
)
def test_a_marker_only_where_the_ids_do_not_tell_as_much(tokenizer, needed):
    lines = ["dog's (walking", "on; unaffordable", "she", "", "天气 The"]
    assert (word_marker(tokenizer) is not None) == needed
    if not needed:
        assert by_table(tokenizer, lines)[1][0].startswith(("\u0120", "\u2581"))


def test_sentencepiece_words():
    (found,) = by_table(unigram(), ["The unaffordable, walking"])
    joined = [word.replace("+", "").replace("\u2581", "_") for word in found]
    assert joined == ["_The", "_unaffordable", ",", "_walking"]


def test_special_tokens_stand_alone(bert):
    table = word_table(bert)
    assert table.alone[bert.all_special_ids].all()
    assert not table.continues[bert.all_special_ids].any()
    assert table.continues.dtype == table.alone.dtype == np.bool_
    assert len(table.continues) == len(table.alone) == len(bert)


def test_vocabularies_that_tell_no_words():
    tokenizer = Tokenizer(models.Unigram([("a", 0.0)]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert word_table(wrapped) is None
    assert word_marker(wrapped) is None


def test_punctuation_is_what_bert_takes_for_it():
    cutter = pre_tokenizers.BertPreTokenizer()
    codes = [*range(0x21, 0x3100), *range(0xFE00, 0xFFF0)]
    for character in map(chr, codes):
        if not character.isspace():
            isolated = len(cutter.pre_tokenize_str(f"a{character}a")) == 3
            if isolated != is_punctuation(character):
                # Only where Python's Unicode is newer than the tokenizer's, or the other way.
                assert not character.isascii() and ord(character) > 0x5FF, hex(ord(character))


@pytest.mark.shared_data
def test_wordpiece_words_are_those_of_word_ids(shared_data):
    tokenizer = load_tokenizer(shared_data / "bert" / "uncased_en_vocab.txt")
    text = (shared_data / "bert" / "sample_text.txt").read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line][:2000]
    expected = []
    for line in lines:
        encoding = tokenizer(line, add_special_tokens=False)
        groups: dict[int, list[str]] = {}
        for word, piece in zip(encoding.word_ids(), encoding.tokens(), strict=True):
            groups.setdefault(word, []).append(piece)
        expected.append(["+".join(group) for group in groups.values()])
    assert by_table(tokenizer, lines) == expected


# --- Segmenters ------------------------------------------------------------------------------


@pytest.fixture
def dictionary(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("今天 9 t\n天气\n公园\n我们\n研究生\n", encoding="utf-8")
    return str(path)


def test_longest_matches_are_words(bert, dictionary):
    lines = ["今天天气很好，我们 walking 公园。", "研究生命", "", "公", "园天"]
    assert words(bert, lines, segmenter="max_match", user_dictionary=dictionary) == [
        ["今+天", "天+气", "很", "好", "，", "我+们", "walk+##ing", "公+园", "。"],
        ["研+究+生", "命"],
        [],
        ["公"],
        ["园", "天"],
    ]


def test_no_word_goes_over_a_blank_a_mark_an_unknown_character_or_a_line_end(bert, dictionary):
    lines = ["今 天气", "天，气", "我鱼们", "公", "园", "我zzz们", "天\u3000气 公园", "天\x00气"]
    found = words(bert, lines, segmenter="max_match", user_dictionary=dictionary)
    assert found == [
        ["今", "天+气"],
        ["天", "，", "气"],
        ["我", "[UNK]", "们"],
        ["公"],
        ["园"],
        ["我", "[UNK]", "们"],
        ["天", "气", "公+园"],
        ["天", "气"],
    ]


def test_longest_matches_against_a_search_in_the_text(bert, dictionary):
    rng = random.Random(0)
    known = {"今天", "天气", "公园", "我们", "研究生"}
    lines = ["".join(rng.choices("今天气公园我们研究生鱼 ，x", k=30)) for _ in range(300)]
    found = words(bert, lines, segmenter="max_match", user_dictionary=dictionary)
    for line, groups in zip(lines, found, strict=True):
        expected, rest = [], line
        while rest:
            word = next((rest[:n] for n in (3, 2) if rest[:n] in known), rest[0])
            if word[0] == "x":
                word = rest[: len(rest) - len(rest.lstrip("x"))]
            expected += [] if word == " " else [word]
            rest = rest[len(word) :]
        clean = [group.replace("+", "") for group in groups]
        expected = ["[UNK]" if word[0] in "鱼x" else word for word in expected]
        assert clean == expected, line


def test_jieba_words_are_those_of_jieba(bert):
    jieba = pytest.importorskip("jieba")
    lines = ["今天天气很好，我们去公园。", "我们研究生命起源", "大学生去大学"]
    expected = [["+".join(word) for word in jieba.Tokenizer().cut(line)] for line in lines]
    assert words(bert, lines, segmenter="jieba") == expected
    assert any("+" in word for line in expected for word in line)


def test_a_segmenter_joins_sentencepiece_pieces(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("天天\n气很好\n", encoding="utf-8")
    model = models.Unigram(
        [("<unk>", -9.0), *((piece, -1.0) for piece in ("\u2581", "今", "天", "气", "很好"))],
        unk_id=0,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    found = words(wrapped, ["今天天气很好"], segmenter="max_match", user_dictionary=str(path))
    assert found == [["\u2581", "今", "天+天", "气+很好"]]


def test_a_compatibility_character_does_not_shift_the_words(bert, dictionary):
    # U+F9BE is normalised to another character: the line has more of them than the vocabulary.
    assert normalizers.NFD().normalize_str("\uf9be") != "\uf9be"
    assert bert.tokenize("\uf9be") == ["[UNK]"]
    found = words(bert, ["\uf9be今天 天气"], segmenter="max_match", user_dictionary=dictionary)
    assert found == [["[UNK]", "今+天", "天+气"]]


def test_a_marker_can_be_sent_to_another_process(bert, dictionary):
    marker = word_marker(bert, segmenter="max_match", user_dictionary=dictionary)
    lines = ["今天天气很好"]
    _, before = marked(bert, lines, marker)
    sent = ForkingPickler.loads(ForkingPickler.dumps(marker))
    _, after = marked(bert, lines, sent)
    assert after.tolist() == before.tolist() == [False, True, False, True, False, False]


def test_nothing_to_mark(bert, dictionary):
    marker = word_marker(bert, segmenter="max_match", user_dictionary=dictionary)
    assert marked(bert, [], marker)[1].tolist() == []
    assert marked(bert, ["", ""], marker)[1].tolist() == []


def test_errors(bert, dictionary, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="needs user_dictionary"):
        word_marker(bert, segmenter="max_match")
    with pytest.raises(ConfigError, match="looks up no words"):
        word_marker(bert, user_dictionary=dictionary)
    with pytest.raises(DataError, match="there is no file"):
        word_marker(bert, segmenter="max_match", user_dictionary=str(tmp_path / "none"))
    english = BertTokenizer(vocab={piece: i for i, piece in enumerate(SPECIAL + ENGLISH)})
    with pytest.raises(ConfigError, match="no Chinese character"):
        word_marker(english, segmenter="max_match", user_dictionary=dictionary)
    plain = Tokenizer(models.Unigram([("a", 0.0)]))
    with pytest.raises(ConfigError, match="needs a tokenizer that tells words"):
        word_marker(
            PreTrainedTokenizerFast(tokenizer_object=plain),
            segmenter="max_match",
            user_dictionary=dictionary,
        )
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ConfigError, match=r"pip install nlpapp\[zh\]"):
        word_marker(bert, segmenter="jieba")
