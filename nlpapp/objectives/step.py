"""What an objective is, and what it returns for one micro-batch.

The loss of an optimizer step is the mean over all of its predictions, however they are spread over
processes and micro-batches. So an objective first says how many predictions a micro-batch holds
(`counts`), the trainer adds these up over the whole step, and each micro-batch's loss is divided by
the step's totals: the gradients then only have to be added.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Batch = dict[str, torch.Tensor]
Counts = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class StepOutput:
    """The result of one micro-batch."""

    loss: torch.Tensor
    """Scalar: this micro-batch's share of the step's loss, the sum of loss sums / counts[term]."""
    metrics: dict[str, tuple[torch.Tensor | float, torch.Tensor | float]] = field(
        default_factory=dict
    )
    """name -> (sum, number of items): added over micro-batches and processes before dividing."""
    carry: Any = None
    """What the next step of the same rows needs (a Transformer-XL memory), detached: tensors of
    (rows, ...) in tuples, lists and dicts, so that other processes can take rows over; or None."""


class Objective(Protocol):
    """Turns (model, batch) into a loss; holds its own options and no model."""

    def counts(self, batch: Batch) -> dict[str, float]:
        """Return the number of predictions of each loss term in ``batch``."""
        ...

    def __call__(self, model: Any, batch: Batch, counts: Counts, carry: Any = None) -> StepOutput:
        """Return loss, metrics and carry of ``batch``; ``counts`` are the whole step's totals."""
        ...

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Return the figures to report for averaged ``means``, such as perplexity from loss."""
        ...
