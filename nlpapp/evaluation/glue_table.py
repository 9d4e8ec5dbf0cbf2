"""The figures of GLUE over tasks, settings and seeds: what to print, and how far to trust it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nlpapp.evaluation.metrics import FUNCTIONS
from nlpapp.evaluation.prediction_table import PredictionTable
from nlpapp.evaluation.published_glue import PUBLISHED
from nlpapp.evaluation.run_record import RunRecord, figures, read_run
from nlpapp.evaluation.statistics import interval_over_seeds, over_seeds

NUMBER_OF_TASKS = 9
WINOGRAD = "wnli"
"""Left out of one of the averages, as in Devlin et al. 2019: its dev set is built against it."""


@dataclass(frozen=True, kw_only=True)
class GlueRun:
    """One finished run of a task."""

    folder: Path
    seed: int
    settings: str
    """Name of the point of the grid; empty without a grid."""
    repeated: bool
    """Whether it stands beside a run that gave all rows the same class."""
    figures: Mapping[str, float]
    """Its final figures, with "score"."""


def task_score(figures: Mapping[str, float], names: Sequence[str]) -> float:
    """Return GLUE's score of a task: the mean of its metrics, and over both dev sets of MNLI."""
    mean = [float(np.mean([figures[name] for name in names]))]
    others = [f"dev_mismatched_{name}" for name in names]
    if all(name in figures for name in others):
        mean.append(float(np.mean([figures[name] for name in others])))
    return float(np.mean(mean))


def best_settings(runs: Sequence[GlueRun]) -> str:
    """Return the settings whose runs have the highest median score, the first of equal ones."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        scores.setdefault(run.settings, []).append(run.figures["score"])
    return max(scores, key=lambda settings: float(np.median(scores[settings])))


def best_run(runs: Sequence[GlueRun]) -> GlueRun:
    """Return the run with the highest score on the dev set, the first of equal ones."""
    return max(runs, key=lambda run: run.figures["score"])


def best_of_tasks(folder: Path) -> dict[str, RunRecord]:
    """Return task -> its finished run with the best first figure, below the folder of a `glue`."""
    best: dict[str, RunRecord] = {}
    for path in sorted(folder.rglob("predictions-dev.tsv")):
        run = read_run(path.parent)
        task = str(run.config["task"])
        if run.finished and (task not in best or _first_figure(run) > _first_figure(best[task])):
            best[task] = run
    return best


def _first_figure(run: RunRecord) -> float:
    return float(figures(run.metrics)[0].value)


def averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the means of the tasks' ``scores``, with WNLI and without."""
    found = {"average_score": float(np.mean(list(scores.values())))}
    others = [score for task, score in scores.items() if task != WINOGRAD]
    if others and WINOGRAD in scores:
        found["average_score_without_wnli"] = float(np.mean(others))
    return found


def table_rows(
    task: str,
    metrics: Sequence[str],
    runs: Sequence[GlueRun],
    tables: Sequence[Sequence[PredictionTable]],
    *,
    seed: int,
) -> list[dict[str, object]]:
    """Return a row for each metric of each dev set, and for the score.

    Args:
        task: its name.
        metrics: names out of `FUNCTIONS`.
        runs: of one point of the grid.
        tables: for each dev set the predictions of ``runs``, for the bootstrap intervals; a set
            that lacks some has none.
        seed: of the intervals.
    """

    def score(predictions: np.ndarray, references: np.ndarray) -> float:
        return float(np.mean([FUNCTIONS[name](predictions, references) for name in metrics]))

    figures = {
        f"{prefix}{name}": (FUNCTIONS[name], tables[place : place + 1])
        for place, prefix in enumerate(("", "dev_mismatched_"))
        for name in metrics
    }
    figures["score"] = (score, tables)
    rows: list[dict[str, object]] = []
    for name, (function, sets) in figures.items():
        if all(name in run.figures for run in runs):
            row: dict[str, object] = {"task": task, "metric": name.removeprefix("dev_")}
            row |= over_seeds([run.figures[name] for run in runs])
            if sets and all(len(found) == len(runs) for found in sets):
                row["low"], row["high"] = interval_over_seeds(
                    function,
                    np.hstack([[table.predictions for table in found] for found in sets]),
                    np.concatenate([found[0].labels for found in sets]),
                    sizes=[len(found[0].labels) for found in sets],
                    seed=seed,
                )
            rows.append(row | {"runs": len(runs)})
    return rows


def published_rows(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return, for each figure of ``rows`` that others have published, theirs beside the median."""
    found: list[dict[str, object]] = []
    for row in rows:
        key = (str(row["task"]), str(row["metric"]))
        theirs = {
            f"{model.name} ({model.measured_on})": model.figures.get(key) for model in PUBLISHED
        }
        if any(value is not None for value in theirs.values()):
            found.append({"task": key[0], "metric": key[1], "median": row["median"], **theirs})
    return found


def run_rows(task: str, runs: Sequence[GlueRun]) -> list[dict[str, object]]:
    """Return a row for each run, degenerate ones and those that repeat them included."""
    return [
        {
            "task": task,
            "settings": run.settings or None,
            "seed": str(run.seed),
            "score": run.figures["score"],
            "note": ", ".join(
                ["repeats a degenerate run"] * run.repeated
                + ["degenerate: one class for all rows"] * bool(run.figures.get("degenerate"))
            )
            or None,
        }
        for run in runs
    ]


def settings_rows(task: str, runs: Sequence[GlueRun]) -> list[dict[str, object]]:
    """Return a row for each point of the grid, the best first."""
    rows: list[dict[str, object]] = []
    for settings in dict.fromkeys(run.settings for run in runs):
        scores = [run.figures["score"] for run in runs if run.settings == settings]
        rows.append({"task": task, "settings": settings, **over_seeds(scores), "runs": len(scores)})
    return sorted(rows, key=lambda row: -float(str(row["median"])))
