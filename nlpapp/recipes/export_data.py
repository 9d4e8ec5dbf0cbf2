"""The data of `nlpapp export`: texts that calibrate, and labelled rows that are scored."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nlpapp.data.classification import Examples, read_examples
from nlpapp.data.classification_sets import usual_metrics
from nlpapp.data.glue_tasks import get_task, read_task
from nlpapp.deployment.export import DevSet
from nlpapp.evaluation.predictions import score_with_intervals
from nlpapp.models.classifiers import align_labels, label_names_of

if TYPE_CHECKING:
    from nlpapp.recipes.export import Config

CALIBRATION_TEXTS = 128


def calibration_texts(config: "Config") -> list[Any]:
    """Return the texts, or pairs, that set the ranges of int8-static."""
    if config.calibration_file is None:
        return []
    examples = read_examples(
        config.calibration_file,
        text_column=config.text_column,
        text_pair_column=config.text_pair_column,
    )
    firsts, seconds = examples.texts_a[:CALIBRATION_TEXTS], examples.texts_b
    return list(firsts if seconds is None else zip(firsts, seconds, strict=False))


def read_dev_set(config: "Config", model: Any, facts: dict[str, str]) -> DevSet | None:
    """Return the labelled rows, None where none are given; ``facts`` gets what they are.

    Raises:
        ConfigError: as `labelled_dev_set`.
        DataError: the rows are not sound, or have no labels.
    """
    if config.file is None and config.task is None:
        return None
    names = label_names_of(model)
    if config.task is not None:
        task = get_task(config.task)
        split = (*task.dev_splits, "test")[0]
        examples, metrics = read_task(task, str(config.data_dir), split), task.metrics
    else:
        examples = read_examples(
            str(config.file),
            text_column=config.text_column,
            text_pair_column=config.text_pair_column,
            label_column=config.label_column,
            label_names=None if names and names[0].startswith("LABEL_") else names,
            require_labels=True,
        )
        metrics = usual_metrics(examples.label_names)
    facts["data of the metrics"] = examples.source
    return labelled_dev_set(
        model, examples, metrics, seed=config.seed, max_metric_drop=config.max_metric_drop
    )


def labelled_dev_set(
    model: Any,
    examples: Examples,
    metrics: Sequence[str],
    *,
    seed: int,
    max_metric_drop: float,
) -> DevSet:
    """Return ``examples`` as what an exported ``model`` is scored on.

    Args:
        model: a classifier or regression; its labels are matched by name.
        examples: with labels.
        metrics: names; the first is the one that must hold.
        seed: of the bootstrap intervals.
        max_metric_drop: how much of it models in fp16 and int8 may lose.

    Raises:
        ConfigError: the labels of the rows are not those of the model.
        DataError: the rows have no labels.
    """
    labels = examples.known_labels
    outputs = align_labels(label_names_of(model), examples.label_names)

    def score(logits: np.ndarray) -> dict[str, float]:
        ordered = logits[:, outputs] if outputs else logits
        return score_with_intervals(ordered, labels, metrics, seed=seed)

    return DevSet(
        texts=examples.texts_a,
        pairs=examples.texts_b,
        score=score,
        metric=metrics[0],
        max_metric_drop=max_metric_drop,
    )
