import json

import pytest

from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.text import vocabulary as vocabulary_module
from nlpapp.text.vocabulary import (
    ByteVocabulary,
    SymbolVocabulary,
    TokenizerVocabulary,
    build_vocabulary,
    count_symbols,
    load_vocabulary,
)
from nlpapp.text.wordpiece import load_tokenizer

LINES = ["the cat sat", "the cat ran", "the dog", ""]


def encode(vocabulary, lines):
    return list(vocabulary.encode_lines(lines, source="text.txt"))


def test_words_are_numbered_by_frequency_then_alphabet():
    vocabulary = count_symbols("words", LINES)
    assert vocabulary.symbols == ["<eos>", "the", "cat", "dog", "ran", "sat"]
    assert encode(vocabulary, ["the dog ran", ""]) == [[1, 3, 4, 0], [0]]
    assert vocabulary.unknown_id is None


def test_rare_words_become_unknown_and_unknown_is_counted_with_them():
    vocabulary = count_symbols("words", LINES, min_frequency=2)
    # dog, ran and sat make <unk> as frequent as "the".
    assert vocabulary.symbols == ["<eos>", "<unk>", "the", "cat"]
    assert encode(vocabulary, ["the bird"]) == [[2, 1, 0]]


def test_max_size_counts_the_special_symbols():
    vocabulary = count_symbols("words", LINES, max_size=4)
    assert len(vocabulary) == 4
    assert set(vocabulary.symbols) == {"<eos>", "<unk>", "the", "cat"}
    assert len(count_symbols("words", LINES, max_size=6)) == 6
    assert count_symbols("words", LINES, max_size=6).unknown_id is None


def test_unknown_in_the_text_is_the_unknown_symbol():
    vocabulary = count_symbols("words", ["a <unk> <unk> b"])
    assert vocabulary.symbols[vocabulary.unknown_id] == "<unk>"
    assert encode(vocabulary, ["<unk> c"]) == [[vocabulary.unknown_id] * 2 + [vocabulary.end_id]]


def test_wikitext_lines_are_words_between_blanks_and_an_end(shared_data):
    sizes = {}
    for split in ("train", "valid", "test"):
        text = (shared_data / f"lm/wikitext-2/wiki.{split}.tokens").read_text(encoding="utf-8")
        lines = text.removesuffix("\n").split("\n")
        if split == "train":
            vocabulary = count_symbols("words", lines)
        sizes[split] = sum(map(len, encode(vocabulary, lines)))
    assert len(vocabulary) == 33278
    assert sizes == {"train": 2088628, "valid": 217646, "test": 245569}


def test_characters_keep_blanks_and_turn_line_ends_into_the_end_symbol():
    vocabulary = count_symbols("characters", ["a b", "<eos>"])
    ids = encode(vocabulary, ["a b", "b"])
    assert [len(line) for line in ids] == [4, 2]
    assert vocabulary.decode([i for line in ids for i in line]) == "a b\nb\n"


def test_decoding_words_gives_the_text_back():
    vocabulary = count_symbols("words", LINES)
    ids = [i for line in encode(vocabulary, LINES) for i in line]
    assert vocabulary.decode(ids) == "the cat sat\nthe cat ran\nthe dog\n\n"


def test_a_word_without_unknown_is_an_error_with_line_and_neighbour():
    vocabulary = count_symbols("words", LINES)
    with pytest.raises(
        DataError, match=r"text.txt, line 2: 'catt' .* no <unk>.*Did you mean 'cat'"
    ):
        encode(vocabulary, ["the", "the catt"])


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_saved_and_loaded_is_the_same(tmp_path, kind):
    vocabulary = count_symbols(kind, ["a b \u2603 \u2028 \u00e9"])
    vocabulary.save_pretrained(tmp_path)
    loaded = load_vocabulary(tmp_path)
    assert loaded.symbols == vocabulary.symbols
    assert loaded.kind == kind
    assert loaded.fingerprint() == vocabulary.fingerprint()


