"""What is shown of pretraining data: a few instances, and how much padding batches would hold."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nlpapp import seeding
from nlpapp.data.corpus_plan import BLOCK_BYTES
from nlpapp.data.masking import exchange
from nlpapp.data.pretraining_data import PretrainingExample
from nlpapp.data.pretraining_instances import PretrainingOptions, SpecialIds, build_table
from nlpapp.data.sampling import group_by_length, padding_share
from nlpapp.data.token_blocks import BlockText, tokenize_block
from nlpapp.errors import DataError
from nlpapp.text.sources import Source, read_source
from nlpapp.text.word_encoding import LineEncoder, plain_encoder
from nlpapp.text.words import word_marker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLED_LENGTHS = 200_000
BATCH_SIZE = 64


def first_examples(
    folder: str | Path, manifest: dict[str, Any], count: int
) -> list[PretrainingExample]:
    """Return the first instances of a data folder, reading no more than these."""
    found: list[PretrainingExample] = []
    for record in manifest["shards"]:
        with pq.ParquetFile(Path(folder) / record["file"]) as file:
            for batch in file.iter_batches(batch_size=count):
                found += _examples(pa.Table.from_batches([batch]))
                if len(found) >= count:
                    return found[:count]
    return found


def preview_examples(
    sources: Sequence[Source],
    tokenizer: "PreTrainedTokenizerBase",
    options: PretrainingOptions,
    *,
    count: int,
    user_dictionary: str | None = None,
) -> list[PretrainingExample]:
    """Return instances of the first block of text of ``sources``; nothing is written.

    Raises:
        DataError: there is no text, or it is one document and objective is nsp.
    """
    texts: list[BlockText] = []
    size = 0
    for document in itertools.chain.from_iterable(map(read_source, sources)):
        text = "\n".join(document.sentences).encode() + b"\n\n"
        texts.append(BlockText(text=text))
        size += len(text)
        if size > BLOCK_BYTES and len(texts) > 1:
            break
    if not texts:
        raise DataError("There is no document in the inputs, only blank lines: expected text.")
    if options.objective == "nsp" and len(set(texts)) < 2:
        raise DataError(
            "The inputs are one document: next-sentence prediction needs several. Put a blank line "
            "between documents, add other files, or take objective: sop or none."
        )
    block = tokenize_block(
        texts,
        LineEncoder(plain_encoder(tokenizer)),
        number=0,
        longest=options.longest_sentence,
        marker=word_marker(tokenizer, segmenter=options.segmenter, user_dictionary=user_dictionary),
    )
    table, _ = build_table(block, options, SpecialIds.of(tokenizer, options))
    rng = seeding.generator(options.seed, "preview")
    chosen = np.sort(rng.permutation(table.num_rows)[:count])
    return _examples(table.take(chosen.tolist()))


def _examples(table: pa.Table) -> list[PretrainingExample]:
    missing: dict[str, Any] = {field.name: None for field in dataclasses.fields(PretrainingExample)}
    examples = []
    for row in table.to_pylist():
        values = {
            # Without its type, numpy would take an empty list for one of floats.
            name: np.array(value, None if value else np.int64) if isinstance(value, list) else value
            for name, value in row.items()
        }
        if "masked_lm_inputs" in values:
            values["input_ids"], values["masked_lm_ids"] = exchange(
                values["input_ids"],
                values["masked_lm_positions"],
                values.pop("masked_lm_inputs"),
            )
        examples.append(PretrainingExample(**missing | values))
    return examples


def padding_shares(histogram: Sequence[int], max_seq_length: int) -> dict[str, float]:
    """Return the share of padding, 0 to 1, for three ways of making batches.

    Args:
        histogram: how many instances have 0, 1, 2 ... tokens.
        max_seq_length: what fixed batches are padded to.
    """
    counts = np.asarray(histogram, dtype=np.int64)
    total = int(counts.sum())
    if not total:
        return {}
    tokens = int((counts * np.arange(len(counts))).sum())
    rng = seeding.generator(0, "padding")
    drawn = min(total, SAMPLED_LENGTHS)
    lengths = rng.permutation(np.repeat(np.arange(len(counts)), _share_out(counts, drawn)))
    order = np.arange(len(lengths))
    plain = list(itertools.pairwise(range(0, len(lengths) + BATCH_SIZE, BATCH_SIZE)))
    return {
        f"all as long as max_seq_length ({max_seq_length})": 1 - tokens / (total * max_seq_length),
        f"{BATCH_SIZE} at random": padding_share(lengths, [order[a:b] for a, b in plain]),
        f"{BATCH_SIZE} of similar length": padding_share(
            lengths, group_by_length(order, lengths, BATCH_SIZE, rng)
        ),
    }


def _share_out(counts: np.ndarray, wanted: int) -> np.ndarray:
    """Return ``counts`` scaled down to about ``wanted`` altogether."""
    ends = np.round(np.cumsum(counts) * (wanted / counts.sum())).astype(np.int64)
    return np.diff(ends, prepend=0)
