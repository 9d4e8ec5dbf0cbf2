"""From the folders of GLUE runs to figures, texts and the submission."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nlpapp.data.glue_tasks import TASKS, GlueTask, read_task
from nlpapp.evaluation.error_analysis import Texts
from nlpapp.evaluation.glue_page import TaskResult
from nlpapp.evaluation.glue_table import GlueRun, best_run, best_settings, table_rows
from nlpapp.evaluation.prediction_table import read_prediction_table
from nlpapp.evaluation.predictions import read_predictions
from nlpapp.evaluation.submission import write_submission


def result_of(task: GlueTask, runs: Sequence[GlueRun], *, seed: int) -> TaskResult:
    """Return the runs with the best settings and their figures; ``seed`` is of the intervals."""
    settings = best_settings(runs)
    chosen = [run for run in runs if run.settings == settings]
    read = [read_prediction_table(run.folder / "predictions-dev.tsv") for run in chosen]
    tables = [table for table in read if table is not None]
    rows = table_rows(task.name, task.metrics, chosen, tables, seed=seed)
    return TaskResult(name=task.name, runs=runs, chosen=chosen, tables=tables, rows=rows)


def dev_texts(data_dir: str, name: str) -> Texts:
    """Return the texts of the first dev set of the task called ``name``."""
    task = TASKS[name]
    return read_task(task, data_dir, task.dev_splits[0]).texts


def submit(folder: Path, results: Sequence[TaskResult]) -> list[str]:
    """Write the test predictions of the runs that are best on dev as the server's files.

    Returns:
        What a reader must know: where they are, which files hold the commonest class only, and
        which test sets are not the official ones. Without any official one nothing is written.
    """
    predictions: dict[tuple[str, str], np.ndarray] = {}
    notes: list[str] = []
    for result in results:
        task = TASKS[result.name]
        splits = {(task.name, split): split for split in task.test_splits}
        if task.name == "mnli":
            splits["ax", "test"] = "ax"
        for (name, split), written in splits.items():
            path = best_run(result.chosen).folder / f"predictions-{written}.tsv"
            if not path.is_file():
                continue
            values = read_predictions(path, task.labels)
            if len(values) == TASKS[name].rows[split]:
                predictions[name, split] = values
            else:
                notes.append(
                    f"{name}/{split} has {len(values):,} of {TASKS[name].rows[split]:,} rows and "
                    "is not the official test set; left out."
                )
    if not predictions:
        return [*notes, "No submission: there is no official test set here."]
    submission = write_submission(folder, TASKS, predictions)
    notes.append(f"{submission.path} is ready for gluebenchmark.com.")
    if submission.filled:
        notes.append(
            "Without a model, and so filled with the commonest class: "
            f"{', '.join(submission.filled)}."
        )
    return notes
