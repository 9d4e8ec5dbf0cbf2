"""Counts of tokens that stand near each other, beside a count by hand."""

import numpy as np
import pytest

from nlpapp.data import cooccurrence
from nlpapp.data.cooccurrence import WINDOW, count_cooccurrences


def by_hand(data, tokenizer, rows):
    """Count token by token and pair by pair."""
    frequencies = np.zeros(len(tokenizer), dtype=int)
    pairs = np.zeros((len(tokenizer), len(tokenizer)))
    for row in rows:
        example = data[row]
        ids = example.input_ids.copy()
        if example.masked_lm_positions is not None:
            ids[example.masked_lm_positions] = example.masked_lm_ids
        for segment in (0, 1):
            text = [
                int(token)
                for token, kind in zip(ids, example.token_type_ids, strict=True)
                if kind == segment and token not in tokenizer.all_special_ids
            ]
            for place, token in enumerate(text):
                frequencies[token] += 1
                for other in range(max(0, place - WINDOW), min(len(text), place + WINDOW + 1)):
                    if other != place:
                        pairs[token, text[other]] += 1 / abs(other - place)
    return frequencies, pairs


@pytest.mark.parametrize("masking", ["static", "dynamic"])
def test_counts_are_those_by_hand(make, tokenizer, masking, monkeypatch):
    data = make(masking=masking)
    expected = by_hand(data, tokenizer, range(len(data)))
    for tokens_at_once in (1_000_000, 500):  # All at once, and in many pieces.
        monkeypatch.setattr(cooccurrence, "TOKENS_AT_ONCE", tokens_at_once)
        frequencies, pairs = count_cooccurrences(data, tokenizer)
        assert np.array_equal(frequencies, expected[0])
        np.testing.assert_allclose(pairs.toarray(), expected[1], rtol=1e-5)
    assert not frequencies[tokenizer.all_special_ids].any()


def test_of_much_text_every_nth_instance_is_read(make, tokenizer, monkeypatch):
    data = make()
    monkeypatch.setattr(cooccurrence, "MAX_TOKENS", int(data.lengths.sum()) // 3 + 1)
    frequencies, pairs = count_cooccurrences(data, tokenizer)
    expected = by_hand(data, tokenizer, range(0, len(data), 3))
    assert np.array_equal(frequencies, expected[0])
    np.testing.assert_allclose(pairs.toarray(), expected[1], rtol=1e-5)
