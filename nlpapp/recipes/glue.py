"""Fine-tune and score one model on GLUE tasks with several seeds, and write the server's files."""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nlpapp.data.glue_tasks import TASKS, GlueTask, get_task, has_split
from nlpapp.errors import ConfigError
from nlpapp.evaluation.metrics import mean_score
from nlpapp.evaluation.predictions import read_predictions
from nlpapp.evaluation.report import Section, write_report
from nlpapp.evaluation.statistics import over_seeds
from nlpapp.evaluation.submission import write_submission
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.recipes import finetune
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

TRAINED = [name for name, task in TASKS.items() if "train" in task.rows]
COLUMNS = ("median", "mean", "std", "best")
Runs = dict[int, dict[str, float]]
"""Seed -> final figures of the run, with "score"."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Fine-tune and score one model on GLUE tasks with several seeds."""

    data_dir: str
    """Folder with GLUE (official files, or parquet as on the Hub), or nyu-mll/glue."""
    output_dir: str
    """Folder; each run goes to <output_dir>/<task>/seed-<seed> and is not repeated."""
    model: str | None = None
    """Pretrained model: a folder, or a name on the Hugging Face Hub; absent: random weights."""
    from_scratch: bool = False
    """Take only the architecture of model, and start from random weights."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt; absent: the one in the model's folder."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no model is given."""
    tasks: list[str] | None = None
    """Tasks to run; absent: all whose training and dev sets are in data_dir."""
    seeds: list[int] = field(default_factory=lambda: [42, 43, 44, 45, 46])
    """One run of each task for each seed."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut."""
    batch_size: int = 32
    """Examples in one optimizer step, over all processes and micro-batches."""
    evaluation_batch_size: int = 64
    """Examples in one evaluation batch."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(optimizer=OptimizerConfig(learning_rate=2e-5))
    )
    """How long and how to train, for every task."""


def run(config: Config) -> dict[str, float]:
    """Run what is not finished yet; leave the table, the report and the submission."""
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise ConfigError(f"seeds are {config.seeds}; give at least one, each once.")
    run = RunFolder.open(config.output_dir, config=config, command="glue", seed=config.seeds[0])
    if run.finished is not None:
        return run.finished
    tasks = _tasks(config)
    runs = {task.name: _run_seeds(config, task) for task in tasks}
    RunFolder.open(config.output_dir, config=config, command="glue", seed=config.seeds[0])
    table = [row for task in tasks for row in _rows(task, runs[task.name])]
    metrics = {
        f"{row['task']}_{row['metric']}_{column}": float(row[column])  # type: ignore[arg-type]
        for row in table
        for column in COLUMNS
    }
    medians = [metrics[f"{task.name}_score_median"] for task in tasks]
    metrics["average_score"] = float(np.mean(medians))
    degenerate = sum(
        figures.get("degenerate", 0.0) for seed in runs.values() for figures in seed.values()
    )
    metrics |= {"degenerate_runs": degenerate, "seconds": run.seconds}
    if run.is_main:
        filled = _write_submission(config, tasks, runs)
        _report(run, table, metrics, filled)
    run.finish(metrics)
    return metrics


def _tasks(config: Config) -> list[GlueTask]:
    wanted = [get_task(name) for name in config.tasks or TRAINED]
    found = [task for task in wanted if _is_complete(task, config.data_dir)]
    missing = [task.name for task in wanted if task not in found]
    if not found or (config.tasks and missing):
        raise ConfigError(f"{config.data_dir} lacks a train or dev set of {', '.join(missing)}.")
    logger.info("tasks: %s", ", ".join(task.name for task in found))
    return found


def _is_complete(task: GlueTask, data_dir: str) -> bool:
    splits = ("train", *task.dev_splits[:1])
    return "train" in task.rows and all(has_split(task, data_dir, split) for split in splits)


def _run_folder(config: Config, task: GlueTask, seed: int) -> Path:
    return Path(config.output_dir) / task.name / f"seed-{seed}"


def _run_seeds(config: Config, task: GlueTask) -> Runs:
    shared = {
        entry.name: getattr(config, entry.name)
        for entry in dataclasses.fields(finetune.Config)
        if entry.name not in ("output_dir", "seed") and hasattr(config, entry.name)
    }
    runs: Runs = {}
    for seed in config.seeds:
        folder = str(_run_folder(config, task, seed))
        figures = finetune.run(
            finetune.Config(**shared, task=task.name, output_dir=folder, seed=seed)
        )
        runs[seed] = figures | {"score": mean_score(figures, task.metrics)}
    return runs


def _rows(task: GlueTask, runs: Runs) -> list[dict[str, object]]:
    """Return one row of the table for each metric on each dev set, and for GLUE's score."""
    others = [f"{split}_{metric}" for split in task.dev_splits[1:] for metric in task.metrics]
    names = [*task.metrics, *others, "score"]
    return [
        {
            "task": task.name,
            "metric": name,
            **over_seeds([figures[name] for figures in runs.values()]),
            "runs": len(runs),
        }
        for name in names
        if all(name in figures for figures in runs.values())
    ]


def _write_submission(config: Config, tasks: list[GlueTask], runs: dict[str, Runs]) -> list[str]:
    """Write the best dev run's test predictions; return what a reader must know about them."""
    predictions: dict[tuple[str, str], np.ndarray] = {}
    notes: list[str] = []
    for task in tasks:
        best = max(runs[task.name], key=lambda seed: runs[task.name][seed]["score"])
        splits = {(task.name, split): split for split in task.test_splits}
        if task.name == "mnli":
            splits["ax", "test"] = "ax"
        for (name, split), written in splits.items():
            path = _run_folder(config, task, best) / f"predictions-{written}.tsv"
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
    submission = write_submission(Path(config.output_dir) / "submission", TASKS, predictions)
    notes.append(f"{submission.path} is ready for gluebenchmark.com.")
    if submission.filled:
        notes.append(
            "Without a model, and so filled with the commonest class: "
            f"{', '.join(submission.filled)}."
        )
    return notes


def _report(
    run: RunFolder, table: list[dict[str, object]], metrics: dict[str, float], notes: list[str]
) -> None:
    for row in table:
        logger.info("%s", "  ".join(str(value) for value in row.values()))
    for note in notes:
        logger.info("%s", note)
    figures = {name: metrics[name] for name in ("average_score", "degenerate_runs", "seconds")}
    text = (
        "Figures on the dev sets, over the seeds of each task. The score is the mean of a task's "
        "metrics; the average is that of the tasks' median scores."
    )
    write_report(
        run.path / "report.html",
        title="GLUE",
        sections=[
            Section("Average", text, figures=figures),
            Section("Tasks", table=table),
            Section("Submission", "\n\n".join(notes)),
        ],
    )
