"""Counts which tokens stand near each other in pretraining data.

Legend: V entries of the vocabulary.
"""

import logging
import time
from collections.abc import Iterator

import numpy as np
from scipy import sparse
from transformers import PreTrainedTokenizerBase

from nlpapp.data.pretraining_data import PretrainingData, PretrainingExample

logger = logging.getLogger("nlpapp")

WINDOW = 5
"""Tokens to each side that count as near."""
MAX_TOKENS = 50_000_000
"""Of more tokens than this, every nth instance is read: more hardly move the counts."""
TOKENS_AT_ONCE = 1_000_000
"""Tokens whose pairs are in memory at once."""


def count_cooccurrences(
    data: PretrainingData, tokenizer: PreTrainedTokenizerBase
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Count the tokens of ``data`` and the pairs that stand near each other in one segment.

    Static masks are lifted: what stood there is counted. Of data over `MAX_TOKENS` a part is read,
    which bounds time and memory.

    Args:
        data: the instances.
        tokenizer: of the data; its special tokens, such as [CLS], are passed over.

    Returns:
        How often each token occurs, (V,) int64; and how often each stands near each other,
        (V, V) float32, symmetric: 1 for each time at distance 1, 1/2 at distance 2, up to `WINDOW`.
    """
    started, vocab_size = time.monotonic(), len(tokenizer)
    special = np.zeros(vocab_size, dtype=bool)
    special[tokenizer.all_special_ids] = True
    frequencies = np.zeros(vocab_size, dtype=np.int64)
    pairs = sparse.csr_matrix((vocab_size, vocab_size), dtype=np.float32)
    for ids, segments in _texts(data):
        ids, segments = ids[~special[ids]], segments[~special[ids]]
        frequencies += np.bincount(ids, minlength=vocab_size)
        pairs += _near_pairs(ids, segments, vocab_size)
    logger.info(
        "counted %d tokens and their neighbours in %.0f s",
        *(frequencies.sum(), time.monotonic() - started),
    )
    return frequencies, (pairs + pairs.T).tocsr()


def _near_pairs(ids: np.ndarray, segments: np.ndarray, vocab_size: int) -> sparse.csr_matrix:
    """Return the weights (V, V) of the pairs in ``ids`` (N,), the earlier token in the rows."""
    first, second, weights = [], [], []
    for distance in range(1, WINDOW + 1):
        near = segments[distance:] == segments[:-distance]
        first.append(ids[:-distance][near])
        second.append(ids[distance:][near])
        weights.append(np.full(len(first[-1]), 1 / distance, dtype=np.float32))
    entries = (np.concatenate(first), np.concatenate(second))
    return sparse.csr_matrix((np.concatenate(weights), entries), shape=(vocab_size, vocab_size))


def _texts(data: PretrainingData) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the tokens of many instances, and for each of them the number of its segment."""
    tokens = int(data.lengths.sum())
    rows = np.arange(0, len(data), -(-tokens // MAX_TOKENS))
    chunks = data.lengths[rows].cumsum() // TOKENS_AT_ONCE
    for chunk in np.split(rows, np.flatnonzero(np.diff(chunks)) + 1):
        examples = [data[row] for row in chunk]
        ids = np.concatenate([_without_masks(example) for example in examples])
        types = np.concatenate([example.token_type_ids for example in examples])
        numbers = np.repeat(np.arange(len(examples)), data.lengths[chunk])
        yield ids.astype(np.int64), 2 * numbers + types


def _without_masks(example: PretrainingExample) -> np.ndarray:
    if example.masked_lm_positions is None:
        return example.input_ids
    ids = example.input_ids.copy()
    ids[example.masked_lm_positions] = example.masked_lm_ids
    return ids
