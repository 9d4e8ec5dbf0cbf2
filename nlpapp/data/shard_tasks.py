"""One shard of pretraining data, as a task: read its text, make its instances, write it.

A shard gets its name when it is whole; its record is written after it.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from nlpapp.data.corpus_plan import BlockPlan, RangePlan, ShardPlan
from nlpapp.data.corpus_text import locate, read_range
from nlpapp.data.manifest import UNFINISHED, shard_name
from nlpapp.data.pretraining_instances import PretrainingOptions, SpecialIds, build_table
from nlpapp.data.token_blocks import BlockText, tokenize_block
from nlpapp.disk import disk_errors, file_sha256, write_json, written_whole
from nlpapp.errors import DataError, NlpappError
from nlpapp.text.word_encoding import LineEncoder
from nlpapp.text.words import WordMarker

Report = Callable[[int, int], None]

PAGE_BYTES = 1 << 24
"""Of a parquet page. Each is compressed by itself, and one this large holds all the passes over a
block of text (of BERT's usual 5), so that text is there once; a reader holds one at a time."""


@dataclass(frozen=True, kw_only=True)
class ShardContext:
    """What every task of instance creation has to know."""

    folder: str
    """Where the shards go."""
    text_folder: str
    """Where the corpus text lies."""
    tokenizer: str
    """tokenizer.json as text."""
    special: SpecialIds
    options: PretrainingOptions
    marker: WordMarker | None


def write_shard(context: ShardContext, task: ShardPlan, report: Report) -> dict[str, Any]:
    """Make the instances of one shard, write it under its name, and return its record."""
    folder = Path(context.folder)
    path = folder / shard_name(task.index, task.count)
    counts: Counter[str] = Counter()
    lengths = np.zeros(context.options.max_seq_length + 1, dtype=np.int64)
    with disk_errors(folder, "The finished shards are kept"):
        with written_whole(path) as file, contextlib.ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            for block in task.blocks:
                table, more = make_instances(context, block)
                if writer is None:
                    writer = stack.enter_context(shard_writer(file, table.schema))
                writer.write_table(table)
                # Arrow would keep its pages for itself while numpy makes the next block.
                pa.default_memory_pool().release_unused()
                counts.update(more)
                for chunk in table.column("input_ids").chunks:
                    lengths += np.bincount(np.diff(chunk.offsets), minlength=len(lengths))
                report(more["text_bytes"], more["tokens"])
        record = {
            "file": path.name,
            "sha256": file_sha256(path),
            "bytes": path.stat().st_size,
            "counts": dict(counts),
            "lengths": lengths.tolist(),
        }
        write_json(folder / UNFINISHED / f"shard-{task.index:05d}.json", record)
    return record


def shard_writer(file: BinaryIO | Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Return what writes tables of ``schema`` as a shard, to a file or under a name."""
    encodings = {
        # The bytes of ids apart: smaller than a dictionary would make them, and faster to write.
        "input_ids": "BYTE_STREAM_SPLIT",
        "masked_lm_positions": "DELTA_BINARY_PACKED",
        "masked_lm_inputs": "BYTE_STREAM_SPLIT",
    }
    return pq.ParquetWriter(
        file,
        schema,
        compression="zstd",
        compression_level=3,
        data_page_size=PAGE_BYTES,
        use_dictionary=["token_type_ids.list.element", "word_continues.list.element"],
        column_encoding={f"{name}.list.element": kind for name, kind in encodings.items()},
    )


def make_instances(context: ShardContext, block: BlockPlan) -> tuple[pa.Table, Counter[str]]:
    """Return the instances of a block, and what there is to count.

    Raises:
        DataError: a document that cannot be used, by source and line.
    """
    texts = [_text(context, part) for part in block.ranges]
    try:
        tokens = tokenize_block(
            texts,
            _encoder(context.tokenizer),
            number=block.number,
            longest=context.options.longest_sentence,
            guests=[_text(context, part) for part in block.guests],
            marker=context.marker,
        )
        table, counts = build_table(tokens, context.options, context.special)
    except (NlpappError, MemoryError):
        raise
    except Exception as error:
        raise DataError(f"{_culprit(context, block)}: {type(error).__name__}: {error}") from error
    counts["documents"] += sum(part.documents - len(part.dropped) for part in block.ranges)
    counts["text_bytes"] = sum(part.bytes for part in block.ranges)
    return table, counts


def _text(context: ShardContext, part: RangePlan) -> BlockText:
    text, document = read_range(context.text_folder, part.task, part.order)
    return BlockText(text=text, document=document, dropped=part.dropped)


@functools.lru_cache(maxsize=1)
def _encoder(tokenizer: str) -> LineEncoder:
    return LineEncoder(Tokenizer.from_str(tokenizer))


def _culprit(context: ShardContext, block: BlockPlan) -> str:
    """Return where the document is that cannot be turned into ids."""
    encoder = _encoder(context.tokenizer)
    for part in block.ranges:
        documents = _text(context, part).text.removesuffix(b"\n\n").split(b"\n\n")
        for order, document in enumerate(documents):
            try:
                text = document + b"\n"
                encoded = encoder.encode(text)
                if context.marker is not None:
                    context.marker.mark(text, encoded)
            except Exception:
                source, line = locate(context.text_folder, part.task, part.first + order)
                return f"{source}, document at line {line}: no instances can be made of it"
    source, line = locate(context.text_folder, block.ranges[0].task, block.ranges[0].first)
    return f"Block {block.number}, which begins with {source}, line {line}, cannot be used"
