"""Sentences or sentence pairs with labels: from files to encoded examples to padded batches.

Own files are read by `read_examples`, GLUE's by `nlpapp.data.glue_tasks`.
Shapes: B examples of a batch, S tokens of its longest example.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlpapp.data.collate import attention_mask, pad_rows
from nlpapp.data.label_words import LabelWords, infer_label_names, split_words
from nlpapp.data.sampling import ExampleSteps
from nlpapp.data.table_files import Table, open_table
from nlpapp.data.token_rows import FlatRows, tokenize_rows
from nlpapp.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

USUAL_COLUMNS: tuple[tuple[str, str | None], ...] = (
    ("sentence1", "sentence2"),
    ("text_a", "text_b"),
    ("premise", "hypothesis"),
    ("sentence", None),
    ("text", None),
    ("text_a", None),
)
"""(text, text pair) columns looked for, in this order, when a file's columns are not named."""
USUAL_LABEL_COLUMN = "label"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Rows of a classification or regression set, in the order of their file."""

    texts_a: list[str]
    texts_b: list[str] | None = None
    """Second texts of pairs; None for single texts."""
    labels: np.ndarray | None = None
    """(rows,) int64 class indices, or float32 scores; (rows, classes) float32 of 0 and 1 where a
    row may have several classes; None for a set without labels."""
    label_names: tuple[str, ...] = ()
    """Name of each class in the order of its index; empty for scores."""
    multi_label: bool = False
    """Whether a row may have several classes, or none."""
    source: str
    """Where the rows come from, for messages."""

    def __len__(self) -> int:
        return len(self.texts_a)

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The text of each row, or the two of a pair."""
        sides = [self.texts_a] if self.texts_b is None else [self.texts_a, self.texts_b]
        return list(zip(*sides, strict=True))

    @property
    def rows_with_text(self) -> list[int]:
        """The rows that have a text, and of pairs both, which are not blank."""
        return [row for row, sides in enumerate(self.texts) if all(map(str.strip, sides))]

    @property
    def known_labels(self) -> np.ndarray:
        """The labels; DataError for a set that has none."""
        if self.labels is None:
            raise DataError(f"{self.source}: labels are needed here, and this set has none.")
        return self.labels

    @property
    def num_labels(self) -> int:
        """Outputs of a model of these labels: one for each class, or 1 for scores."""
        return len(self.label_names) or 1


def read_examples(
    path: str | Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    label_separator: str | None = None,
    header: bool = True,
    require_labels: bool = False,
) -> Examples:
    """Read a TSV, CSV, JSONL or parquet file; a column is given by its name or number from 1.

    Args:
        path: the file; its ending tells the format.
        text_column: column of the texts; None looks for the usual names (`USUAL_COLUMNS`).
        text_pair_column: column of the second texts of pairs.
        label_column: column of the labels; None takes ``label`` where it is there.
        label_names: the classes in order; ``()`` reads scores; None sorts those of the file.
        label_separator: what stands between the classes of a row, where a row may have several or
            none; the file may also hold lists. None: a row has one class.
        header: whether the first line of TSV or CSV names the columns.
        require_labels: refuse a file without the label column.

    Raises:
        ConfigError: ``label_separator`` is empty.
        DataError: naming file, line, value and what was expected.
    """
    if label_separator == "":
        raise ConfigError(
            "label_separator is empty; give what stands between the labels of a row, such as ','."
        )
    table = open_table(path, header=header, list_separator=label_separator)
    text, pair = _text_columns(table, text_column, text_pair_column)
    if label_column is None and (require_labels or USUAL_LABEL_COLUMN in table):
        label_column = USUAL_LABEL_COLUMN
    return examples_from_table(
        table,
        text_column=text,
        text_pair_column=pair,
        label_column=label_column,
        label_names=label_names,
        label_separator=label_separator,
    )


def read_chunks(
    path: str | Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    header: bool = True,
    chunk_rows: int,
) -> Iterator[Examples]:
    """Read a file without its labels, ``chunk_rows`` rows at a time, in constant memory.

    Raises:
        DataError: as `read_examples`.
    """
    table = open_table(path, header=header)
    columns = [name for name in _text_columns(table, text_column, text_pair_column) if name]
    rows = table.rows(*columns)
    found = False
    while chunk := [values for _, values in islice(rows, chunk_rows)]:
        found = True
        yield Examples(
            texts_a=[row[0] for row in chunk],
            texts_b=[row[1] for row in chunk] if len(columns) == 2 else None,
            source=str(table.path),
        )
    if not found:
        raise DataError(f"{table.path}: the file holds no rows.")


