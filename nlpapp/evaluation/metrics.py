"""The metrics of GLUE and of own tasks: each formula is a plain function of numpy arrays.

`nlpapp.evaluation.metric_modules` wraps them as modules of `evaluate`.
Where a metric is undefined (a correlation with a constant, F1 without any positive) it is 0.
Where a row may have several classes, predictions and references are (N, C) of 0 and 1.
Symbols: C classes, N rows.
"""

from collections.abc import Callable, Sequence

import numpy as np


def confusion_matrix(
    predictions: np.ndarray, references: np.ndarray, num_classes: int | None = None
) -> np.ndarray:
    """Return (C, C) counts: row = reference class, column = predicted class."""
    predictions, references = np.asarray(predictions), np.asarray(references)
    if num_classes is None:
        num_classes = int(max(predictions.max(initial=0), references.max(initial=0))) + 1
    cells = references.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the share of rows with the right class, or with all and only the right classes."""
    right = np.asarray(predictions) == np.asarray(references)
    return float(np.mean(right.all(axis=1) if right.ndim == 2 else right))


def _f1_counts(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (C,) 2 TP and (C,) 2 TP + FP + FN of each class: F1 is their quotient."""
    if np.ndim(references) == 2:
        said, there = np.asarray(predictions) > 0, np.asarray(references) > 0
        return 2 * (said & there).sum(axis=0), said.sum(axis=0) + there.sum(axis=0)
    matrix = confusion_matrix(predictions, references)
    return 2 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1)


def f1(predictions: np.ndarray, references: np.ndarray, pos_label: int = 1) -> float:
    """Return the F1 of class ``pos_label`` against the others; 1 as GLUE scores MRPC and QQP."""
    twice, total = _f1_counts(predictions, references)
    there = pos_label < len(total) and total[pos_label]
    return float(twice[pos_label] / total[pos_label]) if there else 0.0


def f1_macro(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur in the references or the predictions.

    Of (N, C) all C classes count, one that occurs on neither side with 0, as in scikit-learn.
    """
    twice, total = _f1_counts(predictions, references)
    counted = total > 0 if np.ndim(references) == 1 else np.ones(len(total), dtype=bool)
    return float(np.mean(twice[counted] / np.maximum(total[counted], 1)))


def f1_micro(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return F1 over all decisions of all classes; with one class a row it is the accuracy."""
    twice, total = _f1_counts(predictions, references)
    return float(twice.sum() / total.sum()) if total.sum() else 0.0


def matthews_correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Matthews' correlation for C classes (Gorodkin 2004, R_K); CoLA's metric."""
    matrix = confusion_matrix(predictions, references).astype(np.float64)
    predicted, actual, total = matrix.sum(axis=0), matrix.sum(axis=1), matrix.sum()
    covariance = np.trace(matrix) * total - predicted @ actual
    variances = (total**2 - predicted @ predicted) * (total**2 - actual @ actual)
    return float(covariance / np.sqrt(variances)) if variances > 0 else 0.0


def pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Pearson's correlation of two (N,) arrays."""
    x = np.asarray(predictions, dtype=np.float64)
    y = np.asarray(references, dtype=np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))


def spearmanr(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Spearman's correlation: Pearson's of the ranks, ties sharing their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(predictions), rankdata(references))


def mean_squared_error(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the mean of the squared differences."""
    difference = np.asarray(predictions, np.float64) - np.asarray(references, np.float64)
    return float(np.mean(difference**2))


MetricFunction = Callable[..., float]
FUNCTIONS: dict[str, MetricFunction] = {
    function.__name__: function
    for function in (
        accuracy,
        f1,
        f1_macro,
        f1_micro,
        matthews_correlation,
        pearson,
        spearmanr,
        mean_squared_error,
    )
}
"""Metric name -> function(predictions, references); f1 also takes ``pos_label``."""
OF_SCORES = ("pearson", "spearmanr", "mean_squared_error")
"""Metrics of regression; the others compare class indices."""


def compute_metrics(
    names: Sequence[str], predictions: np.ndarray, references: np.ndarray
) -> dict[str, float]:
    """Return {name: value} of the metrics ``names``.

    Args:
        names: names out of `FUNCTIONS`.
        predictions: (N,) class indices, or scores; or (N, C) of 0 and 1.
        references: the same of the references.
    """
    # Imported with the first evaluation: evaluate and datasets would delay the start of training.
    from nlpapp.evaluation.metric_modules import load_metric

    multi_label = np.ndim(references) == 2
    values: dict[str, float] = {}
    for name in names:
        module = load_metric(name, multi_label=multi_label)
        values |= module.compute(predictions=predictions, references=references)
    return values


def decide(logits: np.ndarray, *, multi_label: bool = False) -> np.ndarray:
    """Return the predictions of (N, C) logits.

    (N,) the best class, or for C = 1 the score; with ``multi_label`` (N, C) 1 for each class that
    is more likely than not.
    """
    if multi_label:
        return (logits > 0).astype(np.int64)
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(axis=1)


def mean_score(metrics: dict[str, float], names: Sequence[str]) -> float:
    """Return the mean of the metrics ``names``: GLUE's score of a task."""
    return float(np.mean([metrics[name] for name in names]))
