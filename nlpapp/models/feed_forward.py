"""A Transformer's feed-forward layer that remembers one inner tensor instead of three.

    y = dropout(relu(x W_1^T + b_1)) W_2^T + b_2

Autograd would keep the inner values, which are the largest of a layer, before dropout and after it,
and the mask. What comes out of dropout is enough: it is 0 where relu or dropout has closed a value,
and nowhere else has the gradient to be 0.
"""

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nlpapp.models.dropout import dropout, keep_mask
from nlpapp.models.fast_linear import product, transposed_product


def feed_forward(hidden: Tensor, inner: nn.Linear, outer: nn.Linear, rate: float) -> Tensor:
    """Return y for ``hidden`` (B, S, D), with the inner values dropped at ``rate``: (B, S, D)."""
    on_cpu = hidden.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    if on_cpu and not torch.compiler.is_compiling():
        parameters = (inner.weight, inner.bias, outer.weight, outer.bias)
        return _FeedForward.apply(hidden.flatten(0, -2), *parameters, rate).view(hidden.shape)
    return outer(dropout(functional.relu(inner(hidden), inplace=True), rate))


class _FeedForward(Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        inner_weight: Tensor,
        inner_bias: Tensor,
        outer_weight: Tensor,
        outer_bias: Tensor,
        rate: float,
    ) -> Tensor:
        inner = product(rows, inner_weight, inner_bias).relu_()
        ctx.factor = 1.0
        if rate:
            mask, ctx.factor = keep_mask(inner, rate)
            inner.mul_(mask).mul_(ctx.factor)
        ctx.save_for_backward(rows, inner, inner_weight, outer_weight)
        return product(inner, outer_weight, outer_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, inner_weight, outer_weight = ctx.saved_tensors
        of_inner = product(of_outputs, outer_weight.t())
        torch.ops.aten.threshold_backward.grad_input(of_inner, inner, 0, grad_input=of_inner)
        of_inner.mul_(ctx.factor)
        return (
            product(of_inner, inner_weight.t()),
            transposed_product(of_inner, rows),
            of_inner.sum(0),
            transposed_product(of_outputs, inner),
            of_outputs.sum(0),
            None,
        )
