"""The yardsticks give known figures on texts where the answer is plain."""

import pytest

from nlpapp.evaluation.baselines import majority_accuracy, tfidf_accuracy


def test_majority():
    assert majority_accuracy(["a", "b", "a", "c"]) == 0.5


def test_tfidf_reads_words_and_fails_without_them():
    texts = ["good film", "fine good day", "bad film", "awful bad day"] * 3
    labels = ["+", "+", "-", "-"] * 3
    assert tfidf_accuracy(texts, labels, ["good", "bad"], ["+", "-"]) == 1.0
    assert tfidf_accuracy(texts, labels, ["good", "bad"], ["-", "+"]) == 0.0
    assert tfidf_accuracy(texts, labels, ["unseen", "words"], ["+", "-"]) == pytest.approx(0.5)
