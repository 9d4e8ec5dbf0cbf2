import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from nlpapp.data.masking import (
    MaskingOptions,
    MaskingVocabulary,
    check_unit,
    exchange,
    mask_tokens,
    predictions_needed,
)
from nlpapp.errors import ConfigError
from nlpapp.text.wordpiece import load_tokenizer

CLS, SEP, MASK = 2, 3, 4
VOCABULARY = MaskingVocabulary(
    mask_id=MASK,
    maskable=np.array([False] * 5 + [True] * 95),
    continues=np.array([False] * 50 + [True] * 50),
    alone=np.zeros(100, dtype=bool),
)


def masked(rows, seed=0, **options):
    """Mask ``rows`` between [CLS] and [SEP]; returns the result and the flat ids."""
    rows = [[CLS, *row, SEP] for row in rows]
    ids = np.array([token for row in rows for token in row], dtype=np.uint16)
    offsets = np.cumsum([0, *map(len, rows)])
    options = MaskingOptions(**({"max_predictions": 1000} | options))
    rng = np.random.default_rng(seed)
    return mask_tokens(ids, offsets, vocabulary=VOCABULARY, options=options, rng=rng), ids, offsets


def random_rows(number=300, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 100, rng.integers(1, 60)).tolist() for _ in range(number)]


def test_everything_is_masked_at_rate_one():
    result, ids, _ = masked([[10, 11], [12]], masked_lm_prob=1.0, mask_rate=1.0, random_rate=0.0)
    assert result.ids.tolist() == [CLS, MASK, MASK, SEP, CLS, MASK, SEP]
    assert result.positions.tolist() == [1, 2, 5] and result.labels.tolist() == [10, 11, 12]
    assert result.counts.tolist() == [2, 1]
    assert ids.tolist() == [CLS, 10, 11, SEP, CLS, 12, SEP]


def test_nothing_is_masked_at_rate_zero():
    result, ids, _ = masked([[10, 11], [12]], masked_lm_prob=0.0)
    assert result.ids.tolist() == ids.tolist()
    assert result.positions.tolist() == [] and result.counts.tolist() == [0, 0]


def test_chosen_tokens_stay_at_mask_and_random_rate_zero():
    result, ids, _ = masked([[10, 11, 12]], masked_lm_prob=1.0, mask_rate=0.0, random_rate=0.0)
    assert result.ids.tolist() == ids.tolist() and result.labels.tolist() == [10, 11, 12]


def test_random_tokens_are_never_special_or_unused():
    only = MaskingVocabulary(
        mask_id=MASK,
        maskable=np.isin(np.arange(100), [7, 9]),
        continues=np.zeros(100, dtype=bool),
        alone=np.zeros(100, dtype=bool),
    )
    ids = np.array([CLS, *[7] * 200, SEP])
    options = MaskingOptions(
        masked_lm_prob=1.0, max_predictions=500, mask_rate=0.0, random_rate=1.0
    )
    result = mask_tokens(
        ids, np.array([0, 202]), vocabulary=only, options=options, rng=np.random.default_rng(0)
    )
    assert set(result.ids[1:-1]) == {7, 9} and result.ids[[0, -1]].tolist() == [CLS, SEP]


@pytest.mark.parametrize("most", [3, 8, 1000])
@pytest.mark.parametrize("probability", [0.15, 0.4, 1.0])
def test_the_number_of_predictions_is_exact(most, probability):
    rows = random_rows()
    result, _, _ = masked(rows, masked_lm_prob=probability, max_predictions=most)
    expected = [min(most, max(1, round((len(row) + 2) * probability)), len(row)) for row in rows]
    assert result.counts.tolist() == expected


@pytest.mark.parametrize("unit", ["token", "whole_word", "ngram"])
def test_the_shares_are_80_10_10(unit):
    # transformers' whole-word collator masks all of them and loses the 10 + 10.
    result, ids, _ = masked(random_rows(1500), unit=unit)
    at = result.ids[result.positions]
    same = (at == result.labels).mean()
    assert (at == MASK).mean() == pytest.approx(0.8, abs=0.015)
    assert same == pytest.approx(0.1 + 0.1 / 95, abs=0.015)
    assert result.masked == (at == MASK).sum()
    assert result.replaced + result.masked + same * len(at) == pytest.approx(len(at), abs=30)
    untouched = np.ones(len(ids), dtype=bool)
    untouched[result.positions] = False
    assert (result.ids[untouched] == ids[untouched]).all()


def test_special_tokens_are_never_chosen():
    result, ids, _ = masked(random_rows(), masked_lm_prob=1.0)
    assert not np.isin(ids[result.positions], [CLS, SEP]).any()


def words_of(row):
    words = []
    for position, token in enumerate(row):
        if words and token >= 50 and row[position - 1] >= 5:
            words[-1].append(position)
        elif token >= 5:
            words.append([position])
    return words


@pytest.mark.parametrize("unit", ["whole_word", "ngram"])
def test_whole_words_are_chosen_whole_and_within_the_budget(unit):
    result, ids, offsets = masked(random_rows(), unit=unit, masked_lm_prob=0.3)
    chosen = set(result.positions.tolist())
    for row, (start, end) in enumerate(zip(offsets, offsets[1:], strict=False)):
        words = [[start + p for p in word] for word in words_of(ids[start:end].tolist())]
        for word in words:
            assert len(chosen.intersection(word)) in (0, len(word))
        budget = max(1, round((end - start) * 0.3))
        left = budget - result.counts[row]
        assert left >= 0
        # Words are passed over only where they do not fit.
        free = [len(word) for word in words if word[0] not in chosen]
        assert not free or min(free) > left


