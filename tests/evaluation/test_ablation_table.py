from pathlib import Path

import numpy as np
import pytest

from nlpapp.evaluation.ablation_table import VariantResult, ablation_rows, teacher_figure
from nlpapp.evaluation.prediction_table import PredictionTable

LABELS = np.arange(200) % 2


def result(name, right, against=None, **figures):
    """Return a variant whose runs have the first ``right[i]`` rows right and the others wrong."""
    said = [np.where(np.arange(200) < number, LABELS, 1 - LABELS) for number in right]
    return VariantResult(
        name=name,
        against=against,
        figures=[{"accuracy": number / 200} | figures for number in right],
        tables=[PredictionTable(("a", "b"), LABELS, row, np.zeros((200, 2))) for row in said],
        folders=[Path(name, f"seed-{seed}") for seed in range(len(right))],
    )


def test_rows_by_hand():
    results = [result("labels", [100, 110, 120]), result("logits", [130, 140, 150], "labels")]
    first, second = ablation_rows(results, ["accuracy"], seed=0)
    assert first["variant"] == "labels" and "difference" not in first
    assert (first["mean"], first["std"], first["runs"]) == pytest.approx((0.55, 0.05, 3))
    assert second["against"] == "labels" and second["difference"] == pytest.approx(0.15)
    assert first["low"] < 0.55 < first["high"]
    # Each seed gains the same 30 of 200 rows: what is left is the chance of the rows alone.
    half = 1.96 * (0.15 * 0.85 / 200) ** 0.5
    assert second["difference_low"] == pytest.approx(0.15 - half, abs=0.01)
    assert second["difference_high"] == pytest.approx(0.15 + half, abs=0.01)
    assert second["sure"] is True


@pytest.mark.parametrize(("theirs", "sure"), [([190, 20], False), ([20, 18], True)])
def test_a_difference_is_sure_where_its_interval_excludes_0(theirs, sure):
    results = [result("one", [100, 100]), result("other", theirs, "one")]
    assert ablation_rows(results, ["accuracy"], seed=0)[1]["sure"] is sure


def test_a_single_run_is_never_sure():
    results = [result("one", [20]), result("other", [180], "one")]
    row = ablation_rows(results, ["accuracy"], seed=0)[1]
    assert row["difference_low"] > 0 and "sure" not in row


def test_the_teachers_figure_is_that_of_a_run_that_asked():
    results = [result("labels", [100]), result("logits", [120], teacher_accuracy=0.9)]
    assert teacher_figure(results, "accuracy") == 0.9
    assert teacher_figure(results[:1], "accuracy") is None
