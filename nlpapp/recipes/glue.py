"""Fine-tune and score one model on GLUE tasks with several seeds, and write the server's files."""

import dataclasses
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nlpapp.data.glue_tasks import TASKS
from nlpapp.data.task_pool import Report, TaskPool
from nlpapp.errors import ConfigError
from nlpapp.evaluation.glue_page import write_glue_page
from nlpapp.evaluation.glue_table import averages, best_run
from nlpapp.evaluation.plots import format_number
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifier_heads import HeadConfig
from nlpapp.objectives.classification import ClassificationLossConfig
from nlpapp.recipes import finetune
from nlpapp.recipes.glue_plan import (
    Grid,
    PlannedRun,
    find_tasks,
    grid_points,
    plan_runs,
    seed_list,
    task_loss,
)
from nlpapp.recipes.glue_results import dev_texts, finished_runs, result_of, submit
from nlpapp.recipes.glue_workers import quiet, use_own_device
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.processes import process_state
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

SHOWN_FIRST = ["average_score", "average_score_without_wnli", "runs", "degenerate_runs", "seconds"]
COLUMNS = ("median", "mean", "std", "best", "low", "high")


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
    seeds: int | list[int] = 5
    """Seeds of each task and settings, or how many, from 42 on."""
    grid: Grid = None
    """Settings to try, the best of which is taken: paper (batch 16, 32; rate 5e-5, 3e-5, 2e-5; 2 to
    4 epochs), or a list of batch_size, learning_rate, num_epochs; absent: the options below."""
    mnli_first: bool = True
    """Start RTE, MRPC and STS-B from MNLI's best model where MNLI is among the tasks."""
    repeat_degenerate: int = 1
    """Runs with other seeds while all of dev gets the same class; they stay in the table too."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Multi-sample dropout, new top layers."""
    loss: ClassificationLossConfig = field(default_factory=ClassificationLossConfig)
    """Label smoothing, class weights, R-Drop, adversarial training."""
    dropout: float | None = None
    """Dropout of hidden states and attention while training; absent: the model's own."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut."""
    batch_size: int = 32
    """Examples in one optimizer step, over all processes and micro-batches."""
    evaluation_batch_size: int = 64
    """Examples in one evaluation batch."""
    executor: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: a Ray cluster, whose machines all see output_dir. On
    GPUs each run has its own, or where there are more workers than GPUs shares one."""
    workers: int = 1
    """Runs at a time."""
    ray_address: str | None = None
    """A running Ray cluster; absent: one on this machine, for this command alone."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(optimizer=OptimizerConfig(learning_rate=2e-5))
    )
    """How long and how to train, for every task."""


def run(config: Config) -> dict[str, float]:
    """Run what is not finished yet; leave the table, the report and the submission."""
    seeds = seed_list(config.seeds)
    points = grid_points(config.grid, config.training.max_steps)
    opened = partial(
        RunFolder.open, config.output_dir, config=config, command="glue", seed=seeds[0]
    )
    run = opened()
    if run.finished is not None:
        return run.finished
    tasks = find_tasks(config.tasks, config.data_dir)
    for task in tasks:
        task_loss(task, config.loss)  # What does not go together is refused before any run.
    plan = plan_runs(config.output_dir, tasks, points, seeds, mnli_first=config.mnli_first)
    _train_all(config, plan)
    opened()  # the runs have sent the log to their own folders
    results = [result_of(task, finished_runs(task, plan), seed=seeds[0]) for task in tasks]
    table = [row for result in results for row in result.rows]
    metrics = {
        f"{row['task']}_{row['metric']}_{column}": float(str(row[column]))
        for row in table
        for column in COLUMNS
        if column in row
    }
    metrics |= averages({task.name: metrics[f"{task.name}_score_median"] for task in tasks})
    made = [found.figures for result in results for found in result.runs]
    metrics["degenerate_runs"] = float(sum(bool(found.get("degenerate")) for found in made))
    metrics |= {"runs": float(len(made)), "seconds": run.seconds}
    if run.is_main:
        notes = submit(run.path / "submission", results)
        lines = ["  ".join(f"{k} {format_number(v)}" for k, v in row.items()) for row in table]
        logger.info("\n".join([*lines, *notes]))
        first = {name: metrics[name] for name in SHOWN_FIRST if name in metrics}
        page, texts_of = run.path / "report.html", partial(dev_texts, config.data_dir)
        write_glue_page(page, results, first, notes, texts_of=texts_of)
    run.finish(metrics)
    return metrics


def _train_all(config: Config, plan: list[PlannedRun]) -> None:
    """Make the runs of ``plan``, in two rounds where some start from MNLI's model."""
    distributed = process_state().num_processes > 1
    alone = config.executor == "local" and config.workers == 1
    if distributed and not alone:
        raise ConfigError(
            "several processes train each run together here; leave workers and executor out, or "
            "start the command once, without accelerate launch or torchrun."
        )
    options = {"executor": config.executor, "ray_address": config.ray_address}
    with TaskPool(workers=config.workers, gpus=True, **options) as pool:  # type: ignore[arg-type]
        repeat = config.repeat_degenerate
        left = [planned for planned in plan if not planned.is_done(repeat_degenerate=repeat)]
        done = len(plan) - len(left)
        for after_mnli in (False, True):
            part = [planned for planned in left if planned.after_mnli == after_mnli]
            if after_mnli and part:
                mnli = finished_runs(TASKS["mnli"], plan)
                start = str((best_run(mnli).folder / "model").resolve())
                logger.info("%s start from %s", ", ".join({p.task: 0 for p in part}), start)
                part = [dataclasses.replace(planned, model=start) for planned in part]
            for index, score in pool.run(train, (config, alone), part):
                done += 1
                logger.info("run %d of %d: %s, %s", done, len(plan), part[index].folder, score)
            if distributed:
                process_state().wait_for_everyone()  # the main process writes the figures


def train(context: tuple[Config, bool], planned: PlannedRun, report: Report) -> str:
    """Fine-tune as planned, unless that is done; returns a line. ``report`` is not needed."""
    config, alone = context
    settings: dict[str, Any] = {
        entry.name: getattr(config, entry.name)
        for entry in dataclasses.fields(finetune.Config)
        if hasattr(config, entry.name)
    }
    settings |= {"task": planned.task, "output_dir": planned.folder, "seed": planned.seed}
    settings["loss"] = task_loss(TASKS[planned.task], config.loss)
    if planned.model is not None:
        settings |= {"model": planned.model, "from_scratch": False}
    if planned.point is not None:
        rate = planned.point.learning_rate
        optimizer = dataclasses.replace(config.training.optimizer, learning_rate=rate)
        settings["batch_size"] = planned.point.batch_size
        settings["training"] = dataclasses.replace(
            config.training, num_epochs=planned.point.num_epochs, optimizer=optimizer
        )
    job = finetune.Config(**settings)
    if alone:
        figures = finetune.run(job)
    else:
        if config.executor == "local":  # Ray shows a task its own GPU alone.
            use_own_device(Path(config.output_dir), config.workers)
        with quiet():
            figures = finetune.run(job)
    name = TASKS[planned.task].metrics[0]
    return f"{name} {figures[name]:.4f}"
