"""Classifiers that others learn from: opened, checked, their classes in the data's order."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifiers import (
    align_labels,
    build_classifier,
    is_multi_label,
    is_unnamed,
    label_names_of,
)
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits, load_classifier

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A teacher or student with its tokenizer, and its outputs for the data's classes in order."""

    model: Any
    tokenizer: Any
    outputs: list[int]


def load_teacher(
    folder: Path | None,
    *,
    label_names: Sequence[str],
    size: BertSizeConfig,
    vocab_size: int,
    pad_token_id: int,
    fingerprint: str,
    max_seq_length: int,
) -> tuple[Any, list[int]]:
    """Return a classifier ready to predict, and its output for each of ``label_names``.

    Args:
        folder: a model folder; None: a random BERT, to try a command out.
        label_names: the data's classes in order; none: scores.
        size: of the random BERT.
        vocab_size: entries of the tokenizer.
        pad_token_id: of the tokenizer.
        fingerprint: of the tokenizer.
        max_seq_length: tokens of the longest text.

    Raises:
        CheckpointError: the folder holds no classifier, or a damaged one.
        ConfigError: other classes than the data's, another tokenizer, or too few positions.
    """
    if folder is None:
        logger.warning("no teacher is given: a BERT with random weights teaches")
        model = build_classifier(
            None,
            label_names=label_names,
            size=size,
            vocab_size=vocab_size,
            pad_token_id=pad_token_id,
        ).eval()
    else:
        model = load_classifier(folder)
    check_sequence_length(model, max_seq_length)
    check_tokenizer_fits(model, vocab_size=vocab_size, fingerprint=fingerprint)
    own = label_names_of(model)
    if is_multi_label(model):
        raise ConfigError(
            f"the teacher in {folder} gives a text several of its classes; distill learns one."
        )
    if len(own) > 2 and is_unnamed(own) and list(label_names) != [*map(str, range(len(own)))]:
        raise ConfigError(
            f"the teacher in {folder} calls its classes {', '.join(own)}, and models differ in "
            f"their order; the data's are {', '.join(label_names)}. Write their names, in the "
            "teacher's order, into id2label in its config.json."
        )
    # A score has no name: both sides then have one output.
    return model, align_labels(own, label_names) or [0]
