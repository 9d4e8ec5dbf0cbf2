"""Which runs a GLUE table needs: tasks x settings x seeds, and which come before which."""

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nlpapp.data.glue_tasks import TASKS, GlueTask, get_task, has_split
from nlpapp.errors import ConfigError
from nlpapp.evaluation.glue_table import GlueRun, task_score
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
        ConfigError: there is no such task, or ``data_dir`` lacks a set of it.
    """
    trained = [name for name, task in TASKS.items() if "train" in task.rows]
    wanted = [get_task(name) for name in names or trained]
    found = [task for task in wanted if _is_complete(task, data_dir)]
    missing = [task.name for task in wanted if task not in found]
    if not found or (names and missing):
        raise ConfigError(f"{data_dir} lacks a train or dev set of {', '.join(missing)}.")
    logger.info("tasks: %s", ", ".join(task.name for task in found))
    return found


def _is_complete(task: GlueTask, data_dir: str) -> bool:
    splits = ("train", *task.dev_splits[:1])
    return "train" in task.rows and all(has_split(task, data_dir, split) for split in splits)


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


def finished_runs(task: GlueTask, plan: Sequence[PlannedRun]) -> list[GlueRun]:
    """Return the finished runs of ``task``, with those that repeat degenerate ones."""
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
    return runs
