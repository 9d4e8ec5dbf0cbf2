"""Groups by length, hardest rows and differences, on cases that can be worked by hand."""

import numpy as np
import pytest
from scipy.stats import binom

from nlpapp.evaluation.error_analysis import by_length, difference, hardest, shown
from nlpapp.evaluation.prediction_table import PredictionTable


def table(p_true, labels=None, names=("no", "yes")):
    """Return a two-class table in which the true classes have the probabilities ``p_true``."""
    p_true = np.array(p_true, float)
    labels = np.zeros(len(p_true), int) if labels is None else np.array(labels)
    probabilities = np.where(np.arange(2) == labels[:, None], p_true[:, None], 1 - p_true[:, None])
    return PredictionTable(tuple(names), labels, probabilities.argmax(axis=1), probabilities)


def test_groups_go_from_short_to_long_and_hold_all_rows():
    lengths = np.array([9, 1, 2, 8, 4, 3, 7, 6, 5, 10])
    wrong = (lengths > 6).astype(float)
    groups = by_length(wrong, lengths, groups=5)
    assert [(group.shortest, group.longest) for group in groups] == [
        *((1, 2), (3, 4), (5, 6), (7, 8), (9, 10))
    ]
    assert [group.rows for group in groups] == [2] * 5
    assert [group.wrong for group in groups] == [0, 0, 0, 1, 1]


def test_rows_of_one_length_are_never_parted():
    groups = by_length(np.array([1, 0, 0, 0.0]), np.array([5, 5, 5, 7]))
    assert [(group.shortest, group.longest, group.rows) for group in groups] == [
        (5, 5, 3),
        (7, 7, 1),
    ]
    assert groups[0].wrong == pytest.approx(1 / 3)


def test_hardest_are_those_of_the_smallest_probability():
    assert hardest(table([0.9, 0.2, 0.5, 0.1]), 3).tolist() == [3, 1, 2]


def test_difference_names_the_rows_and_how_unlikely_they_are():
    one = table([0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1])
    other = table([0.9, 0.1, 0.2, 0.3, 0.4, 0.4, 0.8, 0.2])
    found = difference(one, other)
    assert found.first_only.tolist() == [1, 2, 3, 4, 5]
    assert found.second_only.tolist() == [6]
    assert (found.both, found.neither) == (1, 1)
    assert found.p_value == pytest.approx(2 * binom.cdf(1, 6, 0.5))
    assert difference(one, one).p_value == 1.0


def test_other_rows_are_not_compared():
    assert difference(table([0.9, 0.1]), table([0.9])) is None
    assert difference(table([0.9, 0.1]), table([0.9, 0.1], labels=[0, 1])) is None
    assert difference(table([0.9]), table([0.9], names=("a", "b"))) is None


def test_texts_are_shown_whole_or_cut():
    assert shown(("one\ttwo", "three")) == "one two | three"
    long = shown(("x" * 1000,))
    assert len(long) == 300
    assert long.endswith("x ...")
