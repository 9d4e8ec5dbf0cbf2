"""TFRecord files to a pretraining data folder: parquet shards of bounded size and a manifest.

A file is read once, an instance at a time. The shards get their names when all of them are there,
and the manifest comes last, so nothing unfinished looks like data.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nlpapp.data.manifest import MANIFEST, shard_name, write_manifest
from nlpapp.data.masking import exchange
from nlpapp.data.pretraining_instances import flat_array, list_array
from nlpapp.data.shard_tasks import shard_writer
from nlpapp.data.tfrecord_files import check_installed
from nlpapp.data.tfrecords import (
    TFRecordExample,
    TFRecordLayout,
    Vocabulary,
    read_layout,
    read_tfrecords,
)
from nlpapp.data.token_blocks import id_dtype
from nlpapp.disk import file_sha256
from nlpapp.errors import DataError
from nlpapp.text.wordpiece import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LabelMeaning = Literal["nsp", "sop"]
LABEL_COLUMNS = {"nsp": "next_sentence_label", "sop": "sentence_order_label"}
LABEL_COUNTS = {"nsp": "random_next", "sop": "swapped_order"}

TOKENS_PER_SHARD = 1 << 24
"""A shard ends with the instance that reaches this: 32 MB of ids, which compress to about half."""
INSTANCES_PER_WRITE = 4096
"""Held in memory, and written as one row group."""


def import_tfrecords(
    folder: str | Path,
    paths: Sequence[Path],
    *,
    tokenizer: "PreTrainedTokenizerBase",
    labels: LabelMeaning = "nsp",
    tokens_per_shard: int = TOKENS_PER_SHARD,
    progress: Callable[[int], object] = lambda bytes_read: None,
) -> dict[str, Any]:
    """Write the instances of TFRecord files to ``folder``, in their order, and return the manifest.

    Args:
        folder: a new data folder, or one of the same content to be written again.
        paths: TFRecord files; see `tfrecords.find_tfrecords`.
        tokenizer: what the files were made with.
        labels: what ``next_sentence_labels`` says: a random next sentence, or swapped segments.
        tokens_per_shard: tokens after which a new shard begins.
        progress: called with the number of bytes read since the last call.

    Raises:
        ConfigError: a package is not installed, or the tokenizer lacks a special token.
        DataError: a file is damaged, holds something else, or was made with another tokenizer.
    """
    check_installed()
    folder = Path(folder)
    vocabulary = Vocabulary.of(tokenizer)
    layout = read_layout(paths)
    if layout.max_seq_length > np.iinfo(np.uint16).max:
        raise DataError(
            f"{paths[0]} has instances of {layout.max_seq_length} tokens; expected at most 65535."
        )
    work = folder / "unfinished-import"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir(parents=True)
        writer = _ShardWriter(work, vocabulary, labels if layout.has_labels else None)
        for example in read_tfrecords(paths, vocabulary=vocabulary, progress=progress):
            writer.add(example)
            if writer.tokens >= tokens_per_shard:
                writer.end_shard()
        writer.end_shard()
        return _publish(folder, writer, layout, paths=paths, tokenizer=tokenizer)
    except OSError as error:
        raise DataError(
            f"Cannot convert into {folder}: {error}. Make room or put it right, and run the same "
            "command again."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _publish(
    folder: Path,
    writer: "_ShardWriter",
    layout: TFRecordLayout,
    *,
    paths: Sequence[Path],
    tokenizer: "PreTrainedTokenizerBase",
) -> dict[str, Any]:
    """Give the shards their names, after those of an earlier run are gone; write the manifest."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for old in folder.glob("shard-*.parquet"):
        old.unlink()
    for index, record in enumerate(writer.records):
        name = shard_name(index, len(writer.records))
        os.replace(writer.work / record["file"], folder / name)
        record["file"] = name
    counts: Counter[str] = Counter()
    for record in writer.records:
        counts.update(record["counts"])
    options = {
        "objective": writer.labels or "none",
        "max_seq_length": layout.max_seq_length,
        "max_predictions_per_seq": layout.max_predictions_per_seq,
        # The share that was asked for is not in the files; this is the one that was reached.
        "masked_lm_prob": round(counts["masked_tokens"] / counts["instance_tokens"], 4),
        "masking": "static",
        "masking_unit": "token",
        "input_format": "tfrecord",
    }
    identity = {
        "options": options,
        "tokenizer_fingerprint": fingerprint(tokenizer),
        "sources": [
            {
                "file": str(path),
                "bytes": path.stat().st_size,
                "format": "tfrecord",
                "compression": "none",
            }
            for path in paths
        ],
        "counts": {},
    }
    return write_manifest(folder, identity, writer.records)


