import json

import numpy as np
import pytest

from nlpapp.evaluation.classifier_report import write_classifier_report
from nlpapp.evaluation.predictions import write_predictions


@pytest.mark.parametrize("pairs", [False, True])
def test_card_curves_and_page(tmp_path, pairs):
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 1\n")
    records = [{"step": step, "split": "train", "loss": 1 / step} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    write_predictions(
        run / "predictions-dev.tsv", np.array([[2.0, 0.0]]), ("bad", "good"), np.array([1])
    )
    write_classifier_report(
        run,
        run / "model",
        base=None,
        data="reviews",
        rows=1234,
        label_names=("bad", "good"),
        pairs=pairs,
        texts=[("a fine film",)],
        metrics={"accuracy": 0.75},
    )
    card = (run / "model" / "README.md").read_text()
    assert "# A BERT from random weights fine-tuned on reviews" in card
    assert "Classes: bad, good." in card
    assert "0.75" in card
    assert ('"text_pair"' in card) == pairs
    assert (run / "plots" / "curves.png").stat().st_size > 0
    page = (run / "report.html").read_text()
    assert "0.75" in page
    assert "Accuracy by length" in page
    assert "a fine film" in page  # the hardest row
