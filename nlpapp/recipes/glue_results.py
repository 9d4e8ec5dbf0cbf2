"""From the folders of GLUE runs to figures, texts and the submission."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nlpapp.data.glue_tasks import TASKS, GlueTask, read_task
from nlpapp.errors import DataError
from nlpapp.evaluation.error_analysis import Texts
from nlpapp.evaluation.glue_page import TaskResult
from nlpapp.evaluation.glue_table import (
    GlueRun,
    best_run,
    best_settings,
    table_rows,
    task_score,
)
from nlpapp.evaluation.prediction_table import read_prediction_table
from nlpapp.evaluation.predictions import read_predictions
from nlpapp.evaluation.submission import write_submission

if TYPE_CHECKING:
    from nlpapp.recipes.glue_plan import PlannedRun


def finished_runs(task: GlueTask, plan: Sequence["PlannedRun"]) -> list[GlueRun]:
    """Return the finished runs of ``task``, with those that repeat degenerate ones.

    Raises:
        DataError: there is none, after all have run.
    """
    runs = []
    for planned in plan:
        if planned.task != task.name:
            continue
        own = Path(planned.folder)
        for folder in [own, *sorted(own.glob("seed-*"))]:
            final = folder / "metrics.json"
            if final.is_file():
                figures = json.loads(final.read_text(encoding="utf-8"))
                runs.append(
                    GlueRun(
                        folder=folder,
                        seed=int(folder.name.removeprefix("seed-")),
                        settings=planned.point.name if planned.point else "",
                        repeated=folder != own,
                        figures=figures | {"score": task_score(figures, task.metrics)},
                    )
                )
    if not runs:
        folder = next(Path(planned.folder) for planned in plan if planned.task == task.name)
        raise DataError(
            f"{folder} holds no finished run. Does every machine that trains see the same "
            "output_dir? Give one on a shared disk."
        )
    return runs


def result_of(task: GlueTask, runs: Sequence[GlueRun], *, seed: int) -> TaskResult:
    """Return the runs with the best settings and their figures; ``seed`` is of the intervals."""
    settings = best_settings(runs)
    chosen = [run for run in runs if run.settings == settings]
    tables = []
    for split in ("dev", *task.dev_splits[1:]):
        read = [read_prediction_table(run.folder / f"predictions-{split}.tsv") for run in chosen]
        tables.append([table for table in read if table is not None])
    rows = table_rows(task.name, task.metrics, chosen, tables, seed=seed)
    return TaskResult(name=task.name, runs=runs, chosen=chosen, tables=tables[0], rows=rows)


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
                notes.append(f"{name}/{split}: its test set is not in data_dir; left out.")
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
            "Without predictions for the official test set, and so filled with the commonest class "
            f"of train: {', '.join(submission.filled)}."
        )
    return notes
