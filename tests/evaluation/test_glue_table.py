"""The table: medians, intervals, the best settings, averages, and what is degenerate."""

from pathlib import Path

import numpy as np
import pytest

from nlpapp.evaluation.glue_table import (
    GlueRun,
    averages,
    best_run,
    best_settings,
    published_rows,
    run_rows,
    settings_rows,
    table_rows,
    task_score,
)
from nlpapp.evaluation.prediction_table import PredictionTable


def run_of(seed, score, *, settings="", repeated=False, **figures):
    return GlueRun(
        folder=Path(f"seed-{seed}"),
        seed=seed,
        settings=settings,
        repeated=repeated,
        figures={"score": score, "accuracy": score, **figures},
    )


def test_the_score_is_the_mean_of_metrics_and_of_both_sets_of_mnli():
    assert task_score({"accuracy": 0.5, "f1": 1.0, "loss": 9}, ("accuracy", "f1")) == 0.75
    figures = {"accuracy": 0.5, "dev_mismatched_accuracy": 0.7}
    assert task_score(figures, ("accuracy",)) == pytest.approx(0.6)


def test_best_settings_are_those_of_the_highest_median():
    runs = [
        *(run_of(seed, score, settings="a") for seed, score in enumerate([0.1, 0.5, 0.9])),
        *(run_of(seed, score, settings="b") for seed, score in enumerate([0.55, 0.6, 0.61])),
    ]
    assert best_settings(runs) == "b"
    assert best_run(runs).figures["score"] == 0.9
    rows = settings_rows("rte", runs)
    assert [(row["settings"], row["median"], row["runs"]) for row in rows] == [
        ("b", 0.6, 3),
        ("a", 0.5, 3),
    ]


def test_averages_with_and_without_wnli():
    found = averages({"rte": 0.6, "sst2": 0.8, "wnli": 0.1})
    assert found["average_score"] == pytest.approx(0.5)
    assert found["average_score_without_wnli"] == pytest.approx(0.7)
    assert averages({"rte": 0.6}) == {"average_score": 0.6}


def test_rows_hold_statistics_and_intervals_around_the_mean():
    labels = np.array([0, 1] * 50)
    rng = np.random.default_rng(0)
    tables = [
        PredictionTable(("n", "y"), labels, np.where(rng.random(100) < p, labels, 1 - labels), None)
        for p in (0.7, 0.8, 0.9)
    ]
    exact = [float((table.predictions == labels).mean()) for table in tables]
    runs = [run_of(seed, score) for seed, score in enumerate(exact)]
    (row, score) = table_rows("rte", ("accuracy",), runs, [tables], seed=1)
    assert row["task"] == "rte"
    assert row["metric"] == "accuracy"
    assert row["mean"] == pytest.approx(np.mean(exact))
    assert row["best"] == max(exact)
    assert row["runs"] == 3
    assert 0.3 < row["high"] - row["low"] < 0.7
    assert row["low"] < row["mean"] < row["high"]
    assert score["metric"] == "score"
    assert (score["low"], score["high"]) == (row["low"], row["high"])  # one metric is the score


def test_each_dev_set_of_mnli_has_its_interval_and_the_score_one_of_both():
    rng = np.random.default_rng(3)
    sets, exact = [], []
    for rows, share in ((300, 0.9), (100, 0.6)):
        labels = rng.integers(0, 3, rows)
        said = np.where(rng.random(rows) < share, labels, (labels + 1) % 3)
        sets.append([PredictionTable(("e", "n", "c"), labels, said, None)])
        exact.append(float(np.mean(labels == said)))
    of_sets = {"accuracy": exact[0], "dev_mismatched_accuracy": exact[1]}
    runs = [run_of(1, np.mean(exact), **of_sets)]
    rows = {row["metric"]: row for row in table_rows("mnli", ("accuracy",), runs, sets, seed=1)}
    assert list(rows) == ["accuracy", "mismatched_accuracy", "score"]
    for row, share, n in zip(rows.values(), (*exact, None), (300, 100, None), strict=True):
        assert row["low"] < row["mean"] < row["high"]
        if n:  # The normal approximation of a share.
            assert row["high"] - row["low"] == pytest.approx(
                2 * 1.96 * (share * (1 - share) / n) ** 0.5, rel=0.15
            )
    widths = [rows[name]["high"] - rows[name]["low"] for name in rows]
    assert widths[2] == pytest.approx((widths[0] ** 2 + widths[1] ** 2) ** 0.5 / 2, rel=0.15)
    alone = table_rows("mnli", ("accuracy",), runs, [sets[0], []], seed=1)
    assert ["low" in row for row in alone] == [True, False, False]


def test_published_figures_stand_beside_the_same_metric():
    table = [
        {"task": "mnli", "metric": "mismatched_accuracy", "median": 0.7},
        {"task": "mnli", "metric": "score", "median": 0.7},
    ]
    (row,) = published_rows(table)
    assert row["BERT-tiny (test)"] == 0.703
    assert row["BERT-base (dev)"] == 0.841
    assert row["median"] == 0.7


def test_degenerate_runs_and_their_repetitions_are_told():
    rows = run_rows("rte", [run_of(1, 0.5, degenerate=1.0), run_of(1001, 0.6, repeated=True)])
    assert [row["note"] for row in rows] == [
        "degenerate: one class for all rows",
        "repeats a degenerate run",
    ]
    assert [row["seed"] for row in rows] == ["1", "1001"]
    assert run_rows("rte", [run_of(1, 0.5)])[0]["note"] is None
