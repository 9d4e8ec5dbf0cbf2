"""What a multi-task training leaves for people: a card for each model, and one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlpapp.evaluation.classifier_report import USAGE
from nlpapp.evaluation.classifier_sections import prediction_sections
from nlpapp.evaluation.error_analysis import Texts
from nlpapp.evaluation.model_card import write_model_card
from nlpapp.evaluation.page import Section
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.prediction_table import read_prediction_table
from nlpapp.evaluation.report import (
    run_sections,
    run_subtitle,
    run_title,
    write_report,
)
from nlpapp.evaluation.run_record import read_run

SHARED_USAGE = """from nlpapp.models.multitask import MultiTaskClassifier

model = MultiTaskClassifier.from_pretrained("{folder}").eval()
logits = model(input_ids, attention_mask, task={number}).logits  # {name}"""
TABLE_NOTE = (
    "On the dev sets, with the 95 % bootstrap interval over rows. Retained is the share of the "
    "teacher's figure, for the first metric of each task; the mean score is the mean of these "
    "first metrics, which chose the weights."
)


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """What is told of one task."""

    name: str
    folder: Path
    """Holds model/ and predictions-dev.tsv."""
    data: str
    """Name of the task, or the training file."""
    rows: int
    """Of the training set."""
    label_names: Sequence[str]
    """Classes in order; none: scores."""
    pairs: bool
    """Whether an example is a pair of texts."""
    dev_texts: Texts
    """Of the dev set."""
    teacher: str | None
    """What it learned from beside its labels."""
    metric_names: Sequence[str]
    """The first is the one that counts."""
    figures: Mapping[str, float]
    """Of this task, by names without the task's."""


def write_multitask_report(
    run_folder: Path,
    model: Path,
    *,
    base: str,
    tasks: Sequence[TaskReport],
    metrics: Mapping[str, float],
) -> None:
    """Write plots/curves.png, the models' README.md and report.html.

    Args:
        run_folder: of the run.
        model: folder of the model of all tasks.
        base: what was trained, in words.
        tasks: all of them, in the model's order.
        metrics: the run's final figures.
    """
    plot_curves(run_folder / "metrics.jsonl", run_folder / "plots" / "curves.png")
    names = ", ".join(task.name for task in tasks)
    for task in tasks:
        _write_task_card(task, run_folder, base, names)
    last = len(tasks) - 1
    write_model_card(
        model,
        title=f"{base} trained on {len(tasks)} tasks at once",
        summary=f"One encoder with a head for each of {names}, numbered from 0 in this order. Each "
        "task's classifier alone is an ordinary model folder below `tasks/` of the run.",
        metrics=metrics,
        usage=SHARED_USAGE.format(folder=model, number=last, name=tasks[last].name),
        run_folder=run_folder,
        details={f"rows of {task.name}": task.rows for task in tasks},
    )
    run = read_run(run_folder, metrics=metrics)
    figures: dict[str, object] = {"mean_score": metrics["mean_score"]}
    table = [row for task in tasks for row in task_rows(task)]
    sections = [Section("Tasks", TABLE_NOTE, figures=figures, table=table)]
    sections += run_sections(run, plots=run.path / "plots")
    for task in tasks:
        read = read_prediction_table(task.folder / "predictions-dev.tsv")
        if read is not None:
            found = prediction_sections([read], task.dev_texts, run.path / "plots", name=task.name)
            sections += found
    page = run.path / "report.html"
    write_report(page, title=run_title(run), subtitle=run_subtitle(run), sections=sections)


def task_rows(task: TaskReport) -> list[dict[str, object]]:
    """Return a row of the table for each metric of ``task``."""
    return [
        {
            "task": task.name,
            "rows": task.rows,
            "metric": name,
            "value": task.figures[name],
            "low": task.figures.get(f"{name}_low"),
            "high": task.figures.get(f"{name}_high"),
            "teacher": task.figures.get(f"teacher_{name}"),
            "retained": task.figures.get("retained") if name == task.metric_names[0] else None,
        }
        for name in task.metric_names
    ]


def _write_task_card(task: TaskReport, run_folder: Path, base: str, names: str) -> None:
    classes = f"Classes: {', '.join(task.label_names) or 'none, it gives a score'}."
    taught = f" It also learned from {task.teacher}." if task.teacher else ""
    folder = task.folder / "model"
    example = '{"text": "...", "text_pair": "..."}' if task.pairs else '"..."'
    write_model_card(
        folder,
        title=f"{base} trained on {task.name} among other tasks",
        summary=f"{classes} Its encoder was trained on {names} at once.{taught}",
        metrics=task.figures,
        usage=USAGE.format(folder=folder, example=example),
        run_folder=run_folder,
        details={
            "pipeline_tag": "text-classification",
            "dataset": task.data,
            "rows": task.rows,
        },
    )
