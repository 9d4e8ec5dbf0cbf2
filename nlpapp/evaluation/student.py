"""A student's figures beside its teacher's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nlpapp.evaluation.model_card import write_model_card
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.predictions import score_logits, score_with_intervals
from nlpapp.evaluation.report import write_run_report
from nlpapp.evaluation.run_record import read_run

USAGE = """nlpapp predict --model {folder} --file your.tsv --output_dir runs/predict
nlpapp export --model {folder} --output_dir runs/export"""


KINDS = {
    "bilstm": ("BiLSTM", "A small bidirectional LSTM"),
    "text_cnn": ("TextCNN", "A small convolutional network"),
}
"""Model type -> name, and words for it."""
OTHER = ("Small transformer", "A few layers of its teacher")


def score_student(
    student: np.ndarray,
    teacher: np.ndarray | None,
    labels: np.ndarray,
    metrics: Sequence[str],
    *,
    seed: int,
) -> dict[str, float]:
    """Return the student's metrics with their intervals, and how it compares with its teacher.

    Args:
        student: (N, C) logits; of scores C is 1.
        teacher: (N, C) logits; None leaves the comparison out.
        labels: (N,) classes or scores.
        metrics: names; the first is the one that ``retained`` compares.
        seed: of the bootstrap intervals.

    Returns:
        <metric> and teacher_<metric>; agreement, the share of rows to which both give the same
        class (absent of scores); retained, the student's first metric over the teacher's (absent
        unless the teacher's is positive).
    """
    values = score_with_intervals(student, labels, metrics, seed=seed)
    if teacher is not None:
        theirs = score_logits(teacher, labels, metrics)
        values |= {f"teacher_{name}": theirs[name] for name in metrics}
        if student.shape[1] > 1:
            values["agreement"] = float((student.argmax(1) == teacher.argmax(1)).mean())
        if theirs[metrics[0]] > 0:
            values["retained"] = values[metrics[0]] / theirs[metrics[0]]
    return values


def report_student(
    run_folder: Path, model_folder: Path, *, teacher: str, metrics: Mapping[str, float]
) -> None:
    """Write the curves, the model card and the report of a run of distill.

    Args:
        run_folder: its output_dir.
        model_folder: where the student was saved.
        teacher: what the student learned from, in words.
        metrics: the run's figures.
    """
    plot_curves(run_folder / "metrics.jsonl", run_folder / "plots" / "curves.png")
    config = read_run(run_folder, metrics=metrics).config
    saved = json.loads((model_folder / "config.json").read_text(encoding="utf-8"))
    student, words = KINDS.get(saved["model_type"], OTHER)
    labels = list((saved.get("id2label") or {}).values())
    classes = f"It classifies into {', '.join(labels)}." if len(labels) > 1 else "It gives a score."
    write_model_card(
        model_folder,
        title=f"{student} classifier",
        summary=f"{words} that learned from {teacher}. {classes}",
        metrics=metrics,
        usage=USAGE.format(folder=model_folder),
        run_folder=run_folder,
        details={
            "pipeline_tag": "text-classification",
            "dataset": config.get("task") or config.get("train_file"),
        },
    )
    write_run_report(run_folder, metrics=metrics)
