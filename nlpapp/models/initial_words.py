"""Word vectors and output biases from counts, in place of random ones.

A masked language model spends its first thousands of steps on finding out how often words occur,
and in which company. Both can be counted, and words are then alike that are used alike: in most
tests of similarity the factors of the positive pointwise mutual information (PPMI) do as well as
vectors that were trained by prediction (Levy, Goldberg and Dagan 2015, TACL 3, whose terms are
used here).

Legend: V entries of the vocabulary, D hidden size.
"""

import logging
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import sparse
from transformers import BertForPreTraining

logger = logging.getLogger("nlpapp")

CountPairs = Callable[[], tuple[np.ndarray, sparse.csr_matrix]]
"""How often each token occurs, (V,), and how often each stands near each other, (V, V)."""
CONTEXT_SMOOTHING = 0.75
"""Power of the contexts' frequencies, so that rare ones do not look as if they said most."""
EIGENVALUE_WEIGHTING = 0.5
"""Power of the singular values."""
POWER_ITERATIONS = 4
OVERSAMPLING = 32
SEED = 0
"""Of the decomposition and the rotation: the same counts give the same vectors."""


def counted_words(count: CountPairs, width: int) -> tuple[np.ndarray, torch.Tensor]:
    """Return the frequencies (V,) of ``count``, and the vectors (V, D) of its pairs."""
    frequencies, pairs = count()
    return frequencies, word_vectors(pairs, width)


def word_vectors(pairs: sparse.csr_matrix, width: int) -> torch.Tensor:
    """Return vectors of length 1 for the tokens, alike where their neighbours are.

    It is one sparse matrix times ``width`` columns, ten times over: seconds on a CPU core for 8,000
    tokens and a width of 256, two minutes for 30,522 and 768.

    Args:
        pairs: (V, V) how often each token stands near each other, symmetric.
        width: D.

    Returns:
        (V, D); rows of 0 for tokens that no neighbour says anything about.
    """
    started = time.monotonic()
    information = positive_pmi(pairs)
    factors = factorize(information, width)  # (V, at most D)
    generator = torch.Generator().manual_seed(SEED)
    # The first factors say more than the last; turned, all dimensions say as much.
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    directions = torch.nn.functional.normalize(factors @ rotation[: factors.shape[1]])
    directions[torch.from_numpy(np.diff(information.indptr) == 0)] = 0  # Now rounding alone.
    logger.info("word vectors from the counts in %.0f s", time.monotonic() - started)
    return directions


@torch.no_grad()
def start_words(bert: BertForPreTraining, frequencies: np.ndarray, vectors: torch.Tensor) -> None:
    """Set word embeddings to ``vectors``, as long as random ones, and output biases to log shares.

    Args:
        bert: with random weights; changed in place.
        frequencies: (V,) how often each token occurs.
        vectors: (V, D) as `word_vectors` returns them; where a row is 0, the random one stays.
    """
    words = bert.bert.embeddings.word_embeddings.weight
    known = vectors.any(dim=1).nonzero()[:, 0]
    words[known] = bert.config.initializer_range * math.sqrt(words.shape[1]) * vectors[known]
    shares = (torch.from_numpy(frequencies) + 0.5) / (frequencies.sum() + 0.5 * len(frequencies))
    bias = bert.cls.predictions.bias
    bias.fill_(shares.log().min())  # Entries that the tokenizer does not have come last.
    bias[: len(shares)] = shares.log().float()


def positive_pmi(pairs: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the positive pointwise mutual information of ``pairs`` (V, V), natural logarithm.

    max(0, log(p(i, j) / (p(i) p'(j)))), p'(j) being proportional to the count of j to the power of
    `CONTEXT_SMOOTHING`.
    """
    sums = np.asarray(pairs.sum(axis=1), dtype=np.float64).ravel()
    contexts = sums**CONTEXT_SMOOTHING
    information = pairs.astype(np.float32)  # A copy.
    with np.errstate(divide="ignore"):
        rows, columns = (np.log(count).astype(np.float32) for count in (sums, contexts))
    information.data = np.log(information.data, out=information.data)
    information.data += np.float32(np.log(contexts.sum() or 1))
    information.data -= np.repeat(rows, np.diff(information.indptr))
    information.data -= columns[information.indices]
    np.maximum(information.data, 0, out=information.data)
    information.eliminate_zeros()
    return information


def factorize(matrix: sparse.csr_matrix, width: int) -> torch.Tensor:
    """Return U S^p of the singular value decomposition U S V' of ``matrix`` (V, V).

    p is `EIGENVALUE_WEIGHTING`.

    Returns:
        (V, width), largest singular value first; fewer columns where ``matrix`` has fewer.
    """
    from sklearn.utils.extmath import randomized_svd  # Takes long to import, for this alone.

    count = min(width, *matrix.shape)
    left, values, _ = randomized_svd(
        matrix, count, n_oversamples=OVERSAMPLING, n_iter=POWER_ITERATIONS, random_state=SEED
    )
    return torch.from_numpy(left * values**EIGENVALUE_WEIGHTING).float()
