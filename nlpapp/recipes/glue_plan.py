"""Which runs a GLUE table needs: tasks x settings x seeds, and which come before which."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nlpapp.data.glue_tasks import TASKS, GlueTask, get_task, has_split, not_found
from nlpapp.disk import read_json
from nlpapp.errors import ConfigError
from nlpapp.objectives.classification import ClassificationLossConfig

logger = logging.getLogger(__name__)

FIRST_SEED = 42
AFTER_MNLI = ("mrpc", "stsb", "rte")
"""Small tasks that start from MNLI's model, as in Liu et al. 2019 (RoBERTa, arXiv 1907.11692)."""


@dataclass(frozen=True, kw_only=True)
class GridPoint:
    """Settings to try on each task."""

    batch_size: int
    """Examples in one optimizer step."""
    learning_rate: float
    """Peak of the schedule."""
    num_epochs: float
    """Passes over the training data."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not (self.learning_rate > 0 and self.num_epochs > 0):
            raise ConfigError(
                f"a point of the grid has batch_size {self.batch_size}, learning_rate "
                f"{self.learning_rate} and num_epochs {self.num_epochs}; all are above 0."
            )

    @property
    def name(self) -> str:
        """Name, for folders and tables."""
        return f"batch-{self.batch_size}-rate-{self.learning_rate:g}-epochs-{self.num_epochs:g}"


Grid = Literal["paper"] | list[GridPoint] | None
PAPER = [
    GridPoint(batch_size=size, learning_rate=rate, num_epochs=epochs)
    for size, rate, epochs in itertools.product((16, 32), (5e-5, 3e-5, 2e-5), (2, 3, 4))
]
"""Devlin et al. 2019 (arXiv 1810.04805), appendix A.3: 18 points."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run to make."""

    task: str
    seed: int
    point: GridPoint | None
    folder: str
    after_mnli: bool = False
    """Whether it starts from MNLI's model."""
    model: str | None = None
    """The model to start from, once it is known; None: that of the command."""

    def is_done(self, *, repeat_degenerate: int) -> bool:
        """Return whether it has finished, and no degenerate run may have to be repeated."""
        figures = read_json(Path(self.folder, "metrics.json"))
        return figures is not None and not (figures.get("degenerate") and repeat_degenerate)


def seed_list(seeds: int | list[int]) -> list[int]:
    """Return the seeds; a number means so many, from 42 on.

    Raises:
        ConfigError: there is none, or one twice.
    """
    found = list(range(FIRST_SEED, FIRST_SEED + seeds)) if isinstance(seeds, int) else seeds
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"seeds are {seeds}; give at least one, each once.")
    return found


def find_tasks(names: Sequence[str] | None, data_dir: str) -> list[GlueTask]:
    """Return the tasks called ``names``; None: all whose training and dev sets are there.

    Raises:
        ConfigError: there is no such task, one is named twice, has no training set at all, or
            ``data_dir`` lacks a set of it.
    """
    trained = [name for name, task in TASKS.items() if "train" in task.rows]
    wanted = [get_task(name) for name in names or trained]
    for task in wanted:
        if wanted.count(task) > 1:
            raise ConfigError(f"tasks has {task.name} {wanted.count(task)} times; give it once.")
        if task.name not in trained:
            raise ConfigError(
                f"task {task.name} has no training set; MNLI's model answers it, where mnli is "
                f"among the tasks. There are {', '.join(trained)}."
            )
    missing = {task.name: lacking for task in wanted if (lacking := _missing(task, data_dir))}
    found = [task for task in wanted if task.name not in missing]
    if missing and (names or not found):
        name, split = next(iter(missing.items()))
        raise ConfigError(not_found(TASKS[name], Path(data_dir), split))
    logger.info("tasks: %s", ", ".join(task.name for task in found))
    if missing:
        left_out = ", ".join(f"{name} (no {split} set)" for name, split in missing.items())
        logger.warning("not in %s, and so left out: %s", data_dir, left_out)
    return found


def _missing(task: GlueTask, data_dir: str) -> str | None:
    """Return the first set that a run of ``task`` needs and ``data_dir`` lacks."""
    splits = ("train", *task.dev_splits[:1])
    return next((split for split in splits if not has_split(task, data_dir, split)), None)


def task_loss(task: GlueTask, loss: ClassificationLossConfig) -> ClassificationLossConfig:
    """Return what is added to the loss of ``task``: of scores nothing that is for classes.

    Raises:
        ConfigError: the task has another number of classes than there are class weights.
    """
    weights = loss.class_weights
    if task.regression:
        plain = replace(loss, label_smoothing=0.0, class_weights=None)
        if plain != loss:
            logger.info("%s has scores: without label_smoothing and class_weights", task.name)
        return plain
    if isinstance(weights, list) and len(weights) != len(task.labels):
        raise ConfigError(
            f"loss.class_weights is {weights}, and task {task.name} has {len(task.labels)} "
            "classes: give balanced, or leave the task out."
        )
    return loss


def grid_points(grid: Grid, max_steps: int | None) -> list[GridPoint | None]:
    """Return the points of the grid; None stands for the settings as they are.

    Raises:
        ConfigError: the grid is empty, names a point twice, or its epochs would not count.
    """
    if grid is None:
        return [None]
    points = PAPER if grid == "paper" else list(grid)
    if not points or len({point.name for point in points}) < len(points):
        raise ConfigError(
            f"grid has the points {[point.name for point in points]}; give at least one, each once."
        )
    if max_steps is not None:
        raise ConfigError(
            "a grid says how many epochs to train; leave training.max_steps out with it."
        )
    return [*points]


def plan_runs(
    output_dir: str,
    tasks: Sequence[GlueTask],
    points: Sequence[GridPoint | None],
    seeds: Sequence[int],
    *,
    mnli_first: bool,
) -> list[PlannedRun]:
    """Return the runs, MNLI's first; those ``after_mnli`` have to wait for its model."""
    follow = mnli_first and any(task.name == "mnli" for task in tasks)
    ordered = sorted(tasks, key=lambda task: task.name != "mnli")
    return [
        PlannedRun(
            task=task.name,
            seed=seed,
            point=point,
            folder=str(
                Path(output_dir, task.name, *([point.name] if point else []), f"seed-{seed}")
            ),
            after_mnli=follow and task.name in AFTER_MNLI,
        )
        for task, point, seed in itertools.product(ordered, points, seeds)
    ]
