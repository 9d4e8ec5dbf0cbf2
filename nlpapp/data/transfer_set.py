"""What a student learns from: the training set, new texts made from it, and text without labels."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlpapp.data.augmentation import AugmentationConfig, AugmentationCounts, augment
from nlpapp.data.classification import ClassificationCollator, EncodedExamples, Examples
from nlpapp.data.table_files import read_lines
from nlpapp.errors import DataError

logger = logging.getLogger("nlpapp")

NO_LABEL = -100
"""The class of an example that only the teacher judges; a score of such a one is NaN."""


def build_transfer_set(
    train: Examples,
    augmentation: AugmentationConfig,
    unlabeled_file: str | None,
    mask_token: str,
    *,
    seed: int,
    workers: int | None = None,
) -> Examples:
    """Return ``train``, then augmented ``train``, then the texts of a file, as one set.

    Only the rows of ``train`` keep their labels: what is made from a text may mean something else.

    Args:
        train: the labelled examples.
        augmentation: the rules for new texts.
        unlabeled_file: more texts, see `read_unlabeled`.
        mask_token: what stands for a masked word.
        seed: of the augmentation.
        workers: processes that augment; None: one for each core. The set does not depend on it.

    Raises:
        DataError: as `read_unlabeled`.
    """
    more: tuple[list[str], list[str] | None] = ([], None)
    if unlabeled_file is not None:
        more = read_unlabeled(unlabeled_file, pairs=train.texts_b is not None)
    texts_a = list(train.texts_a)
    texts_b = None if train.texts_b is None else list(train.texts_b)
    counts = AugmentationCounts()
    for part in augment(
        *(train.texts_a, train.texts_b, augmentation),
        seed=seed,
        mask_token=mask_token,
        workers=workers,
    ):
        texts_a += [sides[0] for sides in part.texts]
        if texts_b is not None:
            texts_b += [sides[1] for sides in part.texts]
        counts += part.counts
    if counts.drawn:
        logger.info("augmentation: %s", counts)
    texts_a += more[0]
    if texts_b is not None:
        texts_b += more[1] or []
    known = train.known_labels
    missing = NO_LABEL if train.label_names else np.nan
    labels = np.full(len(texts_a), missing, dtype=known.dtype)
    labels[: len(train)] = known
    logger.info("transfer set: %d rows, %d of them labelled", len(texts_a), len(train))
    return Examples(
        texts_a=texts_a,
        texts_b=texts_b,
        labels=labels,
        label_names=train.label_names,
        source=train.source,
    )


def with_mask(examples: Examples, known: str | None, wanted: str | None) -> Examples:
    """Return ``examples`` with the mask token ``wanted`` in place of ``known``."""
    if not known or not wanted or known == wanted:
        return examples
    seconds = examples.texts_b
    return replace(
        examples,
        texts_a=[text.replace(known, wanted) for text in examples.texts_a],
        texts_b=None if seconds is None else [text.replace(known, wanted) for text in seconds],
    )


def read_unlabeled(path: str | Path, *, pairs: bool) -> tuple[list[str], list[str] | None]:
    """Read a file with a text a line, or with ``pairs`` two texts a line and a tab between them.

    Raises:
        DataError: the file cannot be read or is blank, or a line has another number of texts than
            the training set, or an empty one.
    """
    wanted = 2 if pairs else 1
    rows = []
    for number, line in read_lines(Path(path)):
        if not line.strip():
            continue
        sides = line.split("\t")
        if len(sides) != wanted:
            expected = "two texts with a tab between them" if pairs else "one text and no tab"
            raise DataError(
                f"{path}, line {number}: expected {expected}, found {len(sides)} columns; the "
                f"training set has {'pairs' if pairs else 'single texts'}, and this file has "
                "neither labels nor a header."
            )
        if not all(side.strip() for side in sides):
            raise DataError(f"{path}, line {number}: one text of the pair is empty.")
        rows.append(sides)
    if not rows:
        raise DataError(f"{path}: the file holds no text.")
    return [sides[0] for sides in rows], [sides[1] for sides in rows] if pairs else None


class TransferCollator:
    """Turns example indices into a padded batch with the teacher's logits."""

    def __init__(
        self, encoded: EncodedExamples, pad_token_id: int, teacher_logits: np.ndarray | None
    ) -> None:
        """Collate ``encoded``; ``teacher_logits`` is (examples, classes), None without teacher."""
        self.collate = ClassificationCollator(encoded, pad_token_id)
        self.teacher_logits = teacher_logits

    def __call__(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        """Return the batch of ``indices``: as without teacher, and "teacher_logits" (B, C)."""
        batch: dict[str, Any] = self.collate(indices, epoch)
        if self.teacher_logits is not None:
            batch["teacher_logits"] = torch.from_numpy(self.teacher_logits[indices])
        return batch
