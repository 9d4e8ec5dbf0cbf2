from pathlib import Path

import numpy as np
import pytest

from nlpapp.data.label_words import (
    LabelWords,
    UnknownLabelError,
    infer_label_names,
    split_words,
)
from nlpapp.errors import DataError

PATH = Path("a.tsv")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "0"], ("0", "9", "10")),
        (["-1", "1", "0"], ("-1", "0", "1")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["01", "1"], ("01", "1")),
        (["", "b"], ("b",)),
    ],
)
def test_inferred_labels_are_sorted(words, expected):
    assert infer_label_names(words) == expected


def test_words_to_class_indices():
    column = LabelWords(PATH, ["p", "n", "p"], [2, 3, 4])
    labels = column.classes(("n", "p"))
    assert (labels.tolist(), labels.dtype) == ([1, 0, 1], np.int64)
    with pytest.raises(UnknownLabelError, match="a.tsv, line 3: label 'n' is not one of 'p'"):
        column.classes(("p",))


def test_words_to_sets_of_classes():
    column = LabelWords(PATH, ["a|b", "", " b "], [1, 2, 3])
    labels = column.sets_of_classes(("b", "a"), "|")
    assert (labels.tolist(), labels.dtype) == ([[1, 1], [0, 0], [1, 0]], np.float32)
    with pytest.raises(UnknownLabelError, match="line 1: label 'a' is not one of 'b'"):
        column.sets_of_classes(("b",), "|")


@pytest.mark.parametrize("word", ["n/a", "nan", "inf", ""])
def test_score_that_is_no_number(word):
    column = LabelWords(PATH, ["1.5", word], [2, 3])
    with pytest.raises(DataError, match=f"line 3: the score '{word}' is not a finite number"):
        column.scores()


def test_scores():
    scores = LabelWords(PATH, ["1.5", "-2"], [1, 2]).scores()
    assert (scores.tolist(), scores.dtype) == ([1.5, -2.0], np.float32)


def test_parts_of_a_word():
    assert split_words(" a,, b ,", ",") == ["a", "b"]
    assert split_words("", ",") == []
