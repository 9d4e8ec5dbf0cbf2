"""The train, dev and test sets of one job: a GLUE task, or files of one's own."""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlpapp.data.classification import (
    USUAL_LABEL_COLUMN,
    Examples,
    check_trainable,
    read_examples,
)
from nlpapp.data.example_splits import count_repeated, split_examples
from nlpapp.data.glue_tasks import TASKS, get_task, has_split, read_task
from nlpapp.data.table_files import open_table
from nlpapp.errors import ConfigError

logger = logging.getLogger(__name__)


DEV_SHARE = 0.1
"""Share of the training rows that choose the best epoch where there is no dev file."""


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """The options that say where the sets of a job are."""

    task: str | None = None
    """GLUE task: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or wnli."""
    data_dir: str | None = None
    """Folder with GLUE (official files, or parquet as on the Hub), or nyu-mll/glue."""
    train_file: str | None = None
    """Training file of one's own instead of a task: TSV, CSV, JSONL or parquet."""
    dev_file: str | None = None
    """File that chooses the best epoch, same columns as train_file; absent: dev_share of it."""
    dev_share: float | None = None
    """Share of each class's rows that chooses the best epoch without a dev_file; absent: 0.1."""
    split_seed: int = 42
    """Seed of the choice of these rows, the same whatever seed is."""
    test_file: str | None = None
    """File to predict at the end; scored if it has labels."""
    text_column: str | None = None
    """Column of the text, by name or number from 1; absent: sentence, text, sentence1 or text_a."""
    text_pair_column: str | None = None
    """Column of the second text of a pair; absent: sentence2 or text_b, if text_column is too."""
    label_column: str | None = None
    """Column of the label; absent: label."""
    header: bool = True
    """The first line of TSV and CSV files names the columns; if not, give their numbers."""
    regression: bool = False
    """The labels of train_file are scores, not classes."""


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

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of the data: "rows" of train, "label_names", "pairs"."""
        return {"rows": len(self.train), "label_names": self.label_names, "pairs": self.pairs}

    def describe(self) -> str:
        """Return a line with the rows of each set, and the figure that any model must beat."""
        sizes = {"train": self.train, **self.dev, **self.test}
        rows = ", ".join(f"{split} {len(examples):,}" for split, examples in sizes.items())
        if not self.label_names:
            return f"rows: {rows}; the labels are scores"
        split, dev = next(iter(self.dev.items()))
        if self.train.multi_label:
            mean = float(dev.known_labels.sum(axis=1).mean())
            return (
                f"rows: {rows}; {len(self.label_names)} classes, of which a row may have several: "
                f"{mean:.2f} on average in {split}"
            )
        counts = np.bincount(dev.known_labels)
        name, share = self.label_names[counts.argmax()], 100 * counts.max() / len(dev)
        return (
            f"rows: {rows}; {len(self.label_names)} classes; always answering '{name}' "
            f"would be right in {share:.1f} % of {split}"
        )


def usual_metrics(label_names: Sequence[str], *, multi_label: bool = False) -> tuple[str, ...]:
    """Return the metrics of a task of one's own: of scores, of two classes, or of more."""
    if not label_names:
        return ("pearson", "spearmanr", "mean_squared_error")
    if multi_label:
        return ("f1_micro", "f1_macro", "accuracy")
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
    label_separator: str | None = None,
    header: bool = True,
    regression: bool = False,
    dev_share: float | None = None,
    split_seed: int = 42,
) -> ClassificationSets:
    """Read a GLUE ``task`` from ``data_dir``, or files of one's own.

    Args:
        task: name of a GLUE task.
        data_dir: folder that holds GLUE.
        train_file: training set, instead of a task.
        dev_file: chooses the best weights; absent: rows of ``train_file`` do, which are taken out.
        test_file: is predicted at the end.
        text_column: see `read_examples`, as for the columns below.
        text_pair_column: of the second text.
        label_column: of the label; the test set need not have it.
        label_separator: between the classes of a row that may have several.
        header: whether TSV and CSV files name their columns.
        regression: whether labels are scores.
        dev_share: of the training rows, where there is no ``dev_file``; absent: `DEV_SHARE`.
        split_seed: of the choice of these rows; runs with the same one share them.

    Raises:
        ConfigError: if the options name neither a task nor a file, or both.
        DataError: if a file is not sound, or the training set has a single class.
    """
    if (task is None) == (train_file is None):
        raise ConfigError("give either --task with --data_dir, or --train_file.")
    if task is not None:
        files = (dev_file, test_file, text_column, text_pair_column, label_column, label_separator)
        if regression or not header or any(option is not None for option in (*files, dev_share)):
            raise ConfigError(
                "--task knows its files and columns; leave out the options of files of one's own."
            )
        return read_task_sets(task, data_dir)
    if data_dir is not None:
        raise ConfigError("--data_dir goes with --task; name files of one's own by their paths.")
    if dev_file is not None and dev_share is not None:
        raise ConfigError("--dev_share takes rows out of train_file; leave it out with --dev_file.")
    if regression and label_separator is not None:
        raise ConfigError("regression has one score a row; leave label_separator out.")
    label_column = label_column or USUAL_LABEL_COLUMN

    def read(path: str, names: Sequence[str] | None, label: str | None) -> Examples:
        return read_examples(
            path,
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label,
            label_names=names,
            label_separator=label_separator,
            header=header,
        )

    train = read(str(train_file), () if regression else None, label_column)
    check_trainable(train)
    names = train.label_names
    if dev_file is not None:
        dev = read(dev_file, names, label_column)
    else:
        share = DEV_SHARE if dev_share is None else dev_share
        train, dev = split_examples(train, share, seed=split_seed)
        check_trainable(train)
        logger.info("no dev_file: %d rows of %s choose the best epoch", len(dev), train_file)
    test = {}
    if test_file is not None:
        labelled = label_column in open_table(
            test_file, header=header, list_separator=label_separator
        )
        test["test"] = read(test_file, names, label_column if labelled else None)
    return _warned(
        ClassificationSets(
            train=train,
            dev={"dev": dev},
            test=test,
            metrics=usual_metrics(names, multi_label=train.multi_label),
        )
    )


SET_OPTIONS = tuple(inspect.signature(read_sets).parameters)
"""The options of `read_sets`, for a command whose own are called the same."""


def sets_of(options: SetOptions) -> ClassificationSets:
    """Return the sets that the options of a command name; see `read_sets`."""
    given = {name: getattr(options, name) for name in SET_OPTIONS if hasattr(options, name)}
    return read_sets(**given)


def _warned(sets: ClassificationSets) -> ClassificationSets:
    """Return ``sets``; warn of what makes figures on them look better than they are."""
    for split, examples in (sets.dev | sets.test).items():
        repeated = count_repeated(examples, sets.train)
        if repeated:
            logger.warning(
                "%d of %d rows of %s are also in train, %.1f %%: figures on them say little about "
                "new texts.",
                *(repeated, len(examples), split, 100 * repeated / len(examples)),
            )
    return sets


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
    return _warned(ClassificationSets(train=train, dev=dev, test=test, metrics=task.metrics))
