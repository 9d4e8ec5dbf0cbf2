"""The page of a GLUE run: the table, what others have published, and where each task fails."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nlpapp.evaluation.classifier_sections import prediction_sections
from nlpapp.evaluation.error_analysis import Texts
from nlpapp.evaluation.glue_table import (
    NUMBER_OF_TASKS,
    GlueRun,
    published_rows,
    run_rows,
    settings_rows,
)
from nlpapp.evaluation.page import Section, write_report
from nlpapp.evaluation.plots import plot_run_comparison
from nlpapp.evaluation.prediction_table import PredictionTable
from nlpapp.evaluation.published_glue import PUBLISHED

TABLE_NOTE = (
    "Figures on the dev sets, over the runs of each task with its best settings; degenerate runs "
    "count. std is that of a sample. low and high are the ends of the 95 % interval of the mean: "
    "rows are drawn with replacement, and training adds Student's t over the seeds. The score is "
    "the mean of a task's metrics, and of both dev sets of MNLI."
)
PUBLISHED_NOTE = (
    "What others report for models of known size. Those on the test set are from GLUE's server, so "
    "that only those on dev compare directly."
)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The runs of one task."""

    name: str
    runs: Sequence[GlueRun]
    """All of them."""
    chosen: Sequence[GlueRun]
    """Those with the best settings."""
    tables: Sequence[PredictionTable]
    """The predictions of ``chosen`` on the first dev set."""
    rows: Sequence[dict[str, object]]
    """Of the table."""


def write_glue_page(
    path: Path,
    results: Sequence[TaskResult],
    figures: Mapping[str, float],
    notes: Sequence[str],
    *,
    texts_of: Callable[[str], Texts | None],
) -> Path:
    """Write the page.

    Args:
        path: the page; pictures go to ``plots`` beside it.
        results: of each task.
        figures: averages and counts, to see first.
        notes: on the submission, and on how the runs were made.
        texts_of: task name -> texts of its first dev set.
    """
    table = [row for result in results for row in result.rows]
    average = (
        f"The mean of the tasks' median scores, over {len(results)} of GLUE's {NUMBER_OF_TASKS} "
        "tasks."
    )
    sections = [
        Section("Average", average, figures=figures),
        Section("Tasks", TABLE_NOTE, table=table),
        Section("Submission", "\n\n".join(notes)),
        *_published_section(table),
        *_settings_section(results),
        Section(
            "Runs", table=[row for result in results for row in run_rows(result.name, result.runs)]
        ),
    ]
    plots = path.parent / "plots"
    for result in results:
        logged = {
            f"seed {run.seed}": run.folder / "metrics.jsonl"
            for run in result.chosen
            if (run.folder / "metrics.jsonl").is_file()
        }
        curves = plot_run_comparison(logged, plots / f"{result.name}-curves.png")
        if curves is not None:
            sections.append(Section(f"{result.name}: curves of the seeds", image=curves))
        if result.tables:
            texts = texts_of(result.name)
            sections += prediction_sections(result.tables, texts, plots, name=result.name)
    return write_report(path, title="GLUE", sections=sections)


def _published_section(table: Sequence[dict[str, object]]) -> list[Section]:
    rows = published_rows(table)
    sources = "\n\n".join(
        f"{model.name} ({model.measured_on}): {model.source}." for model in PUBLISHED
    )
    text = f"{PUBLISHED_NOTE}\n\n{sources}"
    return [Section("Published figures", text, table=rows, exact_titles=True)] if rows else []


def _settings_section(results: Sequence[TaskResult]) -> list[Section]:
    rows = [row for result in results for row in settings_rows(result.name, result.runs)]
    if len(rows) == len(results):
        return []
    return [Section("Settings", "The grid; the highest median score is taken.", table=rows)]
