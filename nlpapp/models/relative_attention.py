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

from nlpapp.models.dropout import keep_mask
from nlpapp.models.fast_linear import linear, product, transposed_product

MANY_ROWS = 256
"""Tokens of a segment from which on a kernel made for its shape pays in a few calls."""


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
        self.num_heads, self.head_width = num_heads, head_width
        self.dropout = nn.Dropout(dropout)  # its rate; the kernels do the dropping
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
        # oneDNN makes a kernel for each new shape. A memory that grows by a token in each call has
        # a new one every time, so the segment decides.
        few = segment.shape[:2].numel() < MANY_ROWS
        project = functional.linear if few else linear
        query = project(segment, self.query.weight)
        # Projected apart, so that a memory that learns nothing costs no gradient.
        parts = [segment] if memory is None else [memory, segment]
        projected = [
            project(part, self.key_value.weight).unflatten(-1, (2, *heads)).permute(2, 3, 0, 1, 4)
            for part in parts
        ]
        key_value = torch.cat(projected, dim=3).contiguous()
        distance = project(positions, self.position.weight)
        return (
            query.unflatten(-1, heads).permute(2, 0, 1, 3),
            key_value,
            distance.unflatten(-1, heads).transpose(0, 1),
        )

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
        dropout = self.dropout.p if self.training else 0.0
        attended = attend(query, key_value, distance, u, v, mask, dropout).flatten(2)
        return linear(attended, self.output.weight)


class AbsoluteAttention(nn.Module):
    """Ordinary causal attention within the segment: the paper's baseline, which has no memory."""

    def __init__(self, width: int, num_heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_width = num_heads, head_width
        self.dropout = nn.Dropout(dropout)  # its rate; the kernels do the dropping
        self.query = nn.Linear(width, num_heads * head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * num_heads * head_width, bias=False)
        self.output = nn.Linear(num_heads * head_width, width, bias=False)

    def forward(self, segment: Tensor) -> Tensor:
        """Attend within ``segment`` (B, T, D): (B, T, D)."""
        heads = (self.num_heads, self.head_width)
        query = self.query(segment).unflatten(-1, heads).transpose(1, 2)  # (B, N, T, H)
        key, value = self.key_value(segment).unflatten(-1, (2, *heads)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout.p if self.training else 0.0
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


def attend(
    query: Tensor,
    key_value: Tensor,
    distance: Tensor,
    u: Tensor,
    v: Tensor,
    mask: Tensor,
    dropout: float,
    *,
    fused: bool | None = None,
) -> Tensor:
    """Return o (B, T, N, H).

    Args:
        query: q, (N, B, T, H).
        key_value: k and v, (2, N, B, K, H).
        distance: r of the distances K-1 ... 0, (N, K, H).
        u: (N, 1, H).
        v: (N, 1, H).
        mask: (T, K), see `visible_keys`.
        dropout: rate on the attention weights.
        fused: by torch's fused attention; None: everywhere but on a CPU.
    """
    u, v, mask = (tensor.to(query.dtype) for tensor in (u, v, mask))
    if not (query.device.type != "cpu" if fused is None else fused):
        return _RelativeAttention.apply(query, key_value, distance, u, v, mask, dropout)
    scale = query.shape[-1] ** -0.5
    key, value = key_value
    by_position = (query + v[:, None]) @ distance[:, None].transpose(-1, -2)  # (N, B, T, K)
    attended = functional.scaled_dot_product_attention(
        query + u[:, None],
        key,
        value,
        attn_mask=relative_shift(by_position) * scale + mask,
        dropout_p=dropout,
        scale=scale,
    )
    return attended.permute(1, 2, 0, 3)


class _RelativeAttention(Function):
    """One head after the other, whose scores stay in the processor's cache."""

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
        ctx.scale, ctx.factor = width**-0.5, 1.0
        weights = query.new_empty(num_heads, lanes, length, num_keys)
        kept = None
        if dropout:
            kept, ctx.factor = keep_mask(weights, dropout)
        attended = query.new_empty(lanes, length, num_heads, width)
        for head, (key, value) in enumerate(zip(*key_value, strict=True)):  # (B, K, H) each
            by_content = (query[head] + u[head]).mul_(ctx.scale)  # (B, T, H)
            by_position = (query[head] + v[head]).mul_(ctx.scale).view(-1, width)
            scores = product(by_position, distance[head])  # (B * T, K)
            shifted = scores.as_strided(
                (lanes, length, num_keys), (length * num_keys, num_keys - 1, 1), length - 1
            )
            applied = torch.baddbmm(shifted, by_content, key.transpose(1, 2), out=weights[head])
            torch.softmax(applied.add_(mask), -1, out=applied)
            if kept is not None:
                applied = (applied * kept[head]).mul_(ctx.factor)
            attended[:, :, head] = torch.bmm(applied, value)
        ctx.save_for_backward(query, key_value, distance, u, v, weights, kept, attended)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_attended: Tensor) -> tuple[Tensor | None, ...]:
        query, key_value, distance, u, v, weights, kept, attended = ctx.saved_tensors
        num_heads, lanes, length, width = query.shape
        num_keys = key_value.shape[3]
        # Softmax: sum_j of_weight_ij * weight_ij is of_attended_i . attended_i, with dropout too.
        means = (of_attended * attended).sum(-1)  # (B, T, N)
        of_query = query.new_empty(lanes, length, num_heads, width)
        of_key_value, of_distance = torch.empty_like(key_value), torch.empty_like(distance)
        of_u, of_v = torch.empty_like(u), torch.empty_like(v)
        for head, (key, value) in enumerate(zip(*key_value, strict=True)):
            of_output = of_attended[:, :, head].contiguous()  # (B, T, H)
            applied = weights[head]
            of_scores = torch.bmm(of_output, value.transpose(1, 2))  # (B, T, K)
            if kept is not None:
                applied = (applied * kept[head]).mul_(ctx.factor)
                of_scores.mul_(kept[head]).mul_(ctx.factor)
            torch.bmm(applied.transpose(1, 2), of_output, out=of_key_value[1, head])
            of_scores.sub_(means[:, :, head, None]).mul_(weights[head])
            by_content = (query[head] + u[head]).mul_(ctx.scale)  # (B, T, H)
            torch.bmm(of_scores.transpose(1, 2), by_content, out=of_key_value[0, head])
            of_content = torch.bmm(of_scores, key).mul_(ctx.scale)
            of_shifted = _unshift(of_scores).view(-1, num_keys)  # (B * T, K)
            by_position = (query[head] + v[head]).mul_(ctx.scale).view(-1, width)
            of_distance[head] = transposed_product(of_shifted, by_position)
            of_position = (
                product(of_shifted, distance[head].t()).mul_(ctx.scale).view_as(of_content)
            )
            of_u[head, 0], of_v[head, 0] = of_content.sum((0, 1)), of_position.sum((0, 1))
            torch.add(of_content, of_position, out=of_content)
            of_query[:, :, head] = of_content
        of_query = of_query.permute(2, 0, 1, 3)
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
