"""Word vectors that say from the first step which words are used alike.

A masked language model spends its first thousands of steps on finding out which words occur at all,
and which in the same company. Both are counted in seconds, and the factors of those counts are as
good as vectors trained by prediction (Levy and Goldberg 2014, NeurIPS 27).

Legend: V entries of the vocabulary, D hidden size.
"""

import logging
import math
import time

import numpy as np
import torch
from scipy import sparse
from sklearn.utils.extmath import randomized_svd
from transformers import BertForPreTraining

logger = logging.getLogger("nlpapp")

CONTEXT_POWER = 0.75
"""Smooths the frequencies of contexts, so that rare ones do not look as if they said most."""
VALUE_POWER = 0.5
"""Exponent of the singular values (both as in Levy, Goldberg and Dagan 2015, TACL 3)."""
POWER_ITERATIONS = 4
OVERSAMPLING = 32
SVD_SEED = 0
"""The factors differ little by it: rotation and everything else come from torch's generator."""


@torch.no_grad()
def start_words(
    bert: BertForPreTraining, frequencies: np.ndarray, pairs: sparse.csr_matrix
) -> None:
    """Set word embeddings to factors of ``pairs``, and output biases to the log of frequencies.

    The vectors are as long as random ones; a token that stands near no other keeps its random one.

    Args:
        bert: with random weights; changed in place.
        frequencies: (V,) how often each token occurs.
        pairs: (V, V) how often each stands near each other, symmetric; see `count_cooccurrences`.
    """
    started = time.perf_counter()
    words = bert.bert.embeddings.word_embeddings.weight
    width = words.shape[1]
    information = positive_information(pairs)
    factors = factorize(information, width)  # (V, at most D)
    rotation = torch.linalg.qr(torch.randn(width, width))[0]  # Spreads them over all dimensions.
    vectors = torch.nn.functional.normalize(factors @ rotation[: factors.shape[1]])
    known = torch.from_numpy(np.flatnonzero(np.diff(information.indptr)))
    words[known] = bert.config.initializer_range * math.sqrt(width) * vectors[known]
    shares = (torch.from_numpy(frequencies) + 0.5) / (frequencies.sum() + 0.5 * len(frequencies))
    bert.cls.predictions.bias[: len(shares)] = shares.log().float()
    logger.info(
        "word vectors from %d tokens and their neighbours, in %.0f s",
        *(frequencies.sum(), time.perf_counter() - started),
    )


def positive_information(pairs: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the positive pointwise mutual information of ``pairs`` (V, V), natural logarithm.

    max(0, log(p(i, j) / (p(i) p'(j)))), where p' is the frequency to the power of `CONTEXT_POWER`.
    """
    entries = pairs.tocoo()
    sums = np.asarray(pairs.sum(axis=1), dtype=np.float64).ravel()
    contexts = sums**CONTEXT_POWER
    information = np.log(
        entries.data * contexts.sum() / (sums[entries.row] * contexts[entries.col])
    )
    kept = information > 0
    positions = (entries.row[kept], entries.col[kept])
    return sparse.csr_matrix((information[kept].astype(np.float32), positions), shape=pairs.shape)


def factorize(matrix: sparse.csr_matrix, width: int) -> torch.Tensor:
    """Return U S^p of the singular value decomposition U S V' of ``matrix``, p = `VALUE_POWER`.

    Returns:
        (V, width), largest singular value first; fewer columns where ``matrix`` has fewer.
    """
    count = min(width, *matrix.shape)
    left, values, _ = randomized_svd(
        matrix, count, n_oversamples=OVERSAMPLING, n_iter=POWER_ITERATIONS, random_state=SVD_SEED
    )
    return torch.from_numpy(left * values**VALUE_POWER).float()
