import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from nlpapp.evaluation.metrics import (
    FUNCTIONS,
    compute_metrics,
    confusion_matrix,
    decide,
    mean_score,
)

RECORDED = Path(__file__).parents[1] / "golden" / "glue_compute_metrics.json"
WITNESSES = {
    "accuracy": lambda p, r: sklearn.metrics.accuracy_score(r, p),
    "f1": lambda p, r: sklearn.metrics.f1_score(r, p),
    "f1_micro": lambda p, r: sklearn.metrics.f1_score(r, p, average="micro"),
    "f1_macro": lambda p, r: sklearn.metrics.f1_score(r, p, average="macro"),
    "matthews_correlation": lambda p, r: sklearn.metrics.matthews_corrcoef(r, p),
    "pearson": lambda p, r: scipy.stats.pearsonr(p, r).statistic,
    "spearmanr": lambda p, r: scipy.stats.spearmanr(p, r).statistic,
    "mean_squared_error": lambda p, r: sklearn.metrics.mean_squared_error(r, p),
}
OF_CLASSES = ("accuracy", "f1_macro", "f1_micro", "matthews_correlation")
OF_SETS = ("accuracy", "f1_macro", "f1_micro")


def rows(seed, classes, size):
    rng = np.random.default_rng(seed)
    references = rng.integers(0, classes, size)
    wrong = rng.integers(0, classes, size)
    return np.where(rng.random(size) < 0.6, references, wrong), references


def test_every_metric_has_a_witness():
    assert set(WITNESSES) == set(FUNCTIONS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", [*OF_CLASSES, "f1"])
def test_two_classes_equal_scikit_learn(name, seed):
    predictions, references = rows(seed, 2, 501)
    value = compute_metrics([name], predictions, references)[name]
    assert value == pytest.approx(WITNESSES[name](predictions, references), abs=1e-12)


@pytest.mark.parametrize("classes", [3, 7])
@pytest.mark.parametrize("name", OF_CLASSES)
def test_many_classes_equal_scikit_learn(name, classes):
    predictions, references = rows(classes, classes, 400)
    value = FUNCTIONS[name](predictions, references)
    assert value == pytest.approx(WITNESSES[name](predictions, references), abs=1e-12)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_class_on_one_side_only_equals_scikit_learn(name):
    predictions = np.array([0, 0, 3, 3, 1])
    references = np.array([0, 0, 1, 1, 0])
    value = FUNCTIONS[name](predictions, references)
    assert value == pytest.approx(WITNESSES[name](predictions, references), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["pearson", "spearmanr", "mean_squared_error"])
def test_scores_equal_scipy(name, seed):
    rng = np.random.default_rng(seed)
    references = np.round(rng.random(300) * 5, 1)  # with many ties
    predictions = references + rng.normal(size=300)
    value = compute_metrics([name], predictions, references)[name]
    assert value == pytest.approx(WITNESSES[name](predictions, references), abs=1e-12)


@pytest.mark.parametrize("name", ["matthews_correlation", "f1", "pearson", "spearmanr"])
def test_constant_predictions_score_zero(name):
    references = np.array([0, 1, 1, 0, 1, 0, 0])
    constant = np.full(7, 0.1) if name in ("pearson", "spearmanr") else np.zeros(7, np.int64)
    assert FUNCTIONS[name](constant, references) == 0.0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OF_SETS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_sets_of_classes_equal_scikit_learn(name, seed):
    rng = np.random.default_rng(seed)
    references = (rng.random((200, 4)) < 0.3).astype(np.int64)
    predictions = np.where(rng.random((200, 4)) < 0.8, references, 1 - references)
    predictions[:, 3] = references[:, 3] = 0  # a class on neither side
    value = compute_metrics([name], predictions, references)[name]
    assert value == pytest.approx(WITNESSES[name](predictions, references), abs=1e-12)


@pytest.mark.parametrize("case", json.loads(RECORDED.read_text())["cases"])
def test_figures_equal_transformers_4(case):
    """glue_compute_metrics of transformers 4.33.0, recorded on random cases."""
    names = {"mcc": "matthews_correlation", "acc": "accuracy", "mnli/acc": "accuracy"}
    predictions, references = np.array(case["predictions"]), np.array(case["references"])
    for theirs, value in case["figures"].items():
        if theirs in ("acc_and_f1", "corr"):
            both = ["accuracy", "f1"] if theirs == "acc_and_f1" else ["pearson", "spearmanr"]
            ours = mean_score(compute_metrics(both, predictions, references), both)
        else:
            ours = FUNCTIONS[names.get(theirs, theirs)](predictions, references)
        assert ours == pytest.approx(value, abs=1e-12), theirs


def test_small_cases_by_hand():
    predictions, references = np.array([1, 1, 0, 1]), np.array([1, 0, 0, 1])
    values = compute_metrics(["accuracy", "f1"], predictions, references)
    assert values == {"accuracy": 0.75, "f1": 0.8}  # 2 right of 3 said and 2 there
    assert confusion_matrix(predictions, references).tolist() == [[1, 1], [0, 2]]


def test_confusion_matrix_equals_scikit_learn():
    predictions, references = rows(1, 4, 100)
    expected = sklearn.metrics.confusion_matrix(references, predictions, labels=range(5))
    assert np.array_equal(confusion_matrix(predictions, references, 5), expected)


def test_decisions():
    assert decide(np.array([[0.1, 2.0], [3.0, -1.0]])).tolist() == [1, 0]
    assert decide(np.array([[0.1], [3.0]])).tolist() == [0.1, 3.0]
    several = decide(np.array([[0.1, 2.0], [-3.0, 0.0]]), multi_label=True)
    assert several.tolist() == [[1, 1], [0, 0]]


def test_score_of_a_task_is_the_mean_of_its_metrics():
    assert mean_score(
        {"accuracy": 0.8, "f1": 0.9, "loss": 5.0}, ["accuracy", "f1"]
    ) == pytest.approx(0.85)
