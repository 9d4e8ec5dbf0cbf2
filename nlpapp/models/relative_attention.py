"""Attention of Transformer-XL: from a segment to a memory and the segment, by relative positions.

Of one head, the score of query i for key j, and what becomes of it (section 3.3 of Dai et al. 2019,
arXiv 1901.02860):

    A_ij = ((q_i + u) . k_j  +  (q_i + v) . r_(i-j)) / sqrt(H)        r_d = W_kR R_d
    o_i  = sum_j softmax_j(A_ij) v_j                                  over the j that i may see

The scores by position are one matrix product with the r of all distances, in which query i finds
distance i - j in column j + T - 1 - i. That is a view of the product's memory with rows one element
shorter (appendix B of the paper copies and pads instead), so on a CPU it goes straight into
the product of queries and keys, as what is added to it; and what autograd would keep are the
weights, once. Elsewhere torch's fused attention takes the scores by position as its mask.

Legend: B = batch (lanes), T = segment length, M = memory length, K = M + T (keys), D = hidden
width, N = heads, H = width of a head. Inside, heads come first: (N, B, T, H).
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class RelativeAttention(nn.Module):
    """Multi-head attention from a segment to memory and segment, with relative positions.

    Args:
        width: D.
        num_heads: N.
        head_width: H.
        dropout: rate on the attention weights.
    """

    def __init__(self, width: int, num_heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_width, self.dropout = num_heads, head_width, dropout
        self.query = nn.Linear(width, num_heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * num_heads * head_width, bias=False)
        self.position = nn.Linear(width, num_heads * head_width, bias=False)  # W_kR
        self.output = nn.Linear(num_heads * head_width, width, bias=False)

    def projections(
        self, segment: Tensor, memory: Tensor | None, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k with v, and r: (N, B, T, H), (2, N, B, K, H) and (N, K, H).

        ``segment`` is (B, T, D), ``memory`` (B, M, D) or None, ``positions`` (K, D) the sinusoids
        of the distances K-1 ... 0.
        """
        heads = (self.num_heads, self.head_width)
        query = self.query(segment).unflatten(-1, heads).permute(2, 0, 1, 3)
        # Projected apart, so that a memory that learns nothing costs no gradient.
        parts = [segment] if memory is None else [memory, segment]
        projected = [
            self.key_value(part).unflatten(-1, (2, *heads)).permute(2, 3, 0, 1, 4) for part in parts
        ]
        key_value = torch.cat(projected, dim=3).contiguous()
        distance = self.position(positions).unflatten(-1, heads).transpose(0, 1)
        return query, key_value, distance

    def forward(
        self,
        segment: Tensor,
        memory: Tensor | None,
        positions: Tensor,
        u: Tensor,
        v: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Attend from ``segment`` (B, T, D) to ``memory`` (B, M, D) and itself: (B, T, D).

        ``positions`` (K, D) are the sinusoids of the distances K-1 ... 0, ``u`` and ``v``
        (N, 1, H) the biases, ``mask`` (T, K) that of `visible_keys`.
        """
        query, key_value, distance = self.projections(segment, memory, positions)
        attend = cpu_attention if segment.device.type == "cpu" else fused_attention
        dropout = self.dropout if self.training else 0.0
        attended = attend(query, key_value, distance, u, v, mask, dropout)  # (N, B, T, H)
        return self.output(attended.permute(1, 2, 0, 3).flatten(2))


class AbsoluteAttention(nn.Module):
    """Ordinary causal attention within the segment: the paper's baseline, which has no memory."""

    def __init__(self, width: int, num_heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_width, self.dropout = num_heads, head_width, dropout
        self.query = nn.Linear(width, num_heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * num_heads * head_width, bias=False)
        self.output = nn.Linear(num_heads * head_width, width, bias=False)

    def forward(self, segment: Tensor) -> Tensor:
        """Attend within ``segment`` (B, T, D): (B, T, D)."""
        heads = (self.num_heads, self.head_width)
        query = self.query(segment).unflatten(-1, heads).transpose(1, 2)  # (B, N, T, H)
        key, value = self.key_value(segment).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True
        )
        return self.output(attended.transpose(1, 2).flatten(2))


def visible_keys(num_queries: int, num_keys: int, window: int | None, like: Tensor) -> Tensor:
    """Return what to add to the scores: 0 where a query may see a key, elsewhere minus infinity.

    Args:
        num_queries: T; they are the last of the keys, and none sees those after it.
        num_keys: K.
        window: how many keys each query sees at most, itself included; None: all before it.
        like: has the type and device wanted.

    Returns:
        (T, K).
    """
    keys = torch.arange(num_keys, device=like.device)
    distance = keys[num_keys - num_queries :, None] - keys  # (T, K)
    hidden = distance < 0
    if window is not None:
        hidden = hidden | (distance >= window)
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, float("-inf"))


def relative_shift(scores: Tensor) -> Tensor:
    """Turn columns of distances K-1 ... 0 into columns of keys 0 ... K-1; (..., T, K) both.

    The last query's columns are in place, each query before it has them one further left. What is
    shifted in on the right belongs to the future, and is to be masked by the caller.
    """
    *batch, rows, columns = scores.shape
    padded = functional.pad(scores, (1, 0))  # (..., T, K + 1)
    return padded.view(*batch, columns + 1, rows)[..., 1:, :].reshape(*batch, rows, columns)