def test_pieces_of_a_word_go_together_across_nothing_special():
    result, _, _ = masked([[10, 60, 61, 11, 62]], unit="whole_word", masked_lm_prob=0.43)
    assert result.positions.tolist() in ([1, 2, 3], [4, 5])


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5])  # Of more than a half, the rest is drawn.
def test_every_set_of_tokens_is_chosen_equally_often(probability):
    tokens = [5, 6, 7, 8, 9, 10]
    result, _, _ = masked([tokens] * 40_000, seed=1, masked_lm_prob=probability)
    number = max(1, round(8 * probability))
    places = (result.positions % 8).reshape(-1, number)
    assert (np.diff(places, axis=1) > 0).all()
    _, counts = np.unique(places, axis=0, return_counts=True)
    sets = math.comb(6, number)
    assert len(counts) == sets
    # chi-squared with a fixed seed: far from the tail.
    assert chisquare(counts).pvalue > 0.01


def test_ngrams_are_runs_of_whole_words_of_the_lengths_asked_for():
    row = list(range(5, 45))  # Forty words of one piece each.
    result, ids, offsets = masked(
        [row] * 4000, unit="ngram", max_ngram=3, masked_lm_prob=0.1, max_predictions=4
    )
    assert (result.counts == 4).all()  # The budget is exact.
    lengths = Counter()
    for start in offsets[:-1]:
        inside = result.positions[(result.positions >= start) & (result.positions < start + 42)]
        runs = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
        lengths.update(map(len, runs))
    # Weights 1, 1/2, 1/3; what is left of a budget of four is filled with shorter ones, and runs
    # may touch, so only the order and the presence of each is exact.
    assert lengths[1] > lengths[2] > lengths[3] > 0.05 * sum(lengths.values())


def test_punctuation_is_a_word_of_its_own():
    # Pieces 50 and up go on with a word; 60 is punctuation all the same.
    alone = np.arange(100) == 60
    vocabulary = dataclasses.replace(VOCABULARY, alone=alone)
    ids, offsets = np.array([CLS, 10, 70, 60, 71, SEP]), np.array([0, 6])
    options = MaskingOptions(
        masked_lm_prob=0.34, max_predictions=2, unit="whole_word", mask_rate=1.0
    )
    found = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        result = mask_tokens(ids, offsets, vocabulary=vocabulary, options=options, rng=rng)
        found.add(tuple(result.positions.tolist()))
    assert found == {(1, 2), (3, 4)}


def test_words_may_be_marked_in_the_data():
    marks = np.array([False, False, True, True, False, False])
    ids, offsets = np.array([CLS, 10, 11, 12, 13, SEP]), np.array([0, 6])
    options = MaskingOptions(masked_lm_prob=0.5, max_predictions=3, unit="whole_word")
    rng = np.random.default_rng(0)
    result = mask_tokens(
        ids, offsets, vocabulary=VOCABULARY, options=options, rng=rng, continues=marks
    )
    assert result.positions.tolist() in ([1, 2, 3], [4])


def test_a_batch_without_examples_or_without_anything_to_mask():
    assert masked([])[0].counts.tolist() == []
    assert masked([[], [3, 3]])[0].counts.tolist() == [0, 0]
    assert masked([[], [3, 3]], unit="whole_word")[0].positions.tolist() == []


def test_masks_go_in_and_out_again():
    ids, positions = np.array([2, 7, 8, 9, 3], np.uint16), np.array([1, 3], np.uint16)
    shown, labels = exchange(ids, positions, np.array([4, 9], np.uint16))
    assert shown.tolist() == [2, 4, 8, 9, 3] and labels.tolist() == [7, 9]
    assert ids.tolist() == [2, 7, 8, 9, 3]
    again, values = exchange(shown, positions, labels)
    assert again.tolist() == ids.tolist() and values.tolist() == [4, 9]
    assert {array.dtype for array in (shown, labels, again)} == {np.dtype(np.uint16)}


def test_the_vocabulary_of_a_tokenizer(tiny_tokenizer_folder):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    vocabulary = MaskingVocabulary.of(tokenizer)
    assert vocabulary.mask_id == tokenizer.mask_token_id
    assert not vocabulary.maskable[tokenizer.all_special_ids].any()
    assert vocabulary.maskable.sum() == len(tokenizer) - 5
    pieces = tokenizer.convert_ids_to_tokens(np.flatnonzero(vocabulary.continues).tolist())
    assert len(pieces) == 26 and all(piece.startswith("##") for piece in pieces)
    check_unit("whole_word", vocabulary)


def test_unused_pieces_are_not_drawn(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "a", "##a", "<S>", "<T>"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    vocabulary = MaskingVocabulary.of(load_tokenizer(tmp_path / "vocab.txt"))
    assert np.flatnonzero(vocabulary.maskable).tolist() == [6, 7]


def test_whole_words_need_a_vocabulary_that_tells_them():
    plain = MaskingVocabulary(
        mask_id=0,
        maskable=np.ones(3, dtype=bool),
        continues=np.zeros(3, dtype=bool),
        alone=np.zeros(3, dtype=bool),
    )
    check_unit("token", plain)
    with pytest.raises(ConfigError, match="masking_unit: token"):
        check_unit("whole_word", plain)


@pytest.mark.parametrize(("length", "rate", "most"), [(128, 0.15, 20), (512, 0.15, 77), (8, 0, 1)])
def test_predictions_needed(length, rate, most):
    assert predictions_needed(length, rate) == most
