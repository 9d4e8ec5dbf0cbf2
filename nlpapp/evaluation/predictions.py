"""Logits to figures and to files: the metrics of a set, and its predictions row by row.

Legend: N rows, C classes (1 for a score).
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from scipy.special import log_softmax, softmax

from nlpapp.evaluation.metrics import compute_metrics, decide
from nlpapp.evaluation.statistics import bootstrap_metrics

logger = logging.getLogger(__name__)


def score_logits(
    logits: np.ndarray, labels: np.ndarray, metrics: Sequence[str]
) -> dict[str, float]:
    """Return the metrics of (N, C) logits against (N,) labels, "loss", and "degenerate" of classes.

    degenerate is 1 where every row got the same class though the labels have more than one: the run
    has learned nothing, however good its accuracy looks.
    """
    predictions = decide(logits)
    values = compute_metrics(metrics, predictions, labels)
    if logits.shape[1] == 1:
        return values | {"loss": float(np.mean((predictions.astype(np.float64) - labels) ** 2))}
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    values["loss"] = float(-log_probabilities[np.arange(len(labels)), labels].mean())
    one_class = len(np.unique(predictions)) == 1 and len(np.unique(labels)) > 1
    return values | {"degenerate": float(one_class)}


def score_with_intervals(
    logits: np.ndarray, labels: np.ndarray, metrics: Sequence[str], *, seed: int, prefix: str = ""
) -> dict[str, float]:
    """Return `score_logits` and the 95 % bootstrap interval of each metric, names prefixed."""
    values = score_logits(logits, labels, metrics)
    values |= bootstrap_metrics(metrics, decide(logits), labels, seed=seed)
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
    prediction; for classes ``probability_<name>`` of each.
    """

    def __init__(
        self,
        path: Path,
        label_names: Sequence[str],
        *,
        labelled: bool = False,
        prediction_column: str = "prediction",
    ) -> None:
        """Write to ``path``; ``labelled`` adds the true labels, which `append` then needs."""
        self.path = path
        self.partial = path.with_name(path.name + ".partial")
        self.names = [" ".join(name.split()) for name in label_names]  # a cell holds no tab
        self.labelled = labelled
        self.columns = ["index", *(["label"] if labelled else []), prediction_column]
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
        predictions = decide(logits)
        columns: list[Iterable[str]] = [map(str, range(self.rows, self.rows + len(logits)))]
        if labels is not None and self.labelled:
            columns.append(self._words(labels))
        columns.append(self._words(predictions))
        if self.names:
            probabilities = softmax(logits.astype(np.float64), axis=1)  # (N, C)
            columns += [[f"{value:.6f}" for value in column] for column in probabilities.T]
        self._write(zip(*columns, strict=True))
        self.rows += len(logits)

    def _words(self, values: np.ndarray) -> list[str]:
        return [self.names[value] for value in values] if self.names else [f"{v:g}" for v in values]

    def _write(self, rows: Iterable[Iterable[str]]) -> None:
        self.file.writelines("\t".join(row) + "\n" for row in rows)


def write_predictions(
    path: Path, logits: np.ndarray, label_names: Sequence[str], labels: np.ndarray | None = None
) -> None:
    """Write a `PredictionFile` of (N, C) logits at once."""
    with PredictionFile(path, label_names, labelled=labels is not None) as file:
        file.append(logits, labels)


def read_predictions(path: Path, label_names: Sequence[str]) -> np.ndarray:
    """Return the (N,) class indices, or scores, that `write_predictions` wrote."""
    with path.open(encoding="utf-8") as file:
        position = next(file).rstrip("\n").split("\t").index("prediction")
        words = [line.rstrip("\n").split("\t")[position] for line in file]
    if not label_names:
        return np.array(words, dtype=np.float64)
    index = {" ".join(name.split()): position for position, name in enumerate(label_names)}
    return np.array([index[word] for word in words], dtype=np.int64)
