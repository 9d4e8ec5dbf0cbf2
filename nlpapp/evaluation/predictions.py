"""Logits to figures and to files: the metrics of a set, and its predictions row by row.

Legend: N rows, C classes (1 for a score).
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from scipy.special import expit, log_softmax, softmax

from nlpapp.evaluation.metrics import compute_metrics, decide
from nlpapp.evaluation.statistics import bootstrap_metrics

logger = logging.getLogger(__name__)


def score_logits(
    logits: np.ndarray, labels: np.ndarray, metrics: Sequence[str]
) -> dict[str, float]:
    """Return the metrics of (N, C) logits against (N,) labels, "loss", and "degenerate" of classes.

    Labels of (N, C) are sets of classes. degenerate is 1 where every row got the same class though
    the labels have more than one: the run has learned nothing, however good its accuracy looks.
    """
    several = labels.ndim == 2
    predictions = decide(logits, multi_label=several)
    values = compute_metrics(metrics, predictions, labels)
    if logits.shape[1] == 1:
        return values | {"loss": float(np.mean((predictions.astype(np.float64) - labels) ** 2))}
    if several:  # -log p of what is right, p = sigmoid(logit) or 1 - p: log(1 + exp(-+logit))
        wrong = np.where(labels > 0, -1.0, 1.0) * logits.astype(np.float64)
        values["loss"] = float(np.logaddexp(0, wrong).mean())
    else:
        log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
        values["loss"] = float(-log_probabilities[np.arange(len(labels)), labels].mean())
    one_class = (predictions == predictions[0]).all() and not (labels == labels[0]).all()
    return values | {"degenerate": float(one_class)}


def score_with_intervals(
    logits: np.ndarray, labels: np.ndarray, metrics: Sequence[str], *, seed: int, prefix: str = ""
) -> dict[str, float]:
    """Return `score_logits` and the 95 % bootstrap interval of each metric, names prefixed."""
    values = score_logits(logits, labels, metrics)
    predictions = decide(logits, multi_label=labels.ndim == 2)
    values |= bootstrap_metrics(metrics, predictions, labels, seed=seed)
    if values.get("degenerate"):
        logger.warning(
            "degenerate run: all %d rows got the same class; try another seed or a lower "
            "learning rate",
            len(labels),
        )
    return {prefix + name: value for name, value in values.items()}


class PredictionFile:
    """A TSV of predictions, written part by part and renamed when it is complete.

    Columns: ``index`` (row of the input, from 0); ``label`` if the true labels are given; the
    prediction; for classes ``probability_<name>`` of each. Where a row may have several classes,
    the columns are ``labels`` and ``predictions``, the classes between commas.
    """

    def __init__(
        self,
        path: Path,
        label_names: Sequence[str],
        *,
        labelled: bool = False,
        multi_label: bool = False,
        prediction_column: str = "prediction",
    ) -> None:
        """Write to ``path``; ``labelled`` adds the true labels, which `append` then needs."""
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.names = [" ".join(name.split()) for name in label_names]  # a cell holds no tab
        self.labelled = labelled
        self.multi_label = multi_label
        plural = "s" * multi_label
        self.columns = ["index", *([f"label{plural}"] if labelled else [])]
        self.columns.append(prediction_column + plural)
        self.columns += [f"probability_{name}" for name in self.names]
        self.rows = 0

    def __enter__(self) -> "PredictionFile":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.partial.open("w", encoding="utf-8")
        self._write([self.columns])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.file.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)

    def append(self, logits: np.ndarray, labels: np.ndarray | None = None) -> None:
        """Write the rows of (N, C) logits, and their true labels if the file has them."""
        predictions = decide(logits, multi_label=self.multi_label)
        columns: list[Iterable[str]] = [map(str, range(self.rows, self.rows + len(logits)))]
        if labels is not None and self.labelled:
            columns.append(self._words(labels))
        columns.append(self._words(predictions))
        if self.names:
            double = logits.astype(np.float64)
            probabilities = expit(double) if self.multi_label else softmax(double, axis=1)  # (N, C)
            columns += [[f"{value:.6f}" for value in column] for column in probabilities.T]
        self._write(zip(*columns, strict=True))
        self.rows += len(logits)

    def _words(self, values: np.ndarray) -> list[str]:
        if self.multi_label:
            names = np.array(self.names)
            return [", ".join(names[row > 0]) for row in values]
        return [self.names[value] for value in values] if self.names else [f"{v:g}" for v in values]

    def _write(self, rows: Iterable[Iterable[str]]) -> None:
        self.file.writelines("\t".join(row) + "\n" for row in rows)


def write_predictions(
    path: Path,
    logits: np.ndarray,
    label_names: Sequence[str],
    labels: np.ndarray | None = None,
    *,
    multi_label: bool = False,
) -> None:
    """Write a `PredictionFile` of (N, C) logits at once."""
    labelled = labels is not None
    with PredictionFile(path, label_names, labelled=labelled, multi_label=multi_label) as file:
        file.append(logits, labels)


def score_and_write(
    path: Path | None,
    logits: np.ndarray,
    labels: np.ndarray | None,
    label_names: Sequence[str],
    *,
    metrics: Sequence[str],
    multi_label: bool,
    seed: int,
    prefix: str = "",
) -> dict[str, float]:
    """Return `score_with_intervals`, nothing without labels; `write_predictions` to a ``path``."""
    if path is not None:
        write_predictions(path, logits, label_names, labels, multi_label=multi_label)
    if labels is None:
        return {}
    return score_with_intervals(logits, labels, metrics, seed=seed, prefix=prefix)


def read_predictions(path: Path, label_names: Sequence[str]) -> np.ndarray:
    """Return the (N,) class indices, or scores, that `write_predictions` wrote."""
    with path.open(encoding="utf-8") as file:
        position = next(file).rstrip("\n").split("\t").index("prediction")
        words = [line.rstrip("\n").split("\t")[position] for line in file]
    if not label_names:
        return np.array(words, dtype=np.float64)
    index = {" ".join(name.split()): position for position, name in enumerate(label_names)}
    return np.array([index[word] for word in words], dtype=np.int64)
