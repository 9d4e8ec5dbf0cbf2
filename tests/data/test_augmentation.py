from collections import Counter

import numpy as np
import pytest

from nlpapp.data.augmentation import (
    AugmentationConfig,
    augment,
    augment_example,
    augment_words,
    split_words,
)
from nlpapp.errors import ConfigError
from nlpapp.seeding import generator

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def draw(p_mask, p_ng, words=WORDS, seed=0):
    rng = np.random.default_rng(seed)
    return augment_words(words, rng, p_mask=p_mask, p_ng=p_ng, mask_token="[MASK]")


def example(text, **options):
    config = AugmentationConfig(**options)
    return list(augment_example(text, np.random.default_rng(0), config, mask_token="[MASK]"))


def test_defaults_are_those_of_the_paper():
    config = AugmentationConfig()
    assert (config.n_iter, config.p_mask, config.p_ng) == (20, 0.1, 0.25)


def test_rates_0_change_nothing():
    assert draw(0, 0) == WORDS


def test_rate_1_masks_every_word():
    assert draw(1, 0) == ["[MASK]"] * 10


def test_rate_1_keeps_only_an_ngram_of_one_to_five_words():
    # distil-bilstm (dsindex) masks the span and keeps the rest instead; the paper drops the rest.
    sizes, starts = Counter(), Counter()
    for seed in range(500):
        kept = draw(0, 1, seed=seed)
        start = WORDS.index(kept[0])
        assert kept == WORDS[start : start + len(kept)]
        sizes[len(kept)] += 1
        starts[start] += 1
    assert set(sizes) == {1, 2, 3, 4, 5} and min(sizes.values()) > 60
    assert set(starts) == set(range(10))


def test_an_ngram_is_never_longer_than_the_text():
    assert {tuple(draw(0, 1, words=["a", "b"], seed=seed)) for seed in range(40)} == {
        ("a",),
        ("b",),
        ("a", "b"),
    }
    assert draw(1, 1, words=[]) == []


def test_rates_are_met():
    masked = cut = 0
    for seed in range(1000):
        masked += draw(0.1, 0, seed=seed).count("[MASK]")
        cut += len(draw(0, 0.25, seed=seed)) < 10
    assert 900 < masked < 1100
    assert 200 < cut < 300


def test_one_sentence_is_drawn_n_iter_times():
    assert example(("a  b", None), n_iter=3, p_mask=1, p_ng=0) == [("[MASK] [MASK]", None)] * 3


def test_of_pairs_the_first_the_second_and_both_sentences_change_in_turn():
    assert example(("a b", "c"), n_iter=4, p_mask=1, p_ng=0) == [
        ("[MASK] [MASK]", "c"),
        ("a b", "[MASK]"),
        ("[MASK] [MASK]", "[MASK]"),
        ("[MASK] [MASK]", "c"),
    ]


def test_duplicates_and_copies_of_the_originals_are_dropped():
    config = AugmentationConfig(n_iter=5, p_mask=0, p_ng=0)
    assert augment(["a  b", "c"], None, config, seed=1, mask_token="[MASK]") == ([], None)
    config = AugmentationConfig(n_iter=5, p_mask=1, p_ng=0)
    texts = augment(["a b", "c d", "e"], None, config, seed=1, mask_token="<mask>")
    assert texts == (["<mask> <mask>", "<mask>"], None)
    pairs = augment(["a", "a"], ["b", "c"], config, seed=1, mask_token="*")
    assert pairs == (["*", "a", "*", "*"], ["b", "*", "*", "c"])


def test_an_examples_texts_depend_on_the_seed_and_its_index_only():
    config = AugmentationConfig(n_iter=6)
    first = " ".join(WORDS)
    alone, _ = augment([first], None, config, seed=4, mask_token="[MASK]")
    among, _ = augment([first, "x y z", "u v"], None, config, seed=4, mask_token="[MASK]")
    assert among[: len(alone)] == alone
    assert augment([first], None, config, seed=5, mask_token="[MASK]")[0] != alone
    again = augment_example(
        (first, None), generator(4, "augmentation", 0), config, mask_token="[MASK]"
    )
    assert set(alone) == {text for text, _ in again} - {first}


def test_ideographs_are_words():
    assert split_words("很好 film的 !") == ["很", "好", "film", "的", "!"]


@pytest.mark.parametrize("options", [{"n_iter": -1}, {"p_mask": 1.1}, {"p_ng": -0.5}])
def test_impossible_options_are_refused(options):
    name = next(iter(options))
    with pytest.raises(ConfigError, match=f"{name} is {options[name]}"):
        AugmentationConfig(**options)
