"""Where training stands: the numbers that a checkpoint keeps as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MetricSums = dict[str, list[Any]]
"""name -> [sum, count], as tensors where they are on a device."""


def add_sums(sums: MetricSums, more: Mapping[str, Sequence[Any]]) -> None:
    """Add the sums and counts of ``more`` to ``sums``, name by name.

    Tensors are added as tensors: reading them would make the device wait at every step.
    """
    for name, (total, count) in more.items():
        entry = sums.setdefault(name, [0.0, 0.0])
        entry[0], entry[1] = entry[0] + total, entry[1] + count


@dataclass
class TrainerState:
    """Where training stands."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """The epoch that the next step belongs to."""
    step_in_epoch: int = 0
    """Steps done of that epoch; 0 right after an epoch has ended."""
    tokens: float = 0.0
    """Real (unpadded) tokens trained on, all processes together."""
    train_seconds: float = 0.0
    """Seconds spent in training steps, waiting for data included, evaluation left out."""
    initial_metrics: dict[str, float] = field(default_factory=dict)
    """All metrics before the first step, where they were asked for."""
    ended_at: int | None = None
    """The step that was the last before its turn: the time was up, or nothing improved."""
    best_value: float | None = None
    """The best evaluation's value of the metric that is compared."""
    best_step: int | None = None
    """The step of that evaluation."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    """All metrics of that evaluation."""
    last_metrics: dict[str, float] = field(default_factory=dict)
    """All metrics of the last evaluation."""
    evaluations_without_improvement: int = 0
    """Evaluations in a row that did not improve on the best."""
