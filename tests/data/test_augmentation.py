from collections import Counter

import numpy as np
import pytest

from nlpapp.data import augmentation
from nlpapp.data.augmentation import (
    AugmentationConfig,
    AugmentationCounts,
    Rules,
    augment,
    draw_texts,
)
from nlpapp.data.part_of_speech import UnigramsByTag
from nlpapp.errors import ConfigError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def tag_by_initial(text):
    """A tagger whose part of speech is the first letter: easy to check by eye."""
    words = text.split()
    return words, [augmentation.core(word)[1][0] for word in words]


@pytest.fixture
def tagger(monkeypatch):
    """Have ``hanta`` mean `tag_by_initial`, and count the texts it is asked for."""
    asked = []

    def tag(text):
        asked.append(text)
        return tag_by_initial(text)

    monkeypatch.setattr(augmentation, "check_tagger", lambda name: None)
    monkeypatch.setattr(augmentation, "load_tagger", lambda name: tag)
    return asked


def draw(count=1, words=WORDS, seed=0, **options):
    rules = Rules(AugmentationConfig(**options), seed, "[MASK]", None)
    texts, counts = draw_texts(words, None, count, np.random.default_rng(seed), rules)
    return [text.split() for text in texts], counts


def flat(parts):
    return [sides for part in parts for sides in part.texts]


def total(parts):
    return sum((part.counts for part in parts), AugmentationCounts())


def run(texts_a, texts_b=None, *, seed=1, workers=1, mask_token="[MASK]", **options):
    config = AugmentationConfig(**options)
    return list(
        augment(texts_a, texts_b, config, seed=seed, mask_token=mask_token, workers=workers)
    )


def random_texts(count, length=12, seed=0):
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefgh"))
    return [
        " ".join("".join(row) for row in rng.choice(letters, (length, 4))) for _ in range(count)
    ]


def test_defaults_are_those_of_the_paper(tagger):
    config = AugmentationConfig(tagger="hanta")
    assert (config.n_iter, config.p_mask, config.p_replace, config.p_ng) == (20, 0.1, 0.1, 0.25)
    assert AugmentationConfig().p_replace == 0


def test_rates_0_change_nothing():
    assert draw(p_mask=0, p_ng=0) == ([WORDS], AugmentationCounts(sides=1, words=10))


def test_rate_1_masks_every_word():
    assert draw(p_mask=1, p_ng=0)[0] == [["[MASK]"] * 10]


def test_rate_1_keeps_only_an_ngram_of_one_to_five_words():
    # distil-bilstm (dsindex) masks the span and keeps the rest instead; the paper drops the rest.
    sizes, starts = Counter(), Counter()
    for kept in draw(600, p_mask=0, p_ng=1)[0]:
        start = WORDS.index(kept[0])
        assert kept == WORDS[start : start + len(kept)]
        sizes[len(kept)] += 1
        starts[start] += 1
    assert set(sizes) == {1, 2, 3, 4, 5} and min(sizes.values()) > 80
    assert set(starts) == set(range(10))


def test_an_ngram_is_never_longer_than_the_text():
    found = draw(60, words=["a", "b"], p_mask=0, p_ng=1)[0]
    assert {tuple(words) for words in found} == {("a",), ("b",), ("a", "b")}
    assert draw(3, words=[], p_mask=1, p_ng=1)[0] == [[], [], []]


def test_a_replaced_word_has_the_same_part_of_speech_and_punctuation():
    unigrams = UnigramsByTag(Counter({("N", "cat"): 1, ("N", "dog"): 1, ("V", "runs"): 1}))
    rules = Rules(AugmentationConfig(p_mask=0, p_ng=0, n_iter=1), 0, "[MASK]", unigrams)
    object.__setattr__(rules.config, "p_pos", 1.0)
    args = (["cat,", "ran", '"dog'], ["N", "V", "N"])
    texts, counts = draw_texts(*args, 40, np.random.default_rng(0), rules)
    assert set(texts) == {
        f'{first}, runs "{last}' for first in ("cat", "dog") for last in ("cat", "dog")
    }
    assert (counts.words, counts.masked, counts.replaced) == (120, 0, 120)


def test_the_rates_are_met_within_two_tenths_of_a_point(tagger):
    parts = run(random_texts(600, length=40), tagger="hanta")
    counts = total(parts)
    assert counts.drawn == counts.sides == 12_000 and counts.words == 480_000
    assert counts.masked / counts.words == pytest.approx(0.1, abs=0.002)
    assert counts.replaced / counts.words == pytest.approx(0.1, abs=0.002)
    # 12,000 draws: the standard deviation is 0.4 points.
    assert counts.ngrams / counts.sides == pytest.approx(0.25, abs=0.012)
    assert counts.kept == len(flat(parts))
    # What the counts say is what the texts hold, taken from those that were not cut.
    whole = [text.split() for (text,) in flat(parts) if len(text.split()) == 40]
    share = sum(words.count("[MASK]") for words in whole) / (40 * len(whole))
    assert share == pytest.approx(0.1, abs=0.004)


