"""The last layer of a BERT, computed only at the tokens whose output is read.

Pretraining reads the first token of each row and the masked ones: a sixth of all. What the other
tokens would get from the last layer goes nowhere, so there they need keys and values, but no
queries, no attention and no feed-forward layer. Loss and gradients are the same.

Legend: B rows, S tokens a row, K masked tokens, Q tokens that are read in a row at most, D hidden
size, N heads, H width of a head.
"""

from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ReadTokens(NamedTuple):
    """Which tokens of a batch are read."""

    columns: Tensor
    """(B, Q) columns, the first token's first; rows with fewer masked tokens repeat it."""
    places: Tensor
    """(K,) the masked tokens' places among the B * Q."""


@torch.compiler.disable  # Q depends on the values.
def tokens_to_read(masked_positions: Tensor, shape: tuple[int, int]) -> ReadTokens:
    """Return the first token of each row and the masked ones.

    Args:
        masked_positions: (K,) flat positions ``row * S + column``, row after row.
        shape: (B, S) of the batch.
    """
    rows = masked_positions // shape[1]
    counts = torch.bincount(rows, minlength=shape[0])
    # The masked tokens of a row stand behind its first token.
    order = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    width = 1 + int(counts.max())
    places = rows * width + 1 + order
    columns = masked_positions.new_zeros(shape[0] * width)
    columns[places] = masked_positions % shape[1]
    return ReadTokens(columns.view(shape[0], width), places)


def read_some(layer: Any) -> None:
    """Let a layer of transformers' BertModel take ``read_columns`` (B, Q), from the model's call.

    Its output is then (B, Q, D) instead of (B, S, D). The layer keeps its class and its call, so
    that gradient checkpointing and sharding work on it as on others.
    """
    layer.forward = MethodType(_forward, layer)


def _forward(
    layer: Any,
    hidden: Tensor,
    attention_mask: Tensor | None = None,
    *arguments: Any,
    read_columns: Tensor | None = None,
    **options: Any,
) -> Tensor:
    if read_columns is None:
        return type(layer).forward(layer, hidden, attention_mask, *arguments, **options)
    attention = layer.attention.self
    index = read_columns[:, :, None].expand(-1, -1, hidden.shape[-1])
    selected = hidden.gather(1, index)  # (B, S, D) -> (B, Q, D)

    def heads(projected: Tensor) -> Tensor:
        # (B, ., D) -> (B, N, ., H)
        return projected.unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)

    attended = F.scaled_dot_product_attention(
        heads(attention.query(selected)),
        heads(attention.key(hidden)),
        heads(attention.value(hidden)),
        # Padding is hidden from all queries alike: a row of the mask says it for each.
        attn_mask=None if attention_mask is None else attention_mask[:, :, :1],
        dropout_p=attention.dropout.p if layer.training else 0.0,
        scale=attention.scaling,
    )
    attended = attended.transpose(1, 2).flatten(2)  # (B, N, Q, H) -> (B, Q, D)
    return layer.feed_forward_chunk(layer.attention.output(attended, selected))
