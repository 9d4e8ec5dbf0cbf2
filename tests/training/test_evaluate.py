"""Evaluation: exact means, rows in order."""

import numpy as np
import pytest

from nlpapp.training.evaluate import evaluate_means, predict_rows
from tests.training.toy import NUM_EXAMPLES, ToyObjective, make_steps, train
from tests.training.toy_runs import toy


def test_evaluation_is_the_exact_mean_over_items(tmp_path):
    model, _ = train(toy(tmp_path / "run"))
    whole = evaluate_means(model, ToyObjective(), make_steps(NUM_EXAMPLES, shuffle=False))
    parts = evaluate_means(model, ToyObjective(), make_steps(7, shuffle=False))
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert evaluate_means(model, ToyObjective(), make_steps(7, shuffle=False)) == parts


def test_predict_rows_keeps_the_order(tmp_path):
    model, _ = train(toy(tmp_path / "run"))

    def forward(model, batch):
        return model(batch["input_ids"], batch["attention_mask"])

    whole = predict_rows(model, forward, make_steps(NUM_EXAMPLES, shuffle=False))
    parts = predict_rows(model, forward, make_steps(9, shuffle=False))
    np.testing.assert_allclose(parts, whole, atol=1e-6)