def test_replacements_follow_the_frequency_of_words_in_the_set(tagger):
    texts = ["aa bb"] * 30 + ["ab bb"] * 10
    parts = run([" ".join(texts)], n_iter=400, p_mask=0, p_ng=0, p_pos=0.5, tagger="hanta")
    words = Counter(word for (text,) in flat(parts) for word in text.split())
    # 30 : 10 in the set, and the words drawn anew keep that proportion.
    assert set(words) == {"aa", "ab", "bb"}
    assert words["ab"] / (words["aa"] + words["ab"]) == pytest.approx(0.25, abs=0.02)


def test_a_source_sentence_is_tagged_once(tagger):
    texts = random_texts(50)
    run(texts, tagger="hanta")
    assert sorted(tagger) == sorted(texts)


def test_of_pairs_the_first_the_second_and_both_sentences_change_in_turn():
    rules = Rules(AugmentationConfig(n_iter=4, p_mask=1, p_ng=0), 0, "[MASK]", None)
    row = augmentation.TaggedRow(("a b", "c"))
    drawn, counts = augmentation.draw_rows(rules, (0, [row]), lambda size, tokens: None)
    assert drawn == [
        ("[MASK] [MASK]", "c"),
        ("a b", "[MASK]"),
        ("[MASK] [MASK]", "[MASK]"),
        ("[MASK] [MASK]", "c"),
    ]
    assert counts.sides == 5 and counts.words == counts.masked == 8


def test_duplicates_and_copies_of_the_originals_are_dropped():
    assert flat(run(["a  b", "c"], n_iter=5, p_mask=0, p_ng=0)) == []
    options = {"n_iter": 5, "p_mask": 1, "p_ng": 0}
    (part,) = run(["a b", "c d", "e", ""], mask_token="<mask>", **options)
    assert part.texts == [("<mask> <mask>",), ("<mask>",)] and part.rows == [0, 2]
    assert (part.counts.drawn, part.counts.kept) == (20, 2)
    pairs = flat(run(["a", "a"], ["b", "c"], mask_token="*", **options))
    assert pairs == [("*", "b"), ("a", "*"), ("*", "*"), ("*", "c")]


def test_an_examples_texts_depend_on_the_seed_and_its_row_only():
    first = " ".join(WORDS)
    alone = flat(run([first], seed=4, n_iter=6))
    among = flat(run([first, "x y z", "u v"], seed=4, n_iter=6))
    assert among[: len(alone)] == alone
    assert flat(run([first], seed=5, n_iter=6)) != alone


def test_any_number_of_workers_gives_the_same_texts(monkeypatch):
    texts = random_texts(70)
    (whole,) = run(texts, texts[::-1], n_iter=3)
    monkeypatch.setattr(augmentation, "PART_ROWS", 20)
    for workers in (1, 4):
        parts = run(texts, texts[::-1], n_iter=3, workers=workers)
        assert len(parts) == 4 and flat(parts) == whole.texts
        assert [row for part in parts for row in part.rows] == whole.rows
        assert total(parts) == whole.counts


def test_without_iterations_nothing_is_drawn():
    assert run(["a b"], n_iter=0) == []


@pytest.mark.parametrize("options", [{"n_iter": -1}, {"p_mask": 1.1}, {"p_ng": -0.5}])
def test_impossible_options_are_refused(options):
    name = next(iter(options))
    with pytest.raises(ConfigError, match=f"{name} is {options[name]}"):
        AugmentationConfig(**options)


def test_replacement_and_tagger_go_together(tagger):
    with pytest.raises(ConfigError, match="no tagger tells the parts of speech"):
        AugmentationConfig(p_pos=0.1)
    with pytest.raises(ConfigError, match="tagger hanta has no work with p_pos 0"):
        AugmentationConfig(p_pos=0, tagger="hanta")
    with pytest.raises(ConfigError, match="make more than 1"):
        AugmentationConfig(p_mask=0.6, p_pos=0.5, tagger="hanta")


def test_a_tagger_that_is_not_there_is_refused_at_once():
    with pytest.raises(ConfigError, match="tagger 'treetagger' is unknown"):
        AugmentationConfig(tagger="treetagger")
