"""Adaptive softmax and adaptive input: large vocabularies at a fraction of the cost.

The vocabulary is sorted by frequency and cut into a head of frequent words and tails of rarer ones.
The head's softmax holds one extra entry for each tail; a word of a tail costs that entry and a
softmax within the tail only:

    log p(word) = log p_head(word)                          word in the head
    log p(word) = log p_head(tail i) + log p_i(word)        word in tail i

Tail i may use vectors of width D / div_val^i, projected from and to the hidden width D.

Sources: Grave et al. 2017, "Efficient softmax approximation for GPUs" (arXiv 1609.04309); Baevski
and Auli 2019, "Adaptive input representations" (arXiv 1809.10853).

Legend: V = vocabulary, D = hidden width, C = number of tails, N = number of predictions.
Cluster 0 is the head, clusters 1 .. C the tails; V_i and D_i are a cluster's size and width.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from nlpapp.errors import ConfigError


def check_cutoffs(cutoffs: Sequence[int], vocab_size: int) -> None:
    """Raise ConfigError unless 0 < cutoffs[0] < cutoffs[1] < ... < ``vocab_size``."""
    for previous, cutoff in zip([0, *cutoffs], cutoffs, strict=False):
        if cutoff <= previous:
            raise ConfigError(
                f"cutoffs: {list(cutoffs)} must be positive and increase, but {cutoff} follows "
                f"{previous}. Give sizes of the most frequent parts, for example [2000, 10000]."
            )
        if cutoff >= vocab_size:
            raise ConfigError(
                f"cutoffs: {cutoff} is not below the vocabulary's {vocab_size} entries: the last "
                "tail would be empty. Use smaller cutoffs, or [] for an ordinary softmax."
            )


def cluster_bounds(cutoffs: Sequence[int], vocab_size: int) -> list[tuple[int, int]]:
    """Return the (first id, last id + 1) of the head and of each tail."""
    edges = [0, *cutoffs, vocab_size]
    return list(zip(edges[:-1], edges[1:], strict=True))


class ClusterTable(nn.Module):
    """Vectors of one cluster: ``weight`` (V_i, D_i), and ``projection`` (D, D_i) if D_i < D."""

    def __init__(self, num_words: int, width: int, narrow: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_words, narrow))
        self.projection = nn.Parameter(torch.empty(width, narrow)) if narrow < width else None

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of ``ids`` (n,), counted within the cluster: (n, D)."""
        vectors = functional.embedding(ids, self.weight)
        return vectors if self.projection is None else functional.linear(vectors, self.projection)


class AdaptiveTables(nn.Module):
    """A vector of width D for each of V words, stored by clusters, narrower in the tails."""

    def __init__(self, vocab_size: int, width: int, cutoffs: Sequence[int], div_val: int) -> None:
        super().__init__()
        check_cutoffs(cutoffs, vocab_size)
        self.width = width
        self.bounds = cluster_bounds(cutoffs, vocab_size)
        widths = [width // div_val**index for index in range(len(self.bounds))]
        if min(widths) < 1:
            raise ConfigError(
                f"div_val: {div_val} leaves no width for tail {len(cutoffs)} of a model {width} "
                "wide. Use a smaller div_val or fewer cutoffs."
            )
        self.clusters = nn.ModuleList(
            ClusterTable(end - start, width, narrow)
            for (start, end), narrow in zip(self.bounds, widths, strict=True)
        )

    def __getitem__(self, cluster: int) -> ClusterTable:
        return cast(ClusterTable, self.clusters[cluster])

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of ``ids`` (...): (..., D)."""
        flat = ids.reshape(-1)
        if len(self.bounds) == 1:
            return self[0](flat).view(*ids.shape, self.width)
        vectors = self[0].weight.new_zeros(len(flat), self.width)
        for (start, end), cluster in zip(self.bounds, self.clusters, strict=True):
            rows = ((flat >= start) & (flat < end)).nonzero().squeeze(1)
            vectors = vectors.index_copy(0, rows, cluster(flat[rows] - start).to(vectors.dtype))
        return vectors.view(*ids.shape, self.width)


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of words from hidden vectors; the words' vectors are given with each call.

    So a model that ties its output to its input passes the same `AdaptiveTables` it embeds with,
    and nothing is stored twice. Own parameters: ``tail_weight`` (C, D) and ``tail_bias`` (C) for
    the tails' entries in the head, ``bias`` (V).
    """

    def __init__(self, vocab_size: int, width: int, cutoffs: Sequence[int]) -> None:
        super().__init__()
        check_cutoffs(cutoffs, vocab_size)
        self.bounds = cluster_bounds(cutoffs, vocab_size)
        self.tail_weight = nn.Parameter(torch.empty(len(cutoffs), width))
        self.tail_bias = nn.Parameter(torch.zeros(len(cutoffs)))
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def _scores(self, hidden: Tensor, tables: AdaptiveTables, cluster: int) -> Tensor:
        """Return the scores of a cluster: (N, V_0 + C) for the head, (N, V_i) for a tail."""
        start, end = self.bounds[cluster]
        table, bias = tables[cluster], self.bias[start:end]
        if cluster == 0:
            weight = torch.cat([table.weight, self.tail_weight])
            return functional.linear(hidden, weight, torch.cat([bias, self.tail_bias]))
        if table.projection is not None:
            hidden = functional.linear(hidden, table.projection.t())
        return functional.linear(hidden, table.weight, bias)

    def losses(self, hidden: Tensor, labels: Tensor, tables: AdaptiveTables) -> Tensor:
        """Return -log p(label), in nats, float32, for ``hidden`` (N, D) and ``labels`` (N): (N).

        A tail is computed only for the labels that fall into it.
        """
        head_size = self.bounds[0][1]
        head_labels = labels.clone()
        for tail, (start, _) in enumerate(self.bounds[1:]):
            head_labels[labels >= start] = head_size + tail
        losses = functional.cross_entropy(
            self._scores(hidden, tables, 0).float(), head_labels, reduction="none"
        )
        for cluster, (start, end) in list(enumerate(self.bounds))[1:]:
            rows = ((labels >= start) & (labels < end)).nonzero().squeeze(1)
            scores = self._scores(hidden[rows], tables, cluster).float()
            within = functional.cross_entropy(scores, labels[rows] - start, reduction="none")
            losses = losses.index_add(0, rows, within)
        return losses

    def log_probabilities(self, hidden: Tensor, tables: AdaptiveTables) -> Tensor:
        """Return log p of every word for ``hidden`` (N, D), in nats, float32: (N, V)."""
        head = self._scores(hidden, tables, 0).float().log_softmax(-1)
        head_size = self.bounds[0][1]
        parts = [head[:, :head_size]]
        for tail in range(len(self.bounds) - 1):
            within = self._scores(hidden, tables, tail + 1).float().log_softmax(-1)
            parts.append(head[:, head_size + tail : head_size + tail + 1] + within)
        return torch.cat(parts, dim=-1)
