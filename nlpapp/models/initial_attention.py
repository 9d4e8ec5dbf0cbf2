"""Random weights whose attention looks somewhere useful from the first step.

Random attention looks everywhere alike, and small models spend most of a small budget on finding
out that it could do otherwise (docs/log.md). Both starts here are only other random weights of an
ordinary BERT: after the first step nothing is left of them but what training keeps. Trockman and
Kolter 2023 (arXiv 2305.09828) start the attention of vision models in the same spirit.

Legend: D hidden size, H width of a head, F frequencies of a head (H / 2).
"""

import math
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from nlpapp.errors import ConfigError

NEIGHBOUR_SCORE = 8.0
"""Attention score of the neighbour that a head looks for: e^8 times that of an unrelated token."""


def apply_initial_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Start the attention of ``model`` as its configuration asks.

    Args:
        model: any of transformers' BERTs with random weights; changed in place and returned.

    Raises:
        ConfigError: see `look_for_neighbours`.
    """
    if getattr(model.config, "similarity_start", False):
        look_for_similar(model.base_model)
    if getattr(model.config, "neighbour_start", False):
        look_for_neighbours(model.base_model, model.config)
    return model


@torch.no_grad()
def look_for_similar(bert: Any) -> None:
    """Let all heads look for tokens like their own.

    With a key projection equal to the query projection, the score of tokens i and j is
    x_i' W'W x_j, which random W makes large where x_i and x_j are alike. Whether a token of one
    segment returns in the other is what next-sentence prediction needs first, and what small
    models find last. Positions and segments are halved, so that the word decides.
    """
    for layer in bert.encoder.layer:
        layer.attention.self.key.weight.copy_(layer.attention.self.query.weight)
    bert.embeddings.position_embeddings.weight.mul_(0.5)
    bert.embeddings.token_type_embeddings.weight.mul_(0.5)


@torch.no_grad()
def look_for_neighbours(bert: Any, config: PretrainedConfig) -> None:
    """Let the first layer's heads look one token back, one ahead, two back, two ahead, and so on.

    Positions become sinusoids in 2F random directions, as long as a word's vector. Rotating the
    sinusoids of position i by an angle of o for each frequency gives those of i + o, so a query
    projection that rotates and a key projection that does not have their highest score at offset o.
    What stands beside a masked token, which says most about it, is then in reach at once. Word
    vectors begin outside those directions, so that the words do not blur the offsets.

    Raises:
        ConfigError: a single head, whose directions leave none to the words, or heads of width 1.
    """
    hidden, heads = config.hidden_size, config.num_attention_heads
    count = hidden // heads // 2  # F
    if heads < 2 or count < 1:
        raise ConfigError(
            f"size.neighbour_start is on, but there are {heads} heads of width {hidden // heads}; "
            "it needs at least 2 heads of width 2: change size.num_heads, or turn it off"
        )
    frequencies = torch.logspace(math.log10(math.pi / 2), math.log10(math.pi / 16), count)
    basis = torch.linalg.qr(torch.randn(hidden, 2 * count))[0]  # (D, 2F), orthonormal columns
    positions = bert.embeddings.position_embeddings.weight  # (P, D)
    angles = torch.arange(len(positions))[:, None] * frequencies
    sinusoids = torch.cat([angles.sin(), angles.cos()], dim=1)  # (P, 2F), of length sqrt(F)
    length = config.initializer_range * math.sqrt(hidden)  # that of a word's vector
    positions.copy_(length / math.sqrt(count) * sinusoids @ basis.T)
    words = bert.embeddings.word_embeddings.weight  # (V, D)
    words.sub_(words @ basis @ basis.T)
    # LayerNorm makes vectors sqrt(D) long, half of it is position: the best score is
    # gain^2 D / 2 / sqrt(H).
    gain = math.sqrt(NEIGHBOUR_SCORE * 2 * math.sqrt(hidden // heads) / hidden)
    attention = bert.encoder.layer[0].attention.self
    for head in range(heads):
        offset = (head // 2 + 1) * (1 if head % 2 else -1)
        cos, sin = (offset * frequencies).cos().diag(), (offset * frequencies).sin().diag()
        # sin(x + t) = sin x cos t + cos x sin t;  cos(x + t) = cos x cos t - sin x sin t
        rotation = torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])
        rows = slice(head * (hidden // heads), head * (hidden // heads) + 2 * count)
        attention.query.weight[rows] = gain * rotation @ basis.T
        attention.key.weight[rows] = gain * basis.T
