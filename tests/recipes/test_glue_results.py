"""Figures, texts and the submission from the folders of finished runs."""

import json

import numpy as np
import pytest

from nlpapp.data.glue_tasks import TASKS
from nlpapp.errors import DataError
from nlpapp.evaluation.glue_table import GlueRun
from nlpapp.evaluation.predictions import write_predictions
from nlpapp.recipes.glue_plan import GridPoint, plan_runs
from nlpapp.recipes.glue_results import dev_texts, finished_runs, result_of, submit
from tests.conftest import REPOSITORY
from tests.evaluation.glue_server import problems

WNLI = TASKS["wnli"]


def run_of(tmp_path, seed, accuracy, *, settings="", test_rows=146):
    """Write the predictions of a run that answers ``seed`` % 2 on every test row."""
    folder = tmp_path / settings / f"seed-{seed}"
    folder.mkdir(parents=True)
    figures = {"accuracy": accuracy, "score": accuracy}
    (folder / "metrics.json").write_text(json.dumps(figures))
    labels = np.array([0, 1] * 10)
    right = np.arange(20) < 20 * accuracy
    logits = np.eye(2)[np.where(right, labels, 1 - labels)]
    write_predictions(folder / "predictions-dev.tsv", logits, WNLI.labels, labels)
    answers = np.eye(2)[np.full(test_rows, seed % 2)]
    write_predictions(folder / "predictions-test.tsv", answers, WNLI.labels)
    return GlueRun(folder=folder, seed=seed, settings=settings, repeated=False, figures=figures)


def test_only_the_best_settings_are_in_the_table(tmp_path):
    runs = [
        *(run_of(tmp_path, seed, 0.5, settings="a") for seed in (1, 2)),
        *(run_of(tmp_path, seed, value, settings="b") for seed, value in ((1, 0.6), (2, 0.8))),
    ]
    result = result_of(WNLI, runs, seed=1)
    assert list(result.chosen) == runs[2:]
    assert len(result.runs) == 4
    row = result.rows[0]
    assert (row["mean"], row["best"], row["runs"]) == (pytest.approx(0.7), 0.8, 2)
    assert row["low"] < 0.7 < row["high"]
    assert [float(1 - table.wrong.mean()) for table in result.tables] == pytest.approx([0.6, 0.8])


def test_the_best_run_answers_the_server_which_takes_it(tmp_path):
    runs = [run_of(tmp_path, 1, 0.7), run_of(tmp_path, 2, 0.6)]
    notes = submit(tmp_path / "submission", [result_of(WNLI, runs, seed=1)])
    assert problems(tmp_path / "submission" / "submission.zip") == []
    rows = (tmp_path / "submission" / "WNLI.tsv").read_text().splitlines()[1:]
    assert {row.split("\t")[1] for row in rows} == {"1"}
    assert "ready for gluebenchmark.com" in notes[0]
    assert "commonest class" in notes[1]
    assert "WNLI.tsv" not in notes[1]


def test_another_test_set_is_no_submission(tmp_path):
    result = result_of(WNLI, [run_of(tmp_path, 1, 0.7, test_rows=9)], seed=1)
    notes = submit(tmp_path / "submission", [result])
    assert "wnli/test has 9 of 146 rows" in notes[0]
    assert "No submission" in notes[1]
    assert not (tmp_path / "submission").exists()


def test_texts_are_those_of_the_dev_set():
    texts = dev_texts(str(REPOSITORY / "data" / "sample" / "glue"), "sst2")
    path = REPOSITORY / "data" / "sample" / "glue" / "SST-2" / "dev.tsv"
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    assert texts == [(line.split("\t")[0],) for line in lines]


def test_finished_runs_come_with_those_that_repeat_them(tmp_path):
    point = GridPoint(batch_size=16, learning_rate=2e-5, num_epochs=3)
    plan = plan_runs(str(tmp_path), [TASKS["rte"]], [point], [1, 2], mnli_first=True)
    for folder, accuracy in (("seed-1", 0.5), ("seed-1/seed-1001", 0.6)):
        path = tmp_path / "rte" / point.name / folder
        path.mkdir() if path.parent.is_dir() else path.mkdir(parents=True)
        (path / "metrics.json").write_text(json.dumps({"accuracy": accuracy}))
    first, second = finished_runs(TASKS["rte"], plan)
    assert (first.seed, first.repeated, first.figures["score"]) == (1, False, 0.5)
    assert (second.seed, second.repeated, second.settings) == (1001, True, point.name)


def test_no_finished_run_at_the_end_is_told(tmp_path):
    plan = plan_runs(str(tmp_path), [TASKS["rte"]], [None], [1], mnli_first=True)
    with pytest.raises(DataError, match="rte/seed-1 holds no finished run.*same "):
        finished_runs(TASKS["rte"], plan)
