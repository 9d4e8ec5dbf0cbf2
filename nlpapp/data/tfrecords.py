"""Pretraining data from and to TFRecord files, as the original BERT scripts write and read them.

The features of a record, its padding and its order are those of ``create_pretraining_data.py`` of
google-research/bert.
"""

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nlpapp import seeding
from nlpapp.data.tfrecord_files import (
    check_installed,
    decode_message,
    encode_message,
    read_records,
    write_record,
)
from nlpapp.disk import disk_errors, written_whole
from nlpapp.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEATURES = {
    "input_ids": "int64_list",
    "input_mask": "int64_list",
    "segment_ids": "int64_list",
    "masked_lm_positions": "int64_list",
    "masked_lm_ids": "int64_list",
    "masked_lm_weights": "float_list",
    "next_sentence_labels": "int64_list",
}
"""What a record holds, in the original order; the last is absent without labels."""
LABEL = "next_sentence_labels"


@dataclass(frozen=True)
class TFRecordExample:
    """One instance with its masks in place; nothing is padded."""

    input_ids: np.ndarray
    """(S,) int64."""
    token_type_ids: np.ndarray
    """(S,) int64: 0 up to the first [SEP], 1 after it."""
    masked_lm_positions: np.ndarray
    """(K,) int64 positions to predict, ascending."""
    masked_lm_ids: np.ndarray
    """(K,) int64, what stood there."""
    next_sentence_label: int | None
    """0 or 1; None where the file has no labels."""


@dataclass(frozen=True)
class TFRecordLayout:
    """The sizes to which every record of a data set is padded."""

    max_seq_length: int
    max_predictions_per_seq: int
    has_labels: bool


@dataclass(frozen=True)
class Vocabulary:
    """What is needed of a tokenizer to see that records were made with it."""

    size: int
    cls: int
    sep: int
    mask: int

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "Vocabulary":
        """Read it off ``tokenizer``.

        Raises:
            ConfigError: a special token is missing.
        """
        ids = {}
        for name in ("cls_token", "sep_token", "mask_token"):
            index = getattr(tokenizer, f"{name}_id")
            if index is None:
                raise ConfigError(
                    f"The tokenizer has no {name}; BERT's pretraining data needs one."
                )
            ids[name] = int(index)
        size = max(tokenizer.get_vocab().values()) + 1
        return cls(size, ids["cls_token"], ids["sep_token"], ids["mask_token"])


