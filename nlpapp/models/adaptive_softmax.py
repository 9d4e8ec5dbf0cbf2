"""Adaptive softmax and adaptive input: large vocabularies at a fraction of the cost.

The vocabulary is sorted by frequency and cut into a head of frequent words and tails of rarer ones.
The head's softmax holds one extra entry for each tail; a word of a tail costs that entry and a
softmax within the tail only:

    log p(word) = log p_head(word)                          word in the head
    log p(word) = log p_head(tail i) + log p_i(word)        word in tail i

Tail i may use vectors of width E / div_val^i, projected from and to the hidden width D. With a
div_val of 1 all clusters share one such projection, which is needed only if E is not D.

Sources: Grave et al. 2017, "Efficient softmax approximation for GPUs" (arXiv 1609.04309); Baevski
and Auli 2019, "Adaptive input representations" (arXiv 1809.10853).

Legend: V = vocabulary, D = hidden width, E = width of the most frequent words' vectors, C = number
of tails, N = number of predictions.
Cluster 0 is the head, clusters 1 .. C the tails; V_i and D_i are a cluster's size and width.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from nlpapp.errors import ConfigError
from nlpapp.models.vocabulary_loss import vocabulary_loss


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
    """Vectors of one cluster: ``weight`` (V_i, D_i), and its ``projection`` (D, D_i) if any."""

    def __init__(self, num_words: int, width: int, narrow: int, *, projected: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_words, narrow))
        self.projection = nn.Parameter(torch.empty(width, narrow)) if projected else None


class AdaptiveTables(nn.Module):
    """A vector of width D for each of V words, stored by clusters, narrower in the tails.

    Args:
        vocab_size: V.
        width: D.
        cutoffs: first words of the tails; empty: one cluster.
        div_val: how many times narrower each cluster's vectors are than those of the one before.
        embedding_width: E; None: D.
        project_all: a cluster has a projection even if its vectors are D wide; with a div_val over
            1 only, and as the code of Transformer-XL has it.

    Raises:
        ConfigError: the cutoffs make no clusters, or a tail would have no width.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        cutoffs: Sequence[int],
        div_val: int,
        *,
        embedding_width: int | None = None,
        project_all: bool = False,
    ) -> None:
        super().__init__()
        check_cutoffs(cutoffs, vocab_size)
        self.width, self.div_val = width, div_val
        self.bounds = cluster_bounds(cutoffs, vocab_size)
        widths = [(embedding_width or width) // div_val**index for index in range(len(self.bounds))]
        if min(widths) < 1:
            raise ConfigError(
                f"div_val: {div_val} leaves no width for tail {len(cutoffs)} of a model {width} "
                "wide. Use a smaller div_val or fewer cutoffs."
            )
        self.clusters = nn.ModuleList(
            ClusterTable(
                end - start,
                width,
                narrow,
                projected=(narrow != width and (div_val > 1 or index == 0))
                or (project_all and div_val > 1),
            )
            for index, ((start, end), narrow) in enumerate(zip(self.bounds, widths, strict=True))
        )

    def weight(self, cluster: int) -> Tensor:
        """Return the vectors of ``cluster`` as they are stored: (V_i, D_i)."""
        return cast(ClusterTable, self.clusters[cluster]).weight

    def projection(self, cluster: int) -> Tensor | None:
        """Return what takes the vectors of ``cluster`` to the hidden width: (D, D_i), or None."""
        holder = cluster if self.div_val > 1 else 0
        return cast(ClusterTable, self.clusters[holder]).projection

    def vectors(self, cluster: int, ids: Tensor) -> Tensor:
        """Return the vectors of ``ids`` (...), counted within ``cluster``: (..., D)."""
        vectors, projection = (
            functional.embedding(ids, self.weight(cluster)),
            self.projection(cluster),
        )
        return vectors if projection is None else functional.linear(vectors, projection)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of ``ids`` (...): (..., D)."""
        if len(self.bounds) == 1:
            return self.vectors(0, ids)
        flat = ids.reshape(-1)
        vectors = self.weight(0).new_zeros(len(flat), self.width)
        for cluster, (start, end) in enumerate(self.bounds):
            rows = ((flat >= start) & (flat < end)).nonzero().squeeze(1)
            found = self.vectors(cluster, flat[rows] - start).to(vectors.dtype)
            vectors = vectors.index_copy(0, rows, found)
        return vectors.view(*ids.shape, self.width)


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of words from hidden vectors; the words' vectors are given with each call.

    So a model that ties its output to its input passes the same `AdaptiveTables` it embeds with,
    and nothing is stored twice. Own parameters: ``tail_weight`` (C, E) and ``tail_bias`` (C) for
    the tails' entries in the head, ``bias`` (V), and ``projections`` (D, D_i) of the clusters that
    do not use those of the tables.

    Args:
        tables: of the kind that calls will give; only their shapes are read.
        tie_projections: for each cluster, whether it uses the projection of the tables; None: all.

    Raises:
        ConfigError: ``tie_projections`` has another length, or unties what does not exist.
    """

    def __init__(
        self, tables: AdaptiveTables, tie_projections: Sequence[bool] | None = None
    ) -> None:
        super().__init__()
        self.bounds = tables.bounds
        num_tails, vocab_size = len(self.bounds) - 1, self.bounds[-1][1]
        self.tail_weight = nn.Parameter(torch.empty(num_tails, tables.weight(0).shape[1]))
        self.tail_bias = nn.Parameter(torch.zeros(num_tails))
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        tied = [True] * len(self.bounds) if tie_projections is None else list(tie_projections)
        if len(tied) != len(self.bounds):
            raise ConfigError(
                f"tie_projections: {tied} has {len(tied)} entries, expected {len(self.bounds)}: "
                "one for the most frequent words, and one for each tail."
            )
        self.projections = nn.ParameterDict()
        for cluster in (index for index, is_tied in enumerate(tied) if not is_tied):
            projection = tables.projection(cluster)
            if projection is None:
                raise ConfigError(
                    f"tie_projections: cluster {cluster} has no projection that could be its own; "
                    "say true there, or leave tie_projections out."
                )
            self.projections[str(cluster)] = nn.Parameter(torch.empty_like(projection))

    def projection(self, cluster: int, tables: AdaptiveTables) -> Tensor | None:
        """Return what hidden vectors are projected with for a cluster: (D, D_i), or None."""
        if str(cluster) in self.projections:
            return self.projections[str(cluster)]
        return tables.projection(cluster)

    def _layer(
        self, hidden: Tensor, tables: AdaptiveTables, cluster: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the input, weight and bias of a linear layer that gives a cluster's scores.

        They are (N, D_i), and (V_0 + C, E) and (V_0 + C) for the head, (V_i, D_i) and (V_i) for a
        tail.
        """
        projection = self.projection(cluster, tables)
        if projection is not None:
            hidden = functional.linear(hidden, projection.t())
        start, end = self.bounds[cluster]
        weight, bias = tables.weight(cluster), self.bias[start:end]
        if cluster == 0 and len(self.bounds) > 1:
            weight, bias = torch.cat([weight, self.tail_weight]), torch.cat([bias, self.tail_bias])
        return hidden, weight, bias

    def _scores(self, hidden: Tensor, tables: AdaptiveTables, cluster: int) -> Tensor:
        """Return the scores of a cluster: (N, V_0 + C) for the head, (N, V_i) for a tail."""
        return functional.linear(*self._layer(hidden, tables, cluster)).float()

    def _parts(self, labels: Tensor) -> Iterator[tuple[int, Tensor | slice, Tensor]]:
        """Yield each cluster with the rows that it has a say in, and their labels within it."""
        head_size = self.bounds[0][1]
        head_labels = labels.clone()
        for tail, (start, _) in enumerate(self.bounds[1:]):
            head_labels[labels >= start] = head_size + tail
        yield 0, slice(None), head_labels
        for cluster, (start, end) in list(enumerate(self.bounds))[1:]:
            rows = ((labels >= start) & (labels < end)).nonzero().squeeze(1)
            yield cluster, rows, labels[rows] - start

    def loss_sum(self, hidden: Tensor, labels: Tensor, tables: AdaptiveTables) -> Tensor:
        """Return the sum of `losses`, as a scalar, in a fraction of the memory and time."""
        parts = [
            vocabulary_loss(*self._layer(hidden[rows], tables, cluster), within)[0]
            for cluster, rows, within in self._parts(labels)
        ]
        return torch.stack(parts).sum()

    def losses(self, hidden: Tensor, labels: Tensor, tables: AdaptiveTables) -> Tensor:
        """Return -log p(label), in nats, float32, for ``hidden`` (N, D) and ``labels`` (N): (N).

        A tail is computed only for the labels that fall into it.
        """
        losses = hidden.new_zeros(len(labels), dtype=torch.float32)
        for cluster, rows, within in self._parts(labels):
            scores = self._scores(hidden[rows], tables, cluster)
            found = functional.cross_entropy(scores, within, reduction="none")
            losses = (
                losses + found if cluster == 0 else losses.index_add(0, cast(Tensor, rows), found)
            )
        return losses

    def log_probabilities(self, hidden: Tensor, tables: AdaptiveTables) -> Tensor:
        """Return log p of every word for ``hidden`` (N, D), in nats, float32: (N, V)."""
        head = self._scores(hidden, tables, 0).log_softmax(-1)
        head_size = self.bounds[0][1]
        parts = [head[:, :head_size]]
        for tail in range(len(self.bounds) - 1):
            within = self._scores(hidden, tables, tail + 1).log_softmax(-1)
            parts.append(head[:, head_size + tail : head_size + tail + 1] + within)
        return torch.cat(parts, dim=-1)
