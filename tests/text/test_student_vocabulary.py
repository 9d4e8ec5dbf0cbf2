import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nlpapp.errors import ConfigError
from nlpapp.text.student_vocabulary import (
    StudentVocabularyConfig,
    pruned_tokenizer,
    student_tokenizer,
    word_tokenizer,
)

TEXTS = ["The cat sat .", "the dog ran", "A cat, [MASK] the caf\u00e9"]


def entries(tokenizer):
    return sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)


def words(**options):
    return word_tokenizer(
        TEXTS, **({"min_frequency": 1, "max_words": 99, "lowercase": True} | options)
    )


def test_words_stand_in_the_order_of_their_frequency():
    special = ["[PAD]", "[UNK]", "[MASK]"]
    rare = [",", ".", "a", "cafe", "dog", "ran", "sat"]
    assert entries(words()) == [*special, "the", "cat", *rare]
    assert entries(words(min_frequency=2)) == [*special, "the", "cat"]
    assert entries(words(max_words=1)) == [*special, "the"]
    assert "caf\u00e9" in entries(words(lowercase=False))


def test_a_text_is_read_word_by_word_with_nothing_added():
    tokenizer = words(min_frequency=2)
    assert tokenizer("THE cat, [MASK] ran")["input_ids"] == [3, 4, 1, 2, 1]
    assert tokenizer.num_special_tokens_to_add(pair=True) == 0


def test_word_tokenizers_save_and_load(tmp_path):
    tokenizer = words()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("a cat [MASK] zebra")["input_ids"] == tokenizer("a cat [MASK] zebra")["input_ids"]
    assert (loaded.pad_token_id, loaded.mask_token) == (0, "[MASK]")


def test_a_pruned_wordpiece_cuts_its_texts_as_before_and_spells_all_others(tiny_tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    pruned = pruned_tokenizer(tokenizer, TEXTS[:2])
    assert isinstance(pruned, PreTrainedTokenizerFast) and len(pruned) < len(tokenizer)
    for text in TEXTS[:2]:
        before = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
        assert pruned.convert_ids_to_tokens(pruned(text)["input_ids"]) == before
    assert before[0] == "[CLS]" and before[-1] == "[SEP]"
    pair = pruned("the cat", "the dog")
    found = pruned.convert_ids_to_tokens(pair["input_ids"])
    assert found == ["[CLS]", "the", "cat", "[SEP]", "the", "dog", "[SEP]"]
    gone = set(tokenizer.get_vocab()) - set(pruned.get_vocab())
    assert gone and all(len(piece.removeprefix("##")) > 1 for piece in gone)
    word = sorted(piece for piece in gone if not piece.startswith("##"))[0]
    spelled = pruned.convert_ids_to_tokens(pruned(word, add_special_tokens=False)["input_ids"])
    assert "".join(piece.removeprefix("##") for piece in spelled) == word
    assert sorted(pruned.get_vocab().values()) == list(range(len(pruned)))
    assert pruned.mask_token_id == pruned.get_vocab()["[MASK]"]


def test_tokens_that_were_added_to_a_tokenizer_stay(tiny_tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    tokenizer.add_tokens(["<url>", "@USER"])
    pruned = pruned_tokenizer(tokenizer, ["the cat"])
    assert sorted(pruned.get_vocab().values()) == list(range(len(pruned)))
    cut = pruned.convert_ids_to_tokens(pruned("the <url> cat")["input_ids"])
    assert cut == ["[CLS]", "the", "<url>", "cat", "[SEP]"]
    assert "@USER" in pruned.get_vocab() and len(pruned) < len(tokenizer)


def test_rare_pieces_go_too_if_asked(tiny_tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    pruned = pruned_tokenizer(tokenizer, TEXTS[:2], min_frequency=2)
    assert "the" in pruned.get_vocab() and "cat" not in pruned.get_vocab()


def test_the_kind_chooses(tiny_tokenizer_folder):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    assert student_tokenizer(StudentVocabularyConfig(), tokenizer, TEXTS) is tokenizer
    own = student_tokenizer(StudentVocabularyConfig(kind="words"), tokenizer, TEXTS)
    assert entries(own)[3:] == ["the", "cat"]  # seen twice, as is the default


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"min_frequency": 3}, "min_frequency"),
        ({"kind": "pruned", "lowercase": False}, "lowercase"),
        ({"kind": "pruned", "min_frequency": 3, "max_words": 9}, "max_words"),
    ],
)
def test_options_of_another_kind_are_refused(options, name):
    with pytest.raises(ConfigError, match=f"vocabulary.{name} is .* does not use it"):
        StudentVocabularyConfig(**options)
    StudentVocabularyConfig(**options | {"kind": "words"})


def test_unfit_options_are_refused(tiny_tokenizer_folder):
    with pytest.raises(ConfigError, match="vocabulary.max_words is 0"):
        StudentVocabularyConfig(max_words=0)
    with pytest.raises(ConfigError, match="occurs 9 times"):
        words(min_frequency=9)
    with pytest.raises(ConfigError, match="needs a teacher with a WordPiece"):
        pruned_tokenizer(words(), TEXTS)
