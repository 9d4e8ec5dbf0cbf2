import numpy as np
import pytest
import scipy.stats

from nlpapp.evaluation.metrics import FUNCTIONS, accuracy
from nlpapp.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_metrics,
    interval_over_seeds,
    over_seeds,
)


def rows(size, right):
    references = np.arange(size) % 2
    predictions = references.copy()
    predictions[: size - right] ^= 1
    return predictions, references


def test_interval_of_accuracy_agrees_with_scipys_bootstrap():
    predictions, references = rows(400, 320)
    low, high = bootstrap_interval(
        FUNCTIONS["accuracy"], predictions, references, seed=0, resamples=4000
    )
    expected = scipy.stats.bootstrap(
        ((predictions == references).astype(float),),
        np.mean,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert low == pytest.approx(expected.low, abs=0.006)
    assert high == pytest.approx(expected.high, abs=0.006)


def test_interval_agrees_with_the_binomial_distribution():
    predictions, references = rows(200, 150)
    low, high = bootstrap_interval(
        FUNCTIONS["accuracy"], predictions, references, seed=3, resamples=4000, confidence=0.9
    )
    exact = scipy.stats.binom(200, 0.75).ppf([0.05, 0.95]) / 200
    assert (low, high) == pytest.approx(tuple(exact), abs=0.0075)


def test_interval_is_a_function_of_the_seed():
    predictions, references = rows(50, 40)
    metric = FUNCTIONS["f1"]
    first = bootstrap_interval(metric, predictions, references, seed=1)
    np.random.seed(7)
    assert bootstrap_interval(metric, predictions, references, seed=1) == first
    assert bootstrap_interval(metric, predictions, references, seed=2) != first


def test_rows_stay_paired():
    """Equal predictions and references are equal in every resample."""
    references = np.linspace(0, 1, 40)
    values = bootstrap_metrics(["pearson", "mean_squared_error"], references, references, seed=0)
    assert values["mean_squared_error_low"] == values["mean_squared_error_high"] == 0.0
    assert values["pearson_low"] == pytest.approx(1.0)


def test_over_seeds_by_hand():
    values = over_seeds([1.0, 2.0, 6.0])
    assert values == {"median": 2.0, "mean": 3.0, "std": pytest.approx(7**0.5), "best": 6.0}
    assert over_seeds([0.5]) == {"median": 0.5, "mean": 0.5, "std": 0.0, "best": 0.5}


def test_interval_over_seeds_is_that_of_rows_where_seeds_agree():
    rng = np.random.default_rng(3)
    references = rng.integers(0, 2, 200)
    predictions = np.where(rng.random(200) < 0.8, references, 1 - references)
    low, high = interval_over_seeds(accuracy, np.tile(predictions, (4, 1)), references, seed=1)
    share = (predictions == references).mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 200)  # the binomial's normal approximation
    assert low == pytest.approx(share - half, abs=0.015)
    assert high == pytest.approx(share + half, abs=0.015)


def test_interval_over_seeds_is_students_t_where_rows_leave_no_chance():
    references = np.zeros(50, dtype=np.int64)
    scores = np.array([0.50, 0.52, 0.54, 0.53, 0.51])
    predictions = np.repeat(scores[:, None], 50, axis=1)

    def mean(said, _):
        return float(said.mean())

    found = interval_over_seeds(mean, predictions, references, seed=1, resamples=20_000)
    expected = scipy.stats.t(4, loc=0.52, scale=scipy.stats.sem(scores)).interval(0.95)
    assert found == pytest.approx(expected, abs=1e-3)
    assert found == interval_over_seeds(mean, predictions, references, seed=1, resamples=20_000)
    # Two runs that disagree say nothing: all that a metric can be.
    apart = np.stack([references, references + 1])
    assert interval_over_seeds(accuracy, apart, references, seed=1) == (-1, 1)


def test_methods_that_do_not_differ_are_told_apart_as_seldom_as_promised():
    """Five seeds with a chance of their own in training, rows that are as hard for all of them:
    1 of 20 may be told apart, and a bootstrap over the seeds tells 27 of 150.
    """
    rng = np.random.default_rng(0)
    references = np.zeros(100, dtype=np.int64)

    hardness = rng.random(100)

    def runs():
        errors = 0.3 + rng.normal(0, 0.1, (5, 1))
        return (hardness < errors).astype(np.int64)

    def mean(said, _):
        return float(said.mean())

    told = 0
    for trial in range(150):
        low, high = interval_over_seeds(
            mean, runs(), references, seed=trial, baseline=runs(), resamples=200
        )
        told += low > 0 or high < 0
    assert 0 < told <= scipy.stats.binom(150, 0.05).ppf(0.999)


def test_paired_interval_agrees_with_scipys_bootstrap():
    rng = np.random.default_rng(5)
    references = rng.integers(0, 2, 300)
    own = np.where(rng.random(300) < 0.85, references, 1 - references)
    other = np.where(rng.random(300) < 0.2, 1 - own, own)
    found = interval_over_seeds(
        accuracy, own[None], references, seed=2, baseline=other[None], resamples=4000
    )
    expected = scipy.stats.bootstrap(
        ((own == references).astype(float), (other == references).astype(float)),
        lambda first, second, axis=-1: np.mean(first, axis=axis) - np.mean(second, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found == pytest.approx((expected.low, expected.high), abs=0.006)


def test_paired_seeds_are_drawn_together():
    """Runs that lie far apart differ by nothing from themselves."""
    references = np.zeros(40, dtype=np.int64)
    predictions = np.stack([references, references + 1])
    found = interval_over_seeds(
        accuracy, predictions, references, seed=1, baseline=predictions.copy()
    )
    assert found == (0.0, 0.0)
