"""How far a figure can be trusted: bootstrap intervals over rows, and spreads over seeds."""

from collections.abc import Sequence

import numpy as np

from nlpapp import seeding
from nlpapp.evaluation.metrics import FUNCTIONS, MetricFunction


def bootstrap_interval(
    metric: MetricFunction,
    predictions: np.ndarray,
    references: np.ndarray,
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric over the rows (Efron 1979).

    It covers the chance of the rows drawn for the evaluation set, not that of training; for the
    latter train with several seeds.

    Args:
        metric: function(predictions, references) of two (N,) arrays.
        predictions: (N,) class indices or scores.
        references: (N,) the same of the references.
        seed: the interval is a function of it.
        resamples: number of sets drawn with replacement.
        confidence: share of the resampled values inside the interval.
    """
    rng = seeding.generator(seed, "bootstrap")
    size = len(references)
    values = np.empty(resamples)
    for index in range(resamples):
        rows = rng.integers(0, size, size)
        values[index] = metric(predictions[rows], references[rows])
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_metrics(
    names: Sequence[str], predictions: np.ndarray, references: np.ndarray, *, seed: int
) -> dict[str, float]:
    """Return ``<name>_low`` and ``<name>_high``, the 95 % intervals of the metrics ``names``."""
    values: dict[str, float] = {}
    for name in names:
        interval = bootstrap_interval(FUNCTIONS[name], predictions, references, seed=seed)
        values[f"{name}_low"], values[f"{name}_high"] = interval
    return values


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """Return median, mean, std and best (highest) of one metric over runs.

    std is the sample standard deviation (divided by runs - 1); 0 for a single run.
    """
    array = np.asarray(values, dtype=np.float64)
    return {
        "median": float(np.median(array)),
        "mean": float(array.mean()),
        "std": float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        "best": float(array.max()),
    }


def interval_over_seeds(
    metric: MetricFunction,
    predictions: np.ndarray,
    references: np.ndarray,
    *,
    seed: int,
    baseline: np.ndarray | None = None,
    sizes: Sequence[int] | None = None,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of the mean of a metric over seeds; rows and seeds are both chance.

    Rows are drawn with replacement, the same for all runs (Efron 1979). A bootstrap over a handful
    of seeds gives intervals that are far too narrow, so what training adds is drawn from Student's
    t distribution of their mean, with a degree of freedom less than there are runs. A single run
    says nothing of that chance: its interval is that of the rows.

    Args:
        metric: function(predictions, references) of two (N,) arrays.
        predictions: (S, N) class indices or scores of S runs.
        references: (N,) the same of the references.
        seed: the interval is a function of it.
        baseline: (S, N) of other runs with the same seeds in the same order: the interval is then
            that of the mean difference to them, paired by seeds and rows.
        sizes: rows of each of several sets that lie one after the other; the metric is the mean of
            theirs, and each is drawn by itself. Absent: all rows are one set.
        resamples: number of draws.
        confidence: share of the draws inside the interval.

    Returns:
        Its ends, between -1 and 1, as all metrics are.
    """
    rng = seeding.generator(seed, "bootstrap over seeds")
    runs, size = predictions.shape
    sizes = sizes or [size]
    sets = list(zip(np.cumsum(sizes), sizes, strict=True))

    def of_each_run(said: np.ndarray, drawn: Sequence[np.ndarray]) -> np.ndarray:
        return np.array(
            [np.mean([metric(run[rows], references[rows]) for rows in drawn]) for run in said]
        )

    def found(drawn: Sequence[np.ndarray]) -> np.ndarray:
        own = of_each_run(predictions, drawn)
        return own if baseline is None else own - of_each_run(baseline, drawn)

    of_runs = found([np.arange(end - rows, end) for end, rows in sets])
    training = np.zeros(resamples)
    if runs > 1:
        error = of_runs.std(ddof=1) / np.sqrt(runs)
        training = error * rng.standard_t(runs - 1, resamples)
    values = training + [
        found([rng.integers(end - rows, end, rows) for end, rows in sets]).mean()
        for _ in range(resamples)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail]).clip(-1, 1)
    return float(low), float(high)
