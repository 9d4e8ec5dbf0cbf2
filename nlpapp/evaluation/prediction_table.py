"""The predictions of a labelled set, read back from a run's file, alone or of several seeds.

Legend: N rows, C classes.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LABEL, PREDICTION, PROBABILITY = "label", "prediction", "probability_"


@dataclass(frozen=True, eq=False)
class PredictionTable:
    """What a model said of rows whose labels are known."""

    names: tuple[str, ...]
    """The classes; empty: the labels are scores."""
    labels: np.ndarray
    """(N,) class indices, or scores."""
    predictions: np.ndarray
    """(N,) the same, as predicted."""
    probabilities: np.ndarray | None
    """(N, C); None for scores."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def errors(self) -> np.ndarray:
        """(N,) how wrong each row is: 1 - p of the true class, or the distance of the scores."""
        if self.probabilities is None:
            return np.abs(self.predictions - self.labels)
        return 1 - self.probabilities[np.arange(len(self)), self.labels]

    @property
    def wrong(self) -> np.ndarray:
        """(N,) 1 where the class is wrong, else 0; for scores the distance."""
        if self.probabilities is None:
            return self.errors
        return (self.predictions != self.labels).astype(np.float64)

    def word(self, value: float) -> object:
        """Return the class name of an index, or the score itself."""
        return self.names[int(value)] if self.names else float(value)


def read_prediction_table(path: Path) -> PredictionTable | None:
    """Read a predictions file; None without labels, without rows, or with several labels a row."""
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    if not rows or LABEL not in header:
        return None
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    names = tuple(name.removeprefix(PROBABILITY) for name in header if name.startswith(PROBABILITY))
    if not names:
        labels, scores = (np.array(columns[name], np.float64) for name in (LABEL, PREDICTION))
        return PredictionTable((), labels, scores, None)
    index = {name: position for position, name in enumerate(names)}
    true, said = (np.array([index[word] for word in columns[name]]) for name in (LABEL, PREDICTION))
    probabilities = np.array([columns[PROBABILITY + name] for name in names], dtype=np.float64).T
    return PredictionTable(names, true, said, probabilities)


def pooled(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Return the rows of all ``tables``, one below the other: (seeds x N,)."""
    probabilities = _probabilities(tables)
    return PredictionTable(
        tables[0].names,
        np.concatenate([table.labels for table in tables]),
        np.concatenate([table.predictions for table in tables]),
        np.concatenate(probabilities) if probabilities else None,
    )


def averaged(tables: Sequence[PredictionTable]) -> PredictionTable:
    """Return the mean of several models on the same rows: of probabilities, or of scores."""
    first = tables[0]
    probabilities = _probabilities(tables)
    if not probabilities:
        scores = np.mean([table.predictions for table in tables], axis=0)
        return PredictionTable((), first.labels, scores, None)
    mean = np.mean(np.stack(probabilities), axis=0)
    return PredictionTable(first.names, first.labels, mean.argmax(axis=1), mean)


def _probabilities(tables: Sequence[PredictionTable]) -> list[np.ndarray]:
    return [table.probabilities for table in tables if table.probabilities is not None]
