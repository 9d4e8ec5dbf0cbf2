"""Published rows: their own averages are the witness that no figure is mistyped."""

import pytest

from nlpapp.data.glue_tasks import TASKS
from nlpapp.evaluation.glue_table import averages
from nlpapp.evaluation.metrics import FUNCTIONS
from nlpapp.evaluation.published_glue import COLUMNS, PUBLISHED


def scores(model):
    by_task = {}
    for (task, _), value in model.figures.items():
        by_task.setdefault(task, []).append(value)
    return {task: sum(values) / len(values) for task, values in by_task.items()}


@pytest.mark.parametrize(
    ("name", "score"),
    [("BERT-tiny", 64.2), ("BERT-mini", 65.8), ("BERT-small", 71.2), ("BERT-medium", 73.5)],
)
def test_rows_have_the_published_glue_score(name, score):
    (model,) = [model for model in PUBLISHED if model.name == name]
    assert 100 * averages(scores(model))["average_score"] == pytest.approx(score, abs=0.1)


def test_the_row_of_the_paper_has_its_average():
    wanted = ("BERT-base", "test")
    (model,) = [model for model in PUBLISHED if (model.name, model.measured_on) == wanted]
    assert 100 * sum(model.figures.values()) / 9 == pytest.approx(79.6, abs=0.05)


def test_columns_are_those_of_the_tasks():
    for task, metric in COLUMNS:
        assert metric.removeprefix("mismatched_") in TASKS[task].metrics
        assert metric.removeprefix("mismatched_") in FUNCTIONS
    for model in PUBLISHED:
        assert all(-1 <= value <= 1 for value in model.figures.values())
        assert model.source