class StaticData(Protocol):
    """What is written: instances by number, as `PretrainingData` has them."""

    manifest: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of instances."""

    def __getitem__(self, index: int) -> Any:
        """Return instance number ``index``."""


def write_tfrecords(
    data: StaticData,
    folder: str | Path,
    *,
    num_files: int = 1,
    shuffle_seed: int | None = None,
    progress: Callable[[int], object] = lambda instances: None,
) -> list[Path]:
    """Write ``data`` to ``folder`` as data-00000-of-00001.tfrecord and so on.

    Args:
        data: instances with static masks; the manifest's ``max_seq_length`` and
            ``max_predictions_per_seq`` are the sizes to which the records are padded, with zeros.
        folder: an existing folder.
        num_files: files, each with as many instances as the others, give or take one.
        shuffle_seed: puts the instances into a random order; None: their own order.
        progress: called with the number of instances written since the last call.

    Returns:
        The files.

    Raises:
        ConfigError: the masks are dynamic, or there are fewer instances than files.
        DataError: a file cannot be written; none is left half-written under its name.
    """
    check_installed()
    layout = export_layout(data)
    if not 1 <= num_files <= len(data):
        raise ConfigError(
            f"num_files {num_files}: expected 1 to {len(data)}, the number of instances."
        )
    order = np.arange(len(data))
    if shuffle_seed is not None:
        seeding.generator(shuffle_seed, "order of TFRecords").shuffle(order)
    names = [f"data-{index:05d}-of-{num_files:05d}.tfrecord" for index in range(num_files)]
    paths = [Path(folder) / name for name in names]
    for path, indices in zip(paths, np.array_split(order, num_files), strict=True):
        with disk_errors(path.parent, "Whole files are kept"), written_whole(path) as file:
            for index in indices:
                write_record(file, encode_example(data[int(index)], layout))
                progress(1)
    return paths


def export_layout(data: StaticData) -> TFRecordLayout:
    """Return the sizes to which ``data`` is to be padded.

    Raises:
        ConfigError: there is no instance, or the masks are not in the data.
    """
    if not len(data):
        raise ConfigError("There are no instances to write.")
    first, options = data[0], data.manifest["options"]
    if first.masked_lm_positions is None:
        raise ConfigError(
            "This data has dynamic masking: its masks are drawn in training, and TFRecord files "
            "hold masks. Export needs static masks: run make-data with --masking static."
        )
    return TFRecordLayout(
        max_seq_length=int(options["max_seq_length"]),
        max_predictions_per_seq=int(options["max_predictions_per_seq"]),
        has_labels=_label(first) is not None,
    )


def encode_example(example: Any, layout: TFRecordLayout) -> bytes:
    """Return the message of one instance, padded with zeros to ``layout``."""
    length, masked = len(example.input_ids), len(example.masked_lm_positions)
    if length > layout.max_seq_length or masked > layout.max_predictions_per_seq:
        raise DataError(
            f"An instance has {length} tokens, {masked} of them masked; its manifest allows "
            f"{layout.max_seq_length} and {layout.max_predictions_per_seq}. Run make-data again."
        )
    tokens = [0] * (layout.max_seq_length - length)
    predictions = [0] * (layout.max_predictions_per_seq - masked)
    values: dict[str, list[Any]] = {
        "input_ids": example.input_ids.tolist() + tokens,
        "input_mask": [1] * length + tokens,
        "segment_ids": example.token_type_ids.tolist() + tokens,
        "masked_lm_positions": example.masked_lm_positions.tolist() + predictions,
        "masked_lm_ids": example.masked_lm_ids.tolist() + predictions,
        "masked_lm_weights": [1.0] * masked + predictions,
    }
    label = _label(example)
    if label is not None:
        values[LABEL] = [label]
    return encode_message({name: (FEATURES[name], numbers) for name, numbers in values.items()})


def _label(example: Any) -> int | None:
    # Sentence order goes under the same name: 1 is the odd one out in both.
    label: int | None = example.next_sentence_label
    return getattr(example, "sentence_order_label", None) if label is None else label


def find_tfrecords(source: str) -> list[Path]:
    """Return the files of a path, a pattern, or a folder (its ``*.tfrecord*``), in natural order.

    Raises:
        DataError: there is none.
    """
    pattern = f"{glob.escape(source)}/*.tfrecord*" if os.path.isdir(source) else source
    names = [source] if os.path.isfile(source) else glob.glob(pattern, recursive=True)
    paths = [Path(name) for name in names if os.path.isfile(name)]
    paths = [path for path in paths if path.suffix != ".partial"]
    if not paths:
        raise DataError(
            f"No TFRecord file at {pattern}. Give a file, a pattern such as 'folder/*.tfrecord', "
            "or a folder of such files."
        )
    # part-10 comes after part-9: the files are read in the order in which they were counted.
    return sorted(paths, key=lambda path: [_number_or_text(part) for part in _parts(path)])


def _parts(path: Path) -> list[str]:
    return re.split(r"(\d+)", str(path))


def _number_or_text(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part)


def read_layout(paths: Sequence[Path]) -> TFRecordLayout:
    """Return the sizes of the first record; all others must have the same.

    Raises:
        DataError: there is no record, or the first is damaged or no pretraining instance.
    """
    for path in paths:
        for place, message in _messages(path):
            features = _features(message, place)
            return TFRecordLayout(
                max_seq_length=len(features["input_ids"]),
                max_predictions_per_seq=len(features["masked_lm_ids"]),
                has_labels=LABEL in features,
            )
    raise DataError(
        f"There is no record in {', '.join(map(str, paths[:3]))}: expected one or more."
    )


def read_tfrecords(
    paths: Sequence[Path],
    *,
    vocabulary: Vocabulary | None = None,
    progress: Callable[[int], object] = lambda bytes_read: None,
) -> Iterator[TFRecordExample]:
    """Yield the instances of ``paths``, one after the other; one at a time is in memory.

    Args:
        paths: TFRecord files.
        vocabulary: checks that the ids are of this vocabulary; None: any ids.
        progress: called with the number of bytes read since the last call.

    Raises:
        DataError: a file is cut off or damaged, or a record is no pretraining instance of the same
            sizes as the first; the text names file and record, counted from 1.
    """
    layout = read_layout(paths)
    for path in paths:
        for place, message in _messages(path):
            example = _decode(_features(message, place), layout, place)
            if vocabulary is not None:
                _check_vocabulary(example, vocabulary, place)
            yield example
            progress(len(message) + 16)


def _messages(path: Path) -> Iterator[tuple[str, bytes]]:
    with open(path, "rb") as file:
        for number, message in enumerate(read_records(file, str(path)), start=1):
            yield f"{path}, record {number}", message


def _features(message: bytes, place: str) -> dict[str, np.ndarray]:
    """Return the numbers of one record by the features' names, in int64 or float32."""
    there = decode_message(message, place)
    features: dict[str, np.ndarray] = {}
    for name, expected in FEATURES.items():
        if name not in there:
            if name == LABEL:
                continue
            raise DataError(
                f"{place}: there is no feature '{name}'; there are "
                f"{', '.join(map(repr, sorted(there))) or 'none'}.{nearest(name, there)} "
                "Expected records of create_pretraining_data.py."
            )
        kind, values = there[name]
        if kind != expected:
            raise DataError(f"{place}: feature '{name}' holds {kind}; expected {expected}.")
        features[name] = values
    return features