def _text_columns(table: Table, text: str | None, pair: str | None) -> tuple[str, str | None]:
    if text is not None:
        return text, pair
    if pair is not None:
        raise ConfigError(f"text_pair_column is '{pair}', but text_column is not set; set both.")
    for usual_text, usual_pair in USUAL_COLUMNS:
        if usual_text in table.columns and (usual_pair is None or usual_pair in table.columns):
            return usual_text, usual_pair
    there = ", ".join(repr(name) for name in table.columns)
    raise DataError(
        f"{table.path}: there is no 'sentence', 'text', 'text_a', or 'sentence1' with 'sentence2'; "
        f"there are {there}. Give the column's name, or its number from 1, with --text_column."
    )


def examples_from_table(
    table: Table,
    *,
    text_column: str,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    label_words: Sequence[str] | None = None,
    label_separator: str | None = None,
) -> Examples:
    """Read the rows of an open table.

    ``label_words`` are the classes as the file spells them, in the order of ``label_names`` (GLUE
    writes 0 and 1 for classes that have names). For the rest see `read_examples`.
    """
    names_of_texts = [text_column, *([text_pair_column] if text_pair_column is not None else [])]
    texts: tuple[list[str], ...] = tuple([] for _ in names_of_texts)
    words: list[str] = []
    lines: list[int] = []
    labelled = [label_column] if label_column is not None else []
    for line, values in table.rows(*names_of_texts, *labelled):
        for column, text in zip(texts, values, strict=False):
            column.append(text)
        if labelled:
            words.append(values[-1].strip())
        lines.append(line)
    if not lines:
        raise DataError(f"{table.path}: the file holds no rows.")
    for column, words_for in zip(texts, ("text", "second text"), strict=False):
        empty = [line for line, text in zip(lines, column, strict=True) if not text.strip()]
        if empty:
            first = ", ".join(map(str, empty[:5])) + (" ..." if len(empty) > 5 else "")
            logger.warning(
                "%s: %d of %d rows have an empty %s (lines %s).",
                *(table.path, len(empty), len(lines), words_for, first),
            )
    names = tuple(label_names or ())
    labels: np.ndarray | None = None
    found = LabelWords(table.path, words, lines)
    if label_column is not None and label_names is not None and not names:
        labels = found.scores()
    elif label_column is not None and label_separator is not None:
        parts = [part for word in words for part in split_words(word, label_separator)]
        names = names or infer_label_names(parts)
        labels = found.sets_of_classes(names, label_separator)
    elif label_column is not None:
        names = names or infer_label_names(words)
        labels = found.classes(label_words or names)
    return Examples(
        texts_a=texts[0],
        texts_b=texts[1] if text_pair_column is not None else None,
        labels=labels,
        label_names=names,
        multi_label=label_separator is not None,
        source=str(table.path),
    )


def check_trainable(examples: Examples) -> None:
    """Raise DataError unless ``examples`` have labels, and more than one class or score."""
    labels = examples.known_labels
    if examples.multi_label and len(examples.label_names) == 1:
        raise DataError(
            f"{examples.source}: '{examples.label_names[0]}' is the only class; with "
            "--label_separator there must be two or more. Give the rows without it a class of "
            "their own and leave --label_separator out, or check --label_column."
        )
    if np.all(labels == labels[0]):
        label = labels[0]
        if examples.multi_label:
            name = ", ".join(np.array(examples.label_names)[label > 0])
        else:
            name = examples.label_names[int(label)] if examples.label_names else f"{label:g}"
        raise DataError(
            f"{examples.source}: all {len(examples)} rows have the label '{name}'; "
            "there is nothing to learn from one class. Check --label_column."
        )


