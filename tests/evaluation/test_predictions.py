import csv
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from nlpapp.evaluation.predictions import (
    PredictionFile,
    read_predictions,
    score_logits,
    score_with_intervals,
    write_predictions,
)

LOGITS = np.array([[2.0, -1.0], [0.0, 1.0], [3.0, 3.5]], dtype=np.float32)
LABELS = np.array([0, 0, 1])


def cells(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_loss_is_torchs_cross_entropy():
    values = score_logits(LOGITS, LABELS, ["accuracy"])
    expected = functional.cross_entropy(torch.tensor(LOGITS), torch.tensor(LABELS))
    assert values["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["degenerate"] == 0.0


def test_loss_of_scores_is_torchs_squared_error():
    scores = np.array([[1.0], [2.0], [4.0]], dtype=np.float32)
    labels = np.array([1.5, 2.0, 3.0], dtype=np.float32)
    values = score_logits(scores, labels, ["pearson"])
    expected = functional.mse_loss(torch.tensor(scores[:, 0]), torch.tensor(labels))
    assert values["loss"] == pytest.approx(expected.item())
    assert "degenerate" not in values


def test_one_class_for_every_row_is_degenerate(caplog):
    logits = np.array([[1.0, 0.0]] * 3)
    with caplog.at_level(logging.WARNING):
        values = score_with_intervals(logits, LABELS, ["accuracy"], seed=0)
    assert values["degenerate"] == 1.0
    assert "degenerate run: all 3 rows" in caplog.text
    assert score_logits(logits, np.zeros(3, np.int64), ["accuracy"])["degenerate"] == 0.0


def test_intervals_hold_the_figure_and_names_are_prefixed():
    values = score_with_intervals(LOGITS, LABELS, ["accuracy"], seed=0, prefix="test_")
    assert set(values) == {
        "test_accuracy",
        "test_accuracy_low",
        "test_accuracy_high",
        "test_loss",
        "test_degenerate",
    }
    assert values["test_accuracy_low"] <= values["test_accuracy"] <= values["test_accuracy_high"]


def test_file_of_classes(tmp_path):
    path = tmp_path / "p.tsv"
    write_predictions(path, LOGITS, ("no", "yes"), LABELS)
    rows = cells(path)
    assert rows[0] == ["index", "label", "prediction", "probability_no", "probability_yes"]
    assert [row[:3] for row in rows[1:]] == [
        ["0", "no", "no"],
        ["1", "no", "yes"],
        ["2", "yes", "yes"],
    ]
    expected = functional.softmax(torch.tensor(LOGITS), dim=1).numpy()
    assert np.array([row[3:] for row in rows[1:]], float) == pytest.approx(expected, abs=1e-6)
    assert read_predictions(path, ("no", "yes")).tolist() == [0, 1, 1]


def test_file_of_scores(tmp_path):
    path = tmp_path / "p.tsv"
    write_predictions(path, np.array([[1.25], [3.0]]), ())
    assert cells(path) == [["index", "prediction"], ["0", "1.25"], ["1", "3"]]
    assert read_predictions(path, ()).tolist() == [1.25, 3.0]


def test_names_with_tabs_and_quotes_keep_the_table_whole(tmp_path):
    path = tmp_path / "p.tsv"
    names = ("a\tb", '"quoted')
    write_predictions(path, LOGITS, names)
    assert [len(row) for row in cells(path)] == [4] * 4
    assert read_predictions(path, names).tolist() == [0, 1, 1]


def test_parts_make_the_same_file_as_the_whole(tmp_path):
    write_predictions(tmp_path / "whole.tsv", LOGITS, ("no", "yes"))
    with PredictionFile(tmp_path / "parts.tsv", ("no", "yes")) as file:
        file.append(LOGITS[:2])
        file.append(LOGITS[2:])
    assert (tmp_path / "parts.tsv").read_text() == (tmp_path / "whole.tsv").read_text()


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text("old")
    with pytest.raises(RuntimeError), PredictionFile(path, ("no", "yes")) as file:
        file.append(LOGITS)
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sets_of_classes(tmp_path):
    logits = np.array([[2.0, -1.0], [-0.5, -1.0], [3.0, 3.5]], dtype=np.float32)
    labels = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
    values = score_with_intervals(logits, labels, ["accuracy", "f1_micro"], seed=0)
    expected = functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(labels)
    )
    assert values["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["f1_micro"] == pytest.approx(6 / 7)
    assert values["accuracy_low"] <= values["accuracy"] <= values["accuracy_high"]
    assert values["degenerate"] == 0.0
    assert score_logits(np.ones_like(logits), labels, ["accuracy"])["degenerate"] == 1.0
    write_predictions(tmp_path / "p.tsv", logits, ("a", "b"), labels, multi_label=True)
    rows = cells(tmp_path / "p.tsv")
    assert rows[0] == ["index", "labels", "predictions", "probability_a", "probability_b"]
    assert [row[1:3] for row in rows[1:]] == [["a", "a"], ["b", ""], ["a, b", "a, b"]]
    assert float(rows[1][3]) == pytest.approx(torch.tensor(2.0).sigmoid().item(), abs=1e-6)