def _decode(features: dict[str, np.ndarray], layout: TFRecordLayout, place: str) -> TFRecordExample:
    """Take the padding off, and check all that the original scripts take for granted."""
    sizes = dict.fromkeys(("input_ids", "input_mask", "segment_ids"), layout.max_seq_length)
    predictions = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights")
    sizes |= dict.fromkeys(predictions, layout.max_predictions_per_seq)
    if layout.has_labels != (LABEL in features):
        one, other = ("none", "one") if layout.has_labels else ("one", "none")
        raise DataError(
            f"{place}: {LABEL} has {one} here and {other} in the first record; expected the same "
            "everywhere. Convert the two kinds of data into two folders."
        )
    if layout.has_labels:
        sizes[LABEL] = 1
    for name, size in sizes.items():
        if len(features[name]) != size:
            raise DataError(
                f"{place}: feature '{name}' has {len(features[name])} values; expected {size}, as "
                "in the first record. Convert data of other sizes into a folder of its own."
            )
    length = _ones("input_mask", features, place)
    masked = _ones("masked_lm_weights", features, place)
    types = features["segment_ids"][:length]
    _check_range("segment_ids", types, 2, place)
    positions = features["masked_lm_positions"][:masked]
    _check_range("masked_lm_positions", positions, length, place)
    order = np.argsort(positions)
    positions = positions[order]
    if (np.diff(positions) == 0).any():
        twice = int(positions[1:][np.diff(positions) == 0][0])
        raise DataError(f"{place}: position {twice} is masked twice; expected once at most.")
    if layout.has_labels:
        _check_range(LABEL, features[LABEL], 2, place)
    return TFRecordExample(
        input_ids=features["input_ids"][:length],
        token_type_ids=types,
        masked_lm_positions=positions,
        masked_lm_ids=features["masked_lm_ids"][:masked][order],
        next_sentence_label=int(features[LABEL][0]) if layout.has_labels else None,
    )


def _ones(name: str, features: dict[str, np.ndarray], place: str) -> int:
    """Return how many ones ``name`` begins with; only zeros may follow."""
    values = features[name]
    count = int((values == 1).sum())
    if not ((values[:count] == 1).all() and (values[count:] == 0).all()):
        raise DataError(f"{place}: feature '{name}' is not a row of ones followed by zeros.")
    if name == "input_mask" and count == 0:
        raise DataError(f"{place}: the instance has no tokens (feature 'input_mask' is all zeros).")
    return count


def _check_range(name: str, values: np.ndarray, end: int, place: str) -> None:
    wrong = values[(values < 0) | (values >= end)]
    if len(wrong):
        raise DataError(f"{place}: feature '{name}' holds {wrong[0]}; expected 0 to {end - 1}.")


def _check_vocabulary(example: TFRecordExample, vocabulary: Vocabulary, place: str) -> None:
    for values in (example.input_ids, example.masked_lm_ids):
        wrong = values[(values < 0) | (values >= vocabulary.size)]
        if len(wrong):
            raise DataError(
                f"{place}: id {wrong[0]} is outside the vocabulary of {vocabulary.size} pieces. "
                "Give the tokenizer (or vocab.txt) the file was made with."
            )
    ends = (int(example.input_ids[0]), int(example.input_ids[-1]))
    if ends != (vocabulary.cls, vocabulary.sep):
        raise DataError(
            f"{place}: the instance begins with id {ends[0]} and ends with {ends[1]}; expected "
            f"{vocabulary.cls} and {vocabulary.sep}, the special tokens of this tokenizer. Give "
            "the tokenizer (or vocab.txt) the file was made with."
        )