def test_bytes_are_their_own_ids_and_survive_the_disk(tmp_path):
    vocabulary = build_vocabulary("bytes", (), min_frequency=1, max_size=None, source="none")
    assert isinstance(vocabulary, ByteVocabulary) and len(vocabulary) == 256
    assert encode(vocabulary, ["a\u00e9", ""]) == [[97, 195, 169, 10], [10]]
    assert vocabulary.decode([97, 195, 169, 10]) == "a\u00e9\n"
    assert vocabulary.decode([195]) == "\ufffd"
    vocabulary.save_pretrained(tmp_path)
    loaded = load_vocabulary(tmp_path)
    assert isinstance(loaded, ByteVocabulary)
    assert loaded.fingerprint() == vocabulary.fingerprint()


def test_a_long_line_of_characters_comes_in_parts(monkeypatch):
    monkeypatch.setattr(vocabulary_module, "LONG_LINE", 3)
    vocabulary = SymbolVocabulary("characters", ["<eos>", "a", "b"])
    assert encode(vocabulary, ["abababab", "a"]) == [[1, 2, 1], [2, 1, 2], [1, 2, 0], [1, 0]]


def test_fingerprints_tell_kinds_and_orders_apart():
    prints = [
        SymbolVocabulary("words", ["<eos>", "a", "b"]).fingerprint(),
        SymbolVocabulary("words", ["<eos>", "b", "a"]).fingerprint(),
        SymbolVocabulary("characters", ["<eos>", "a", "b"]).fingerprint(),
    ]
    assert len(set(prints)) == 3


def test_a_tokenizer_is_a_vocabulary(tiny_tokenizer_folder, tmp_path):
    vocabulary = build_vocabulary(
        str(tiny_tokenizer_folder), iter(()), min_frequency=1, max_size=None, source="none"
    )
    assert isinstance(vocabulary, TokenizerVocabulary)
    separator = vocabulary.tokenizer.sep_token_id
    assert vocabulary.end_id == separator
    ids = encode(vocabulary, ["the cat sat", ""])
    assert vocabulary.tokenizer.convert_ids_to_tokens(ids[0]) == ["the", "cat", "sat", "[SEP]"]
    assert ids[1] == [separator]
    assert vocabulary.decode([i for line in ids for i in line]) == "the cat sat\n\n"
    vocabulary.save_pretrained(tmp_path)
    loaded = load_vocabulary(tmp_path)
    assert loaded.fingerprint() == vocabulary.fingerprint()
    assert encode(loaded, ["the cat sat"]) == [ids[0]]


def test_a_line_end_is_not_unknown_where_a_tokenizer_has_one_token_for_both(tiny_tokenizer_folder):
    """As GPT-2's <|endoftext|>."""
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    assert TokenizerVocabulary(tokenizer).unknown_id == tokenizer.unk_token_id
    tokenizer.eos_token = tokenizer.unk_token
    vocabulary = TokenizerVocabulary(tokenizer)
    assert vocabulary.end_id == tokenizer.unk_token_id and vocabulary.unknown_id is None


def test_encoding_many_lines_with_a_tokenizer_keeps_their_order(tiny_tokenizer_folder):
    vocabulary = load_vocabulary(tiny_tokenizer_folder)
    lines = [f"the {word}" for word in ("cat", "dog", "bird")] * 700
    assert encode(vocabulary, lines) == [
        [*vocabulary.encode(line), vocabulary.end_id] for line in lines
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_frequency": 0}, ConfigError, "min_frequency: 0"),
        ({"max_size": 2}, ConfigError, "max_size: 2 leaves no room"),
        ({"kind": "wrods"}, ConfigError, "'wrods' is neither .* Did you mean 'words'"),
        ({"lines": ["", " "]}, DataError, "train.txt holds no words"),
    ],
)
def test_bad_options_and_empty_text_are_named(options, error, message):
    arguments = {"kind": "words", "lines": LINES, "min_frequency": 1, "max_size": None} | options
    with pytest.raises(error, match=message):
        build_vocabulary(
            arguments["kind"],
            arguments["lines"],
            min_frequency=arguments["min_frequency"],
            max_size=arguments["max_size"],
            source="train.txt",
        )


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"kind": "words"}',
        json.dumps({"kind": "words", "symbols": ["a"]}),
        json.dumps({"kind": "bytes", "symbols": ["<eos>"]}),
        json.dumps({"kind": "words", "symbols": ["<eos>", "a", "a"]}),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"vocabulary.json is damaged"):
        load_vocabulary(tmp_path)


def test_a_folder_without_vocabulary_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="has no vocabulary"):
        load_vocabulary(tmp_path)
