"""What `nlpapp multitask` leaves: predictions and figures of each task, report and submission."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nlpapp.data.classification import encode_for
from nlpapp.evaluation.glue_page import TaskResult
from nlpapp.evaluation.glue_table import GlueRun
from nlpapp.evaluation.multitask_report import TaskReport, write_multitask_report
from nlpapp.evaluation.predictions import write_predictions
from nlpapp.evaluation.student import score_student
from nlpapp.models.multitask import MultiTaskClassifier
from nlpapp.recipes.glue_results import submit
from nlpapp.recipes.multitask_models import predict
from nlpapp.training.run_folder import RunFolder

if TYPE_CHECKING:
    from nlpapp.recipes.multitask import Config
    from nlpapp.recipes.multitask_tasks import Task

logger = logging.getLogger(__name__)


def score_task(
    run: RunFolder,
    config: "Config",
    task: "Task",
    model: MultiTaskClassifier,
    tokenizer: Any,
    taught: Mapping[str, np.ndarray] | None,
) -> dict[str, float]:
    """Write the predictions of one task, and return its figures beside its teacher's.

    They are called as those of finetune and distill: without a prefix for the dev set that chose
    the weights, with its name for others. ``taught`` are the teacher's logits for each set.
    """
    metrics: dict[str, float] = {}
    for order, (split, examples) in enumerate((task.sets.dev | task.sets.test).items()):
        one = model.classifier(task.name)
        read = encode_for(one, tokenizer, examples, max_seq_length=config.max_seq_length)
        found = predict(config, model, task.name, read, tokenizer.pad_token_id)
        if examples.labels is not None:
            theirs = None if taught is None else taught[split]
            given = (found, theirs, examples.labels, task.sets.metrics)
            figures = score_student(*given, seed=config.seed)
            metrics |= {f"{split}_{name}" if order else name: x for name, x in figures.items()}
        if run.is_main:
            folder = run.path / "tasks" / task.name
            path = folder / f"predictions-{split if order else 'dev'}.tsv"
            write_predictions(path, found, task.sets.label_names, examples.labels)
    return metrics


def report(
    run: RunFolder,
    config: "Config",
    tasks: Sequence["Task"],
    figures: Mapping[str, Mapping[str, float]],
    metrics: Mapping[str, float],
) -> None:
    """Write model cards, the page, and the files for GLUE's server where its test sets are there.

    Args:
        run: the run.
        config: of the command.
        tasks: all tasks.
        figures: of each task, by name.
        metrics: of the run.
    """
    reports = [
        TaskReport(
            name=task.name,
            folder=run.path / "tasks" / task.name,
            data=task.options.task or str(task.options.train_file),
            **task.sets.facts,
            dev_texts=task.dev.texts,
            teacher=task.options.teacher,
            metric_names=task.sets.metrics,
            figures=figures[task.name],
        )
        for task in tasks
    ]
    base = config.model or f"A {config.architecture} from random weights"
    write_multitask_report(run.path, run.model, base=base, tasks=reports, metrics=metrics)
    results = [
        _as_glue(run, config, task, figures[task.name])
        for task in tasks
        if task.options.task is not None and task.sets.test
    ]
    for note in submit(run.path / "submission", results) if results else ():
        logger.info(note)


def _as_glue(
    run: RunFolder, config: "Config", task: "Task", figures: Mapping[str, float]
) -> TaskResult:
    found = GlueRun(
        folder=run.path / "tasks" / task.name,
        seed=config.seed,
        settings="",
        repeated=False,
        figures={"score": figures[task.sets.metrics[0]]},
    )
    name = str(task.options.task)
    return TaskResult(name=name, runs=[found], chosen=[found], tables=[], rows=[])
