"""Where a classifier fails: by the length of the text, on which rows, and unlike another model.

Legend: N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlpapp.evaluation.prediction_table import PredictionTable

Texts = Sequence[tuple[str, ...]]
"""The text of each row, or the two of a pair."""
MOST_SHOWN = 300
"""Characters of a text in a table."""


@dataclass(frozen=True)
class LengthGroup:
    """The rows whose texts are about as long."""

    shortest: int
    longest: int
    """Characters."""
    rows: int
    wrong: float
    """Share of wrong classes, or mean distance of the scores."""


def by_length(wrong: np.ndarray, lengths: np.ndarray, *, groups: int = 5) -> list[LengthGroup]:
    """Return ``groups`` groups of (N,) rows, from short to long, each of about N / groups rows.

    Rows of one length are never parted, so that there may be fewer groups.
    """
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, groups + 1)[1:-1], method="lower"))
    place = np.searchsorted(edges, lengths, side="left")
    return [
        LengthGroup(
            int(lengths[inside].min()),
            int(lengths[inside].max()),
            int(inside.sum()),
            float(wrong[inside].mean()),
        )
        for group in range(len(edges) + 1)
        if (inside := place == group).any()
    ]


def hardest(table: PredictionTable, count: int) -> np.ndarray:
    """Return the rows with the largest `PredictionTable.errors`, the worst first."""
    return np.argsort(-table.errors, kind="stable")[:count]


@dataclass(frozen=True, eq=False)
class Difference:
    """What one model gets right and another does not, on the same rows."""

    first_only: np.ndarray
    """Rows that only the first has right."""
    second_only: np.ndarray
    both: int
    neither: int

    @property
    def p_value(self) -> float:
        """McNemar's exact test: how likely so uneven a split is if the models were equally good."""
        from scipy.stats import binomtest  # Takes long to import, and pages alone need it.

        parted = len(self.first_only) + len(self.second_only)
        return float(binomtest(len(self.second_only), parted).pvalue) if parted else 1.0


def same_rows(first: PredictionTable, second: PredictionTable) -> bool:
    """Return whether two models answered the same rows, as far as labels tell."""
    return first.names == second.names and np.array_equal(first.labels, second.labels)


def difference(first: PredictionTable, second: PredictionTable) -> Difference | None:
    """Compare two classifiers; None unless they answered the same rows with the same labels."""
    if not first.names or not same_rows(first, second):
        return None
    one, other = first.wrong == 0, second.wrong == 0
    return Difference(
        np.flatnonzero(one & ~other),
        np.flatnonzero(other & ~one),
        int((one & other).sum()),
        int((~one & ~other).sum()),
    )


def shown(text: tuple[str, ...]) -> str:
    """Return the text or texts of a row for a table, cut if they are long."""
    joined = " | ".join(" ".join(part.split()) for part in text)
    return joined if len(joined) <= MOST_SHOWN else joined[: MOST_SHOWN - 4] + " ..."
