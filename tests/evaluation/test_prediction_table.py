"""Predictions read back are those that were written; several seeds are pooled or averaged."""

import numpy as np
import pytest
from scipy.special import softmax

from nlpapp.evaluation.prediction_table import averaged, pooled, read_prediction_table
from nlpapp.evaluation.predictions import write_predictions

NAMES = ("bad", "so so", "good")


def written(tmp_path, seed, *, rows=7):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, 3))
    labels = np.arange(rows) % 3
    path = tmp_path / f"{seed}.tsv"
    write_predictions(path, logits, NAMES, labels)
    return read_prediction_table(path), logits, labels


def test_classes_come_back(tmp_path):
    table, logits, labels = written(tmp_path, 0)
    assert table.names == NAMES
    np.testing.assert_array_equal(table.labels, labels)
    np.testing.assert_array_equal(table.predictions, logits.argmax(axis=1))
    np.testing.assert_allclose(table.probabilities, softmax(logits, axis=1), atol=5.1e-7)
    expected = 1 - softmax(logits, axis=1)[np.arange(7), labels]
    np.testing.assert_allclose(table.errors, expected, atol=5.1e-7)
    np.testing.assert_array_equal(table.wrong, logits.argmax(axis=1) != labels)
    assert table.word(1) == "so so"


def test_scores_come_back(tmp_path):
    path = tmp_path / "scores.tsv"
    write_predictions(path, np.array([[1.5], [4.0]]), (), np.array([2.0, 3.5], np.float32))
    table = read_prediction_table(path)
    assert table.names == ()
    assert table.probabilities is None
    assert table.errors.tolist() == table.wrong.tolist() == [0.5, 0.5]
    assert averaged([table, table]).predictions.tolist() == [1.5, 4.0]
    assert pooled([table, table]).predictions.tolist() == [1.5, 4.0, 1.5, 4.0]


def test_seeds_are_pooled_and_averaged(tmp_path):
    first, one, labels = written(tmp_path, 1)
    second, other, _ = written(tmp_path, 2)
    together = pooled([first, second])
    np.testing.assert_array_equal(together.labels, [*labels, *labels])
    np.testing.assert_array_equal(
        together.predictions, [*one.argmax(axis=1), *other.argmax(axis=1)]
    )
    assert together.probabilities.shape == (14, 3)
    mean = (softmax(one, axis=1) + softmax(other, axis=1)) / 2
    found = averaged([first, second])
    np.testing.assert_allclose(found.probabilities, mean, atol=6e-7)
    np.testing.assert_array_equal(found.predictions, mean.argmax(axis=1))


@pytest.mark.parametrize(
    "content",
    [
        "index\tprediction\tprobability_good\n0\tgood\t1\n",  # no labels
        "index\tlabels\tpredictions\tprobability_good\n0\tgood\tgood\t1\n",  # several a row
        "index\tlabel\tprediction\tprobability_good\n",  # no rows
    ],
)
def test_nothing_to_compare(tmp_path, content):
    (tmp_path / "p.tsv").write_text(content, encoding="utf-8")
    assert read_prediction_table(tmp_path / "p.tsv") is None
    assert read_prediction_table(tmp_path / "absent.tsv") is None
