"""The expected calibration error against its definition, and cases that can be worked by hand."""

import numpy as np
import pytest

from nlpapp.evaluation.calibration import calibrate, plot_reliability


def test_worked_by_hand():
    # Two bins of width 1/2 hold, by (low, high]: 0.5 | 0.6, 0.8, 1.0.
    first = np.array([0.5, 0.6, 0.2, 1.0])
    labels = np.array([0, 0, 0, 0])  # predicted: 0, 0, 1, 0
    found = calibrate(np.stack([first, 1 - first], axis=1), labels, bins=2)
    assert found.counts.tolist() == [1, 3]
    np.testing.assert_allclose(found.confidence, [0.5, 0.8])
    np.testing.assert_allclose(found.accuracy, [1.0, 2 / 3])
    assert found.expected_error == pytest.approx((0.5 + 3 * abs(2 / 3 - 0.8)) / 4)


def test_equals_the_definition_row_by_row():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], size=500)
    labels = rng.integers(3, size=500)
    error = 0.0
    for place in range(15):
        inside = [
            (row.max(), row.argmax() == label)
            for row, label in zip(probabilities, labels, strict=True)
            if place / 15 < row.max() <= (place + 1) / 15
        ]
        if inside:
            confidence, right = np.array(inside, float).T
            error += len(inside) / 500 * abs(right.mean() - confidence.mean())
    assert calibrate(probabilities, labels).expected_error == pytest.approx(error, abs=1e-12)


def test_a_calibrated_model_has_a_small_error_and_a_sure_wrong_one_a_large():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet([1, 1], size=20000)
    labels = (rng.random(20000) < probabilities[:, 1]).astype(int)
    assert calibrate(probabilities, labels).expected_error < 0.02
    sure = np.tile([0.0, 1.0], (10, 1))
    assert calibrate(sure, np.zeros(10, int)).expected_error == 1.0


def test_the_diagram_is_a_picture_of_its_figures(tmp_path):
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7]])
    right = plot_reliability(calibrate(probabilities, np.array([0, 1])), tmp_path / "a" / "r.png")
    wrong = plot_reliability(calibrate(probabilities, np.array([1, 0])), tmp_path / "w.png")
    assert right.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert right.read_bytes() != wrong.read_bytes()
