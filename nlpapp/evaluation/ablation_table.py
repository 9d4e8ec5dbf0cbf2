"""What the variants of a training reach over seeds, and how sure their differences are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.evaluation.metrics import FUNCTIONS
from nlpapp.evaluation.prediction_table import PredictionTable
from nlpapp.evaluation.statistics import interval_over_seeds, over_seeds


@dataclass(frozen=True, kw_only=True)
class VariantResult:
    """The finished runs of a variant, one for each seed, in the order of the seeds."""

    name: str
    against: str | None
    """The variant that it is compared with; None: no other."""
    figures: Sequence[Mapping[str, float]]
    """The final figures of each run."""
    tables: Sequence[PredictionTable]
    """What each run says of the same rows."""
    folders: Sequence[Path]
    """Where the runs are."""


def ablation_rows(
    results: Sequence[VariantResult], metrics: Sequence[str], *, seed: int
) -> list[dict[str, object]]:
    """Return a row for each metric and variant.

    Args:
        results: of all variants.
        metrics: names out of `FUNCTIONS`.
        seed: of the bootstrap.

    Returns:
        Rows with "variant", "metric", "mean", "std", the ends "low" and "high" of the 95 % interval
        of the mean, "runs"; where it is compared also "against", "difference" of the means, the
        ends "difference_low" and "difference_high" of its paired interval, and "sure": whether
        that excludes 0, which a single run cannot tell.
    """
    by_name = {result.name: result for result in results}
    rows: list[dict[str, object]] = []
    for name in metrics:
        for result in results:
            values = [figures[name] for figures in result.figures]
            said, labels = _predictions(result), result.tables[0].labels
            low, high = interval_over_seeds(FUNCTIONS[name], said, labels, seed=seed)
            spread = over_seeds(values)
            row: dict[str, object] = {"variant": result.name, "metric": name}
            row |= {"mean": spread["mean"], "std": spread["std"], "low": low, "high": high}
            if result.against is not None:
                other = by_name[result.against]
                low, high = interval_over_seeds(
                    FUNCTIONS[name], said, labels, seed=seed, baseline=_predictions(other)
                )
                theirs = np.mean([figures[name] for figures in other.figures])
                row |= {"against": other.name, "difference": spread["mean"] - float(theirs)}
                row |= {"difference_low": low, "difference_high": high}
                row |= {"sure": low > 0 or high < 0} if len(values) > 1 else {}
            rows.append(row | {"runs": len(values)})
    return rows


def teacher_figure(results: Sequence[VariantResult], metric: str) -> float | None:
    """Return the teacher's ``metric``, from a run that asked it; None: no run did."""
    found: list[Any] = [
        figures.get(f"teacher_{metric}") for result in results for figures in result.figures
    ]
    return next((value for value in found if value is not None), None)


def _predictions(result: VariantResult) -> np.ndarray:
    """Return the (S, N) predictions of the runs."""
    return np.stack([table.predictions for table in result.tables])
