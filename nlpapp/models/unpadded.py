"""A BERT's encoder on real tokens only: the rows of a batch one after the other, without padding.

Everything but attention works on each token alone, so it takes the N real tokens as one row of N.
Attention looks within the rows. Which of its ways runs is decided by the device:

- nothing is padded: scaled_dot_product_attention without a mask, on any device;
- NVIDIA GPU, bf16 or fp16, no attention dropout: torch.nn.attention.varlen, which is
  FlashAttention (Dao 2023, arXiv 2307.08691) over rows of different lengths; no padding anywhere;
- all else (CPU, float32, attention dropout): queries, keys and values are padded for
  scaled_dot_product_attention with a mask, and its result is unpadded again.

Legend: B rows, S tokens of the longest, N tokens of all rows, H heads, D hidden size.
"""

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "unpadded"
"""The name under which transformers' models find this attention."""


class PackedRows(NamedTuple):
    """Where the tokens of a batch are, in it and in the row of all tokens."""

    tokens: Tensor
    """(N,) flat positions ``row * S + column`` of the real tokens."""
    places: Tensor
    """(B * S,) the way back: the place of each real token among the N; any number at padding."""
    starts: Tensor
    """(B + 1,) int32: the place of each row's first token, and N."""
    mask: Tensor
    """(B, S) bool: True at tokens."""


@torch.compiler.disable  # N depends on the values of the mask.
def pack(attention_mask: Tensor) -> PackedRows:
    """Find the real tokens of a (B, S) mask; each row has some, and padding is on the right."""
    mask = attention_mask.bool()
    flat = mask.flatten()
    starts = F.pad(mask.sum(1).cumsum(0), (1, 0)).to(torch.int32)
    return PackedRows(flat.nonzero().squeeze(1), flat.cumsum(0) - 1, starts, mask)


def encode_unpadded(
    bert: nn.Module, input_ids: Tensor, token_type_ids: Tensor, rows: PackedRows
) -> tuple[Tensor, Tensor]:
    """Run a BertModel whose attention implementation is `ATTENTION` on the real tokens.

    Args:
        bert: transformers' BertModel.
        input_ids: (B, S).
        token_type_ids: (B, S).
        rows: of the batch's attention mask.

    Returns:
        Hidden states (N, D), and the pooled first token of each row (B, D).
    """
    module: Any = bert
    hidden = module.embeddings(
        input_ids=input_ids.flatten()[rows.tokens][None],  # (1, N)
        token_type_ids=token_type_ids.flatten()[rows.tokens][None],
        position_ids=(rows.tokens % rows.mask.shape[1])[None],
    )
    hidden = module.encoder(hidden, attention_mask=None, packed_rows=rows).last_hidden_state[0]
    return hidden, module.pooler(hidden[rows.starts[:-1].long()][:, None])


def unpadded_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_rows: PackedRows | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention within the rows of (1, H, N, D / H) queries, keys and values: (1, N, H, D / H).

    Without ``packed_rows`` it is transformers' own "sdpa", so that the model works in all its uses.
    """
    if packed_rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    # (1, H, N, D / H) -> (N, H, D / H), which is how the projections left them.
    queries, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    rows = packed_rows
    if len(rows.tokens) != rows.mask.numel() and has_flash(query, dropout):
        from torch.nn.attention.varlen import varlen_attn

        starts, longest = rows.starts, rows.mask.shape[1]
        attended: Any = varlen_attn(
            queries, keys, values, starts, starts, longest, longest, scale=scaling
        )
    else:
        attended = _padded_attention(queries, keys, values, rows, dropout, scaling)
    return attended[None], None


def has_flash(query: Tensor, dropout: float) -> bool:
    """Return whether torch.nn.attention.varlen takes these queries."""
    return (
        query.is_cuda
        and torch.version.cuda is not None  # AMD's GPUs are called cuda too.
        and query.dtype in (torch.bfloat16, torch.float16)
        and dropout == 0
        and find_spec("torch.nn.attention.varlen") is not None  # torch 2.10 and later
    )


def _padded_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rows: PackedRows,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Attend in (B, H, S, D / H), padded where the rows are."""
    full = len(rows.tokens) == rows.mask.numel()

    def padded(packed: Tensor) -> Tensor:
        if not full:
            packed = packed.new_zeros(rows.mask.numel(), *packed.shape[1:]).index_copy(
                0, rows.tokens, packed
            )
        return packed.unflatten(0, rows.mask.shape).transpose(1, 2)

    attended = F.scaled_dot_product_attention(
        padded(queries),
        padded(keys),
        padded(values),
        attn_mask=None if full else rows.mask[:, None, None],
        dropout_p=dropout,
        scale=scaling,
    )
    flat = attended.transpose(1, 2).flatten(0, 1)  # (B, H, S, D / H) -> (B * S, H, D / H)
    return flat if full else flat[rows.tokens]


AttentionInterface.register(ATTENTION, unpadded_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
