"""What a student learns from: the training set, new texts made from it, and text without labels."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlpapp.data.augmentation import AugmentationConfig, AugmentationCounts, augment
from nlpapp.data.classification import ClassificationCollator, EncodedExamples, Examples
from nlpapp.data.table_files import read_lines
from nlpapp.errors import DataError

logger = logging.getLogger("nlpapp")

TABLES = {".csv", ".json", ".jsonl", ".parquet"}
"""Endings of files that hold more than texts; a tab in a .tsv file is found in its first line."""
USUAL_MASK = "[MASK]"
"""What stands for a masked word in texts that `nlpapp augment` made without being told."""
NO_LABEL = -100
"""The class of an example that only the teacher judges; a score of such a one is NaN."""


def build_transfer_set(
    train: Examples,
    augmentation: AugmentationConfig,
    unlabeled_files: Sequence[str],
    mask_token: str,
    *,
    seed: int,
    workers: int | None = None,
) -> list[Examples]:
    """Return the parts of a transfer set: ``train``, new texts made from it, and those of files.

    Only the rows of ``train`` keep their labels: what is made from a text may mean something else.
    Join them with `join_parts`; apart, what a teacher says of one serves other sets that have it.

    Args:
        train: the labelled examples.
        augmentation: the rules for new texts.
        unlabeled_files: files with more texts, see `read_unlabeled`.
        mask_token: what stands for a masked word.
        seed: of the augmentation.
        workers: processes that augment; None: one for each core. The set does not depend on it.

    Raises:
        DataError: as `read_unlabeled`.
    """
    pairs = train.texts_b is not None
    files = [read_unlabeled(path, pairs=pairs) for path in unlabeled_files]
    for path, sides in zip(unlabeled_files, files, strict=True):
        if mask_token != USUAL_MASK and any(USUAL_MASK in text for text in chain(*sides)):
            logger.warning(
                "%s holds %s, and the teacher's mask token is %s: it reads the former as any word. "
                "Make the texts again with nlpapp augment --mask_token.",
                *(path, USUAL_MASK, mask_token or "none"),
            )
    new: list[list[str]] = [[] for _ in range(1 + pairs)]
    counts = AugmentationCounts()
    for part in augment(
        *(train.texts_a, train.texts_b, augmentation),
        seed=seed,
        mask_token=mask_token,
        workers=workers,
    ):
        for side, texts in enumerate(new):
            texts += [sides[side] for sides in part.texts]
        counts += part.counts
    if counts.drawn:
        logger.info("augmentation: %s", counts)
    unlabeled = [
        _without_labels(train, texts_a, *more) for texts_a, *more in [new, *files] if texts_a
    ]
    rows = len(train) + sum(map(len, unlabeled))
    logger.info("transfer set: %d rows, %d of them labelled", rows, len(train))
    return [train, *unlabeled]


def _without_labels(
    train: Examples, texts_a: list[str], texts_b: list[str] | None = None
) -> Examples:
    known = train.known_labels
    missing = NO_LABEL if train.label_names else np.nan
    labels = np.full(len(texts_a), missing, dtype=known.dtype)
    return replace(train, texts_a=texts_a, texts_b=texts_b, labels=labels)


def join_parts(parts: Sequence[Examples]) -> Examples:
    """Return the rows of ``parts``, which have the same classes and sides, as one set."""
    first = parts[0]
    texts_b = None
    if first.texts_b is not None:
        texts_b = [text for part in parts for text in part.texts_b or ()]
    return replace(
        first,
        texts_a=[text for part in parts for text in part.texts_a],
        texts_b=texts_b,
        labels=np.concatenate([part.known_labels for part in parts]),
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


def read_unlabeled(path: str | Path, *, pairs: bool) -> list[list[str]]:
    """Read a file with a text a line, or with ``pairs`` two texts a line and a tab between them.

    Returns:
        The texts, and with ``pairs`` the second texts.

    Raises:
        DataError: the file cannot be read or is blank, or a line has another number of texts than
            the training set, or an empty one.
    """
    if _is_table(Path(path)):
        raise DataError(
            f"{path}: expected plain text, {'a pair' if pairs else 'a text'} a line, and the name "
            "is that of a table. Give a file with the texts alone."
        )
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
    return [[sides[side] for sides in rows] for side in range(wanted)]


def _is_table(path: Path) -> bool:
    return any(suffix.lower() in TABLES for suffix in path.suffixes[-2:])


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
