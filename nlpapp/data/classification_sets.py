"""The train, dev and test sets of one job: a GLUE task, or files of one's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlpapp.data.classification import (
    USUAL_LABEL_COLUMN,
    Examples,
    check_trainable,
    read_examples,
)
from nlpapp.data.glue_tasks import TASKS, get_task, has_split, read_task
from nlpapp.data.table_files import open_table
from nlpapp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ClassificationSets:
    """What a model is trained, chosen and reported on."""

    train: Examples
    dev: dict[str, Examples]
    """Split name -> examples; the first chooses the best weights."""
    test: dict[str, Examples]
    """Split name -> examples, with labels or without."""
    metrics: tuple[str, ...]
    """Metric names; the first chooses the best weights."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes in order; empty for scores."""
        return self.train.label_names

    @property
    def pairs(self) -> bool:
        """Whether an example is a pair of texts."""
        return self.train.texts_b is not None

    def describe(self) -> str:
        """Return a line with the rows of each set, and the figure that any model must beat."""
        sizes = {"train": self.train, **self.dev, **self.test}
        rows = ", ".join(f"{split} {len(examples):,}" for split, examples in sizes.items())
        if not self.label_names:
            return f"rows: {rows}; the labels are scores"
        split, dev = next(iter(self.dev.items()))
        counts = np.bincount(dev.known_labels)
        name, share = self.label_names[counts.argmax()], 100 * counts.max() / len(dev)
        return (
            f"rows: {rows}; {len(self.label_names)} classes; always answering '{name}' "
            f"would be right in {share:.1f} % of {split}"
        )


def usual_metrics(label_names: Sequence[str]) -> tuple[str, ...]:
    """Return the metrics of a task of one's own: of scores, of two classes, or of more."""
    if not label_names:
        return ("pearson", "spearmanr", "mean_squared_error")
    return ("accuracy", "f1" if len(label_names) == 2 else "f1_macro")


def read_sets(
    *,
    task: str | None = None,
    data_dir: str | None = None,
    train_file: str | None = None,
    dev_file: str | None = None,
    test_file: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    regression: bool = False,
) -> ClassificationSets:
    """Read a GLUE ``task`` from ``data_dir``, or ``train_file`` and ``dev_file``.

    Raises:
        ConfigError: if the options name neither, or both.
        DataError: if a file is not sound, or the training set has a single class.
    """
    if (task is None) == (train_file is None):
        raise ConfigError("give either --task with --data_dir, or --train_file with --dev_file.")
    if task is not None:
        files = (dev_file, test_file, text_column, text_pair_column, label_column)
        if regression or any(option is not None for option in files):
            raise ConfigError(
                "--task knows its files and columns; leave out the options of files of one's own."
            )
        return read_task_sets(task, data_dir)
    if data_dir is not None:
        raise ConfigError("--data_dir goes with --task; name files of one's own by their paths.")
    if dev_file is None or train_file is None:
        raise ConfigError("--train_file needs --dev_file: the best epoch is chosen on it.")
    label_column = label_column or USUAL_LABEL_COLUMN

    def read(path: str, names: Sequence[str] | None, label: str | None) -> Examples:
        return read_examples(
            path,
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label,
            label_names=names,
        )

    train = read(train_file, () if regression else None, label_column)
    check_trainable(train)
    names = train.label_names
    test = {}
    if test_file is not None:
        labelled = label_column in open_table(test_file).columns
        test["test"] = read(test_file, names, label_column if labelled else None)
    dev = {"dev": read(dev_file, names, label_column)}
    return ClassificationSets(train=train, dev=dev, test=test, metrics=usual_metrics(names))


def read_task_sets(name: str, data_dir: str | None) -> ClassificationSets:
    """Read the sets of a GLUE task in ``data_dir``: train, and all dev and test sets there.

    MNLI brings the diagnostic set along, which is answered by its model.

    Raises:
        ConfigError: if there is no such task, or it has no training set.
        DataError: if the training set or every dev set is absent, or a file is not sound.
    """
    task = get_task(name)
    if "train" not in task.rows:
        raise ConfigError(f"task {task.name} has no training set; fine-tune on mnli instead.")
    if data_dir is None:
        raise ConfigError(f"--task {task.name} needs --data_dir, the folder that holds GLUE.")
    train = read_task(task, data_dir, "train")
    check_trainable(train)
    found = [split for split in task.dev_splits if has_split(task, data_dir, split)]
    dev = {split: read_task(task, data_dir, split) for split in found or task.dev_splits[:1]}
    test = {
        split: read_task(task, data_dir, split)
        for split in task.test_splits
        if has_split(task, data_dir, split)
    }
    if task.name == "mnli" and has_split(TASKS["ax"], data_dir, "test"):
        test["ax"] = read_task(TASKS["ax"], data_dir, "test")
    return ClassificationSets(train=train, dev=dev, test=test, metrics=task.metrics)