class EncodedExamples:
    """Tokenized examples, unpadded: a pair is one sequence, or two with ``separate_pair``."""

    def __init__(
        self,
        examples: Examples,
        tokenizer: Any,
        *,
        max_seq_length: int,
        separate_pair: bool = False,
    ) -> None:
        """Tokenize ``examples``, cut to ``max_seq_length`` tokens, the longer text of a pair first.

        Raises:
            ConfigError: if ``max_seq_length`` leaves no room for a token of each text.
        """
        joined = examples.texts_b is not None and not separate_pair
        room = max_seq_length - tokenizer.num_special_tokens_to_add(pair=joined)
        if room < 1 + joined:
            special = max_seq_length - room
            raise ConfigError(
                f"max_seq_length is {max_seq_length}, of which {special} are special tokens; "
                f"use at least {special + 1 + joined}."
            )
        self.labels = examples.labels
        self.token_type_ids: FlatRows | None = None
        self.input_ids_b: FlatRows | None = None
        tokenize = partial(tokenize_rows, tokenizer, max_seq_length=max_seq_length)
        rows = tokenize(examples.texts_a, examples.texts_b if joined else None)
        self.input_ids = rows.ids
        self.lengths = rows.ids.lengths
        """(rows,) int64: tokens of each example, both texts together."""
        cut = rows.cut
        if examples.texts_b is not None and separate_pair:
            second = tokenize(examples.texts_b, None)
            self.input_ids_b = second.ids
            self.lengths = self.lengths + second.ids.lengths
            cut = cut | second.cut
        else:
            self.token_type_ids = rows.types
        self.truncated_share = float(cut.mean())
        """Share of the examples that were longer than ``max_seq_length``."""
        if cut.any():
            logger.warning(
                "%s: %.1f %% of rows are longer than max_seq_length %d and were cut",
                *(examples.source, 100 * self.truncated_share, max_seq_length),
            )

    def __len__(self) -> int:
        return len(self.input_ids)


def encode_for(
    model: Any, tokenizer: Any, examples: Examples, *, max_seq_length: int
) -> EncodedExamples:
    """Return ``examples`` as the classifier ``model`` reads them, pairs apart if it is siamese."""
    return EncodedExamples(
        examples,
        tokenizer,
        max_seq_length=max_seq_length,
        separate_pair=getattr(model.config, "siamese", False),
    )


class ClassificationCollator:
    """Turns example indices into a padded batch."""

    def __init__(self, encoded: EncodedExamples, pad_token_id: int | None) -> None:
        """Fill rows up with ``pad_token_id``, the tokenizer's.

        Raises:
            ConfigError: it is None.
        """
        if pad_token_id is None:
            raise ConfigError(
                "the tokenizer has no padding token, which batches of texts need: name one as "
                "pad_token in its tokenizer_config.json, such as its end-of-text token, and write "
                "its id as pad_token_id into the model's config.json."
            )
        self.encoded = encoded
        self.pad_token_id = pad_token_id

    def __call__(self, indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        """Return the batch of ``indices``; ``epoch`` changes nothing.

        Keys: input_ids, attention_mask and token_type_ids (B, S) int64; with separate pairs,
        instead of token_type_ids, input_ids_b and attention_mask_b (B, S of the second texts);
        labels (B,) int64 or float32, or (B, C) float32, if the examples have them.
        """
        encoded = self.encoded
        rows = [encoded.input_ids[index] for index in indices]
        batch = {
            "input_ids": pad_rows(rows, self.pad_token_id),
            "attention_mask": attention_mask(rows),
        }
        if encoded.token_type_ids is not None:
            batch["token_type_ids"] = pad_rows(
                [encoded.token_type_ids[index] for index in indices], 0
            )
        if encoded.input_ids_b is not None:
            rows_b = [encoded.input_ids_b[index] for index in indices]
            batch["input_ids_b"] = pad_rows(rows_b, self.pad_token_id)
            batch["attention_mask_b"] = attention_mask(rows_b)
        if encoded.labels is not None:
            batch["labels"] = torch.from_numpy(encoded.labels[indices])
        return batch


def training_steps(
    encoded: EncodedExamples,
    pad_token_id: int,
    batch_size: int,
    tokens_per_batch: int | None,
    *,
    seed: int,
) -> ExampleSteps:
    """Return shuffled steps of examples of similar length; see `ExampleSteps`."""
    return ExampleSteps(
        len(encoded),
        ClassificationCollator(encoded, pad_token_id),
        batch_size=batch_size,
        seed=seed,
        lengths=encoded.lengths,
        tokens_per_batch=tokens_per_batch,
    )


def evaluation_steps(
    encoded: EncodedExamples, pad_token_id: int, *, batch_size: int
) -> tuple[ExampleSteps, np.ndarray]:
    """Return steps that read the examples from short to long, and the array that undoes the order.

    Batches of equal lengths hold little padding. ``predict_rows(model, forward, steps)[undo]`` is
    in the order of the examples.
    """
    order = np.argsort(encoded.lengths, kind="stable")
    collator = ClassificationCollator(encoded, pad_token_id)
    steps = ExampleSteps(
        len(encoded),
        lambda indices, epoch: collator(order[indices], epoch),
        batch_size=batch_size,
        shuffle=False,
    )
    return steps, np.argsort(order)
