import json

import numpy as np
import pytest
import yaml

from nlpapp.evaluation.multitask_report import TaskReport, task_rows, write_multitask_report
from nlpapp.evaluation.predictions import write_predictions


def report_of(run, **options):
    given = {
        "name": "mood",
        "folder": run / "tasks" / "mood",
        "data": "mood.tsv",
        "rows": 120,
        "label_names": ("bad", "good"),
        "pairs": False,
        "dev_texts": [("a fine day",), ("rain & mud",)],
        "teacher": "runs/teacher",
        "metric_names": ("accuracy", "f1"),
        "figures": {
            "accuracy": 0.5,
            "accuracy_low": 0.25,
            "accuracy_high": 0.75,
            "f1": 0.625,
            "teacher_accuracy": 0.8,
            "retained": 0.625,
        },
    }
    return TaskReport(**given | options)


def test_a_row_for_each_metric_with_the_teachers_beside_it(tmp_path):
    first, second = task_rows(report_of(tmp_path))
    shared = {"task": "mood", "rows": 120}
    assert first == shared | {"metric": "accuracy", "value": 0.5, "low": 0.25, "high": 0.75} | {
        "teacher": 0.8,
        "retained": 0.625,
    }
    assert second == shared | {"metric": "f1", "value": 0.625, "low": None, "high": None} | {
        "teacher": None,
        "retained": None,
    }


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"tasks": ["mood", "likeness"]}))
    (tmp_path / "environment.json").write_text(json.dumps({"command": "multitask"}))
    records = [{"step": step, "split": "train", "loss": 1 / step} for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return tmp_path


def test_the_page_and_the_cards_tell_of_every_task(run):
    logits = np.array([[2.0, 0.0], [1.0, 0.5]])
    mood = report_of(run)
    write_predictions(
        mood.folder / "predictions-dev.tsv", logits, mood.label_names, np.array([0, 1])
    )
    likeness = report_of(
        run,
        name="likeness",
        folder=run / "tasks" / "likeness",
        label_names=(),
        pairs=True,
        teacher=None,
        metric_names=("pearson",),
        figures={"pearson": 0.25},
    )
    metrics = {"mean_score": 0.375, "mood_accuracy": 0.5, "likeness_pearson": 0.25}
    write_multitask_report(
        run, run / "model", base="A tiny BERT", tasks=[mood, likeness], metrics=metrics
    )
    page = (run / "report.html").read_text()
    for words in ("0.375", "likeness", "Pearson", "mood: confusion matrix", "rain &amp; mud"):
        assert words in page
    assert "likeness: hardest" not in page  # it left no predictions
    card = (run / "model" / "README.md").read_text()
    assert "mood, likeness, numbered from 0" in card and "task=1).logits  # likeness" in card
    card = (mood.folder / "model" / "README.md").read_text()
    assert "Classes: bad, good." in card and "also learned from runs/teacher" in card
    card = (likeness.folder / "model" / "README.md").read_text()
    assert "it gives a score" in card and "learned from" not in card and "text_pair" in card
    assert (run / "plots" / "curves.png").is_file()