class _ShardWriter:
    """Writes instances to one shard after another below ``work``; ``records`` has the finished."""

    def __init__(self, work: Path, vocabulary: Vocabulary, labels: LabelMeaning | None) -> None:
        self.work = work
        self.vocabulary = vocabulary
        self.labels = labels
        self.records: list[dict[str, Any]] = []
        self.tokens = 0
        self._waiting: list[TFRecordExample] = []
        self._file: pq.ParquetWriter | None = None
        self._counts: Counter[str] = Counter()
        self._lengths: Counter[int] = Counter()

    def add(self, example: TFRecordExample) -> None:
        """Put an instance into the shard at hand."""
        self._waiting.append(example)
        self.tokens += len(example.input_ids)
        if len(self._waiting) == INSTANCES_PER_WRITE:
            self._write()

    def end_shard(self) -> None:
        """Finish the shard at hand, if there is anything in it."""
        self._write()
        if self._file is None:
            return
        self._file.close()
        path = self._path()
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        self.records.append(
            {
                "file": path.name,
                "sha256": file_sha256(path),
                "bytes": path.stat().st_size,
                "counts": dict(self._counts),
                "lengths": [self._lengths[size] for size in range(max(self._lengths) + 1)],
            }
        )
        self._file, self.tokens = None, 0
        self._counts, self._lengths = Counter(), Counter()

    def _path(self) -> Path:
        return self.work / f"shard-{len(self.records):05d}.parquet"

    def _write(self) -> None:
        if not self._waiting:
            return
        table = self._table(self._waiting)
        if self._file is None:
            self._file = shard_writer(self._path(), table.schema)
        self._file.write_table(table)
        self._count(self._waiting)
        self._waiting = []

    def _table(self, examples: Sequence[TFRecordExample]) -> pa.Table:
        ids = id_dtype(self.vocabulary.size)
        whole = [exchange(e.input_ids, e.masked_lm_positions, e.masked_lm_ids) for e in examples]
        columns: dict[str, pa.Array] = {
            "input_ids": _lists([text for text, _ in whole], ids),
            "token_type_ids": _lists([example.token_type_ids for example in examples], np.uint8),
            "masked_lm_positions": _lists(
                [example.masked_lm_positions for example in examples], np.uint16
            ),
            "masked_lm_inputs": _lists([shown for _, shown in whole], ids),
        }
        if self.labels is not None:
            labels = [example.next_sentence_label for example in examples]
            columns[LABEL_COLUMNS[self.labels]] = flat_array(np.array(labels, np.uint8))
        return pa.table(columns)

    def _count(self, examples: Sequence[TFRecordExample]) -> None:
        shown = np.concatenate([e.input_ids[e.masked_lm_positions] for e in examples])
        originals = np.concatenate([e.masked_lm_ids for e in examples])
        as_mask = int((shown == self.vocabulary.mask).sum())
        kept = int((shown == originals).sum())
        self._counts.update(
            instances=len(examples),
            instance_tokens=sum(len(example.input_ids) for example in examples),
            masked_tokens=len(shown),
            masked_as_mask=as_mask,
            masked_kept=kept,
            masked_as_random=len(shown) - as_mask - kept,
        )
        if self.labels is not None:
            odd = sum(example.next_sentence_label or 0 for example in examples)
            self._counts[LABEL_COUNTS[self.labels]] += odd
        self._lengths.update(len(example.input_ids) for example in examples)


def _lists(rows: Sequence[np.ndarray], dtype: type[np.generic]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, rows)])
    return list_array(np.concatenate(rows).astype(dtype), offsets)
