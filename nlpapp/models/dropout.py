"""Dropout with a cheap mask.

On a CPU, PyTorch's dropout draws a double for each value, which takes longer than many a matrix
product around it, and keeps its mask as floats. Here a value costs 16 random bits, and the mask is
one byte each.
"""

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

LEVELS = 2**16


def keep_mask(like: Tensor, rate: float) -> tuple[Tensor, float]:
    """Return which values stay, 1 or 0 as int8 in the shape of ``like``, and their factor.

    Rates are rounded to 1 / 65,536; the factor is that of the rounded rate, so that the mean stays.

    Args:
        like: a tensor on the CPU.
        rate: which part is dropped, over 0 and up to 1.
    """
    levels = min(round((1 - rate) * LEVELS), LEVELS - 1)
    size = like.numel()
    bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)
    mask = torch.empty(size, dtype=torch.int8)
    torch.lt(bits.view(torch.int16)[:size], levels - LEVELS // 2, out=mask)
    return mask.view(like.shape), LEVELS / levels if levels else 0.0


def dropout(inputs: Tensor, rate: float) -> Tensor:
    """Return ``inputs`` with values dropped at ``rate``, the others scaled to keep the mean."""
    if not rate:
        return inputs
    if inputs.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(inputs, rate)
    mask, factor = keep_mask(inputs, rate)
    return (inputs * mask).mul_(factor)


class Dropout(nn.Dropout):
    """torch's layer, with the mask of this module."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``inputs`` with values dropped while training; else ``inputs``."""
        return dropout(inputs, self.p) if self.training else inputs
