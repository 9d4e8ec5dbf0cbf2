import numpy as np
import pytest

from nlpapp.text.text_stream import KEPT_TOKENS, stream_text
from nlpapp.text.vocabulary import ByteVocabulary, count_symbols, load_vocabulary


def test_parts_appear_as_soon_as_they_are_final(tiny_tokenizer_folder):
    vocabulary = load_vocabulary(tiny_tokenizer_folder)
    ids = vocabulary.tokenizer.convert_tokens_to_ids(
        ["d", "##o", "##g", "sat", "[SEP]", "the", "cat"]
    )
    parts = list(stream_text(vocabulary.encode("the"), ids, vocabulary))
    assert parts == ["the", " dog", " sat", "\nthe", " cat"]


def test_whole_words_and_characters_appear_at_once():
    words = count_symbols("words", ["a b c"])
    ids = [words.ids[symbol] for symbol in ("b", "<eos>", "c", "a")]
    assert list(stream_text([words.ids["a"]], ids, words)) == ["a b", "\n", "c", " a", ""]
    characters = count_symbols("characters", ["\u6c34\u706b"])
    ids = characters.encode("\u6c34\u706b")
    assert list(stream_text([], ids, characters)) == ["\u6c34", "\u706b", ""]


def test_a_character_waits_for_all_of_its_bytes():
    parts = list(stream_text([], "a\u6c34b".encode(), ByteVocabulary()))
    assert parts == ["a", "\u6c34", "b", ""]


@pytest.mark.parametrize("kind", ["words", "characters", "bytes", "tokenizer"])
def test_the_parts_of_a_long_text_are_the_whole_text(kind, tiny_tokenizer_folder):
    """What has been shown is forgotten, and nothing is lost or repeated."""
    rng = np.random.default_rng(0)
    letters = ["a", "b", "\u00e9", " ", "dog"]
    line = "".join(rng.choice(letters, 2000))
    vocabulary = {
        "words": count_symbols("words", [line]),
        "characters": count_symbols("characters", [line]),
        "bytes": ByteVocabulary(),
        "tokenizer": load_vocabulary(tiny_tokenizer_folder),
    }[kind]
    ids = vocabulary.encode(line)
    ids.insert(len(ids) // 2, vocabulary.end_id)
    assert "".join(stream_text(ids[:5], ids[5:], vocabulary)) == vocabulary.decode(ids)


def test_a_part_takes_no_longer_in_a_long_text():
    """Counted, not timed: the ids that are decoded for each token stay few."""

    class Counting(ByteVocabulary):
        longest = 0

        def decode(self, ids):
            self.longest = max(self.longest, len(ids))
            return super().decode(ids)

    vocabulary = Counting()
    assert len("".join(stream_text([], b"ab " * 1000, vocabulary))) == 3000
    assert vocabulary.longest <= 2 * KEPT_TOKENS + 1
