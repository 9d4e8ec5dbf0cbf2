"""The tasks of `nlpapp multitask`: their options and their data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nlpapp.data.classification import Examples
from nlpapp.data.classification_sets import ClassificationSets, SetOptions, sets_of
from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.objectives.distillation import DistillationConfig

if TYPE_CHECKING:
    from nlpapp.recipes.multitask import Config

BAM = DistillationConfig(teacher_loss="kl", alpha=0.0, final_alpha=1.0)
"""From the teachers to the labels over the training (Clark et al. 2019, BAM, section 3.2)."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, kw_only=True)
class TaskConfig(SetOptions):
    """One of the tasks: a GLUE task, or files of one's own."""

    name: str | None = None
    """What the task is called in figures and folders; absent: as the GLUE task."""
    teacher: str | None = None
    """Classifier of this task to learn from, a folder or a Hub name."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task with its data."""

    name: str
    options: TaskConfig
    sets: ClassificationSets

    @property
    def dev(self) -> Examples:
        """The dev set that chooses the best weights."""
        return next(iter(self.sets.dev.values()))


def named_tasks(tasks: Sequence[str | TaskConfig]) -> dict[str, TaskConfig]:
    """Return the tasks by name; a word is the name of a GLUE task.

    Raises:
        ConfigError: there are fewer than two, one has no sound name, or two have the same.
    """
    found: dict[str, TaskConfig] = {}
    for task in tasks:
        options = TaskConfig(task=task) if isinstance(task, str) else task
        name = options.name or options.task
        if name is None or not NAME.fullmatch(name):
            raise ConfigError(
                f"a task of {options.train_file or 'no file'} is called {name!r}; give it a name "
                "of letters, digits, - and _, which starts its figures and names its folder."
            )
        if name in found:
            raise ConfigError(
                f"tasks has '{name}' twice; give each task once, or one of them another name."
            )
        found[name] = options
    if len(found) < 2:
        raise ConfigError(
            f"tasks are {list(found)}; give at least two. For one there are finetune and distill."
        )
    return found


def check_options(config: "Config") -> None:
    """Raise ConfigError for options that do not go together."""
    taught = [name for name, task in named_tasks(config.tasks).items() if task.teacher]
    objective = config.objective
    if not taught and replace(objective, label_smoothing=0.0) != BAM:
        raise ConfigError(
            "objective says how to learn from teachers, and no task has one: give some tasks a "
            "teacher, or leave all but objective.label_smoothing out."
        )
    if objective.uses_layers or objective.alpha == 1:
        raise ConfigError(
            "objective.hidden_weight, attention_weight and alpha 1 have no meaning here: teachers "
            "of several tasks share no layers, and without teachers the labels alone count anyway."
        )
    everyone = len(taught) == len(config.tasks)
    if everyone and objective.label_smoothing and objective.teacher_alone:
        raise ConfigError(
            "objective.label_smoothing acts on labels, and with a teacher for every task and alpha "
            "0 none is asked: raise alpha or final_alpha, or leave label_smoothing out."
        )
    if taught and objective.final_alpha is not None and config.training.max_hours is not None:
        raise ConfigError(
            "objective.final_alpha goes by steps: leave training.max_hours out, or set it null."
        )
    if config.architecture == "bilstm" and (config.model or config.size != BertSizeConfig()):
        raise ConfigError("architecture bilstm has its size in bilstm: leave model and size out.")
    if config.architecture != "bilstm" and config.bilstm != type(config.bilstm)():
        raise ConfigError("bilstm describes architecture bilstm: set it, or leave bilstm out.")
    if config.model is None and config.tokenizer is None:
        raise ConfigError("give --model, or --tokenizer for an encoder with random weights.")


def read_tasks(config: "Config") -> list[Task]:
    """Read the data of all tasks.

    Raises:
        ConfigError: as `read_sets`, with the task's name.
        DataError: a file is not sound.
    """
    found = []
    for name, options in named_tasks(config.tasks).items():
        if options.task is not None and options.data_dir is None:
            options = replace(options, data_dir=config.data_dir)
        try:
            sets = sets_of(options)
        except ConfigError as error:
            raise ConfigError(f"task {name}: {error}") from error
        found.append(Task(name=name, options=options, sets=sets))
    return found