def fused_attention(
    query: Tensor,
    key_value: Tensor,
    distance: Tensor,
    u: Tensor,
    v: Tensor,
    mask: Tensor,
    dropout: float,
) -> Tensor:
    """Return o (N, B, T, H) by torch's fused attention; arguments as of `cpu_attention`."""
    scale = query.shape[-1] ** -0.5
    key, value = key_value
    u, v = (bias[:, None].to(query.dtype) for bias in (u, v))
    by_position = (query + v) @ distance[:, None].transpose(-1, -2)  # (N, B, T, K)
    return functional.scaled_dot_product_attention(
        query + u,
        key,
        value,
        attn_mask=relative_shift(by_position) * scale + mask.to(query.dtype),
        dropout_p=dropout,
        scale=scale,
    )


def cpu_attention(
    query: Tensor,
    key_value: Tensor,
    distance: Tensor,
    u: Tensor,
    v: Tensor,
    mask: Tensor,
    dropout: float,
) -> Tensor:
    """Return o (N, B, T, H).

    Args:
        query: q, (N, B, T, H).
        key_value: k and v, (2, N, B, K, H).
        distance: r of the distances K-1 ... 0, (N, K, H).
        u: (N, 1, H).
        v: (N, 1, H).
        mask: (T, K), see `visible_keys`.
        dropout: rate on the attention weights.
    """
    u, v, mask = (tensor.to(query.dtype) for tensor in (u, v, mask))
    return _RelativeAttention.apply(query, key_value, distance, u, v, mask, dropout)


class _RelativeAttention(Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key_value: Tensor,
        distance: Tensor,
        u: Tensor,
        v: Tensor,
        mask: Tensor,
        dropout: float,
    ) -> Tensor:
        num_heads, lanes, length, width = query.shape
        num_keys = key_value.shape[3]
        ctx.scale = width**-0.5
        by_content = ((query + u[:, None]) * ctx.scale).reshape(-1, length, width)  # (N * B, T, H)
        by_position = ((query + v[:, None]) * ctx.scale).reshape(num_heads, -1, width)
        key, value = key_value.flatten(1, 2)  # (N * B, K, H) each
        scores = torch.bmm(by_position, distance.transpose(1, 2))  # (N, B * T, K)
        shifted = scores.as_strided(
            (num_heads * lanes, length, num_keys),
            (length * num_keys, num_keys - 1, 1),
            scores.storage_offset() + length - 1,
        )
        weights = torch.baddbmm(shifted, by_content, key.transpose(1, 2)).add_(mask)
        torch.softmax(weights, -1, out=weights)
        kept = None
        if dropout:
            kept = torch.empty_like(weights).bernoulli_(1 - dropout).div_(max(1 - dropout, 1e-9))
        attended = torch.bmm(weights if kept is None else weights * kept, value)
        ctx.save_for_backward(by_content, by_position, key_value, distance, weights, kept, attended)
        return attended.view(num_heads, lanes, length, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_attended: Tensor) -> tuple[Tensor | None, ...]:
        by_content, by_position, key_value, distance, weights, kept, attended = ctx.saved_tensors
        shape = of_attended.shape  # (N, B, T, H)
        key, value = key_value.flatten(1, 2)
        of_attended = of_attended.flatten(0, 1).contiguous()  # (N * B, T, H)
        of_key_value = torch.empty_like(key_value)
        of_key, of_value = of_key_value.flatten(1, 2)
        applied = weights if kept is None else weights * kept
        torch.bmm(applied.transpose(1, 2), of_attended, out=of_value)
        of_scores = torch.bmm(of_attended, value.transpose(1, 2))
        if kept is not None:
            of_scores *= kept
        # Softmax: sum_j of_weight_ij * weight_ij is of_attended_i . attended_i, with dropout too.
        of_scores -= (of_attended * attended).sum(-1, keepdim=True)
        of_scores *= weights
        torch.bmm(of_scores.transpose(1, 2), by_content, out=of_key)
        of_content = torch.bmm(of_scores, key).mul_(ctx.scale).view(shape)
        of_shifted = _unshift(of_scores).view(len(distance), -1, distance.shape[1])
        of_distance = torch.bmm(of_shifted.transpose(1, 2), by_position)
        of_position = torch.bmm(of_shifted, distance).mul_(ctx.scale).view(shape)
        of_u, of_v = (part.sum((1, 2))[:, None] for part in (of_content, of_position))
        of_query = of_content.add_(of_position)
        return of_query, of_key_value, of_distance, of_u, of_v, None, None


def _unshift(of_scores: Tensor) -> Tensor:
    """Put gradients of scores by key, 0 for the future, where their distances are; (n, T, K).

    Row i of the shifted view begins T - 1 + i (K - 1) elements into the product's memory. Two rows
    share an element only where it is the future of the first: all columns but the last follow one
    another without a gap, and of the last only the last row's counts.
    """
    size, length, num_keys = of_scores.shape
    found = torch.empty_like(of_scores)
    flat = found.view(size, -1)
    flat[:, : length - 1] = 0
    flat[:, length - 1 : -1].view(size, length, num_keys - 1).copy_(of_scores[..., :-1])
    flat[:, -1] = of_scores[:, -1, -1]
    return found
