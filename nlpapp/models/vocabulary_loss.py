"""Cross entropy over a large vocabulary that never holds the scores of all predictions.

The scores of K predictions over V words are the largest tensor of pretraining: 78 MB for 640
predictions of 30,522 words, and ordinary autograd holds three of them. Here the scores exist for a
block of rows at a time, and their gradient, softmax(scores) - onehot(label), takes their place as
soon as the losses are known. What is kept for the backward pass is as large as the inputs.

Legend: K predictions, D width of their vectors, V words.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from nlpapp.models.fast_linear import product, transposed_product

ROWS = 1024
"""Predictions whose scores exist at once: matrix products are at full speed from about here on."""


@torch.compiler.disable  # The number of blocks would be compiled in.
def vocabulary_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the cross entropies' sum of softmax(hidden @ weight.T + bias), and the right answers.

    The same as torch's linear, cross_entropy with reduction="sum" and argmax, with gradients of the
    first three arguments. Under autocast the matrix products have autocast's type; sums over rows
    are float32 all the same.

    Args:
        hidden: (K, D); K may be 0.
        weight: (V, D).
        bias: (V).
        labels: (K), each at least 0 and below V.

    Returns:
        The sum in nats, a scalar, float32 or wider; and the number of rows whose label has the
        highest score (the first of several equal ones), an int64 scalar without gradient.
    """
    device = hidden.device.type
    dtype = hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (hidden, weight, bias))
    return _VocabularyLoss.apply(hidden, weight, bias, labels, dtype, learns)


class _VocabularyLoss(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        dtype: torch.dtype,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        # Gradients are added up over blocks, so they are as wide as the inputs, not as ``dtype``.
        ctx.gradients = [torch.zeros_like(x) for x in (hidden, weight, bias)] if learns else None
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), bias.to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        total = hidden.new_zeros((), dtype=wide)
        right = labels.new_zeros(())
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            targets = labels[rows, None]
            scores = product(hidden[rows], weight, bias).to(wide)
            of_label = scores.gather(1, targets)
            highest, answers = scores.max(1, keepdim=True)
            right += (answers == targets).sum()
            probabilities = torch.softmax(scores, 1, out=scores)
            # The likeliest word has at least 1 / V: its logarithm is exact where the label's,
            # which may be too small for a float, would not be.
            total += (highest - probabilities.gather(1, answers).log() - of_label).sum()
            if ctx.gradients is not None:
                probabilities.scatter_add_(1, targets, torch.full_like(of_label, -1))
                _add_gradients(ctx.gradients, rows, probabilities.to(dtype), hidden, weight)
        ctx.mark_non_differentiable(right)
        return total, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        return (*(gradient.mul_(of_total) for gradient in gradients), None, None, None)


def _add_gradients(
    gradients: list[Tensor], rows: slice, of_scores: Tensor, hidden: Tensor, weight: Tensor
) -> None:
    """Add to the gradients of hidden, weight and bias what these rows' scores send back."""
    of_hidden, of_weight, of_bias = gradients
    of_hidden[rows] = product(of_scores, weight.t())
    of_weight += transposed_product(of_scores, hidden[rows])
    of_bias += of_scores.sum(0)
