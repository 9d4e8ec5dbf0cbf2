"""Which learning rate to train with: a short run whose rate grows with every step."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from nlpapp.data.sampling import StepData
from nlpapp.errors import TrainingError
from nlpapp.objectives.step import Objective
from nlpapp.training.checkpoint import to_device
from nlpapp.training.optimizers import OptimizerConfig, build_optimizer
from nlpapp.training.processes import process_state
from nlpapp.training.speed_report import DTYPES

SMOOTHING = 0.9
"""Share of the old mean in the moving mean of losses."""
DIVERGED = 4.0
"""The search ends where the loss is this many times its lowest."""


@dataclass(frozen=True, kw_only=True)
class LearningRates:
    """What the search saw."""

    rates: np.ndarray
    """(steps,) learning rate of each step, growing."""
    losses: np.ndarray
    """(steps,) loss of each step, before its update."""
    smoothed: np.ndarray
    """(steps,) moving mean of the losses."""

    @property
    def suggestion(self) -> float:
        """A tenth of the rate with the lowest smoothed loss, which is on the verge of too much."""
        return float(self.rates[self.smoothed.argmin()] / 10)


def find_learning_rate(
    model: Any,
    objective: Objective,
    steps: StepData,
    optimizer: OptimizerConfig,
    *,
    lowest: float = 1e-7,
    highest: float = 1.0,
    num_steps: int = 100,
    max_grad_norm: float = 1.0,
    precision: str = "float32",
) -> LearningRates:
    """Train ``model`` for some steps at rates from ``lowest`` to ``highest``, evenly in logarithm.

    The range test of Smith (2017, arXiv 1506.01186). Each process does the same. The model has its
    old weights afterwards.

    Args:
        model: what is to be trained.
        objective: its loss.
        steps: its data, read again from the start where an epoch is short.
        optimizer: whose learning rate is not used.
        lowest: first rate.
        highest: last rate.
        num_steps: optimizer steps, fewer if the loss grows out of bounds.
        max_grad_norm: as in training; 0: no clipping.
        precision: float32, bf16 or fp16: of the forward pass, as in training.

    Raises:
        TrainingError: the very first loss is not finite.
    """
    device = process_state().device
    model.to(device).train()
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    updates = build_optimizer(model, replace(optimizer, learning_rate=1.0))
    shares = [group["lr"] for group in updates.param_groups]  # below 1 with layer_decay
    rates = np.geomspace(lowest, highest, num_steps)
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    for step, rate in enumerate(rates):
        epoch, position = divmod(step, steps.num_steps(0))
        (batch,) = steps.micro_batches(
            epoch, position % steps.num_steps(epoch), rank=0, world_size=1, accumulation=1
        )
        batch = to_device(batch, device)
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32"):
            loss = objective(model, batch, objective.counts(batch)).loss
        value = float(loss.detach())
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        current = mean / (1 - SMOOTHING ** (step + 1))
        if not np.isfinite(value) or (smoothed and current > DIVERGED * min(smoothed)):
            break
        losses.append(value)
        smoothed.append(current)
        loss.backward()
        if max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        for group, share in zip(updates.param_groups, shares, strict=True):
            group["lr"] = rate * share
        updates.step()
        updates.zero_grad()
    updates.zero_grad()
    model.load_state_dict(kept)
    if not losses:
        raise TrainingError(
            "the first loss is not finite, so no learning rate can be found; check the model's "
            "weights and the labels."
        )
    return LearningRates(
        rates=rates[: len(losses)], losses=np.array(losses), smoothed=np.array(smoothed)
    )
