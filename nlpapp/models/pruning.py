"""Weight pruning: the smallest weights of matrices become zero (Han et al. 2015, arXiv 1506.02626).

A pruned model computes as fast as before. What shrinks is what it takes compressed: a download, or
a disk or an archive that compresses.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from nlpapp.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """Which weights of the trained student become zero."""

    sparsity: float = 0.0
    """Share of the weights of matrices (embeddings included) that become zero; 0: none."""
    scope: Literal["matrix", "global"] = "matrix"
    """matrix: that share of each matrix; global: of all together, by one threshold, which suits
    matrices whose weights are of the same size."""
    max_steps: int = 0
    """Optimizer steps after it, with the options of training, while zeros stay zero; 0: none."""

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ConfigError(f"pruning.sparsity is {self.sparsity}; use 0 up to under 1.")
        if self.max_steps < 0:
            raise ConfigError(f"pruning.max_steps is {self.max_steps}; it must be 0 or more.")
        if not self.sparsity and (self.scope, self.max_steps) != ("matrix", 0):
            raise ConfigError("pruning.sparsity is 0, so nothing is pruned: say how much.")


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights of ``model`` with two dimensions or more."""
    return [weight for weight in model.parameters() if weight.dim() > 1]


@torch.no_grad()
def prune_weights(model: nn.Module, sparsity: float, scope: str) -> None:
    """Set the share ``sparsity`` of the weights that are smallest in size to zero.

    Args:
        model: changed in place.
        sparsity: of each matrix, rounded to whole weights, or of all of them.
        scope: matrix or global.
    """
    groups = [[weight] for weight in matrices(model)]
    if scope == "global":
        groups = [matrices(model)]
    for group in groups:
        sizes = torch.cat([weight.abs().flatten() for weight in group])
        kept = torch.ones_like(sizes)
        # Stable, so that equal weights of a model that is read again fall in the same order.
        kept[sizes.argsort(stable=True)[: round(sparsity * len(sizes))]] = 0
        for weight, mask in zip(
            group, kept.split([weight.numel() for weight in group]), strict=True
        ):
            weight.mul_(mask.view_as(weight))


def hold_zeros(model: nn.Module) -> None:
    """Let weights of matrices that are zero have no gradient.

    An optimizer that starts here leaves them as they are: their moments are zero, and weight decay
    takes a share of nothing.
    """
    for weight in matrices(model):
        weight.register_hook(lambda gradient, own=weight: gradient.masked_fill(own == 0, 0))


def weight_sizes(model: nn.Module) -> dict[str, float]:
    """Return "nonzero_parameters" and "compressed_bytes", those of the weights by zlib."""
    weights = [weight.detach().cpu() for weight in model.parameters()]
    compressed = [len(zlib.compress(weight.numpy().tobytes())) for weight in weights]
    return {
        "nonzero_parameters": float(sum(int(weight.count_nonzero()) for weight in weights)),
        "compressed_bytes": float(sum(compressed)),
    }
